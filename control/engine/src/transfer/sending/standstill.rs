//! When something of a transfer last arrived.

use std::time::Instant;

use crate::transfer::flows::FlowProgress;

/// What is known of the progress so far.
#[derive(Debug)]
pub(super) struct Standstill {
    /// When the flows were opened.
    pub(super) began: Instant,
    /// When a report last told of packets that arrived, and what the flows had done by then.
    pub(super) arrived: (Instant, FlowProgress),
    /// Bytes sent when a chunk was last delivered.
    pub(super) sent_at_delivery: u64,
    /// Whether the receiver was told that this host refuses what is sent.
    pub(super) has_told: bool,
}

impl Standstill {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { began: now, arrived: (now, FlowProgress::default()), sent_at_delivery: 0, has_told: false }
    }

    /// Packets arrived at the receiver.
    pub(super) fn note_arrival(&mut self, moved: FlowProgress) {
        self.arrived = (Instant::now(), moved);
    }
}
