//! A node: one identity, one state directory, one data plane, and the transfers between it and its
//! partners.
//!
//! `culvert node` keeps one running; `culvert send` makes one for the length of its transfer; so
//! does the far end that ssh starts. They differ in what they listen on and in whom they let in
//! ([`crate::session::Admission`]).

use std::sync::Arc;
use std::time::Duration;

use culvert_link::engine::EngineConfig;
use culvert_plane::dataplane::{Origin, Supervisor};
use culvert_protocol::foreign_text::plain_lines;
use culvert_protocol::identity::Identity;

use crate::doorman::Doorman;
use crate::journal::Journal;
use crate::limits::JOURNAL_AGE;
use crate::metrics::Metrics;
use crate::profiles::Profiles;
use crate::registry::Registry;
use crate::shares::Shares;
use crate::state::{StateDirectory, StateError};
use crate::tls::TlsConfigs;
use crate::tuning::Wakefulness;

/// Journals of complete transfers whose sender never signed are kept so long for it to come again.
const COMPLETE_JOURNAL_AGE: Duration = Duration::from_secs(24 * 60 * 60);
/// If the kernel does not report the interface's MTU, the flow starts with Ethernet's and lets
/// probes decide.
const DATAGRAM_BYTES_UNKNOWN: u16 = 1_472;

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its state directory.
    pub state: StateDirectory,
    /// Its key.
    pub identity: Arc<Identity>,
    /// What it calls itself.
    pub name: String,
    /// Its TLS configurations.
    pub tls: Arc<TlsConfigs>,
    /// Its partners.
    pub profiles: Profiles,
    /// Its data plane.
    pub supervisor: Supervisor,
    /// Its transfers.
    pub registry: Registry,
    /// What it counts.
    pub metrics: Arc<Metrics>,
    /// Keeps CPUs awake while transfers run.
    pub wakefulness: Wakefulness,
    /// The largest datagram that it sends, if the user limits it.
    pub datagram_bytes_cap: Option<u16>,
    /// What it knows about paths, and how it answers measurements.
    pub path: crate::path::PathRoom,
    /// Decides which handshakes may begin.
    pub doorman: Doorman,
    /// What partners take of this node's memory.
    pub shares: Arc<Shares>,
    /// How long a transfer may make no progress; no limit if none.
    pub patience: Option<Duration>,
}

impl Node {
    /// Puts a node together. Nothing listens yet, and the data plane starts when it is first
    /// needed.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn new(
        state: StateDirectory,
        name: String,
        dataplane: Origin,
        engine: EngineConfig,
        datagram_bytes_cap: Option<u16>,
        patience: Option<Duration>,
    ) -> Result<Arc<Self>, StateError> {
        let identity = Arc::new(state.identity()?);
        state.sweep();
        Journal::sweep(&state.path("journals"), COMPLETE_JOURNAL_AGE, JOURNAL_AGE);
        let registry = Registry::open(state.clone())?;
        registry.sweep();
        for sentence in registry.left_alone() {
            say_aside!("culvert: {}", plain_lines(&sentence));
        }
        let tls = Arc::new(TlsConfigs::new(&identity));
        let metrics = Arc::new(Metrics::new());
        registry.count_in(&metrics);
        Ok(Arc::new(Self {
            profiles: Profiles::new(state.clone()),
            registry,
            supervisor: Supervisor::new(dataplane, engine),
            path: crate::path::PathRoom::default(),
            doorman: Doorman::default(),
            shares: Arc::default(),
            metrics,
            wakefulness: Wakefulness::default(),
            state,
            identity,
            name,
            tls,
            datagram_bytes_cap,
            patience,
        }))
    }

    /// The largest datagram towards a partner: what the first link carries, or less if the user
    /// says so.
    #[must_use]
    pub fn datagram_bytes_towards(&self, partner: std::net::SocketAddr) -> u16 {
        let partner = std::net::SocketAddr::new(partner.ip().to_canonical(), partner.port());
        let carried = culvert_link::path_mtu::datagram_bytes_towards(partner).unwrap_or(DATAGRAM_BYTES_UNKNOWN);
        carried.min(self.datagram_bytes_cap.unwrap_or(u16::MAX))
    }
}
