//! Randomness that repeats from a seed.

/// SplitMix64: small, good enough, and the same everywhere.
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True in so large a part of the cases.
    #[allow(dead_code, reason = "not every test takes chances")]
    pub fn chance(&mut self, part: f64) -> bool {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64 <= part
    }
}
