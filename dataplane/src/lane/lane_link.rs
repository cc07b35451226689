//! A lane's end of its two rings.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use culvert_protocol::feedback::REPORT_BYTES_MAX;

use super::flows::{ring, silence};
use crate::counters::LaneCounters;
use crate::link::LaneLayout;
use crate::link::commands::{Event, ReceiveSlot, encode};
use crate::ring::{Consumer, Producer, RECORD_BYTES_MAX};
use crate::shared_memory::SharedMemory;

type Scratch = Box<[u8; RECORD_BYTES_MAX]>;

/// The rings, the doorbells and the counters of a lane.
#[derive(Debug)]
pub struct LaneLink {
    commands: Consumer,
    events: Producer,
    /// Rung by the control process and the attendant.
    own_bell: OwnedFd,
    /// Rung for the control process.
    control_bell: OwnedFd,
    /// The lane's counters.
    pub counters: LaneCounters,
    command_scratch: Option<Scratch>,
    event_scratch: Scratch,
    report: Box<[u8; REPORT_BYTES_MAX]>,
    /// Set when the control process has written nonsense: it takes no more commands.
    is_broken: bool,
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
            report: Box::new([0; REPORT_BYTES_MAX]),
            is_broken: false,
        }
    }

    /// Whether a turn can emit what it may.
    #[inline]
    pub fn has_room_for_events(&mut self, events: usize) -> bool {
        self.events.has_room_for(events)
    }

    /// Emits an event. The turn has made sure of room.
    ///
    /// # Panics
    /// If there is none: losing an event would leave a transfer waiting for ever, so the process ends and is started anew.
    pub fn emit(&mut self, event: &Event<'_>) {
        let record = encode(event, &mut self.event_scratch);
        let sleeping = self.events.push(record).expect("a turn begins only with room for its events");
        if sleeping {
            ring(self.control_bell.as_fd());
        }
    }

    /// Where a report is written before [`LaneLink::emit_report`].
    pub fn report_scratch(&mut self) -> &mut [u8] {
        &mut self.report[..]
    }

    /// Emits the first `bytes` of the report scratch as a report.
    pub fn emit_report(&mut self, flow: ReceiveSlot, bytes: usize) {
        let event = Event::Report { flow, bytes: &self.report[..bytes] };
        let record = encode(&event, &mut self.event_scratch);
        let sleeping = self.events.push(record).expect("a turn begins only with room for its events");
        if sleeping {
            ring(self.control_bell.as_fd());
        }
    }

    /// Lends the scratch for [`LaneLink::next_command`], so that the command does not borrow the link.
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

    /// The next command's bytes, in `scratch`.
    #[inline]
    pub fn next_command<'a>(&mut self, scratch: &'a mut Scratch) -> Option<&'a [u8]> {
        if self.is_broken {
            return None;
        }
        self.commands.pop(scratch).unwrap_or_else(|_| {
            self.is_broken = true;
            None
        })
    }

    /// Announces that the lane goes to sleep on its bell; false if a command has come meanwhile.
    #[must_use]
    pub fn prepare_to_sleep(&self) -> bool {
        self.commands.prepare_to_sleep()
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
