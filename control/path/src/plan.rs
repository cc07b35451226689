//! What a check is to do, as it is asked for.

/// What is to be checked.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How long the echoes continue.
    pub echo_seconds: f64,
    /// How many echoes in a second.
    pub echoes_per_second: u32,
    /// UDP payload of echoes.
    pub echo_bytes: u16,
    /// The longest that the whole check may take.
    pub seconds_max: u32,
    /// The highest rate.
    pub rate_bits_per_second_max: u64,
    /// Whether the available rate is looked for.
    pub rate: bool,
    /// Whether the bottleneck's buffer is filled.
    pub buffer: bool,
    /// Whether routes are traced.
    pub trace: bool,
    /// Whether MTUs are looked for.
    pub mtu: bool,
}
