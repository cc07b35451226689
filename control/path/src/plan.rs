//! What a check measures, as the user asks for it.

/// The parts of a check and their limits.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long echoes are sent.
    pub echo_seconds: f64,
    /// Echoes per second.
    pub echoes_per_second: u32,
    /// UDP payload of an echo, in bytes.
    pub echo_bytes: u16,
    /// The longest time of the whole check.
    pub seconds_max: u32,
    /// The highest rate of trains.
    pub rate_bits_per_second_max: u64,
    /// Whether the available rate is measured.
    pub rate: bool,
    /// Whether the bottleneck's buffer is measured, by filling it.
    pub buffer: bool,
    /// Whether routes are traced.
    pub trace: bool,
    /// Whether MTUs are searched for.
    pub mtu: bool,
}
