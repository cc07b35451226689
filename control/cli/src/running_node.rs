//! The files by which commands recognize a running node: its lock, and `node.json`.

use serde::{Deserialize, Serialize};

/// The file whose lock a running node holds.
pub const LOCK: &str = "node.lock";

/// Contents of `node.json`, which a running node writes for other programs on this host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RunningNode {
    /// Its process id.
    pub process_id: u32,
    /// Its TCP port.
    pub port: u16,
    /// The port of its metrics.
    pub metrics_port: Option<u16>,
}
