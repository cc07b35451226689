//! What a check of a path found.

use culvert_perfsonar::clock::ClockQuality;
use culvert_perfsonar::probe::mtu::PathMtu;
use culvert_perfsonar::probe::ramp::AvailableRate;
use culvert_perfsonar::statistics::{DelaySummary, Delivery};
use culvert_protocol::path::Route;
use serde::{Deserialize, Serialize};

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// From this node to the partner.
    Send,
    /// From the partner to this node.
    Receive,
}

impl Side {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Send, Self::Receive];

    /// The contract's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
        }
    }
}

/// One direction of a path.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// Echoes that went this way.
    pub delivery: Option<Delivery>,
    /// Their one-way delays; relative to the least if the clocks are not synchronized.
    pub delay: Option<DelaySummary>,
    /// One-way delays in milliseconds and how many had each; empty if the clocks are not
    /// synchronized.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub delay_histogram_ms: std::collections::BTreeMap<String, u64>,
    /// The largest packet.
    pub mtu: Option<PathMtu>,
    /// The available rate.
    pub rate: Option<AvailableRate>,
    /// The bottleneck's buffer in bytes, if that was asked for.
    pub buffer_bytes: Option<u64>,
    /// The route that UDP takes.
    pub route_udp: Option<Route>,
    /// The route that ICMP takes.
    pub route_icmp: Option<Route>,
}

/// A check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathCheck {
    /// With whom.
    pub partner: String,
    /// The partner's address.
    pub address: String,
    /// When, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// Whether everything that was asked for was measured.
    pub complete: bool,
    /// What was not, and why.
    pub problems: Vec<String>,
    /// Transfers of this node that ran meanwhile: they take their share of what is measured.
    pub transfers_meanwhile: u64,
    /// Round trips.
    pub rtt: Option<DelaySummary>,
    /// Round trips in milliseconds and how many had each.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub rtt_histogram_ms: std::collections::BTreeMap<String, u64>,
    /// This host's clock.
    pub clock: ClockQuality,
    /// The greatest error of one-way delays; none: the clocks are not synchronized, and the delays
    /// are relative to the least.
    pub one_way_error_us: Option<u64>,
    /// Answers that did not count: `not packets of the protocol` and the like.
    pub rejected: u64,
    /// To the partner.
    pub send: Direction,
    /// From the partner.
    pub receive: Direction,
}

impl PathCheck {
    /// One direction.
    #[must_use]
    pub const fn side(&self, side: Side) -> &Direction {
        match side {
            Side::Send => &self.send,
            Side::Receive => &self.receive,
        }
    }

    /// One direction, to be changed.
    pub const fn side_mut(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Send => &mut self.send,
            Side::Receive => &mut self.receive,
        }
    }
}
