//! One data plane after the other: the next life is started when it is wanted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use culvert_dataplane::link::engine::EngineConfig;

use super::{DataPlane, DataPlaneError, Origin};
use crate::transfer::result::TransferResult;

/// Keeps a data plane running.
#[derive(Debug)]
pub struct Supervisor {
    origin: Origin,
    config: EngineConfig,
    current: tokio::sync::Mutex<Option<Arc<DataPlane>>>,
    starts: AtomicU64,
}

impl Supervisor {
    /// A supervisor that gets a data plane from `origin` when one is first wanted.
    #[must_use]
    pub fn new(origin: Origin, config: EngineConfig) -> Self {
        Self { origin, config, current: tokio::sync::Mutex::new(None), starts: AtomicU64::new(0) }
    }

    /// The running data plane; starts one if there is none.
    ///
    /// # Errors
    /// [`DataPlaneError`], if it does not start.
    pub async fn get(&self) -> Result<Arc<DataPlane>, DataPlaneError> {
        let mut current = self.current.lock().await;
        if let Some(plane) = current.as_ref().filter(|plane| plane.is_alive()) {
            return Ok(plane.clone());
        }
        let plane = DataPlane::start(&self.origin, &self.config).await?;
        self.starts.fetch_add(1, Ordering::Relaxed);
        *current = Some(plane.clone());
        Ok(plane)
    }

    /// The running data plane, if one runs.
    pub async fn running(&self) -> Option<Arc<DataPlane>> {
        self.current.lock().await.clone().filter(|plane| plane.is_alive())
    }

    /// Writes into a result how this side's data plane moved its packets.
    pub async fn note_datapath(&self, result: &mut TransferResult) {
        if let Some(plane) = self.running().await {
            plane.datapath().clone_into(&mut result.datapath);
            result.af_xdp_mode = plane.af_xdp_mode().map(str::to_owned);
        }
    }

    /// How often it had to be started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// How it is set up.
    #[must_use]
    pub const fn config(&self) -> &EngineConfig {
        &self.config
    }
}
