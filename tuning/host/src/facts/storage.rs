//! Facts of block devices and file systems.

use serde::{Deserialize, Serialize};

use super::link::PcieLink;

/// One block device that holds data: a disk, not a partition.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Block {
    /// Its name below `/sys/block`.
    pub name: String,
    /// The vendor's model name.
    pub model: Option<String>,
    /// Its size.
    pub size_bytes: u64,
    /// Whether it is a spinning disk.
    pub rotational: Option<bool>,
    /// Whether it is an NVMe namespace.
    pub nvme: bool,
    /// The active I/O scheduler.
    pub scheduler: Option<String>,
    /// The available I/O schedulers.
    pub schedulers: Vec<String>,
    /// Read-ahead of buffered reads, in KiB.
    pub read_ahead_kib: Option<u64>,
    /// Requests that may be queued.
    pub requests_max: Option<u64>,
    /// Whether polled completions work (`nvme.poll_queues`).
    pub io_poll: Option<bool>,
    /// The memory node of its controller.
    pub numa_node: Option<u32>,
    /// The PCIe link of its controller.
    pub pcie: Option<PcieLink>,
    /// Members of a RAID or device-mapper volume.
    pub members: Vec<String>,
}

/// One mounted file system that holds data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Mount {
    /// The mounted device.
    pub device: String,
    /// The mount point.
    pub path: String,
    /// `xfs`, `ext4`, …
    pub file_system: String,
    /// Mount options.
    pub options: Vec<String>,
    /// The disk that holds it, if that is among [`Facts::blocks`](super::Facts::blocks).
    pub block: Option<String>,
}

impl Mount {
    /// Whether it is mounted with this option.
    #[must_use]
    pub fn has_option(&self, option: &str) -> bool {
        self.options.iter().any(|name| name == option)
    }
}
