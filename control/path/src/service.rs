//! The path measurement state of a node: settings, slots for partners' checks, counters.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use culvert_perfsonar::responder::ResponderCounters;

use crate::measurement_peers::MeasurementPeers;
use crate::settings::PathSettings;
use crate::slots::SlotPool;

/// The path measurement state of a node.
#[derive(Debug, Default)]
pub struct PathService {
    settings: OnceLock<(PathSettings, u16)>,
    /// Slots for the checks of partners that this node answers.
    pub checks: Arc<SlotPool>,
    /// Counters of the STAMP and TWAMP responder.
    pub counters: Arc<ResponderCounters>,
    /// Hosts that the responder answers in addition to those in its settings.
    pub measurement_peers: Arc<MeasurementPeers>,
    /// Counters of deliveries to the archive.
    pub archive: ArchiveCounters,
}

/// Counts of a running node's deliveries to the archive.
#[derive(Debug, Default)]
pub struct ArchiveCounters {
    /// Documents delivered.
    pub delivered: AtomicU64,
    /// Documents dropped: the spool was full, or the archive refused them permanently.
    pub dropped: AtomicU64,
    /// Deliveries that failed and are retried.
    pub failures: AtomicU64,
}

impl PathService {
    /// Sets the settings, once. `port` is the control connection's TCP port: unless the settings
    /// name another, probes use the same number over UDP.
    pub fn configure(&self, settings: PathSettings, port: u16) {
        let _ = self.settings.set((settings, port));
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> PathSettings {
        self.settings.get().map(|(settings, _)| settings.clone()).unwrap_or_default()
    }

    /// The UDP port where probes are answered; 0 for any.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.settings.get().map_or(0, |(settings, port)| settings.path.port.unwrap_or(*port))
    }
}
