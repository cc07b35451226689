//! Statistics of probes: delays, loss, reordering and duplication.

pub mod delays;
mod delivery;
pub mod sequence;

pub use delays::{DelaySummary, Delays};
pub use delivery::Delivery;
pub use sequence::{Arrival, SequenceTracker};
