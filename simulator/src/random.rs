//! Random numbers from a seed, the same on every machine.

/// SplitMix64 (Steele, Lea, Flood 2014), and the draws that a network needs.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// Uniform in [0, 1).
    pub fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True in `part` of the cases.
    pub fn chance(&mut self, part: f64) -> bool {
        self.unit() < part
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit
    }

    /// How many of `count` trials succeed, each with chance `part`.
    ///
    /// Exact by waiting times while successes are few; beyond 64 expected ones by the normal
    /// approximation, whose error is then below the spread of the draw itself.
    pub fn binomial(&mut self, count: u64, part: f64) -> u64 {
        if count == 0 || part <= 0.0 {
            return 0;
        }
        if part >= 1.0 {
            return count;
        }
        let mean = count as f64 * part;
        if mean > 64.0 {
            let drawn = mean + self.normal() * (mean * (1.0 - part)).sqrt();
            return (drawn.round().max(0.0) as u64).min(count);
        }
        let (mut at, mut successes) = (0u64, 0);
        loop {
            // The waiting time to the next success is geometric.
            at += ((1.0 - self.unit()).ln() / (1.0 - part).ln()) as u64 + 1;
            if at > count {
                return successes;
            }
            successes += 1;
        }
    }

    /// Standard normal, by Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binomial_draws_have_the_right_mean_and_spread() {
        let mut random = Random::new(1);
        for (count, part) in [(1u64, 0.5), (100, 0.01), (1_000, 0.02), (10_000, 0.3), (500, 0.99)] {
            let draws: Vec<f64> = (0..4_000).map(|_| random.binomial(count, part) as f64).collect();
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let variance = draws.iter().map(|draw| (draw - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            let (expected, spread) = (count as f64 * part, count as f64 * part * (1.0 - part));
            assert!((mean - expected).abs() < 5.0 * (spread / 4_000.0).sqrt() + 1e-9, "{mean} of {expected}");
            assert!((variance / spread - 1.0).abs() < 0.2, "{variance} of {spread}");
        }
    }
}
