//! Paired comparison: the median of the ratios and its confidence interval.

use serde::{Deserialize, Serialize};

use super::answer::Answer;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 4_000;
/// The seed of the resampling: the same pairs always give the same interval.
const SEED: u64 = 0x00c0_1fee_7a11_5eed;
/// Smaller differences count as no effect, even if they are significant.
const RELEVANT: f64 = 0.005;

/// A ratio with its 95 % interval (percentile bootstrap of the median; Efron and Tibshirani 1993,
/// chapter 13).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Estimate {
    /// The median.
    pub median: f64,
    /// The lower end.
    pub low: f64,
    /// The upper end.
    pub high: f64,
}

impl Estimate {
    /// The ratio of second to first of pairs of positive rates.
    #[must_use]
    pub fn of_pairs(pairs: &[(f64, f64)]) -> Self {
        // On a logarithmic scale, half and double are equally far from one.
        let logarithms: Vec<f64> = pairs
            .iter()
            .filter(|(without, with)| *without > 0.0 && *with > 0.0)
            .map(|(without, with)| (with / without).ln())
            .collect();
        if logarithms.is_empty() {
            return Self { median: 1.0, low: 0.0, high: f64::MAX };
        }
        let mut random = SEED;
        let mut medians: Vec<f64> = (0..RESAMPLES)
            .map(|_| {
                let drawn = (0..logarithms.len()).map(|_| logarithms[next(&mut random) % logarithms.len()]);
                median(drawn.collect())
            })
            .collect();
        medians.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| medians[((RESAMPLES - 1) as f64 * share).round() as usize].exp();
        Self { median: median(logarithms).exp(), low: at(0.025), high: at(0.975) }
    }

    /// The result that the interval supports.
    #[must_use]
    pub fn answer(&self) -> Answer {
        if self.low > 1.0 && self.median > 1.0 + RELEVANT {
            Answer::Faster
        } else if self.high < 1.0 && self.median < 1.0 - RELEVANT {
            Answer::Slower
        } else {
            Answer::NoEffect
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

/// xorshift64* (Marsaglia 2003, Vigna 2016): good enough for resampling, and reproducible.
fn next(state: &mut u64) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
    }

    #[test]
    fn equal_sides_have_no_effect_and_far_ones_have() {
        let same: Vec<(f64, f64)> =
            (0..7).map(|at| (100.0 + f64::from(at % 3), 101.0 + f64::from((at + 1) % 3 - 1))).collect();
        assert_eq!(Estimate::of_pairs(&same).answer(), Answer::NoEffect);
        let twice = [(10.0, 20.0), (11.0, 21.0), (9.0, 19.0), (10.0, 21.0), (10.0, 19.5)];
        let estimate = Estimate::of_pairs(&twice);
        assert_eq!(estimate.answer(), Answer::Faster);
        assert!(estimate.low <= estimate.median && estimate.median <= estimate.high);
    }

    #[test]
    fn a_tiny_sure_difference_is_no_effect() {
        let pairs = [(1000.0, 1001.0); 6];
        assert_eq!(Estimate::of_pairs(&pairs).answer(), Answer::NoEffect);
    }

    #[test]
    fn pairs_without_rates_say_nothing() {
        assert_eq!(Estimate::of_pairs(&[(0.0, 5.0)]).answer(), Answer::NoEffect);
        assert_eq!(Estimate::of_pairs(&[]).answer(), Answer::NoEffect);
    }
}
