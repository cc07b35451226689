//! Starts a data plane when one is needed and none runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use culvert_link::plane_handle::PlaneConfig;
use culvert_model::result::TransferResult;

use crate::data_plane::DataPlane;
use crate::data_plane::starting;
use crate::error::DataPlaneError;
use crate::process::Origin;

/// Keeps a data plane running.
#[derive(Debug)]
pub struct Supervisor {
    origin: Origin,
    config: PlaneConfig,
    current: tokio::sync::Mutex<Option<Arc<DataPlane>>>,
    starts: AtomicU64,
}

impl Supervisor {
    /// A supervisor that starts a data plane from `origin` when one is first needed.
    #[must_use]
    pub fn new(origin: Origin, config: PlaneConfig) -> Self {
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
        let plane = starting::start(&self.origin, &self.config).await?;
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

    /// How often the data plane was started after the first time.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.starts.load(Ordering::Relaxed).saturating_sub(1)
    }

    /// The configuration that each data plane is started with.
    #[must_use]
    pub const fn config(&self) -> &PlaneConfig {
        &self.config
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Duration;

    use culvert_link::messages::{FromDataPlane, LaneReady, OpenSend};
    use culvert_protocol::keys::Secret;
    use culvert_protocol::seal::Cipher;

    use super::*;
    use crate::events::{SendEvent, event_queue};
    use crate::slots::WantedFlow;

    /// Longer than a loaded host takes to end a process.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Starts a data plane that sends `messages` and then stays alive.
    async fn start(messages: &[Vec<u8>]) -> Result<Arc<DataPlane>, DataPlaneError> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("plane");
        let mut script = "#!/bin/sh\n".to_owned();
        for message in messages {
            let octal = message.iter().fold(String::new(), |mut octal, byte| {
                let _ = write!(octal, "\\{byte:03o}");
                octal
            });
            let _ = writeln!(script, "printf '{octal}' >&0");
        }
        script.push_str("exec sleep 600\n");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let config = PlaneConfig {
            cores: vec![None],
            memory_bytes: 4 << 20,
            buffer_bytes: 1 << 20,
            bind: std::net::Ipv4Addr::LOCALHOST.into(),
            ports: Vec::new(),
            socket_buffer_bytes: 1 << 16,
            af_xdp: None,
            refusals: Vec::new(),
        };
        let origin = Origin::Child(program);
        loop {
            let started = starting::start(&origin, &config);
            match tokio::time::timeout(PATIENCE, started).await.expect("the start hangs") {
                // A child that another test forks holds the script open for writing until it execs.
                Err(DataPlaneError::Spawn { error, .. }) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {}
                started => return started,
            }
        }
    }

    fn ready(lanes: usize) -> Vec<u8> {
        let lane = LaneReady { port: 1, gso: false, gro: false, receive_buffer_bytes: 0, pinned: false };
        let message = FromDataPlane::Ready {
            process_id: 1,
            lanes: vec![lane; lanes],
            sandbox_gaps: vec!["\u{1b}[2J".to_owned()],
            af_xdp: None,
            has_all_rules: false,
            refusals: Vec::new(),
        };
        postcard::to_allocvec(&message).unwrap()
    }

    /// Regression: its messages were no longer read, but the process counted as alive until it
    /// ended by itself.
    #[tokio::test]
    async fn a_data_plane_that_sends_nonsense_and_stays_is_ended() {
        let nonsense = b"nonsense".to_vec();
        assert!(matches!(start(std::slice::from_ref(&nonsense)).await, Err(DataPlaneError::Died(_))));
        let plane = start(&[ready(1), nonsense]).await.expect("it has started");
        assert_eq!(plane.sandbox_gaps(), ["\\u{1b}[2J"]);
        let how = tokio::time::timeout(PATIENCE, plane.died()).await.expect("it counts as alive");
        assert!(how.contains("sent an unreadable message"), "{how}");
    }

    /// Regression: the slot stayed taken.
    #[tokio::test]
    async fn a_flow_that_the_process_cannot_be_told_of_leaves_its_slot_free() {
        let plane = start(&[ready(1), b"nonsense".to_vec()]).await.expect("it has started");
        tokio::time::timeout(PATIENCE, plane.died()).await.expect("it counts as alive");
        let (events, _received) = event_queue::<SendEvent>();
        let wanted = WantedFlow { tag: 0, holder: 0, has_others: false };
        let slot = plane.take_send_slot(0, wanted, &events).unwrap();
        let open = OpenSend {
            lane: 0,
            slot,
            flow_id: 1,
            holder: 0,
            secret: Secret::new(&[1; 32]),
            cipher: Cipher::Aes256Gcm,
            partner: "192.0.2.1:1".parse().unwrap(),
            probe_datagram_bytes: vec![1_472],
            chunk_bytes: 1 << 18,
            checksum: true,
        };
        plane.open_send(open).await.unwrap_err();
        assert_eq!(plane.take_send_slot(0, wanted, &events).unwrap(), slot);
    }

    #[tokio::test]
    async fn a_data_plane_with_other_lanes_than_it_was_told_to_have_is_refused() {
        for lanes in [0, 2, 300] {
            let refused = start(&[ready(lanes)]).await.expect_err("it has started");
            assert!(matches!(refused, DataPlaneError::Nonsense(_)), "{refused}");
        }
    }
}
