//! This host's clock and its error.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Nanoseconds since 1970.
#[must_use]
pub fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The quality of a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockQuality {
    /// Whether NTP or PTP disciplines it.
    pub synchronized: bool,
    /// The kernel's bound on its error, in microseconds.
    pub error_us: u64,
}

impl ClockQuality {
    /// A clock about which nothing is known.
    pub const UNKNOWN: Self = Self { synchronized: false, error_us: 16_000_000 };

    /// The quality of this host's clock, from `adjtimex(2)`.
    #[must_use]
    pub fn here() -> Self {
        crate::kernel_calls::clock_state()
            .map_or(Self::UNKNOWN, |(synchronized, error_us)| Self { synchronized, error_us })
    }

    /// The largest error of a one-way delay between two clocks; none if one of them is not
    /// synchronized.
    #[must_use]
    pub fn one_way_error_us(self, other: Self) -> Option<u64> {
        (self.synchronized && other.synchronized).then(|| self.error_us.saturating_add(other.error_us))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_one_way_delay_needs_two_synchronized_clocks() {
        let good = ClockQuality { synchronized: true, error_us: 100 };
        assert_eq!(good.one_way_error_us(good), Some(200));
        assert_eq!(good.one_way_error_us(ClockQuality::UNKNOWN), None);
    }

    #[test]
    fn this_hosts_clock_has_an_error() {
        assert!(ClockQuality::here().error_us > 0);
        assert!(now_ns() > 1_700_000_000_000_000_000);
    }
}
