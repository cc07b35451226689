//! What a running node leaves in its state directory for commands: a lock, and where it listens.

use serde::{Deserialize, Serialize};

/// The file whose lock a running node holds.
pub const LOCK: &str = "node.lock";

/// What a running node leaves in its state directory for others on this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunningNode {
    /// Its process.
    pub process_id: u32,
    /// Its TCP port.
    pub port: u16,
    /// The port of its metrics.
    pub metrics_port: Option<u16>,
}
