//! What the statement of a transfer is made of.

use std::time::Instant;

use culvert_protocol::control::{ReceiverSummary, SenderSummary};
use culvert_protocol::feedback::Summary;
use culvert_protocol::receipt::Statement;
use culvert_protocol::verdict::ReceiverTimes;
use culvert_system::processor_time::CpuMeter;

/// What the statement of a transfer is made of, and how far its end has come.
#[derive(Debug)]
pub(super) struct Ending {
    /// What the sender said when everything was sent.
    pub(super) sender: Option<SenderSummary>,
    /// Whether the end has begun.
    is_concluding: bool,
    /// What was stated, once it was sent.
    pub(super) stated: Option<Stated>,
    busy: WeightedMean,
    writing: WeightedMean,
    pub(super) cpu: CpuMeter,
    pub(super) began: Instant,
    pub(super) began_unix_ms: u64,
}

/// A statement that was sent.
#[derive(Debug)]
pub(super) struct Stated {
    pub(super) statement: Statement,
    /// The line that was signed.
    pub(super) line: String,
    pub(super) receiver: ReceiverSummary,
}

impl Ending {
    /// A transfer that began at `began`.
    pub(super) fn new(cpu: CpuMeter, began: Instant, began_unix_ms: u64) -> Self {
        Self {
            sender: None,
            is_concluding: false,
            stated: None,
            busy: WeightedMean::default(),
            writing: WeightedMean::default(),
            cpu,
            began,
            began_unix_ms,
        }
    }

    /// A flow reports what its lane did.
    pub(super) fn note_report(&mut self, summary: &Summary) {
        self.busy.add(summary.busy_permille, summary.interval_us);
        self.writing.add(summary.disk_stall_permille, summary.interval_us);
    }

    /// What lanes and disks did, in parts of the time.
    pub(super) fn times(&self) -> ReceiverTimes {
        ReceiverTimes { busy: self.busy.part(), writing: self.writing.part() }
    }

    /// Begins the end, if everything is sent; false if it has begun.
    pub(super) const fn begin(&mut self) -> bool {
        let begins = self.sender.is_some() && !self.is_concluding;
        self.is_concluding |= begins;
        begins
    }

    /// Whether the last is made durable, and the statement is not sent yet.
    pub(super) const fn is_making_statement(&self) -> bool {
        self.is_concluding && self.stated.is_none()
    }

    /// Whether the sender has the statement.
    pub(super) const fn has_statement(&self) -> bool {
        self.stated.is_some()
    }
}

/// A mean of parts per thousand, weighted with the time that each stands for.
#[derive(Clone, Copy, Debug, Default)]
struct WeightedMean {
    sum: f64,
    weight: f64,
}

impl WeightedMean {
    fn add(&mut self, permille: u32, weight_us: u32) {
        self.sum += f64::from(permille) * f64::from(weight_us);
        self.weight += f64::from(weight_us);
    }

    fn part(self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight / 1e3 } else { 0.0 }
    }
}
