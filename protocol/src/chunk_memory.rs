//! The chunk buffers of a lane, as its flows see them: taken, filled or read in parts, given back.

use std::ops::Range;

/// A chunk buffer's number within its lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub u32);

/// The chunk buffers of a lane, as its flows see them.
pub trait ChunkMemory {
    /// Takes a free buffer; `None` when all are in use.
    fn take(&mut self) -> Option<BufferId>;
    /// Gives a buffer back that [`ChunkMemory::take`] handed out.
    fn give_back(&mut self, buffer: BufferId);
    /// Bytes of every buffer.
    fn buffer_bytes(&self) -> usize;
    /// A part of a buffer in use. Only that part is borrowed: a disk may be filling another.
    fn bytes(&self, buffer: BufferId, part: Range<usize>) -> &[u8];
    /// A part of a buffer in use, for writing.
    fn bytes_mut(&mut self, buffer: BufferId, part: Range<usize>) -> &mut [u8];
}
