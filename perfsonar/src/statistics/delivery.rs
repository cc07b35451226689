//! Loss, reordering and duplication of a measurement's packets.

use serde::{Deserialize, Serialize};

/// Packet counts of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// Packets sent.
    pub sent: u64,
    /// Packets that arrived, each counted once.
    pub received: u64,
    /// Copies beyond the first.
    pub duplicates: u64,
    /// Packets that arrived after a later one (RFC 4737, type-P-reordered).
    pub reordered: u64,
}

impl Delivery {
    /// Packets that did not arrive.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// The fraction that did not arrive; 0 if nothing was sent.
    #[must_use]
    pub fn loss(&self) -> f64 {
        ratio(self.lost(), self.sent)
    }

    /// The fraction that arrived out of order.
    #[must_use]
    pub fn reordering(&self) -> f64 {
        ratio(self.reordered, self.received)
    }

    /// The fraction that arrived more than once.
    #[must_use]
    pub fn duplication(&self) -> f64 {
        ratio(self.duplicates, self.received)
    }

    /// The loss ratio that is excluded with 95 % confidence if none of the packets was lost: the
    /// rule of three.
    #[must_use]
    pub fn loss_resolution(&self) -> f64 {
        if self.sent == 0 { 1.0 } else { (3.0 / self.sent as f64).min(1.0) }
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_of_nothing_are_zero() {
        let none = Delivery::default();
        assert_eq!((none.loss(), none.reordering(), none.loss_resolution()), (0.0, 0.0, 1.0));
        let some = Delivery { sent: 300_000, received: 299_997, duplicates: 3, reordered: 0 };
        assert_eq!(some.lost(), 3);
        assert!((some.loss() - 1e-5).abs() < 1e-12 && (some.loss_resolution() - 1e-5).abs() < 1e-12);
    }
}
