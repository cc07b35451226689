//! Commands to the lanes, and which of their buffers the control process has.
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

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::commands::{Command, SendSlot, encode};
use crate::counters::{FlowBlock, LaneCounters};
use crate::doorbell::ring;
use crate::layout::LaneLayout;
use crate::ring::{Producer, RECORD_BYTES_MAX};
use crate::shared_memory::SharedMemory;

/// Commands that wait because a lane's ring is full. A lane that is so far behind hangs, and its
/// process is given up.
pub(crate) const OVERFLOW_MAX: usize = 100_000;

#[derive(Debug)]
struct LaneCommands {
    producer: Producer,
    overflow: VecDeque<Vec<u8>>,
    scratch: Box<[u8; RECORD_BYTES_MAX]>,
}

/// Sends commands to lanes, from any thread.
#[derive(Debug)]
pub struct Commands {
    pub(crate) link: Arc<SharedMemory>,
    lanes: Vec<(Mutex<LaneCommands>, OwnedFd)>,
    /// Which of each lane's buffers the control process has.
    lent: Vec<Box<[AtomicBool]>>,
}

impl Commands {
    pub(crate) fn new(link: Arc<SharedMemory>, bells: Vec<OwnedFd>, buffers_per_lane: usize) -> Self {
        let none_lent = || (0..buffers_per_lane).map(|_| AtomicBool::new(false)).collect();
        let lent = bells.iter().map(|_| none_lent()).collect();
        let lanes = bells
            .into_iter()
            .enumerate()
            .map(|(lane, bell)| {
                let producer = Producer::new(link.clone(), LaneLayout::of(lane).commands);
                let scratch = Box::new([0; RECORD_BYTES_MAX]);
                (Mutex::new(LaneCommands { producer, overflow: VecDeque::new(), scratch }), bell)
            })
            .collect();
        Self { link, lanes, lent }
    }

    /// Whether a lane has the buffer and not lent it before; it is lent from now on.
    pub(crate) fn lend(&self, lane: usize, buffer: u32) -> bool {
        let lent = self.lent.get(lane).and_then(|lent| lent.get(buffer as usize));
        lent.is_some_and(|is_lent| !is_lent.swap(true, Ordering::AcqRel))
    }

    /// A buffer goes back.
    pub(crate) fn take_back(&self, lane: usize, buffer: u32) {
        if let Some(is_lent) = self.lent.get(lane).and_then(|lent| lent.get(buffer as usize)) {
            is_lent.store(false, Ordering::Release);
        }
    }

    /// How many lanes there are.
    #[must_use]
    pub fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Sends a command. It waits here if the ring is full, behind those that wait already. False if
    /// too many wait: the command is lost, and with it whatever it was to bring about, so the
    /// process must be given up.
    ///
    #[must_use]
    pub fn send(&self, lane: usize, command: &Command<'_>) -> bool {
        let Some((commands, bell)) = self.lanes.get(lane) else { return false };
        let mut commands = commands.lock().unwrap_or_else(PoisonError::into_inner);
        let LaneCommands { producer, overflow, scratch } = &mut *commands;
        let record = encode(command, scratch);
        // A lane has events only if it gets its commands: waiting for an event before moving what
        // is queued here could wait forever.
        push_waiting(producer, overflow, bell);
        if overflow.is_empty()
            && let Ok(sleeping) = producer.push(record)
        {
            if sleeping {
                ring(bell.as_fd());
            }
            return true;
        }
        if overflow.len() >= OVERFLOW_MAX {
            return false;
        }
        overflow.push_back(record.to_vec());
        true
    }

    /// Moves waiting commands into the rings, as far as there is room.
    pub fn flush(&self) {
        for (commands, bell) in &self.lanes {
            let mut commands = commands.lock().unwrap_or_else(PoisonError::into_inner);
            let LaneCommands { producer, overflow, .. } = &mut *commands;
            push_waiting(producer, overflow, bell);
        }
    }

    /// How many commands wait for room in a lane's ring.
    #[cfg(test)]
    pub(crate) fn waiting(&self, lane: usize) -> usize {
        self.lanes[lane].0.lock().unwrap().overflow.len()
    }

    /// A lane's counters.
    #[must_use]
    pub fn counters(&self, lane: usize) -> LaneCounters {
        LaneCounters::new(self.link.clone(), &LaneLayout::of(lane))
    }

    /// The shared words of a sending flow.
    #[must_use]
    pub fn flow_block(&self, lane: usize, slot: SendSlot) -> FlowBlock {
        FlowBlock::new(self.link.clone(), &LaneLayout::of(lane), slot.0)
    }
}

/// Moves commands that wait into a lane's ring, as far as there is room.
fn push_waiting(producer: &mut Producer, overflow: &mut VecDeque<Vec<u8>>, bell: &OwnedFd) {
    while let Some(record) = overflow.front() {
        let Ok(sleeping) = producer.push(record) else { break };
        overflow.pop_front();
        if sleeping {
            ring(bell.as_fd());
        }
    }
}
