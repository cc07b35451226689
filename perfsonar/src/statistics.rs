//! What probes say about a path: delays, loss, order and duplication.

pub mod delays;
mod delivery;
pub mod sequence;

pub use delays::{DelaySummary, Delays};
pub use delivery::Delivery;
pub use sequence::{Arrival, SequenceTracker};
