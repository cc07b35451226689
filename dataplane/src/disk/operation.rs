//! Operations of a ring, and their results.

use std::os::fd::RawFd;

use culvert_protocol::chunk_memory::BufferId;

/// The direction of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// From the file to the buffer.
    Read,
    /// From the buffer to the file.
    Write,
}

/// One operation: a piece of a chunk.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its direction.
    pub transfer: Transfer,
    /// The file.
    pub fd: RawFd,
    /// The chunk's buffer.
    pub buffer: BufferId,
    /// Where the piece begins in the buffer.
    pub buffer_offset: u32,
    /// Its bytes.
    pub bytes: u32,
    /// Where it begins in the file.
    pub file_offset: u64,
}

/// The result of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// The chunk's buffer.
    pub buffer: BufferId,
    /// Where the piece began in the buffer.
    pub buffer_offset: u32,
    /// Bytes moved, or the negated error number.
    pub result: i32,
}
