//! What each buffer is in use for: pieces to read or write, and the hash of the chunk.
//!
//! A chunk travels between file and buffer in pieces. With direct I/O the kernel gets all pieces at
//! once, to fill the disk's queue. Through the page cache, where reading is a copy made at once, a
//! piece is read only when it is needed: it is then still in the cache when it is hashed and
//! sealed, and no turn takes as long as a whole chunk.

use std::os::fd::RawFd;

use culvert_link::commands::{ChunkTimes, DiskError, FileRange, FileSlot, ReceiveSlot, SendSlot, Sink};
use culvert_link::invariant;
use culvert_protocol::chunk_memory::BufferId;
use culvert_protocol::tree_hash::ChunkHasher;
use culvert_protocol::wire::CHUNK_BYTES_MAX;

use crate::disk::files::DIRECT_ALIGNMENT;
use crate::disk::{Operation, Transfer};

/// A piece through the page cache: a quarter of an L2 cache, copied in some 25 µs.
pub const CACHED_PIECE_BYTES: u32 = 256 << 10;
/// A piece of direct I/O: what disks take in one request.
pub const DIRECT_PIECE_BYTES: u32 = 1 << 20;
/// A step of the hash: whole groups of BLAKE3's widest SIMD, and small enough to stay in the cache
/// until it is sealed.
pub const HASH_STEP_BYTES: u32 = 64 << 10;

// Invariant I-lane-pieces: every piece of the largest chunk has a bit of its own in
// `ChunkIo::done`.
const _: () = assert!(CHUNK_BYTES_MAX.div_ceil(CACHED_PIECE_BYTES) <= u64::BITS);
const _: () = assert!(CHUNK_BYTES_MAX.div_ceil(DIRECT_PIECE_BYTES) <= u64::BITS);

/// What a buffer is in use for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Not in use.
    #[default]
    Free,
    /// A sending flow.
    Send(SendSlot),
    /// A receiving flow.
    Receive(ReceiveSlot),
    /// The check with this token.
    Check(u32),
}

/// How a flow hashes its chunks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hashing {
    is_wanted: bool,
    /// The transfer's chunk size.
    chunk_bytes: u32,
}

impl Hashing {
    pub(super) const fn new(is_wanted: bool, chunk_bytes: u32) -> Self {
        Self { is_wanted, chunk_bytes }
    }

    pub(super) const fn is_wanted(self) -> bool {
        self.is_wanted
    }

    /// The hasher of the chunk at `offset` of a file of `file_bytes`, if chunks are hashed.
    pub(super) fn hasher(self, file_bytes: u64, offset: u64) -> Option<ChunkHasher> {
        self.is_wanted.then(|| ChunkHasher::new(file_bytes, offset, self.chunk_bytes))
    }
}

/// What a buffer is in use for, and how far that is.
#[derive(Debug, Default)]
pub struct Job {
    /// For whom.
    pub role: Role,
    /// The chunk in it.
    pub chunk: u32,
    /// The chunk's bytes.
    pub bytes: u32,
    /// The hash, if the chunk is hashed here.
    pub hasher: Option<ChunkHasher>,
    /// Bytes hashed.
    pub hashed: u32,
    /// The destination of a chunk that is received, once it is known.
    pub sink: Option<Sink>,
    /// Whether all of the chunk has arrived, on the receiving side.
    pub is_whole: bool,
    /// Whether the result is no longer wanted: the buffer is freed when the kernel or the control
    /// process is done with it.
    pub is_abandoned: bool,
    /// Whether the control process has the buffer.
    pub is_lent: bool,
    pub(super) io: Option<ChunkIo>,
    /// When the buffer was taken.
    begun_ns: u64,
    /// When the chunk was whole in the buffer.
    whole_ns: u64,
    pub(super) hash_ns: u64,
}

/// The reading or writing of a chunk.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkIo {
    pub(super) transfer: Transfer,
    /// The file of the descriptor; released with the buffer.
    file: FileSlot,
    fd: RawFd,
    pub(super) is_direct: bool,
    file_offset: u64,
    /// Bytes handed to the disk so far.
    pub(super) started: u32,
    pub(super) in_flight: u32,
    /// A bit for each piece that is done.
    done: u64,
    /// Bytes done without a gap from the beginning.
    pub(super) prefix: u32,
    pub(super) error: Option<DiskError>,
}

impl ChunkIo {
    pub(super) const fn piece_bytes(&self) -> u32 {
        if self.is_direct { DIRECT_PIECE_BYTES } else { CACHED_PIECE_BYTES }
    }
}

impl Job {
    /// The buffer is taken for a role.
    pub fn begin(&mut self, role: Role, now_ns: u64) {
        // Invariant I-lane-one-job: a buffer has one job at a time.
        invariant!(self.role == Role::Free, "a buffer has one job at a time");
        *self = Self { role, begun_ns: now_ns, ..Self::default() };
    }

    /// The chunk is whole in the buffer, from disk or network.
    pub fn note_whole(&mut self, now_ns: u64) {
        self.is_whole = true;
        self.whole_ns = now_ns;
    }

    /// How long the chunk took until now. A chunk that is sent was read before it was whole, and is
    /// delivered now; one that is received arrived before, and is written now.
    #[must_use]
    pub fn times(&self, now_ns: u64) -> ChunkTimes {
        let us = |ns: u64| (ns / 1_000).min(u32::MAX.into()) as u32;
        let first = us(self.whole_ns.saturating_sub(self.begun_ns));
        let second = us(now_ns.saturating_sub(self.whole_ns.max(self.begun_ns)));
        let (disk_us, network_us) = match self.role {
            Role::Receive(_) => (second, first),
            _ => (first, second),
        };
        ChunkTimes { disk_us, hash_us: us(self.hash_ns), network_us }
    }

    /// The buffer is given back.
    ///
    /// # Panics
    /// If the kernel or the control process still uses its memory. The next chunk in it would be
    /// corrupted, so this ends the process in every build.
    pub fn end(&mut self) {
        // Invariant I-lane-buffer-free: a buffer is given back only when neither the kernel nor the
        // control process uses it.
        assert!(!self.is_in_kernel() && !self.is_lent, "a buffer is given back only when nobody else uses it");
        *self = Self::default();
    }

    /// The file that the buffer's chunk is read from or written to.
    #[must_use]
    pub fn file(&self) -> Option<FileSlot> {
        self.io.map(|io| io.file)
    }

    /// Whether operations on the buffer are in progress.
    #[must_use]
    pub fn is_in_kernel(&self) -> bool {
        self.io.is_some_and(|io| io.in_flight > 0)
    }

    /// Bytes from the chunk's beginning that have been read.
    #[must_use]
    pub fn read_prefix(&self) -> u32 {
        self.io.map_or(0, |io| io.prefix)
    }

    /// Whether pieces have not been handed to the disk yet.
    #[must_use]
    pub fn has_pieces_left(&self) -> bool {
        self.io.is_some_and(|io| io.started < self.bytes && io.error.is_none())
    }

    /// Bytes from the chunk's beginning that can be sent and hashed.
    #[must_use]
    pub fn available(&self) -> u32 {
        if self.is_lent { 0 } else { self.io.map_or(self.bytes, |io| io.prefix) }
    }

    /// Whether the chunk is read or written through the page cache, piece by piece.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        self.io.is_some_and(|io| !io.is_direct)
    }
}

impl ChunkIo {
    pub(super) const fn new(transfer: Transfer, range: &FileRange, buffered: RawFd, direct: Option<RawFd>) -> Self {
        let (fd, is_direct) = match direct {
            Some(fd) => (fd, true),
            None => (buffered, false),
        };
        Self {
            transfer,
            file: range.file,
            fd,
            is_direct,
            file_offset: range.offset,
            started: 0,
            in_flight: 0,
            done: 0,
            prefix: 0,
            error: None,
        }
    }

    /// The operation on `bytes` bytes from `begin` of the chunk.
    pub(super) const fn operation(&self, buffer: BufferId, begin: u32, bytes: u32) -> Operation {
        let bytes = if self.is_direct { bytes.next_multiple_of(DIRECT_ALIGNMENT) } else { bytes };
        Operation {
            transfer: self.transfer,
            fd: self.fd,
            buffer,
            buffer_offset: begin,
            bytes,
            file_offset: self.file_offset + begin as u64,
        }
    }

    pub(super) fn note_done(&mut self, piece: u32, chunk_bytes: u32) {
        self.done |= 1 << piece;
        self.prefix = (self.done.trailing_ones() * self.piece_bytes()).min(chunk_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: FileRange = FileRange { file: FileSlot(0), offset: 0, file_bytes: 1 << 30 };

    #[test]
    fn pieces_that_end_out_of_order_count_from_the_beginning() {
        let mut io = ChunkIo::new(Transfer::Read, &RANGE, 3, None);
        let chunk_bytes = 2 * CACHED_PIECE_BYTES + 5;
        io.note_done(2, chunk_bytes);
        assert_eq!(io.prefix, 0);
        io.note_done(0, chunk_bytes);
        assert_eq!(io.prefix, CACHED_PIECE_BYTES);
        io.note_done(1, chunk_bytes);
        assert_eq!(io.prefix, chunk_bytes);
    }

    #[test]
    fn direct_operations_cover_whole_blocks() {
        let range = FileRange { offset: 4096, ..RANGE };
        let io = ChunkIo::new(Transfer::Write, &range, 3, Some(4));
        let operation = io.operation(BufferId(0), 0, 5000);
        assert_eq!((operation.fd, operation.bytes, operation.file_offset), (4, 8192, 4096));
    }
}
