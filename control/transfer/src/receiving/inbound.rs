//! The flows that a transfer comes by.

use std::time::{Duration, Instant};

use culvert_link::commands::{Command, ReceiveSlot, Sink};
use culvert_plane::DataPlane;
use culvert_protocol::feedback::Summary;

use crate::receiving::flow_place::Place;
use crate::receiving::opening_flow::Opening;
use crate::receiving::report_delay::ReportDelay;

/// The shortest time between two reports of a flow; the round trip's quarter if that is longer.
pub(super) const REPORT_INTERVAL_US: u32 = 2_000;

/// A receiving flow.
#[derive(Debug)]
pub(super) struct ReceivingFlow {
    pub(super) id: u32,
    pub(super) lane: u16,
    pub(super) slot: ReceiveSlot,
    pub(super) place: Place,
    /// What has come by it.
    pub(super) opening: Opening,
    /// Bytes of segments that had not come before.
    new_bytes: u64,
    /// How long its reports wait here.
    report_delay: ReportDelay,
}

impl ReceivingFlow {
    pub(super) fn new(id: u32, lane: u16, slot: ReceiveSlot, place: Place) -> Self {
        Self { id, lane, slot, place, opening: Opening::default(), new_bytes: 0, report_delay: ReportDelay::default() }
    }
}

/// The flows that a transfer comes by, and how they do.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) flows: Vec<ReceivingFlow>,
    /// When the sender was told of the flows; none before.
    pub(super) offered_at: Option<Instant>,
    /// Whether the sender's own host refuses what it sends.
    pub(super) is_refused_there: bool,
    /// Packets on other lanes' queues when flows were last looked at.
    pub(super) wrong_queue_seen: u64,
    /// How often flows are asked to report.
    report_interval: Duration,
    /// Of the control connection, as far as it is known.
    pub(super) rtt: Duration,
}

impl Inbound {
    /// None yet.
    pub(super) const fn new() -> Self {
        Self {
            flows: Vec::new(),
            offered_at: None,
            is_refused_there: false,
            wrong_queue_seen: 0,
            report_interval: Duration::from_micros(REPORT_INTERVAL_US as u64),
            rtt: Duration::ZERO,
        }
    }

    /// A flow reports; whether the report waited here for too long.
    pub(super) fn note_report(&mut self, tag: usize, summary: &Summary, now: Instant) -> Option<bool> {
        let flow = self.flows.get_mut(tag)?;
        flow.new_bytes = summary.bytes.saturating_sub(summary.duplicate_bytes);
        flow.opening.note(summary, now);
        Some(flow.report_delay.is_late(summary.interval_us, self.report_interval, now))
    }

    /// Bytes of segments that had not come before, of all flows, as the lanes report them.
    pub(super) fn new_bytes(&self) -> u64 {
        self.flows.iter().fold(0, |sum, flow| sum.saturating_add(flow.new_bytes))
    }

    /// Says where a chunk goes that comes by a flow.
    pub(super) fn place(&self, plane: &DataPlane, tag: usize, chunk: u32, sink: Sink) {
        let flow = &self.flows[tag];
        plane.command(flow.lane, &Command::Place { flow: flow.slot, chunk, sink });
    }

    /// Takes nothing more of a chunk that comes by a flow.
    pub(super) fn abandon(&self, plane: &DataPlane, tag: usize, chunk: u32) {
        let flow = &self.flows[tag];
        plane.command(flow.lane, &Command::Abandon { flow: flow.slot, chunk });
    }

    /// A chunk that came by a flow may come again, by any.
    pub(super) fn reopen(&self, plane: &DataPlane, tag: usize, chunk: u32) {
        if let Some(flow) = self.flows.get(tag) {
            plane.command(flow.lane, &Command::Reopen { flow: flow.slot, chunk });
        }
    }

    /// Flows report every quarter of a round trip, but not more often than every two milliseconds.
    pub(super) fn set_interval(&mut self, plane: &DataPlane, rtt: Duration) {
        self.rtt = rtt;
        let interval_us = (rtt.as_micros() as u32 / 4).clamp(REPORT_INTERVAL_US, 100_000);
        self.report_interval = Duration::from_micros(interval_us.into());
        for flow in &self.flows {
            plane.command(flow.lane, &Command::Interval { flow: flow.slot, interval_us });
        }
    }

    /// Closes the flows.
    pub(super) fn close(&self, plane: &DataPlane) {
        for flow in &self.flows {
            plane.command(flow.lane, &Command::CloseReceive { flow: flow.slot });
        }
    }
}
