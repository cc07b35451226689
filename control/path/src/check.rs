//! The result of a path check, as it is shown, recorded and published.

use culvert_perfsonar::clock::ClockQuality;
use culvert_perfsonar::probe::mtu::PathMtu;
use culvert_perfsonar::probe::ramp::AvailableRate;
use culvert_perfsonar::statistics::{DelaySummary, Delivery};
use culvert_protocol::path::Route;
use serde::{Deserialize, Serialize};

/// A direction of the path, as this node sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// From this node to the partner.
    Send,
    /// From the partner to this node.
    Receive,
}

impl Side {
    /// Both directions.
    pub const ALL: [Self; 2] = [Self::Send, Self::Receive];

    /// The word in JSON and in file names.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Send => "send",
            Self::Receive => "receive",
        }
    }
}

/// The measurements of one direction.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Direction {
    /// Loss, reordering and duplication of the echoes.
    pub delivery: Option<Delivery>,
    /// Their one-way delays; relative to the minimum if the clocks are not synchronized.
    pub delay: Option<DelaySummary>,
    /// One-way delays in milliseconds and the number of packets with each; empty if the clocks are
    /// not synchronized.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub delay_histogram_ms: std::collections::BTreeMap<String, u64>,
    /// The largest packet.
    pub mtu: Option<PathMtu>,
    /// The available rate.
    pub rate: Option<AvailableRate>,
    /// The bottleneck's buffer in bytes, if requested and found.
    pub buffer_bytes: Option<u64>,
    /// The route that UDP takes.
    pub route_udp: Option<Route>,
    /// The route that ICMP takes.
    pub route_icmp: Option<Route>,
}

/// The result of a path check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathCheck {
    /// The partner's name, or its address if it has no profile.
    pub partner: String,
    /// The partner's address.
    pub address: String,
    /// When it began, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// Whether everything requested was measured.
    pub complete: bool,
    /// A sentence for each part that was not measured.
    pub problems: Vec<String>,
    /// Transfers of this node that ran meanwhile and took bandwidth.
    pub transfers_meanwhile: u64,
    /// Round-trip times.
    pub rtt: Option<DelaySummary>,
    /// Round-trip times in milliseconds and the number of echoes with each.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub rtt_histogram_ms: std::collections::BTreeMap<String, u64>,
    /// This host's clock.
    pub clock: ClockQuality,
    /// The largest error of one-way delays; none if the clocks are not synchronized, in which case
    /// delays are relative to the minimum.
    pub one_way_error_us: Option<u64>,
    /// Answers that were ignored, for instance because they do not authenticate.
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

    /// One direction, mutable.
    pub const fn side_mut(&mut self, side: Side) -> &mut Direction {
        match side {
            Side::Send => &mut self.send,
            Side::Receive => &mut self.receive,
        }
    }
}
