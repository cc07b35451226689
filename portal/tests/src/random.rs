//! Random tests print their seed and can repeat it: `CULVERT_SEED=n` runs the same again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    /// Starts from a seed.
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

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit
    }

    /// A time below a limit.
    pub fn time_below(&mut self, limit: Duration) -> Duration {
        limit.mul_f64(self.below(1 << 20) as f64 / f64::from(1 << 20))
    }
}

/// The seed of a test: from the clock, or the one that `CULVERT_SEED` names. Print it before using
/// it.
///
/// # Panics
/// If `CULVERT_SEED` is not a number.
#[must_use]
pub fn seed() -> u64 {
    if let Ok(seed) = std::env::var("CULVERT_SEED") {
        return seed.parse().expect("CULVERT_SEED is a number");
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_nanos());
    Random::new(now as u64).below(1_000_000_000)
}
