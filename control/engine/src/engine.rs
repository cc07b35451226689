//! What a transfer needs of the node that runs it, and nothing more.
//!
//! Whoever has these can move files: a node with all its rooms, a command that lives as long as its
//! transfer, a test that keeps its records in memory.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use culvert_plane::dataplane::Supervisor;
use culvert_protocol::identity::Identity;

use crate::clock::Clock;
use crate::events::Observer;
use crate::partners::{Partners, PathAdvice};
use crate::records::TransferRecords;
use crate::shares::Shares;
use crate::tls::TlsConfigs;

/// If the kernel does not report the interface's MTU, the flow starts with Ethernet's and lets
/// probes decide.
const DATAGRAM_BYTES_UNKNOWN: u16 = 1_472;

/// Limits set by the user.
#[derive(Clone, Copy, Debug, Default)]
pub struct TransferBounds {
    /// The largest datagram that is sent.
    pub datagram_bytes: Option<u16>,
    /// How long a transfer may make no progress; no limit if none.
    pub patience: Option<Duration>,
}

/// What transfers are carried out with.
#[derive(Debug)]
pub struct Engine {
    /// This end's key.
    pub identity: Arc<Identity>,
    /// What it calls itself.
    pub name: String,
    /// Its TLS configurations.
    pub tls: Arc<TlsConfigs>,
    /// Its data plane.
    pub supervisor: Supervisor,
    /// Where journals of received transfers are.
    pub journals: PathBuf,
    /// Where transfers are written down.
    pub records: Arc<dyn TransferRecords>,
    /// Whom it knows.
    pub partners: Arc<dyn Partners>,
    /// What it knows of paths.
    pub advice: Arc<dyn PathAdvice>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// Each partner's share of what this node has.
    pub shares: Arc<Shares>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Limits set by its user.
    pub bounds: TransferBounds,
}

impl Engine {
    /// The largest datagram towards a partner: what the first link carries, or less if the user
    /// says so.
    #[must_use]
    pub fn datagram_bytes_towards(&self, partner: SocketAddr) -> u16 {
        let partner = SocketAddr::new(partner.ip().to_canonical(), partner.port());
        let carried = culvert_link::path_mtu::datagram_bytes_towards(partner).unwrap_or(DATAGRAM_BYTES_UNKNOWN);
        carried.min(self.bounds.datagram_bytes.unwrap_or(u16::MAX))
    }
}
