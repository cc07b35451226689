//! The flows that a transfer comes by.

use std::time::{Duration, Instant};

use culvert_link::commands::{Command, ReceiveSlot, Sink};
use culvert_plane::dataplane::DataPlane;

use crate::transfer::receiving::flow_place::Place;
use crate::transfer::receiving::opening_flow::Opening;
use crate::transfer::receiving::report_delay::ReportDelay;

/// The shortest time between two reports of a flow; the round trip's quarter if that is longer.
pub(super) const REPORT_INTERVAL_US: u32 = 2_000;

/// A receiving flow.
#[derive(Debug)]
pub(super) struct ReceivingFlow {
    pub(super) id: u32,
    pub(super) lane: u16,
    pub(super) slot: ReceiveSlot,
    pub(super) place: Place,
}

/// The flows that a transfer comes by, and how they do.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) flows: Vec<ReceivingFlow>,
    /// When the sender was told of the flows; none before.
    pub(super) offered_at: Option<Instant>,
    /// Whether the sender's own host refuses what it sends.
    pub(super) is_refused_there: bool,
    /// What has come by each flow.
    pub(super) opening: Vec<Opening>,
    /// Packets on other lanes' queues when flows were last looked at.
    pub(super) wrong_queue_seen: u64,
    /// Bytes of segments that had not come before, by flow.
    pub(super) new_bytes: Vec<u64>,
    /// How long reports wait here, by flow.
    pub(super) report_delays: Vec<ReportDelay>,
    /// How often flows are asked to report.
    pub(super) report_interval: Duration,
    /// Of the control connection, as far as it is known.
    pub(super) rtt: Duration,
}

impl Inbound {
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
