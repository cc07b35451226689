//! What the statement of a transfer is made of.

use std::time::Instant;

use culvert_protocol::control::{ReceiverSummary, SenderSummary};
use culvert_protocol::receipt::Statement;
use culvert_system::processor_time::CpuMeter;

/// What the statement of a transfer is made of, and how far its end has come.
#[derive(Debug)]
pub(super) struct Ending {
    pub(super) sender: Option<SenderSummary>,
    /// Whether the end has begun.
    pub(super) is_concluding: bool,
    pub(super) finish_sent: Option<Statement>,
    pub(super) line: String,
    pub(super) receiver: Option<ReceiverSummary>,
    pub(super) busy: WeightedMean,
    pub(super) writing: WeightedMean,
    pub(super) cpu: CpuMeter,
    pub(super) began: Instant,
    pub(super) began_unix_ms: u64,
}

/// A mean of parts per thousand, weighted with the time that each stands for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WeightedMean {
    sum: f64,
    weight: f64,
}

impl WeightedMean {
    pub(super) fn add(&mut self, permille: u32, weight_us: u32) {
        self.sum += f64::from(permille) * f64::from(weight_us);
        self.weight += f64::from(weight_us);
    }

    pub(super) fn part(self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight / 1e3 } else { 0.0 }
    }
}
