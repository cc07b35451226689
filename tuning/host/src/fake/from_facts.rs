//! A fake host with the values of a facts document and the privileges of the process that collected
//! it.

use super::{FakeHost, Fault, fq_options, to_json};
use crate::facts::{Facts, Link};
use crate::netlink::{CoalesceField, LinkBytes, PauseField, QdiscEntry, QdiscTree};
use crate::setting::{Setting, Value};

impl FakeHost {
    /// A host with the values of a facts document.
    #[must_use]
    pub fn from_facts(facts: &Facts) -> Self {
        let mut host = Self::default();
        for (key, value) in &facts.sysctls {
            if !key.starts_with("vm.dirty_") {
                host.put(Setting::sysctl(key), value);
            }
        }
        for background in [true, false] {
            let name = if background { "vm.dirty_background" } else { "vm.dirty" };
            let number = |suffix: &str| facts.sysctl(&format!("{name}_{suffix}"));
            let value = match (number("bytes"), number("ratio")) {
                (Some(bytes), _) if bytes != "0" => format!("bytes {bytes}"),
                (_, Some(ratio)) => format!("ratio {ratio}"),
                _ => continue,
            };
            host.put(Setting::DirtyLimit { background }, value);
        }
        host.put_files(facts);
        for (unit, service) in &facts.services {
            host.put(Setting::Service { unit: unit.clone() }, if service.running { "running" } else { "stopped" });
        }
        for link in &facts.links {
            host.put_link(link);
        }
        let forbidden: Vec<Setting> =
            host.settings.keys().filter(|setting| is_forbidden(facts, setting)).cloned().collect();
        host.faults = forbidden.into_iter().map(|setting| (setting, Fault::ReadOnly)).collect();
        host
    }

    fn put_files(&mut self, facts: &Facts) {
        for policy in &facts.cpu.frequency {
            let folder = format!("/sys/devices/system/cpu/cpufreq/{}", policy.policy);
            if let Some(governor) = &policy.governor {
                self.put(Setting::kernel_file(format!("{folder}/scaling_governor")), governor);
            }
            if let Some(preference) = &policy.energy_preference {
                self.put(Setting::kernel_file(format!("{folder}/energy_performance_preference")), preference);
            }
        }
        for state in &facts.cpu.idle_states {
            for cpu in facts.cpu.online.iter() {
                let path = format!("/sys/devices/system/cpu/cpu{cpu}/cpuidle/state{}/disable", state.index);
                self.put(Setting::kernel_file(path), if state.disabled_on.contains(cpu) { "1" } else { "0" });
            }
        }
        let of_host = facts.memory.hugepages.iter().map(|pool| ("/sys/kernel/mm".to_owned(), pool));
        let of_nodes = facts.numa.iter().flat_map(|node| {
            node.hugepages.iter().map(|pool| (format!("/sys/devices/system/node/node{}", node.id), pool))
        });
        let pools: Vec<_> = of_host.chain(of_nodes).collect();
        for (folder, pool) in pools {
            let path = format!("{folder}/hugepages/hugepages-{}kB/nr_hugepages", pool.page_bytes / 1024);
            self.put(Setting::kernel_file(path), pool.total.to_string());
        }
        if let Some(mode) = &facts.memory.transparent_hugepages {
            self.put(Setting::kernel_file("/sys/kernel/mm/transparent_hugepage/enabled"), mode);
        }
        for block in &facts.blocks {
            let folder = format!("/sys/block/{}/queue", block.name);
            if let Some(scheduler) = &block.scheduler {
                self.put(Setting::kernel_file(format!("{folder}/scheduler")), scheduler);
            }
            if let Some(read_ahead) = block.read_ahead_kib {
                self.put(Setting::kernel_file(format!("{folder}/read_ahead_kb")), read_ahead.to_string());
            }
        }
    }

    fn put_link(&mut self, link: &Link) {
        let name = || link.name.clone();
        let sizes = [
            (LinkBytes::Mtu, Some(link.mtu_bytes)),
            (LinkBytes::GsoMax, link.gso_max_bytes),
            (LinkBytes::GroMax, link.gro_max_bytes),
            (LinkBytes::GsoIpv4Max, link.gso_ipv4_max_bytes),
            (LinkBytes::GroIpv4Max, link.gro_ipv4_max_bytes),
        ];
        for (size, bytes) in sizes {
            if let Some(bytes) = bytes {
                self.put(Setting::LinkBytes { link: name(), size }, bytes.to_string());
            }
        }
        self.put(Setting::ipv6_mtu(&link.name), link.mtu_bytes.to_string());
        if let Some(rings) = link.rings {
            self.put(Setting::Rings { link: name() }, format!("rx {} tx {}", rings.rx, rings.tx));
        }
        if let Some(channels) = link.channels {
            let value = format!("rx {} tx {} combined {}", channels.rx, channels.tx, channels.combined);
            self.put(Setting::Channels { link: name() }, value);
        }
        self.put_switches(link);
        if let Some(rss) = link.rss.as_ref().filter(|rss| !rss.indirection.is_empty()) {
            let table = rss.indirection.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            self.put(Setting::RssTable { link: name() }, table);
        }
        for (flow, fields) in &link.flow_hash {
            self.put(Setting::FlowHash { link: name(), flow: flow.clone() }, fields);
        }
        self.put_link_files(link);
        let tree = link.qdiscs.iter().map(|qdisc| QdiscEntry {
            kind: qdisc.kind.clone(),
            parent: qdisc.parent.clone(),
            handle: qdisc.handle.clone(),
            options: if qdisc.kind == "fq" { fq_options(qdisc.max_rate_bits_per_second) } else { String::new() },
        });
        let tree = QdiscTree(tree.collect());
        self.put(Setting::Qdisc { link: name() }, to_json(&tree));
    }

    /// Coalescing, flow control, offloads and the driver's flags.
    fn put_switches(&mut self, link: &Link) {
        let name = || link.name.clone();
        if let Some(coalesce) = link.coalesce {
            let fields = [
                (CoalesceField::RxUsecs, coalesce.rx_usecs),
                (CoalesceField::RxFrames, coalesce.rx_frames),
                (CoalesceField::TxUsecs, coalesce.tx_usecs),
                (CoalesceField::TxFrames, coalesce.tx_frames),
                (CoalesceField::AdaptiveRx, coalesce.adaptive_rx.map(u32::from)),
                (CoalesceField::AdaptiveTx, coalesce.adaptive_tx.map(u32::from)),
            ];
            for (field, value) in fields {
                if let Some(value) = value {
                    self.put(Setting::Coalesce { link: name(), field }, value.to_string());
                }
            }
        }
        if let Some(pause) = link.pause {
            for (field, on) in
                [(PauseField::Autoneg, pause.autoneg), (PauseField::Rx, pause.rx), (PauseField::Tx, pause.tx)]
            {
                self.settings.insert(Setting::Pause { link: name(), field }, Value::switch(on));
            }
        }
        for (feature, state) in link.features.iter().filter(|(_, state)| !state.fixed) {
            self.settings
                .insert(Setting::Feature { link: name(), feature: feature.clone() }, Value::switch(state.active));
        }
        for (flag, on) in &link.private_flags {
            self.settings.insert(Setting::PrivateFlag { link: name(), flag: flag.clone() }, Value::switch(*on));
        }
    }

    fn put_link_files(&mut self, link: &Link) {
        let numbers = [
            ("napi_defer_hard_irqs", link.napi_defer_hard_irqs.map(u64::from)),
            ("gro_flush_timeout", link.gro_flush_timeout_ns),
            ("threaded", link.napi_threaded.map(u64::from)),
        ];
        for (file, number) in numbers {
            if let Some(number) = number {
                self.put(Setting::link_file(&link.name, file), number.to_string());
            }
        }
        for queue in &link.queues {
            let steering = if queue.name.starts_with("rx-") { "rps_cpus" } else { "xps_cpus" };
            if let Some(cpus) = &queue.cpus {
                self.put(Setting::link_file(&link.name, format!("queues/{}/{steering}", queue.name)), cpus.to_mask());
            }
        }
        for irq in &link.irqs {
            let setting = Setting::IrqAffinity { link: link.name.clone(), vector: irq.vector.clone() };
            self.put(setting, irq.affinity.to_string());
        }
    }
}

/// Whether the process that collected the facts could not write a setting.
fn is_forbidden(facts: &Facts, setting: &Setting) -> bool {
    let system = &facts.system;
    if !system.root {
        return true;
    }
    match setting {
        // In a separate network namespace, these are read-only.
        Setting::Sysctl { key } if system.initial_network_namespace == Some(false) && key.starts_with("net.core.") => {
            true
        }
        Setting::Sysctl { .. } | Setting::DirtyLimit { .. } => system.proc_sys_read_only == Some(true),
        Setting::KernelFile { .. } => system.container.is_some() && !system.may("sys_admin"),
        Setting::Service { .. } | Setting::OwnedFile { .. } => !system.systemd,
        _ => !system.may("net_admin"),
    }
}
