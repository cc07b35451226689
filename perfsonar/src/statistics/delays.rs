//! A distribution of delays that may be negative, as one-way delays between two clocks may.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The largest distance from the first delay; a larger one counts as ten minutes.
const DELAY_NS_MAX: u64 = 600_000_000_000;

/// Delays in nanoseconds, kept as distances from the first one, so that a clock's offset of hours
/// costs no precision.
#[derive(Clone, Debug)]
pub struct Delays {
    first_ns: Option<i64>,
    above: Histogram<u64>,
    below: Histogram<u64>,
    least_ns: i64,
    greatest_ns: i64,
    sum_ns: f64,
    sum_squares_ns: f64,
    previous_ns: i64,
    jitter_ns: f64,
}

/// Summary of a distribution of delays, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DelaySummary {
    /// The number of delays.
    pub count: u64,
    /// The minimum.
    pub min_us: f64,
    /// The median.
    pub p50_us: f64,
    /// The 95th percentile.
    pub p95_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// The maximum.
    pub max_us: f64,
    /// The mean.
    pub mean_us: f64,
    /// The standard deviation.
    pub stddev_us: f64,
    /// The mean change from one packet to the next, smoothed as RFC 3550 6.4.1 does.
    pub jitter_us: f64,
}

impl Default for Delays {
    #[expect(clippy::expect_used, reason = "the bounds are constants, and every test makes one")]
    fn default() -> Self {
        let histogram = || Histogram::new_with_bounds(1, DELAY_NS_MAX, 3).expect("the bounds are in order");
        Self {
            first_ns: None,
            above: histogram(),
            below: histogram(),
            least_ns: i64::MAX,
            greatest_ns: i64::MIN,
            sum_ns: 0.0,
            sum_squares_ns: 0.0,
            previous_ns: 0,
            jitter_ns: 0.0,
        }
    }
}

impl Delays {
    /// Adds a delay.
    pub fn record(&mut self, delay_ns: i64) {
        let first = *self.first_ns.get_or_insert(delay_ns);
        let distance = delay_ns.saturating_sub(first);
        if distance >= 0 {
            self.above.saturating_record(distance.unsigned_abs());
        } else {
            self.below.saturating_record(distance.unsigned_abs());
        }
        if self.count() > 1 {
            let change = (delay_ns.saturating_sub(self.previous_ns)).unsigned_abs() as f64;
            self.jitter_ns += (change - self.jitter_ns) / 16.0;
        }
        self.previous_ns = delay_ns;
        self.least_ns = self.least_ns.min(delay_ns);
        self.greatest_ns = self.greatest_ns.max(delay_ns);
        self.sum_ns += distance as f64;
        self.sum_squares_ns += (distance as f64).powi(2);
    }

    /// The number of delays.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.above.len().saturating_add(self.below.len())
    }

    /// The minimum; none without delays.
    #[must_use]
    pub fn min_ns(&self) -> Option<i64> {
        (self.count() > 0).then_some(self.least_ns)
    }

    /// The quantile; 0 without delays.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "a float that becomes an integer saturates, and is clamped")]
    pub fn quantile_ns(&self, quantile: f64) -> i64 {
        let Some(first) = self.first_ns else { return 0 };
        let rank = ((quantile * self.count() as f64).ceil() as u64).clamp(1, self.count());
        let below = self.below.len();
        let value = if rank <= below {
            // Ascending delays below the first one are descending distances from it.
            let from_top = below.saturating_sub(rank).saturating_add(1);
            first.saturating_sub_unsigned(self.below.value_at_quantile((from_top as f64 - 0.5) / below as f64))
        } else {
            let from_first = rank.saturating_sub(below);
            let part = (from_first as f64 - 0.5) / self.above.len() as f64;
            first.saturating_add_unsigned(self.above.value_at_quantile(part))
        };
        value.clamp(self.least_ns, self.greatest_ns)
    }

    /// The summary; none without delays.
    #[must_use]
    pub fn summary(&self) -> Option<DelaySummary> {
        let first = self.first_ns?;
        let us = |ns: i64| ns as f64 / 1e3;
        let count = self.count() as f64;
        let mean = self.sum_ns / count;
        let variance = (self.sum_squares_ns / count - mean * mean).max(0.0);
        Some(DelaySummary {
            count: self.count(),
            min_us: us(self.least_ns),
            p50_us: us(self.quantile_ns(0.5)),
            p95_us: us(self.quantile_ns(0.95)),
            p99_us: us(self.quantile_ns(0.99)),
            max_us: us(self.greatest_ns),
            mean_us: us(first) + mean / 1e3,
            stddev_us: variance.sqrt() / 1e3,
            jitter_us: self.jitter_ns / 1e3,
        })
    }

    /// Delays in milliseconds with two decimals, and the number of packets with each: pScheduler's
    /// `histogram-latency`.
    #[must_use]
    pub fn histogram_ms(&self) -> std::collections::BTreeMap<String, u64> {
        let mut buckets = std::collections::BTreeMap::new();
        let Some(first) = self.first_ns else { return buckets };
        let mut add = |ns: i64, count: u64| {
            let bucket: &mut u64 = buckets.entry(format!("{:.2}", ns as f64 / 1e6)).or_default();
            *bucket = bucket.saturating_add(count);
        };
        for value in self.below.iter_recorded() {
            add(first.saturating_sub_unsigned(value.value_iterated_to()), value.count_at_value());
        }
        for value in self.above.iter_recorded() {
            add(first.saturating_add_unsigned(value.value_iterated_to()), value.count_at_value());
        }
        buckets
    }
}

impl DelaySummary {
    /// The same distribution relative to its minimum, for clocks that are not synchronized.
    #[must_use]
    pub fn relative(self) -> Self {
        let least = self.min_us;
        Self {
            min_us: 0.0,
            p50_us: self.p50_us - least,
            p95_us: self.p95_us - least,
            p99_us: self.p99_us - least,
            max_us: self.max_us - least,
            mean_us: self.mean_us - least,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nothing_has_no_summary() {
        assert_eq!(Delays::default().summary(), None);
        assert!(Delays::default().histogram_ms().is_empty());
    }

    #[test]
    fn a_steady_delay_has_no_spread() {
        let mut delays = Delays::default();
        (0..100).for_each(|_| delays.record(-5_000_000));
        let summary = delays.summary().unwrap();
        assert_eq!(
            (summary.min_us, summary.p99_us, summary.stddev_us, summary.jitter_us),
            (-5_000.0, -5_000.0, 0.0, 0.0)
        );
        assert_eq!(delays.histogram_ms().into_iter().collect::<Vec<_>>(), [("-5.00".to_owned(), 100)]);
        assert_eq!(summary.relative().p50_us, 0.0);
    }

    proptest! {
        #[test]
        fn quantiles_are_those_of_the_sorted_delays(
            offset in -3_600_000_000_000i64..3_600_000_000_000,
            delays in proptest::collection::vec(0..200_000_000i64, 1..300),
            quantile in 0.0..=1.0f64,
        ) {
            let mut kept = Delays::default();
            let mut all: Vec<i64> = delays.iter().map(|delay| delay + offset).collect();
            all.iter().for_each(|&delay| kept.record(delay));
            let first = all[0];
            all.sort_unstable();
            let rank = ((quantile * all.len() as f64).ceil() as usize).clamp(1, all.len());
            let exact = all[rank - 1];
            let found = kept.quantile_ns(quantile);
            let allowed = (exact - first).abs() / 500 + 2;
            prop_assert!((found - exact).abs() <= allowed, "{found} is not {exact}");
            prop_assert_eq!(kept.min_ns(), Some(all[0]));
            prop_assert_eq!(kept.histogram_ms().values().sum::<u64>(), all.len() as u64);
        }
    }
}
