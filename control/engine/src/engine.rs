//! What a transfer needs of the program that runs it, and nothing more.
//!
//! Any program that has these can move files: a node, a command that lives as long as its transfer,
//! a test that keeps its records in memory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use culvert_plane::Supervisor;
use culvert_protocol::identity::Identity;

use crate::clock::Clock;
use crate::events::Observer;
use crate::partners::{Partners, PathAdvice};
use crate::records::TransferRecords;
use crate::shares::Shares;
use crate::tls::TlsConfigs;

/// The largest datagram if the kernel does not report the interface's MTU: Ethernet's. Probes find
/// the real size.
const DATAGRAM_BYTES_UNKNOWN: u16 = 1_472;

/// Limits set by the user.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransferBounds {
    /// The largest datagram that is sent.
    pub datagram_bytes: Option<u16>,
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
        let carried = culvert_link::path_mtu::datagram_bytes_towards(partner).unwrap_or(DATAGRAM_BYTES_UNKNOWN);
        carried.min(self.bounds.datagram_bytes.unwrap_or(u16::MAX))
    }
}
