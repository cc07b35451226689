//! The flows that a transfer comes by.

use std::time::{Duration, Instant};

use crate::transfer::receiving::{ReceivingFlow, report_delay, stalling};

/// The flows that a transfer comes by, and how they do.
#[derive(Debug)]
pub(super) struct Inbound {
    pub(super) flows: Vec<ReceivingFlow>,
    /// When the sender was told of the flows; none before.
    pub(super) offered_at: Option<Instant>,
    /// Whether the sender's own host refuses what it sends.
    pub(super) is_refused_there: bool,
    /// What has come by each flow.
    pub(super) opening: Vec<stalling::Opening>,
    /// Packets on other lanes' queues when flows were last looked at.
    pub(super) wrong_queue_seen: u64,
    /// Bytes of segments that had not come before, by flow.
    pub(super) new_bytes: Vec<u64>,
    /// How long reports wait here, by flow.
    pub(super) report_delays: Vec<report_delay::ReportDelay>,
    /// How often flows are asked to report.
    pub(super) report_interval: Duration,
    /// Of the control connection, as far as it is known.
    pub(super) rtt: Duration,
}
