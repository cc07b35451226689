//! What an emulated path does.

use super::link::LinkConfig;

/// A path: what happens to packets from the first side to the second, and back.
#[derive(Clone, Debug)]
pub struct WanConfig {
    /// From the first side to the second.
    pub forward: LinkConfig,
    /// From the second side to the first.
    pub reverse: LinkConfig,
    /// The MTU of both sides' devices.
    pub mtu: u32,
    /// The seed of all randomness.
    pub seed: u64,
}

impl WanConfig {
    /// The same clean link both ways: a round trip of `rtt_ms` and a buffer of one bandwidth-delay
    /// product.
    #[must_use]
    pub fn clean(rate_bits_per_second: u64, rtt_ms: f64) -> Self {
        let link = LinkConfig::clean(rate_bits_per_second, rtt_ms);
        Self { forward: link, reverse: link, mtu: 1_500, seed: 1 }
    }
}
