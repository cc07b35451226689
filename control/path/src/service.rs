//! What a node has for paths: its settings, the checks of partners, and what is counted.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use culvert_perfsonar::responder::ResponderCounters;

use crate::measurement_peers::MeasurementPeers;
use crate::settings::PathSettings;
use crate::slots::SlotPool;

/// What a node has for paths: its settings, and places for partners' checks.
#[derive(Debug, Default)]
pub struct PathService {
    settings: OnceLock<(PathSettings, u16)>,
    /// Whose checks are answered.
    pub checks: Arc<SlotPool>,
    /// What the responder counted.
    pub counters: Arc<ResponderCounters>,
    /// Addresses that the responder answers in addition to those in its settings.
    pub measurement_peers: Arc<MeasurementPeers>,
    /// What became of documents for the archive.
    pub archive: ArchiveCounters,
}

/// Counts of a running node's deliveries to the archive.
#[derive(Debug, Default)]
pub struct ArchiveCounters {
    /// Documents that the archive took.
    pub delivered: AtomicU64,
    /// Documents given up: the spool was full, or the archive refused them for good.
    pub dropped: AtomicU64,
    /// Deliveries that failed and are tried again.
    pub failures: AtomicU64,
}

impl PathService {
    /// Takes the settings over, once. `port` is the control connection's: probes use the same
    /// number over UDP.
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
