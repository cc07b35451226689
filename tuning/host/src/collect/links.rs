//! Network interfaces, from rtnetlink, ethtool netlink and netdev netlink, and from sysfs and
//! procfs for what netlink lacks.

use std::collections::{BTreeMap, BTreeSet};

use super::collector::Collector;
use crate::facts::{Feature, Irq, Link, Qdisc, Queue};
use crate::file_tree::FileTree;
use crate::kernel_calls;
use crate::netlink::{LinkBytes, Netlink, NetlinkError, RawLink};

/// Flow types whose hash matters to Culvert.
const FLOW_TYPES: [&str; 2] = ["udp4", "udp6"];

impl Collector<'_> {
    pub(super) fn links(&mut self, netlink: &mut Netlink) -> Vec<Link> {
        let raw = netlink.links();
        let raw = self.known("network interfaces", raw).unwrap_or_default();
        let addresses = netlink.addresses();
        let mut addresses = self.known("addresses", addresses).unwrap_or_default();
        let default_routes = netlink.default_route_links();
        let default_routes = self.known("routes", default_routes).unwrap_or_default();
        let names: BTreeMap<u32, String> = raw.iter().map(|link| (link.index, link.name.clone())).collect();
        let links = raw.iter().map(|raw| Link {
            master: raw.master_index.and_then(|index| names.get(&index).cloned()),
            addresses: addresses.remove(&raw.index).unwrap_or_default(),
            default_route: default_routes.contains(&raw.index),
            ..self.link(netlink, raw)
        });
        links.collect()
    }

    fn link(&mut self, netlink: &mut Netlink, raw: &RawLink) -> Link {
        let name = &raw.name;
        let size = |size: LinkBytes| raw.sizes.get(&size).copied();
        let mut link = Link {
            name: name.clone(),
            index: raw.index,
            kind: raw.kind.clone(),
            device: raw.parent_device.clone(),
            up: raw.up,
            carrier: raw.carrier,
            mtu_bytes: size(LinkBytes::Mtu).unwrap_or(0),
            mtu_min_bytes: raw.mtu_min,
            mtu_max_bytes: raw.mtu_max,
            rx_queues: raw.rx_queues,
            tx_queues: raw.tx_queues,
            gso_max_bytes: size(LinkBytes::GsoMax),
            gso_ipv4_max_bytes: size(LinkBytes::GsoIpv4Max),
            gro_max_bytes: size(LinkBytes::GroMax),
            gro_ipv4_max_bytes: size(LinkBytes::GroIpv4Max),
            counters: raw.counters,
            ..Link::default()
        };
        self.ethtool(netlink, &mut link);
        self.netdev(netlink, &mut link, raw);
        let qdiscs = netlink.qdiscs(raw.index);
        link.qdiscs = self
            .known(&format!("{name}: queueing disciplines"), qdiscs)
            .unwrap_or_default()
            .0
            .iter()
            .map(|entry| Qdisc {
                kind: entry.kind.clone(),
                parent: entry.parent.clone(),
                handle: entry.handle.clone(),
                max_rate_bits_per_second: entry.max_rate_bits_per_second(),
            })
            .collect();
        if sysfs_shows(self.files, name, raw.index) {
            self.sysfs(&mut link);
        } else {
            self.missing(&format!("{name}: sysfs"), &"/sys shows another network namespace: mount sysfs in this one");
        }
        link
    }

    fn ethtool(&mut self, netlink: &mut Netlink, link: &mut Link) {
        let name = link.name.clone();
        // lo and some virtual links answer most of these requests with an error that only means
        // that they lack the parameter.
        let mut ask = |what: &str, error: NetlinkError| {
            if !matches!(error.errno, Some(libc::EOPNOTSUPP | libc::ENODEV)) {
                self.missing(&format!("{name}: {what}"), &error.reason);
            }
        };
        let link_name = link.name.clone();
        macro_rules! take {
            ($field:expr, $what:literal, $call:expr) => {
                match $call {
                    Ok(value) => $field = value,
                    Err(error) => ask($what, error),
                }
            };
        }
        take!(link.speed_bits_per_second, "speed", netlink.speed(&link_name));
        take!(link.rings, "rings", netlink.rings(&link_name));
        take!(link.channels, "channels", netlink.channels(&link_name));
        take!(link.coalesce, "coalescing", netlink.coalesce(&link_name));
        take!(link.pause, "flow control", netlink.pause(&link_name));
        take!(link.private_flags, "driver flags", netlink.private_flags(&link_name));
        take!(link.rss, "RSS table", netlink.rss(&link_name));
        match netlink.features(&link_name) {
            Ok(features) => {
                link.features = features
                    .into_iter()
                    .map(|(name, state)| (name, Feature { active: state.active, fixed: !state.changeable }))
                    .collect();
            }
            Err(error) => ask("offloads", error),
        }
        for flow in FLOW_TYPES {
            // Most links have no RSS. ENOTSUP, EINVAL and EPERM all mean that the fields are
            // unknown.
            if let Ok(fields) = kernel_calls::flow_hash(&link_name, flow) {
                link.flow_hash.insert(flow.to_owned(), fields);
            }
        }
        link.firmware = kernel_calls::firmware_version(&link_name).ok().flatten();
    }

    fn netdev(&mut self, netlink: &mut Netlink, link: &mut Link, raw: &RawLink) {
        let features = netlink.xdp_features(raw.index);
        link.xdp = self.known(&format!("{}: XDP features", link.name), features).flatten();
        if let Some(xdp) = &mut link.xdp {
            xdp.program_attached = raw.xdp_attached;
        }
        let napi = netlink.napi(raw.index);
        link.napi = self.known(&format!("{}: NAPI instances", link.name), napi).unwrap_or_default();
    }

    fn sysfs(&mut self, link: &mut Link) {
        let folder = format!("/sys/class/net/{}", link.name);
        let file = |name: &str| format!("{folder}/{name}");
        link.driver = self.files.link_name(&file("device/driver"));
        let pci = self.files.pci_device(&file("device"));
        if self.files.exists(&file("device")) {
            link.device = link.device.take().or_else(|| self.files.link_name(&file("device")));
        }
        // -1 means that the firmware does not report it.
        link.numa_node = self
            .files
            .number(&file("device/numa_node"))
            .or_else(|| pci.as_ref().and_then(|pci| self.files.number(&format!("{pci}/numa_node"))));
        link.pcie = pci.as_ref().and_then(|pci| self.pcie(pci));
        link.napi_threaded = self.files.number(&file("threaded"));
        link.napi_defer_hard_irqs = self.files.number(&file("napi_defer_hard_irqs"));
        link.gro_flush_timeout_ns = self.files.number(&file("gro_flush_timeout"));
        link.irqs = irqs(self.files, link);
        let queues = self.files.names(&file("queues"));
        link.queues = queues
            .into_iter()
            .map(|name| {
                let steering = if name.starts_with("rx-") { "rps_cpus" } else { "xps_cpus" };
                let mask = self.files.text(&file(&format!("queues/{name}/{steering}")));
                Queue { cpus: mask.and_then(|mask| crate::cpu_set::CpuSet::from_mask(&mask).ok()), name }
            })
            .collect();
    }
}

/// Whether the mounted sysfs shows this network namespace. Otherwise its files belong to another
/// link of the same name.
pub(crate) fn sysfs_shows(files: &FileTree, link: &str, index: u32) -> bool {
    files.number::<u32>(&format!("/sys/class/net/{link}/ifindex")) == Some(index)
}

/// The interrupts of a link's device by number, with the driver's name for each.
pub(crate) fn irq_vectors(files: &FileTree, link: &str) -> BTreeMap<u32, String> {
    let device = format!("/sys/class/net/{link}/device");
    // The parent of a virtio device is the PCI device that has the interrupts.
    let folder = [format!("{device}/msi_irqs"), format!("{device}/../msi_irqs")];
    let numbers = folder.iter().map(|folder| files.names(folder)).find(|names| !names.is_empty()).unwrap_or_default();
    let named = numbers.iter().filter_map(|number| {
        let number: u32 = number.parse().ok()?;
        // The kernel creates a folder with the name of each handler (`kernel/irq/proc.c`).
        let entries = files.names(&format!("/proc/irq/{number}"));
        let vector = entries.into_iter().find(|name| files.place(&format!("/proc/irq/{number}/{name}")).is_dir())?;
        Some((number, vector))
    });
    named.collect()
}

/// The queue number in a vector's name, at its end or after its kind: `mlx5_comp12@pci…` and
/// `ice-eth0-TxRx-12` are 12.
pub fn queue_of_name(vector: &str) -> Option<u32> {
    let name = vector.split('@').next().unwrap_or(vector);
    let digits = name.rfind(|c: char| !c.is_ascii_digit()).map_or(name, |at| &name[at + 1..]);
    digits.parse().ok()
}

/// Whether a vector's name identifies a queue, for kernels that do not report the interrupt of each
/// NAPI instance.
fn is_queue_vector(vector: &str) -> bool {
    let vector = vector.to_ascii_lowercase();
    let other =
        ["async", "ctrl", "control", "config", "misc", "mgmt", "cmd", "page", "fdir", "event", "adminq", "-oicr"];
    let queue = ["comp", "rx", "tx", "input", "output", "queue", "ring"];
    !other.iter().any(|word| vector.contains(word)) && queue.iter().any(|word| vector.contains(word))
}

fn irqs(files: &FileTree, link: &Link) -> Vec<Irq> {
    let with_napi: BTreeSet<u32> = link.napi.iter().filter_map(|napi| napi.irq).collect();
    let vectors = irq_vectors(files, &link.name);
    let list = |irq: u32, file: &str| files.text(&format!("/proc/irq/{irq}/{file}")).and_then(|list| list.parse().ok());
    vectors
        .into_iter()
        .map(|(irq, vector)| Irq {
            irq,
            queue: if with_napi.is_empty() { is_queue_vector(&vector) } else { with_napi.contains(&irq) },
            affinity: list(irq, "smp_affinity_list").unwrap_or_default(),
            effective: list(irq, "effective_affinity_list").unwrap_or_default(),
            vector,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_of_known_drivers_are_told_apart() {
        for queue in
            ["mlx5_comp3@pci:0000:81:00.0", "ice-ens1f0-TxRx-5", "i40e-eth2-TxRx-0", "virtio2-input.0", "ens5-Tx-Rx-1"]
        {
            assert!(is_queue_vector(queue), "{queue}");
        }
        for other in
            ["mlx5_async0@pci:0000:81:00.0", "ice-0000:31:00.0:misc", "virtio2-config", "virtio2-control", "bnxt-ctrl"]
        {
            assert!(!is_queue_vector(other), "{other}");
        }
    }

    #[test]
    fn the_queue_of_a_vector_is_its_number() {
        assert_eq!(queue_of_name("mlx5_comp12@pci:0000:81:00.0"), Some(12));
        assert_eq!(queue_of_name("ice-ens1f0-TxRx-5"), Some(5));
        assert_eq!(queue_of_name("virtio2-output.0"), Some(0));
        assert_eq!(queue_of_name("mlx5_async"), None);
    }
}
