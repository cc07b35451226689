//! A chunk buffer in the control process's hands.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]
#![allow(unsafe_code)]

use std::sync::Arc;

use crate::command_rings::Commands;
use crate::commands::Command;
use crate::shared_memory::SharedMemory;

/// A buffer that a lane has lent to the control process, to fill it with small files or to unpack
/// them from it.
///
/// It exists between the event that lends it and the command that returns it; in between, the lane
/// does not touch it. It is returned when it is dropped: otherwise a transfer that ends midway
/// would take its buffers, and its flow's slot, with it.
#[derive(Debug)]
pub struct LentBuffer {
    memory: Arc<SharedMemory>,
    place: std::ops::Range<usize>,
    commands: Arc<Commands>,
    lane: usize,
    /// Its number there.
    number: u32,
    /// The command that gives it back.
    back: Command<'static>,
}

/// Where a buffer lies that an event lends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Bytes of every buffer of the lane.
    pub(crate) buffer_bytes: usize,
    /// The buffer's number.
    pub(crate) number: u32,
    /// Bytes that are lent.
    pub(crate) bytes: u32,
}

impl LentBuffer {
    /// The buffer that an event of `lane` lends, to be given back with `back`. `None` if the lane
    /// has no such buffer, or has lent it already: it is defective.
    ///
    /// Only [`crate::plane_handle::Events`] calls this, once an event.
    pub(crate) fn new(
        memory: &Arc<SharedMemory>,
        place: Place,
        commands: &Arc<Commands>,
        lane: usize,
        back: Command<'static>,
    ) -> Option<Self> {
        let begin = (place.number as usize).checked_mul(place.buffer_bytes)?;
        let bytes = place.bytes as usize;
        let end = begin.checked_add(bytes)?;
        let fits = bytes <= place.buffer_bytes && end <= memory.bytes();
        // One handle for each buffer, whatever the lane says.
        (fits && commands.lend(lane, place.number)).then(|| Self {
            memory: memory.clone(),
            place: begin..end,
            commands: commands.clone(),
            lane,
            number: place.number,
            back,
        })
    }

    /// The chunk's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the lane lent the buffer and leaves it alone until it gets it back; this handle
        // is the only one.
        unsafe { self.memory.slice(self.place.clone()) }
    }

    /// The chunk's bytes, for filling.
    #[must_use]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` keeps other borrows of it away.
        unsafe { self.memory.slice_mut(self.place.clone()) }
    }
}

impl Drop for LentBuffer {
    fn drop(&mut self) {
        self.commands.take_back(self.lane, self.number);
        // A hung lane is noticed when the next command is sent to it.
        let _ = self.commands.send(self.lane, &self.back);
    }
}
