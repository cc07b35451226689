//! Processors, their clocks and idle states, the memory nodes and the IOMMU.

use std::collections::{BTreeMap, BTreeSet};

use super::collector::Collector;
use crate::cpu_set::CpuSet;
use crate::facts::{Cpu, FrequencyPolicy, IdleState, Iommu, NumaNode};

/// Flags that determine how fast this host encrypts and hashes: x86, then ARM.
const FLAGS: [&str; 14] = [
    "aes",
    "pclmulqdq",
    "vaes",
    "vpclmulqdq",
    "avx2",
    "avx512f",
    "avx512vl",
    "gfni",
    "sha_ni",
    "hypervisor",
    "pmull",
    "sha2",
    "asimd",
    "sve",
];
/// The kernel's folder of CPUs.
const CPU_FOLDER: &str = "/sys/devices/system/cpu";

impl Collector<'_> {
    fn cpu_set(&self, path: &str) -> Option<CpuSet> {
        // An empty file is an empty set.
        self.files.read(path).ok()?.parse().ok()
    }

    pub(super) fn cpu(&mut self) -> Cpu {
        let cpuinfo = self.files.read("/proc/cpuinfo");
        let cpuinfo = self.known("/proc/cpuinfo", cpuinfo).unwrap_or_default();
        let field = |names: &[&str]| {
            cpuinfo.lines().filter_map(|line| line.split_once(':')).find(|(name, _)| names.contains(&name.trim()))
        };
        let flags = field(&["flags", "Features"]).map(|(_, flags)| flags).unwrap_or_default();
        let online = self.cpu_set(&format!("{CPU_FOLDER}/online")).unwrap_or_default();
        let allowed =
            self.files.read("/proc/self/status").ok().and_then(|status| {
                status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.parse().ok()
            });
        let (sockets, cores) = self.topology(&online);
        Cpu {
            model: field(&["model name", "Model"]).map(|(_, model)| model.trim().to_owned()),
            sockets,
            cores,
            isolated: self.cpu_set(&format!("{CPU_FOLDER}/isolated")).unwrap_or_default(),
            allowed: allowed.unwrap_or_default(),
            flags: FLAGS
                .iter()
                .filter(|known| flags.split_whitespace().any(|flag| flag == **known))
                .map(|flag| (*flag).to_owned())
                .collect(),
            smt_control: self.files.text(&format!("{CPU_FOLDER}/smt/control")),
            smt_active: self.files.text(&format!("{CPU_FOLDER}/smt/active")).map(|active| active == "1"),
            frequency: self.frequency(),
            boost: self.boost(),
            idle_driver: self.files.text(&format!("{CPU_FOLDER}/cpuidle/current_driver")).filter(|name| name != "none"),
            idle_states: self.idle_states(&online),
            latency_limit_us: self.latency_limit(),
            online,
        }
    }

    /// Sockets and cores that have an online CPU.
    fn topology(&self, online: &CpuSet) -> (Option<u32>, Option<u32>) {
        let places: BTreeSet<(String, String)> = online
            .iter()
            .filter_map(|cpu| {
                let folder = format!("{CPU_FOLDER}/cpu{cpu}/topology");
                let socket = self.files.text(&format!("{folder}/physical_package_id"))?;
                // The siblings distinguish cores of dies that use the same core numbers.
                Some((socket, self.files.text(&format!("{folder}/thread_siblings_list"))?))
            })
            .collect();
        let sockets: BTreeSet<&String> = places.iter().map(|(socket, _)| socket).collect();
        let count = |number: usize| u32::try_from(number).ok().filter(|number| *number > 0);
        (count(sockets.len()), count(places.len()))
    }

    fn frequency(&self) -> Vec<FrequencyPolicy> {
        let folder = format!("{CPU_FOLDER}/cpufreq");
        let words = |path: String| -> Vec<String> {
            self.files.text(&path).map(|text| text.split_whitespace().map(str::to_owned).collect()).unwrap_or_default()
        };
        let policies = self.files.names(&folder);
        let policies = policies.iter().filter(|name| name.starts_with("policy"));
        policies
            .map(|policy| {
                let file = |name: &str| format!("{folder}/{policy}/{name}");
                FrequencyPolicy {
                    policy: policy.clone(),
                    // `affected_cpus` separates by blanks.
                    cpus: words(file("affected_cpus")).iter().filter_map(|cpu| cpu.parse().ok()).collect(),
                    driver: self.files.text(&file("scaling_driver")),
                    governor: self.files.text(&file("scaling_governor")),
                    governors: words(file("scaling_available_governors")),
                    energy_preference: self.files.text(&file("energy_performance_preference")),
                    energy_preferences: words(file("energy_performance_available_preferences")),
                    frequency_max_khz: self.files.number(&file("cpuinfo_max_freq")),
                }
            })
            .collect()
    }

    fn boost(&self) -> Option<bool> {
        let no_turbo: Option<u32> = self.files.number(&format!("{CPU_FOLDER}/intel_pstate/no_turbo"));
        let boost: Option<u32> = self.files.number(&format!("{CPU_FOLDER}/cpufreq/boost"));
        no_turbo.map(|off| off == 0).or(boost.map(|on| on != 0))
    }

    fn idle_states(&self, online: &CpuSet) -> Vec<IdleState> {
        let Some(first) = online.iter().next() else { return Vec::new() };
        let folder = |cpu: u32, state: &str| format!("{CPU_FOLDER}/cpu{cpu}/cpuidle/{state}");
        let states = self.files.names(&format!("{CPU_FOLDER}/cpu{first}/cpuidle"));
        let states = states.iter().filter_map(|state| {
            let index = state.strip_prefix("state")?.parse().ok()?;
            let file = |name: &str| format!("{}/{name}", folder(first, state));
            let disabled = |cpu: &u32| {
                self.files.number::<u64>(&format!("{}/disable", folder(*cpu, state))).is_some_and(|off| off != 0)
            };
            Some(IdleState {
                index,
                name: self.files.text(&file("name"))?,
                latency_us: self.files.number(&file("latency"))?,
                disabled_on: online.iter().filter(disabled).collect(),
            })
        });
        states.collect()
    }

    /// Reads the active limit, which `/dev/cpu_dma_latency` gives as four native bytes
    /// (`Documentation/power/pm_qos_interface`).
    fn latency_limit(&self) -> Option<u32> {
        let bytes = self.files.read_bytes("/dev/cpu_dma_latency").ok()?;
        u32::try_from(i32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?)).ok()
    }

    pub(super) fn numa(&mut self) -> Vec<NumaNode> {
        let folder = "/sys/devices/system/node";
        let nodes = self.files.names(folder);
        let nodes = nodes.iter().filter_map(|name| {
            let id = name.strip_prefix("node")?.parse().ok()?;
            let memory = self.files.read(&format!("{folder}/{name}/meminfo")).unwrap_or_default();
            let kib = memory
                .lines()
                .find(|line| line.contains("MemTotal:"))
                .and_then(|line| line.split_whitespace().rev().nth(1)?.parse::<u64>().ok());
            let distances = self.files.text(&format!("{folder}/{name}/distance")).unwrap_or_default();
            Some(NumaNode {
                id,
                cpus: self.cpu_set(&format!("{folder}/{name}/cpulist")).unwrap_or_default(),
                memory_bytes: kib.unwrap_or(0) * 1024,
                distances: distances.split_whitespace().filter_map(|distance| distance.parse().ok()).collect(),
                hugepages: self.hugepages(&format!("{folder}/{name}/hugepages")),
            })
        });
        nodes.collect()
    }

    pub(super) fn iommu(&mut self) -> Iommu {
        let folder = "/sys/kernel/iommu_groups";
        if !self.files.exists(folder) {
            return Iommu::default();
        }
        let groups = self.files.names(folder);
        let mut domain_types = BTreeMap::new();
        for group in &groups {
            if let Some(kind) = self.files.text(&format!("{folder}/{group}/type")) {
                *domain_types.entry(kind).or_insert(0) += 1;
            }
        }
        Iommu { groups: u32::try_from(groups.len()).ok(), domain_types }
    }
}
