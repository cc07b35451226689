//! What a transfer needs of the program that runs it, and nothing more.
//!
//! Any program that has these can move files: a node, a command that lives as long as its transfer,
//! a test that keeps its records in memory.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use culvert_link::path_mtu;
use culvert_plane::Supervisor;
use culvert_protocol::identity::Identity;

use crate::clock::Clock;
use crate::events::Observer;
use crate::partners::{Partners, PathAdvice};
use crate::records::TransferRecords;
use crate::shares::Shares;
use crate::tls::TlsConfigs;

/// The interface's MTU if the kernel does not report it: Ethernet's. Probes find the path's.
const MTU_UNKNOWN: u16 = 1_500;

/// Limits set by the user.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransferBounds {
    /// The largest IP packet that is sent, in bytes.
    pub mtu: Option<u16>,
    /// How long a transfer may make no progress; `None` for no limit.
    pub patience: Option<Duration>,
}

/// The means of every transfer.
#[derive(Debug)]
pub struct Engine {
    /// This end's key.
    pub identity: Arc<Identity>,
    /// This end's name.
    pub name: String,
    /// This end's TLS configurations.
    pub tls: Arc<TlsConfigs>,
    /// Starts and watches the data plane.
    pub supervisor: Supervisor,
    /// The directory of incoming transfers' journals.
    pub journals: PathBuf,
    /// The records of transfers.
    pub records: Arc<dyn TransferRecords>,
    /// The profiles of partners.
    pub partners: Arc<dyn Partners>,
    /// Measurements of paths.
    pub advice: Arc<dyn PathAdvice>,
    /// Receives events, for metrics.
    pub observer: Arc<dyn Observer>,
    /// Each partner's share of this node's resources.
    pub shares: Arc<Shares>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Limits set by the user.
    pub bounds: TransferBounds,
}

impl Engine {
    /// The largest datagram toward a partner, in bytes: what the first link carries, or less if the
    /// user says so.
    #[must_use]
    pub fn datagram_bytes_towards(&self, partner: SocketAddr) -> u16 {
        let partner = SocketAddr::new(partner.ip().to_canonical(), partner.port());
        let carried = path_mtu::datagram_bytes_towards(partner);
        let carried = carried.unwrap_or_else(|_| datagram_bytes_within(MTU_UNKNOWN, partner.ip()));
        carried.min(self.bounds.mtu.map_or(u16::MAX, |mtu| datagram_bytes_within(mtu, partner.ip())))
    }
}

/// The largest datagram in an IP packet of `mtu` bytes.
const fn datagram_bytes_within(mtu: u16, partner: IpAddr) -> u16 {
    mtu.saturating_sub(path_mtu::header_bytes(partner) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: packets over IPv6 were 20 bytes longer than `mtu`.
    #[test]
    fn a_packet_is_no_longer_than_the_mtu_on_either_family() {
        for (partner, bytes) in [("192.0.2.1", 1_472), ("2001:db8::1", 1_452)] {
            assert_eq!(datagram_bytes_within(1_500, partner.parse().unwrap()), bytes, "{partner}");
        }
    }
}
