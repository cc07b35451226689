//! Facts of one network interface.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cpu_set::CpuSet;

/// One network interface.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Its name.
    pub name: String,
    /// Its index in this network namespace.
    pub index: u32,
    /// The kernel's kind of a virtual link (`veth`, `bond`, `vlan`); `null` for hardware.
    pub kind: Option<String>,
    /// The kernel driver.
    pub driver: Option<String>,
    /// The device's firmware version.
    pub firmware: Option<String>,
    /// The bus address of the device (`0000:81:00.0`); `null` for links without one.
    pub device: Option<String>,
    /// Whether it is administratively up.
    pub up: bool,
    /// Whether it has a carrier.
    pub carrier: Option<bool>,
    /// The current speed of the link.
    pub speed_bits_per_second: Option<u64>,
    /// The memory node that the device is attached to.
    pub numa_node: Option<u32>,
    /// The MTU in bytes.
    pub mtu_bytes: u32,
    /// The smallest MTU that the driver accepts.
    pub mtu_min_bytes: Option<u32>,
    /// The largest MTU that the driver accepts.
    pub mtu_max_bytes: Option<u32>,
    /// The link that this one belongs to (bond, bridge, VRF).
    pub master: Option<String>,
    /// Receive queues that exist.
    pub rx_queues: Option<u32>,
    /// Transmit queues that exist.
    pub tx_queues: Option<u32>,
    /// The largest segmentation-offload packet, for IPv6 and, unless `gso_ipv4_max_bytes` has its
    /// own value, for IPv4.
    pub gso_max_bytes: Option<u32>,
    /// The largest segmentation-offload packet for IPv4, if the kernel distinguishes it.
    pub gso_ipv4_max_bytes: Option<u32>,
    /// The largest packet that generic receive offload builds.
    pub gro_max_bytes: Option<u32>,
    /// The same for IPv4, if the kernel distinguishes it.
    pub gro_ipv4_max_bytes: Option<u32>,
    /// Addresses with prefix length.
    pub addresses: Vec<String>,
    /// Whether a default route uses it.
    pub default_route: bool,
    /// Ring sizes.
    pub rings: Option<Rings>,
    /// Channels (queue pairs).
    pub channels: Option<Channels>,
    /// Interrupt coalescing.
    pub coalesce: Option<Coalesce>,
    /// Ethernet flow control.
    pub pause: Option<Pause>,
    /// Offloads by the kernel's name (`tx-tcp-segmentation`).
    pub features: BTreeMap<String, Feature>,
    /// The driver's own switches by name.
    pub private_flags: BTreeMap<String, bool>,
    /// Receive side scaling.
    pub rss: Option<Rss>,
    /// The header fields that choose the receive queue, per flow type (`udp4`): ethtool's letters,
    /// `sdfn` is both addresses and both ports.
    pub flow_hash: BTreeMap<String, String>,
    /// XDP support of the driver.
    pub xdp: Option<XdpFeatures>,
    /// Interrupts of the device.
    pub irqs: Vec<Irq>,
    /// NAPI instances.
    pub napi: Vec<Napi>,
    /// `threaded`: 0, 1 or 2.
    pub napi_threaded: Option<u32>,
    /// `napi_defer_hard_irqs`.
    pub napi_defer_hard_irqs: Option<u32>,
    /// `gro_flush_timeout`.
    pub gro_flush_timeout_ns: Option<u64>,
    /// Queues with their steering CPUs.
    pub queues: Vec<Queue>,
    /// Queueing disciplines, the root first.
    pub qdiscs: Vec<Qdisc>,
    /// The PCIe link of the device.
    pub pcie: Option<PcieLink>,
    /// Counters of drops and errors since the link was created.
    pub counters: Counters,
}

/// Ring sizes in descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rings {
    /// Receive ring.
    pub rx: u32,
    /// The largest receive ring.
    pub rx_max: u32,
    /// Transmit ring.
    pub tx: u32,
    /// The largest transmit ring.
    pub tx_max: u32,
}

/// Channels: interrupts with their queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Channels {
    /// Receive-only channels.
    pub rx: u32,
    /// The most receive-only channels.
    pub rx_max: u32,
    /// Transmit-only channels.
    pub tx: u32,
    /// The most transmit-only channels.
    pub tx_max: u32,
    /// Channels that receive and transmit.
    pub combined: u32,
    /// The most combined channels.
    pub combined_max: u32,
}

/// Interrupt coalescing; `null` where the driver has no such parameter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Coalesce {
    /// Whether the driver adapts the receive delay to the traffic.
    pub adaptive_rx: Option<bool>,
    /// Whether the driver adapts the transmit delay to the traffic.
    pub adaptive_tx: Option<bool>,
    /// Delay of a receive interrupt in microseconds.
    pub rx_usecs: Option<u32>,
    /// Frames that end the delay early.
    pub rx_frames: Option<u32>,
    /// Delay of a transmit interrupt in microseconds.
    pub tx_usecs: Option<u32>,
    /// Frames that end the delay early.
    pub tx_frames: Option<u32>,
}

/// Ethernet flow control (IEEE 802.3x).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Pause {
    /// Whether it is negotiated.
    pub autoneg: bool,
    /// Whether received pause frames are obeyed.
    pub rx: bool,
    /// Whether pause frames are sent.
    pub tx: bool,
    /// Pause frames received.
    pub rx_frames: Option<u64>,
    /// Pause frames sent.
    pub tx_frames: Option<u64>,
}

/// One offload, written as ethtool prints it: `on`, `off`, `on [fixed]`, `off [fixed]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Feature {
    /// Whether it is active.
    pub active: bool,
    /// Whether it cannot be changed.
    pub fixed: bool,
}

impl TryFrom<String> for Feature {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let (state, fixed) = text.strip_suffix(" [fixed]").map_or((text.as_str(), false), |state| (state, true));
        match state {
            "on" => Ok(Self { active: true, fixed }),
            "off" => Ok(Self { active: false, fixed }),
            _ => Err(format!("'{text}' is not the state of an offload: write on, off, on [fixed] or off [fixed]")),
        }
    }
}

impl From<Feature> for String {
    fn from(feature: Feature) -> Self {
        let state = if feature.active { "on" } else { "off" };
        format!("{state}{}", if feature.fixed { " [fixed]" } else { "" })
    }
}

/// Receive side scaling.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rss {
    /// The queue of each hash bucket.
    pub indirection: Vec<u32>,
}

/// The XDP support that the driver reports (netdev generic netlink, kernel 6.3 and later).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct XdpFeatures {
    /// The kernel's names: `basic`, `redirect`, `ndo-xmit`, `xsk-zerocopy`, `hw-offload`, `rx-sg`,
    /// `ndo-xmit-sg`.
    pub features: Vec<String>,
    /// Fragments of one packet in zero-copy mode; 1 means no multi-buffer support.
    pub zero_copy_segments_max: Option<u32>,
    /// Whether a program is attached.
    pub program_attached: Option<bool>,
}

/// One interrupt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Irq {
    /// Its number.
    pub irq: u32,
    /// The driver's name for it (`mlx5_comp3@pci:0000:81:00.0`).
    pub vector: String,
    /// Whether it serves a queue rather than link state or firmware events.
    pub queue: bool,
    /// The CPUs that may take it.
    pub affinity: CpuSet,
    /// The CPUs that the kernel chose for it.
    pub effective: CpuSet,
}

/// One NAPI instance (netdev generic netlink, kernel 6.7 and later).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Napi {
    /// Its id.
    pub id: u32,
    /// Its interrupt.
    pub irq: Option<u32>,
    /// Its own `defer-hard-irqs` (6.13).
    pub defer_hard_irqs: Option<u32>,
    /// Its own `gro-flush-timeout` (6.13).
    pub gro_flush_timeout_ns: Option<u64>,
}

/// One queue with its steering CPUs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Queue {
    /// Its folder below `queues`: `rx-0`, `tx-3`.
    pub name: String,
    /// `rps_cpus` of a receive queue, `xps_cpus` of a transmit queue.
    pub cpus: Option<CpuSet>,
}

/// One queueing discipline.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Qdisc {
    /// `fq`, `mq`, `pfifo_fast`, …
    pub kind: String,
    /// `root`, or the class that it is attached to (`8001:3`).
    pub parent: String,
    /// Its handle; `0:` means that the kernel created it by default.
    pub handle: String,
    /// The rate that fq allows each flow; `null` is no limit or another kind.
    pub max_rate_bits_per_second: Option<u64>,
}

/// The PCIe link of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PcieLink {
    /// Current gigatransfers per second and lane.
    pub speed_gigatransfers: Option<f64>,
    /// The device's highest gigatransfers per second and lane.
    pub speed_max_gigatransfers: Option<f64>,
    /// Current number of lanes.
    pub width: Option<u32>,
    /// The device's largest number of lanes.
    pub width_max: Option<u32>,
}

/// Counters of packets received and lost in this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Counters {
    /// Packets received.
    pub rx_packets: Option<u64>,
    /// Received packets that the host dropped for lack of room.
    pub rx_dropped: Option<u64>,
    /// Packets that the NIC dropped for lack of a descriptor.
    pub rx_missed: Option<u64>,
    /// Packets received with errors.
    pub rx_errors: Option<u64>,
    /// Packets that could not be sent.
    pub tx_dropped: Option<u64>,
}

impl Link {
    /// Whether the link is a device rather than a virtual link.
    #[must_use]
    pub fn is_physical(&self) -> bool {
        self.device.is_some()
    }

    /// Whether an offload is active.
    #[must_use]
    pub fn has_feature(&self, name: &str) -> Option<bool> {
        self.features.get(name).map(|feature| feature.active)
    }

    /// The root queueing discipline.
    #[must_use]
    pub fn root_qdisc(&self) -> Option<&Qdisc> {
        self.qdiscs.iter().find(|qdisc| qdisc.parent == "root")
    }

    /// The interrupts that serve queues.
    pub fn queue_irqs(&self) -> impl Iterator<Item = &Irq> {
        self.irqs.iter().filter(|irq| irq.queue)
    }
}

impl Channels {
    /// Receive queues of the current channels.
    #[must_use]
    pub fn rx_total(&self) -> u32 {
        self.rx + self.combined
    }
}

impl XdpFeatures {
    /// Whether the driver reports a feature.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.iter().any(|name| name == feature)
    }
}

impl PcieLink {
    /// Bits per second that the link carries after its line code (8b/10b up to 5 GT/s, 128b/130b
    /// from 8 GT/s, close to 1 with FLIT from 64 GT/s; PCI Express Base Specification).
    #[must_use]
    pub fn bits_per_second(&self) -> Option<f64> {
        let speed = self.speed_gigatransfers?;
        let code = if speed < 8.0 { 0.8 } else { 128.0 / 130.0 };
        Some(speed * 1e9 * code * f64::from(self.width?))
    }
}
