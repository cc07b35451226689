//! The interface of rate controllers: configuration, observations, rate.

use serde::{Deserialize, Serialize};

/// How a transfer treats others on its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The rate asked for, for reserved circuits.
    Fixed,
    /// Fills an empty path, tolerates random loss, leaves others their share.
    #[default]
    Fair,
    /// Yields to everything else.
    Background,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "fixed" => Ok(Self::Fixed),
            "fair" => Ok(Self::Fair),
            "background" => Ok(Self::Background),
            _ => Err(format!("unknown mode '{name}': write fixed, fair or background")),
        }
    }
}

/// What one report, and the lane that sends, tell a controller.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observation {
    /// When the report came in.
    pub now_ns: u64,
    /// Round trip: from a segment's departure to the report that echoes it, less the time that the
    /// receiver held it.
    pub rtt_ns: u64,
    /// The least one-way delay of the interval, in microseconds, with an unknown constant.
    pub delay_min_us: u32,
    /// The time that the report covers, on the receiver's clock.
    pub interval_us: u32,
    /// Payload bytes that arrived in it.
    pub delivered_bytes: u64,
    /// Packets that arrived in it.
    pub delivered_packets: u64,
    /// Packets that it declares lost.
    pub lost_packets: u64,
    /// Parts per thousand of the interval that the receiving lane was busy.
    pub busy_permille: u32,
    /// Parts per thousand of the interval that the flow had data and credit and only the pacer held
    /// it back.
    pub paced_permille: u32,
}

/// What limits the rate at present, for the verdict and for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimit {
    /// The cap that the user gave.
    Cap,
    /// The path, or the receiver behind it.
    Path,
}

/// Turns observations into a rate.
pub trait RateController: Send + std::fmt::Debug {
    /// Takes one report into account.
    fn observe(&mut self, observation: &Observation);
    /// The pacing rate, in bits per second of payload.
    fn rate_bits_per_second(&self) -> u64;
    /// What limits it.
    fn limit(&self) -> RateLimit;
}

/// What a controller is made with.
#[derive(Clone, Copy, Debug, Default)]
pub struct ControllerConfig {
    /// How the flow treats others.
    pub mode: Mode,
    /// The flow's share of the user's rate, if one was asked for.
    pub cap_bits_per_second: Option<u64>,
    /// The flow's share of the rate, in bits per second, that a fresh path check supports, if there
    /// is one. Start-up begins at half of it, but no lower than without it. Rates of earlier
    /// transfers do not count: they are no measurement of the path.
    pub start_bits_per_second: Option<u64>,
    /// The round trip that the probes measured.
    pub rtt_ns: u64,
    /// Payload bytes of a full segment.
    pub stride: u16,
}

/// The lowest rate, in bits per second: a segment every few milliseconds, so that a path that
/// recovers is noticed soon.
pub const RATE_MIN: u64 = 2_000_000;
/// The highest rate of one flow, in bits per second: more than any lane can send.
pub const RATE_MAX: u64 = 400_000_000_000;
