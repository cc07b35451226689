//! A lane's end of its two rings.
//!
//! A turn can emit more events than the event ring has room for: one report of a partner may say
//! that all chunks of a flow have arrived. An event without room waits here, in order, and the next
//! turn begins only when all have gone, so that no more wait than one turn emits. Reports are
//! larger and wait in their flow: the lane asks for room before it writes one.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use culvert_link::commands::{EVENT_BYTES_MAX, Event, ReceiveSlot, encode};
use culvert_link::counters::LaneCounters;
use culvert_link::doorbell::{ring, silence};
use culvert_link::invariant;
use culvert_link::layout::LaneLayout;
use culvert_link::ring::{Broken, Consumer, Producer, RECORD_BYTES_MAX};
use culvert_link::shared_memory::SharedMemory;
use culvert_protocol::feedback::REPORT_BYTES_MAX;

type Scratch = Box<[u8; RECORD_BYTES_MAX]>;

/// Events that can wait without an allocation: as many as a turn of a lane with very many flows and
/// buffers emits.
const BACKLOG: usize = 4_096;
/// A report, encoded as an event.
const REPORT_EVENT_BYTES_MAX: usize = REPORT_BYTES_MAX + 16;

/// The rings, the doorbells and the counters of a lane.
#[derive(Debug)]
pub struct LaneLink {
    commands: Consumer,
    events: Producer,
    /// Rung by the control process and the coordinator.
    own_bell: OwnedFd,
    /// Rung for the control process.
    control_bell: OwnedFd,
    /// The lane's counters.
    pub counters: LaneCounters,
    command_scratch: Option<Scratch>,
    event_scratch: Scratch,
    /// Events for which the ring had no room.
    backlog: VecDeque<Waiting>,
    report: Box<[u8; REPORT_BYTES_MAX]>,
    /// The lane takes no more commands.
    is_broken: bool,
}

/// An event that waits for room in the ring.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    bytes: u16,
    record: [u8; EVENT_BYTES_MAX],
}

impl LaneLink {
    /// The lane's end of the link in `memory`.
    #[must_use]
    pub fn new(memory: Arc<SharedMemory>, layout: &LaneLayout, own_bell: OwnedFd, control_bell: OwnedFd) -> Self {
        Self {
            commands: Consumer::new(memory.clone(), layout.commands),
            events: Producer::new(memory.clone(), layout.events),
            own_bell,
            control_bell,
            counters: LaneCounters::new(memory, layout),
            command_scratch: Some(Box::new([0; RECORD_BYTES_MAX])),
            event_scratch: Box::new([0; RECORD_BYTES_MAX]),
            backlog: VecDeque::with_capacity(BACKLOG),
            report: Box::new([0; REPORT_BYTES_MAX]),
            is_broken: false,
        }
    }

    /// Hands over the events that wait. True if none waits any more and the ring has room for
    /// `events` more.
    #[inline]
    pub fn is_ready_for(&mut self, events: usize) -> bool {
        while let Some(waiting) = self.backlog.front() {
            let Ok(sleeping) = self.events.push(&waiting.record[..usize::from(waiting.bytes)]) else { return false };
            self.backlog.pop_front();
            if sleeping {
                ring(self.control_bell.as_fd());
            }
        }
        self.events.has_room_for(events, EVENT_BYTES_MAX)
    }

    /// Whether events wait for room: what can be left for the next turn should be.
    #[inline]
    #[must_use]
    pub fn is_backlogged(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Emits an event, which is not a report.
    pub fn emit(&mut self, event: &Event<'_>) {
        let record = encode(event, &mut self.event_scratch);
        if self.backlog.is_empty()
            && let Ok(sleeping) = self.events.push(record)
        {
            if sleeping {
                ring(self.control_bell.as_fd());
            }
            return;
        }
        let mut waiting = Waiting { bytes: 0, record: [0; EVENT_BYTES_MAX] };
        let place = waiting.record.get_mut(..record.len());
        // Invariant I-lane-event-bytes: no event but a report is longer than EVENT_BYTES_MAX.
        invariant!(place.is_some(), "an event is no longer than EVENT_BYTES_MAX");
        let Some(place) = place else { return };
        place.copy_from_slice(record);
        waiting.bytes = record.len() as u16;
        self.backlog.push_back(waiting);
    }

    /// Whether there is room for a report.
    #[inline]
    pub fn has_room_for_report(&mut self) -> bool {
        self.backlog.is_empty() && self.events.has_room_for(1, REPORT_EVENT_BYTES_MAX)
    }

    /// Where a report is written before [`LaneLink::emit_report`].
    pub fn report_scratch(&mut self) -> &mut [u8] {
        &mut self.report[..]
    }

    /// Emits the first `bytes` of the report scratch as a report. Ask for room first
    /// ([`LaneLink::has_room_for_report`]).
    pub fn emit_report(&mut self, flow: ReceiveSlot, bytes: usize) {
        let event = Event::Report { flow, bytes: &self.report[..bytes] };
        let record = encode(&event, &mut self.event_scratch);
        let pushed = self.events.push(record);
        // Invariant I-lane-report-room: a report is written only when the event ring has room for
        // it.
        invariant!(pushed.is_ok(), "a report is written only when the ring has room for it");
        if pushed == Ok(true) {
            ring(self.control_bell.as_fd());
        }
    }

    /// Lends the scratch for [`LaneLink::next_command`], so that the command does not borrow the
    /// link.
    ///
    /// # Panics
    /// If it is lent already.
    pub fn lend_command_scratch(&mut self) -> Scratch {
        self.command_scratch.take().expect("the scratch is lent once at a time")
    }

    /// Takes the scratch back.
    pub fn return_command_scratch(&mut self, scratch: Scratch) {
        self.command_scratch = Some(scratch);
    }

    /// Takes no more commands: the control process has sent one that it never sends. The
    /// coordinator ends this process, and the control process starts another.
    #[cold]
    pub fn give_up_commands(&mut self) {
        self.is_broken = true;
    }

    /// The next command's bytes, in `scratch`; none after [`LaneLink::give_up_commands`].
    ///
    /// # Errors
    /// [`Broken`] if the ring makes no sense.
    #[inline]
    pub fn next_command<'a>(&mut self, scratch: &'a mut Scratch) -> Result<Option<&'a [u8]>, Broken> {
        if self.is_broken { Ok(None) } else { self.commands.pop(scratch) }
    }

    /// Announces that the lane is about to sleep on its bell; false if a command has arrived
    /// meanwhile.
    #[must_use]
    pub fn prepare_to_sleep(&self) -> bool {
        // Commands that nobody takes keep no lane awake.
        self.is_broken || self.commands.prepare_to_sleep()
    }

    /// The lane is awake again.
    pub fn awake(&self) {
        self.commands.awake();
        silence(self.own_bell.as_fd());
    }

    /// The bell to sleep on.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.own_bell.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_link::doorbell::doorbell;

    #[test]
    fn a_lane_that_takes_no_more_commands_sleeps_though_some_wait() {
        let layout = LaneLayout::of(0);
        let memory = Arc::new(SharedMemory::create("link", LaneLayout::memory_bytes(1), false).unwrap());
        let mut link = LaneLink::new(memory.clone(), &layout, doorbell().unwrap(), doorbell().unwrap());
        let mut commands = Producer::new(memory, layout.commands);
        commands.push(&[0xff; 16]).unwrap();
        assert!(!link.prepare_to_sleep());
        link.give_up_commands();
        assert!(link.prepare_to_sleep());
        let mut scratch = link.lend_command_scratch();
        assert_eq!(link.next_command(&mut scratch), Ok(None));
    }
}
