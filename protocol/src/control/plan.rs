//! What a plan consists of: flows, and runs of entries or chunks.

use serde::{Deserialize, Serialize};

/// One flow, as its receiver offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowOffer {
    /// Its id.
    pub flow_id: u32,
    /// The receiver's lane that takes it: an index into its lane ports.
    pub receiver_lane: u16,
    /// The sender's lane that shall send it.
    pub sender_lane: u16,
}

/// A run of entries or chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Joins ascending numbers to runs.
pub fn runs(numbers: impl IntoIterator<Item = u32>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.first.checked_add(run.count) == Some(number) => run.count = run.count.saturating_add(1),
            _ => runs.push(Run { first: number, count: 1 }),
        }
    }
    runs
}
