//! Kernel, virtualization, privileges, services, limits and the clock.

use std::collections::BTreeMap;

use rustix::process::{Resource, getrlimit};

use super::collector::Collector;
use crate::facts::{Clock, Limit, Limits, Service, Softnet, System, Virtualization};
use crate::kernel_calls;

/// Capabilities by number (`include/uapi/linux/capability.h`).
const CAPABILITY_NAMES: [&str; 41] = [
    "chown",
    "dac_override",
    "dac_read_search",
    "fowner",
    "fsetid",
    "kill",
    "setgid",
    "setuid",
    "setpcap",
    "linux_immutable",
    "net_bind_service",
    "net_broadcast",
    "net_admin",
    "net_raw",
    "ipc_lock",
    "ipc_owner",
    "sys_module",
    "sys_rawio",
    "sys_chroot",
    "sys_ptrace",
    "sys_pacct",
    "sys_admin",
    "sys_boot",
    "sys_nice",
    "sys_resource",
    "sys_time",
    "sys_tty_config",
    "mknod",
    "lease",
    "audit_write",
    "audit_control",
    "setfcap",
    "mac_override",
    "mac_admin",
    "syslog",
    "wake_alarm",
    "block_suspend",
    "audit_read",
    "perfmon",
    "bpf",
    "checkpoint_restore",
];

/// Processes that change settings on their own, or discipline the clock.
const SERVICES: [&str; 15] = [
    "irqbalance",
    "tuned",
    "power-profiles-",
    "NetworkManager",
    "systemd-network",
    "kubelet",
    "cloud-init",
    "lldpad",
    "chronyd",
    "ntpd",
    "ntpsec",
    "systemd-timesyn",
    "ptp4l",
    "phc2sys",
    "timemaster",
];

/// Kernel parameters that rules read (`Documentation/admin-guide/kernel-parameters.txt`).
const KERNEL_PARAMETERS: [&str; 18] = [
    "amd_iommu",
    "amd_pstate",
    "default_hugepagesz",
    "hugepages",
    "hugepagesz",
    "idle",
    "intel_idle.max_cstate",
    "intel_iommu",
    "intel_pstate",
    "iommu",
    "iommu.passthrough",
    "isolcpus",
    "mitigations",
    "nohz_full",
    "nosmt",
    "nvme.poll_queues",
    "processor.max_cstate",
    "transparent_hugepage",
];

/// Words in DMI's vendor or product fields, and the hypervisor they indicate.
const HYPERVISORS: [(&str, &str); 10] = [
    ("KVM", "kvm"),
    ("QEMU", "kvm"),
    ("OpenStack", "kvm"),
    ("VMware", "vmware"),
    ("VirtualBox", "virtualbox"),
    ("Amazon EC2", "amazon"),
    ("Google Compute", "google"),
    ("Virtual Machine", "hyper-v"),
    ("Xen", "xen"),
    ("Parallels", "parallels"),
];

impl Collector<'_> {
    pub(super) fn system(&mut self) -> System {
        let status = self.files.read("/proc/self/status");
        let status = self.known("/proc/self/status", status).unwrap_or_default();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let effective = field("CapEff:").and_then(|bits| u64::from_str_radix(bits, 16).ok()).unwrap_or(0);
        let dmi = ["sys_vendor", "product_name"]
            .map(|name| self.files.text(&format!("/sys/class/dmi/id/{name}")).unwrap_or_default())
            .join(" ");
        System {
            host_name: self.files.text("/proc/sys/kernel/hostname").unwrap_or_default(),
            kernel_release: self.files.text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            architecture: std::env::consts::ARCH.to_owned(),
            kernel_parameters: self.kernel_parameters(),
            product: Some(dmi.trim().to_owned()).filter(|product| !product.is_empty()),
            virtualization: self.virtualization(&dmi),
            container: self.container(),
            root: field("Uid:").and_then(|ids| ids.split_whitespace().nth(1)) == Some("0"),
            capabilities: CAPABILITY_NAMES
                .iter()
                .enumerate()
                .filter(|(bit, _)| effective >> bit & 1 == 1)
                .map(|(_, name)| (*name).to_owned())
                .collect(),
            initial_network_namespace: self.initial_network_namespace(),
            proc_sys_read_only: self.proc_sys_read_only(),
            systemd: self.files.exists("/run/systemd/system"),
        }
    }

    /// Only the parameters that rules read: facts documents are passed to others, and a command
    /// line may contain secrets.
    fn kernel_parameters(&self) -> Vec<String> {
        let line = self.files.text("/proc/cmdline").unwrap_or_default();
        let known = |parameter: &&str| {
            let name = parameter.split('=').next().unwrap_or_default();
            KERNEL_PARAMETERS.contains(&name)
        };
        line.split_whitespace().filter(known).map(str::to_owned).collect()
    }

    fn virtualization(&self, dmi: &str) -> Virtualization {
        let cpuinfo = self.files.read("/proc/cpuinfo").unwrap_or_default();
        let flag = cpuinfo
            .lines()
            .find_map(|line| line.strip_prefix("flags"))
            .map(|flags| flags.split_whitespace().any(|flag| flag == "hypervisor"));
        let from_dmi = HYPERVISORS.iter().find(|(word, _)| dmi.contains(word)).map(|(_, name)| (*name).to_owned());
        let hypervisor = from_dmi.or_else(|| self.files.text("/sys/hypervisor/type"));
        // ARM has no such flag; only DMI identifies a virtual machine there.
        Virtualization { virtual_machine: flag.or(hypervisor.is_some().then_some(true)), hypervisor }
    }

    fn container(&self) -> Option<String> {
        let told = self.files.text("/run/systemd/container").or_else(|| {
            // Only root may read the environment of process 1.
            let environment = self.files.read("/proc/1/environ").ok()?;
            environment.split('\0').find_map(|entry| entry.strip_prefix("container=")).map(str::to_owned)
        });
        let marked = [("/run/.containerenv", "podman"), ("/.dockerenv", "docker")];
        told.filter(|kind| !kind.is_empty())
            .or_else(|| marked.iter().find(|(path, _)| self.files.exists(path)).map(|(_, kind)| (*kind).to_owned()))
            .or_else(|| self.files.exists("/var/run/secrets/kubernetes.io").then(|| "kubernetes".to_owned()))
    }

    /// Only the initial network namespace has the sysctls of the device layer
    /// (`net/core/sysctl_net_core.c`).
    fn initial_network_namespace(&self) -> Option<bool> {
        self.files.exists("/proc/sys/net/core").then(|| self.files.exists("/proc/sys/net/core/netdev_max_backlog"))
    }

    fn proc_sys_read_only(&self) -> Option<bool> {
        let mounts = self.files.read("/proc/self/mounts").ok()?;
        // The last mount that covers /proc/sys decides.
        let options = mounts
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace();
                let path = fields.nth(1)?;
                matches!(path, "/proc" | "/proc/sys").then(|| fields.nth(1)).flatten()
            })
            .next_back()?;
        Some(options.split(',').any(|option| option == "ro"))
    }

    pub(super) fn services(&mut self) -> BTreeMap<String, Service> {
        let mut found = BTreeMap::new();
        for pid in self.files.names("/proc").iter().filter_map(|name| name.parse::<u32>().ok()) {
            let Some(comm) = self.files.text(&format!("/proc/{pid}/comm")) else { continue };
            if SERVICES.contains(&comm.as_str()) {
                found.entry(comm).or_insert(Service { running: true, pid: Some(pid), detail: None });
            }
        }
        if let Some(profile) = self.files.text("/etc/tuned/active_profile") {
            found.entry("tuned".to_owned()).or_default().detail = Some(profile);
        }
        found
    }

    pub(super) fn limits(&mut self) -> Limits {
        if !self.files.is_host() {
            return Limits::default();
        }
        let limit = |resource| {
            let limit = getrlimit(resource);
            Some(Limit { soft: limit.current, hard: limit.maximum })
        };
        Limits { memlock: limit(Resource::Memlock), nofile: limit(Resource::Nofile) }
    }

    pub(super) fn clock(&mut self) -> Clock {
        let source = self.files.text("/sys/devices/system/clocksource/clocksource0/current_clocksource");
        if !self.files.is_host() {
            return Clock { source, ..Clock::default() };
        }
        let state = self.known("adjtimex", kernel_calls::clock_state());
        Clock {
            synchronized: state.map(|state| state.synchronized),
            error_max_us: state.map(|state| state.error_max_us),
            error_estimated_us: state.map(|state| state.error_estimated_us),
            source,
        }
    }

    pub(super) fn softnet(&mut self) -> Softnet {
        let text = self.files.read("/proc/net/softnet_stat");
        let Some(text) = self.known("/proc/net/softnet_stat", text) else { return Softnet::default() };
        let column = |number: usize| {
            let values = text.lines().map(|line| u64::from_str_radix(line.split_whitespace().nth(number)?, 16).ok());
            values.sum::<Option<u64>>()
        };
        Softnet { processed: column(0), dropped: column(1), time_squeeze: column(2) }
    }
}
