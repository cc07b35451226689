//! Facts of the machine: kernel, processors, memory, limits, services, clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cpu_set::CpuSet;
use crate::kernel_version::KernelVersion;

/// Kernel, virtualization and what the collecting process may do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct System {
    /// The host's name.
    pub host_name: String,
    /// `uname -r`.
    pub kernel_release: String,
    /// `uname -m`.
    pub architecture: String,
    /// The parameters of `/proc/cmdline` that a rule reads.
    pub kernel_parameters: Vec<String>,
    /// Vendor and product from DMI.
    pub product: Option<String>,
    /// The hypervisor that the kernel runs on, if any.
    pub virtualization: Virtualization,
    /// The container's kind (`docker`, `lxc`, …) if the process runs in one.
    pub container: Option<String>,
    /// Whether the process runs as user 0.
    pub root: bool,
    /// The effective capabilities by kernel name, lower case (`net_admin`).
    pub capabilities: Vec<String>,
    /// Whether the network namespace is the one of process 1.
    pub initial_network_namespace: Option<bool>,
    /// Whether `/proc/sys` is mounted read-only, as in containers.
    pub proc_sys_read_only: Option<bool>,
    /// Whether systemd runs as process 1.
    pub systemd: bool,
}

/// The hypervisor that the kernel runs on, if any.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Virtualization {
    /// Whether the host is a virtual machine (the CPU's `hypervisor` flag, or DMI).
    pub virtual_machine: Option<bool>,
    /// The hypervisor's name, if DMI or the kernel report it (`kvm`, `vmware`, …).
    pub hypervisor: Option<String>,
}

/// Processors.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cpu {
    /// The model's name.
    pub model: Option<String>,
    /// Sockets with an online CPU.
    pub sockets: Option<u32>,
    /// Physical cores with an online CPU.
    pub cores: Option<u32>,
    /// Online CPUs.
    pub online: CpuSet,
    /// CPUs excluded from the scheduler's load balancing (`isolcpus`).
    pub isolated: CpuSet,
    /// CPUs that the collecting process may use (affinity, cpuset).
    pub allowed: CpuSet,
    /// The CPU's flags that matter for ciphers and hashes.
    pub flags: Vec<String>,
    /// `/sys/devices/system/cpu/smt/control`: `on`, `off`, `forceoff`, `notsupported`,
    /// `notimplemented`.
    pub smt_control: Option<String>,
    /// Whether two CPUs share a core.
    pub smt_active: Option<bool>,
    /// Frequency policies; none where the kernel does not control the clock (most virtual
    /// machines).
    pub frequency: Vec<FrequencyPolicy>,
    /// Whether the CPU may run above its base frequency.
    pub boost: Option<bool>,
    /// The cpuidle driver.
    pub idle_driver: Option<String>,
    /// Idle states, the shallowest first.
    pub idle_states: Vec<IdleState>,
    /// The strictest wake-up latency that a process requests at present (`/dev/cpu_dma_latency`),
    /// in microseconds.
    pub latency_limit_us: Option<u32>,
}

/// One cpufreq policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FrequencyPolicy {
    /// Its folder below `/sys/devices/system/cpu/cpufreq`.
    pub policy: String,
    /// The CPUs that it governs.
    pub cpus: CpuSet,
    /// The scaling driver.
    pub driver: Option<String>,
    /// The active governor.
    pub governor: Option<String>,
    /// The available governors.
    pub governors: Vec<String>,
    /// The active energy performance preference.
    pub energy_preference: Option<String>,
    /// The available preferences.
    pub energy_preferences: Vec<String>,
    /// The highest frequency in kHz.
    pub frequency_max_khz: Option<u64>,
}

/// One idle state; CPUs differ only in whether it is disabled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdleState {
    /// Its number below `/sys/devices/system/cpu/cpu0/cpuidle`.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Exit latency in microseconds.
    pub latency_us: u64,
    /// The CPUs on which it is disabled.
    pub disabled_on: CpuSet,
}

/// One memory node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NumaNode {
    /// Its number.
    pub id: u32,
    /// Its CPUs.
    pub cpus: CpuSet,
    /// Its memory.
    pub memory_bytes: u64,
    /// Distances to every node in the order of their numbers; 10 is local.
    pub distances: Vec<u32>,
    /// Its hugepages.
    pub hugepages: Vec<HugepagePool>,
}

/// Memory of the host.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Memory {
    /// All memory.
    pub total_bytes: u64,
    /// Memory available without swapping.
    pub available_bytes: u64,
    /// The limit of the control group that the process runs in, if it has one.
    pub cgroup_limit_bytes: Option<u64>,
    /// Hugepages by size.
    pub hugepages: Vec<HugepagePool>,
    /// `/sys/kernel/mm/transparent_hugepage/enabled`: `always`, `madvise` or `never`.
    pub transparent_hugepages: Option<String>,
}

/// Hugepages of one size.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HugepagePool {
    /// The size of a page.
    pub page_bytes: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Unused pages.
    pub free: u64,
}

/// The I/O memory management unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Iommu {
    /// Groups; 0 means that no IOMMU is in use.
    pub groups: Option<u32>,
    /// The number of groups by type of default domain: `identity` (pass-through), `DMA`, `DMA-FQ`.
    pub domain_types: BTreeMap<String, u32>,
}

/// A resource limit: soft and hard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limit {
    /// The enforced limit; `null` is no limit.
    pub soft: Option<u64>,
    /// The ceiling of the soft limit; `null` is no limit.
    pub hard: Option<u64>,
}

/// Resource limits of the collecting process; `null` is a limit that could not be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of memory that may be locked.
    pub memlock: Option<Limit>,
    /// Open files.
    pub nofile: Option<Limit>,
}

/// A service, known by its process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Service {
    /// Whether its process runs.
    pub running: bool,
    /// The process id.
    pub pid: Option<u32>,
    /// For tuned, its active profile.
    pub detail: Option<String>,
}

/// The system clock.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clock {
    /// Whether a time service disciplines it (`adjtimex`, `STA_UNSYNC` not set).
    pub synchronized: Option<bool>,
    /// The kernel's bound on the error (`maxerror`), in microseconds.
    pub error_max_us: Option<u64>,
    /// The error that the time service estimates, in microseconds.
    pub error_estimated_us: Option<u64>,
    /// The clock source in use (`tsc`, `kvm-clock`, …).
    pub source: Option<String>,
}

/// Sums over all CPUs of `/proc/net/softnet_stat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Softnet {
    /// Packets processed.
    pub processed: Option<u64>,
    /// Packets dropped because a backlog queue was full.
    pub dropped: Option<u64>,
    /// Polling rounds that ended with work left.
    pub time_squeeze: Option<u64>,
}

/// Kernel features that the data plane uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Datapath {
    /// Whether `socket(AF_XDP)` exists, regardless of permission.
    pub xdp_sockets: Option<bool>,
    /// Whether `/sys/kernel/btf/vmlinux` exists.
    pub btf: Option<bool>,
    /// Kernel features by configuration name (`NET_SCH_FQ`): `builtin`, `module`, `loaded` or
    /// `absent`.
    pub kernel_features: BTreeMap<String, String>,
}

impl System {
    /// The kernel's version, if its release starts with one.
    #[must_use]
    pub fn kernel_version(&self) -> Option<KernelVersion> {
        self.kernel_release.parse().ok()
    }

    /// The value of a kernel parameter (`pt` of `iommu=pt`).
    #[must_use]
    pub fn kernel_parameter(&self, name: &str) -> Option<&str> {
        self.kernel_parameters.iter().find_map(|parameter| parameter.strip_prefix(name)?.strip_prefix('='))
    }

    /// Whether the process has a capability (`net_admin`).
    #[must_use]
    pub fn may(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|name| name == capability)
    }
}

impl Cpu {
    /// Whether the CPU has a flag.
    #[must_use]
    pub fn has_flag(&self, flag: &str) -> bool {
        self.flags.iter().any(|name| name == flag)
    }
}

impl Limit {
    /// Whether the soft limit allows `amount`.
    #[must_use]
    pub fn allows(&self, amount: u64) -> bool {
        self.soft.is_none_or(|soft| soft >= amount)
    }
}
