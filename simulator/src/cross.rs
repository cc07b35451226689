//! Flows of other kinds that share the bottleneck.

use crate::link::Batch;

/// An acknowledgment.
#[derive(Clone, Copy, Debug)]
pub struct Acknowledgment {
    /// When the packets that it acknowledges were sent.
    pub sent_ns: u64,
    /// How many arrived.
    pub packets: f64,
    /// How many before or among them were lost.
    pub lost: f64,
}

/// A sender that is clocked by acknowledgments.
pub trait CrossFlow: std::fmt::Debug {
    /// An acknowledgment has arrived.
    fn on_acknowledgment(&mut self, acknowledgment: &Acknowledgment, now_ns: u64);
    /// How many packets it sends in the step that begins now.
    fn send(&mut self, now_ns: u64, step_ns: u64) -> f64;
    /// Bits per second at which it would send, for plots.
    fn rate_bits_per_second(&self) -> f64;
}

/// The acknowledgment of a batch.
#[must_use]
pub const fn acknowledgment_of(batch: &Batch) -> Acknowledgment {
    Acknowledgment { sent_ns: batch.sent_ns, packets: batch.packets, lost: batch.lost }
}
