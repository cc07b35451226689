//! Chunk buffers on the heap, for code that runs flows without a data plane: the simulator, the
//! ledger, the tests. A lane's own buffers are in memory shared with the control process.

use std::ops::Range;

use crate::chunk_memory::{BufferId, ChunkMemory};

/// A fixed number of buffers of one size, which knows which of them are free.
#[derive(Debug)]
pub struct HeapBuffers {
    buffer_bytes: usize,
    buffers: Vec<Vec<u8>>,
    free: Vec<u32>,
}

impl HeapBuffers {
    /// `count` free buffers of `buffer_bytes` zeros each.
    #[must_use]
    pub fn new(count: u32, buffer_bytes: u32) -> Self {
        let buffer_bytes = buffer_bytes as usize;
        Self { buffer_bytes, buffers: vec![vec![0; buffer_bytes]; count as usize], free: (0..count).collect() }
    }

    /// How many are free.
    #[must_use]
    pub const fn free_count(&self) -> usize {
        self.free.len()
    }

    /// The number of buffers. All of them are free when no flow is open; otherwise one has leaked.
    #[must_use]
    pub const fn count(&self) -> usize {
        self.buffers.len()
    }
}

impl ChunkMemory for HeapBuffers {
    fn take(&mut self) -> Option<BufferId> {
        self.free.pop().map(BufferId)
    }

    /// # Panics
    /// If the buffer is free already.
    fn give_back(&mut self, buffer: BufferId) {
        // Invariant I-heap-once: A heap buffer is given back once.
        assert!(!self.free.contains(&buffer.0), "{buffer:?} is given back twice");
        self.free.push(buffer.0);
    }

    fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "flows ask for parts of buffers that they took: parsed headers lie within chunks"
    )]
    fn bytes(&self, buffer: BufferId, part: Range<usize>) -> &[u8] {
        &self.buffers[buffer.0 as usize][part]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "flows ask for parts of buffers that they took: parsed headers lie within chunks"
    )]
    fn bytes_mut(&mut self, buffer: BufferId, part: Range<usize>) -> &mut [u8] {
        &mut self.buffers[buffer.0 as usize][part]
    }
}
