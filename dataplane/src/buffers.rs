//! A lane's chunk buffers: cut from shared memory, taken and returned last in, first out.
//!
//! The last buffer returned is the first taken, because having it in the cache is worth 40 % of the
//! rate (`docs/decisions/0004-buffers.md`). The pool never grows; a lane that finds it empty waits.
#![allow(unsafe_code)]

use std::ops::Range;
use std::sync::Arc;

use culvert_link::invariant;
use culvert_link::shared_memory::SharedMemory;
use culvert_protocol::chunk_memory::{BufferId, ChunkMemory};

/// The buffers of one lane, on the lane's side.
#[derive(Debug)]
pub struct Buffers {
    memory: Arc<SharedMemory>,
    buffer_bytes: usize,
    free: Vec<BufferId>,
    in_use: Box<[bool]>,
}

impl Buffers {
    /// Cuts `memory` into buffers of `buffer_bytes`.
    ///
    /// # Panics
    /// If `buffer_bytes` is 0.
    #[must_use]
    pub fn new(memory: Arc<SharedMemory>, buffer_bytes: usize) -> Self {
        assert!(buffer_bytes > 0, "a buffer has bytes");
        let count = memory.bytes() / buffer_bytes;
        // Lowest on top: a transfer that needs few buffers touches only the beginning of the
        // memory.
        let free = (0..count as u32).rev().map(BufferId).collect();
        Self { memory, buffer_bytes, free, in_use: vec![false; count].into_boxed_slice() }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.in_use.len()
    }

    /// How many are free.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.free.len()
    }

    /// The address of a part of a buffer in use, for the kernel to read or fill.
    ///
    /// # Panics
    /// If the part is not within the buffer.
    #[must_use]
    pub fn address(&self, buffer: BufferId, part: Range<usize>) -> *mut u8 {
        self.memory.address(self.place(buffer, part).start)
    }

    fn place(&self, buffer: BufferId, part: Range<usize>) -> Range<usize> {
        assert!(part.start <= part.end && part.end <= self.buffer_bytes, "{part:?} is outside of a buffer");
        // Invariant I-buffers-in-use: only buffers that were taken and not given back are read or
        // written.
        debug_assert!(self.in_use[buffer.0 as usize], "{buffer:?} is not in use");
        let begin = buffer.0 as usize * self.buffer_bytes;
        begin + part.start..begin + part.end
    }
}

impl ChunkMemory for Buffers {
    #[inline]
    fn take(&mut self) -> Option<BufferId> {
        let buffer = self.free.pop()?;
        // Invariant I-buffers-one-place: a buffer is either free or in use, never both.
        invariant!(!self.in_use[buffer.0 as usize], "a buffer is either free or in use");
        self.in_use[buffer.0 as usize] = true;
        Some(buffer)
    }

    #[inline]
    fn give_back(&mut self, buffer: BufferId) {
        let in_use = &mut self.in_use[buffer.0 as usize];
        // Invariant I-buffers-once: a buffer is given back once.
        assert!(std::mem::replace(in_use, false), "{buffer:?} is given back twice");
        self.free.push(buffer);
    }

    fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    #[inline]
    fn bytes(&self, buffer: BufferId, part: Range<usize>) -> &[u8] {
        let place = self.place(buffer, part);
        // SAFETY: the lane owns buffers in use, and borrows of a lane's buffers end within the turn
        // that made them. A part is read only after the disk has filled it or a segment was opened
        // into it, and neither writes there again before the buffer is given back. The control
        // process touches a buffer only between the events and commands that hand it over.
        unsafe { self.memory.slice(place) }
    }

    #[inline]
    fn bytes_mut(&mut self, buffer: BufferId, part: Range<usize>) -> &mut [u8] {
        let place = self.place(buffer, part);
        // SAFETY: as above, and `&mut self` keeps other borrows away. Segments are opened only into
        // parts that nothing else is reading: the disk writes a chunk after its last segment has
        // arrived.
        unsafe { self.memory.slice_mut(place) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_given_back_is_the_first_taken() {
        let memory = Arc::new(SharedMemory::create("test", 8 * 4096, false).unwrap());
        let mut buffers = Buffers::new(memory, 4096);
        let (first, second) = (buffers.take().unwrap(), buffers.take().unwrap());
        assert_ne!(first, second);
        buffers.bytes_mut(first, 0..3).copy_from_slice(b"abc");
        assert_eq!(buffers.bytes(first, 1..3), b"bc");
        buffers.give_back(first);
        assert_eq!(buffers.take(), Some(first));
        while buffers.take().is_some() {}
        assert_eq!(buffers.free_count(), 0);
        buffers.give_back(second);
        assert_eq!(buffers.free_count(), 1);
    }

    #[test]
    #[should_panic(expected = "given back twice")]
    fn giving_back_twice_is_noticed() {
        let memory = Arc::new(SharedMemory::create("test", 8192, false).unwrap());
        let mut buffers = Buffers::new(memory, 4096);
        let buffer = buffers.take().unwrap();
        buffers.give_back(buffer);
        buffers.give_back(buffer);
    }
}
