//! A chunk buffer in the control process's hands.
#![allow(unsafe_code)]

use std::sync::Arc;

use crate::shared_memory::SharedMemory;

/// A buffer that a lane has lent to the control process, to fill it with small files or to unpack them from it.
///
/// It exists between the event that lends it and the command that gives it back; the lane does not touch it meanwhile.
#[derive(Debug)]
pub struct LentBuffer {
    memory: Arc<SharedMemory>,
    begin: usize,
    bytes: usize,
    number: u32,
}

impl LentBuffer {
    /// The buffer that an event lends. `None` if the lane has no such buffer: it has gone mad.
    ///
    /// Only [`super::engine::Events`] calls this, once an event.
    pub(super) fn new(memory: &Arc<SharedMemory>, buffer_bytes: usize, number: u32, bytes: u32) -> Option<Self> {
        let begin = (number as usize).checked_mul(buffer_bytes)?;
        let bytes = bytes as usize;
        let fits = bytes <= buffer_bytes && begin.checked_add(bytes)? <= memory.bytes();
        fits.then(|| Self { memory: memory.clone(), begin, bytes, number })
    }

    /// Its number, for the command that gives it back.
    #[must_use]
    pub const fn number(&self) -> u32 {
        self.number
    }

    /// The chunk's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the lane lent the buffer and leaves it alone until it gets it back; this handle is the only one.
        unsafe { self.memory.slice(self.begin..self.begin + self.bytes) }
    }

    /// The chunk's bytes, for filling.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` keeps other borrows of it away.
        unsafe { self.memory.slice_mut(self.begin..self.begin + self.bytes) }
    }
}
