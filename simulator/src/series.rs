//! The output of a run: samples over time, and the judged values.

/// One sample.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Seconds since the run began.
    pub seconds: f64,
    /// Payload (or, of cross traffic, packet) bits per second that each flow delivered since the
    /// last sample.
    pub delivered: Vec<f64>,
    /// The rate at which each flow would send.
    pub rates: Vec<f64>,
    /// The longest wait at the bottleneck since the last sample, in milliseconds.
    pub queue_ms: f64,
    /// Part of the packets lost since the last sample.
    pub loss: f64,
}

/// The waits at the bottleneck, step by step.
#[derive(Clone, Debug, Default)]
pub struct Waits(Vec<f32>);

impl Waits {
    /// Records the wait of a step.
    pub fn push(&mut self, queue_ns: f64) {
        self.0.push((queue_ns / 1e6) as f32);
    }

    /// The wait in milliseconds that `part` of the steps do not exceed.
    #[must_use]
    pub fn quantile_ms(&self, part: f64) -> f64 {
        if self.0.is_empty() {
            return 0.0;
        }
        let mut sorted = self.0.clone();
        sorted.sort_unstable_by(f32::total_cmp);
        f64::from(sorted[((sorted.len() - 1) as f64 * part) as usize])
    }
}

/// Jain's fairness index of some rates: 1 if all are equal, 1/n if one gets everything.
#[must_use]
pub fn jain(rates: &[f64]) -> f64 {
    let sum: f64 = rates.iter().sum();
    let squares: f64 = rates.iter().map(|rate| rate * rate).sum();
    if squares > 0.0 { sum * sum / (rates.len() as f64 * squares) } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jain_is_one_for_equals_and_a_share_for_one_alone() {
        assert!((jain(&[3.0, 3.0, 3.0]) - 1.0).abs() < 1e-12);
        assert!((jain(&[5.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-12);
    }

    #[test]
    fn quantiles_are_of_the_sorted_waits() {
        let mut waits = Waits::default();
        for ms in [5.0, 1.0, 3.0, 2.0, 4.0] {
            waits.push(ms * 1e6);
        }
        assert!((waits.quantile_ms(0.5) - 3.0).abs() < 1e-6);
        assert!((waits.quantile_ms(1.0) - 5.0).abs() < 1e-6);
    }
}
