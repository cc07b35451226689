//! Clock rate, idle states, SMT, memory nodes.

use culvert_host::facts::Facts;
use culvert_host::setting::Setting;

use super::rule::{Effect, Rule, Source};
use super::support::{Compare, WantedSysctl, each_link, fasterdata, kernel, tuned};
use crate::finding::{Finding, Severity};
use crate::targets::{Targets, local_cpus, physical_cores};

/// During a longer wake-up of a CPU, tens of packets arrive at 10 Gb/s.
const WAKE_UP_MAX_US: u64 = 10;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "cpu.governor",
        title: "clock governor",
        recommends: "performance",
        reason: "the clock rate of one core limits the rate of one flow, and it rises too late for bursts",
        applies_when: "the kernel controls the clock (not in most virtual machines)",
        conflicts_with: &["power-profiles-daemon, tuned balanced or powersave"],
        effect: Effect::Medium,
        sources: &[fasterdata("Host Tuning, Linux: CPU governor; 100G Tuning"), tuned("throughput-performance")],
        on_request: false,
        check: governor,
    },
    Rule {
        id: "cpu.boost",
        title: "turbo clock",
        recommends: "on",
        reason: "the cores that carry flows may run above the base rate while others idle",
        applies_when: "the kernel reports it",
        conflicts_with: &["BIOS settings"],
        effect: Effect::Medium,
        sources: &[
            fasterdata("100G Tuning"),
            Source { document: "AMD 56739", section: "BIOS options for high speed networks" },
        ],
        on_request: false,
        check: boost,
    },
    Rule {
        id: "cpu.c_states",
        title: "deep idle states",
        recommends: "states that take longer than 10 us to leave: off on the NIC's node, or a limit held while transfers run",
        reason: "a core that must wake up first takes the first packets of a burst late",
        applies_when: "deep states exist; a node with permission holds the limit itself, so apply \
            skips the rule unless asked",
        conflicts_with: &["power consumption while idle"],
        effect: Effect::Small,
        sources: &[tuned("latency-performance"), kernel("admin-guide/pm/cpuidle; power/pm_qos_interface")],
        on_request: true,
        check: c_states,
    },
    Rule {
        id: "cpu.smt",
        title: "threads that share a core",
        recommends: "off at 100G and above, if a measurement on this host favors it",
        reason: "fasterdata saw very inconsistent results with it, on AMD above all; other tuners advise the opposite",
        applies_when: "100G and above; never changed by apply: taking CPUs offline changes the CPU \
            sets of other services, which could not be restored",
        conflicts_with: &["hosts that also compute"],
        effect: Effect::Small,
        sources: &[fasterdata("100G Tuning")],
        on_request: false,
        check: smt,
    },
    Rule {
        id: "cpu.numa_placement",
        title: "lanes near the NIC",
        recommends: "lanes and NVMe disks on the NIC's node",
        reason: "every byte that crosses sockets shares the link between them, up to a factor of two",
        applies_when: "the host has several memory nodes",
        conflicts_with: &["cpusets of containers and services"],
        effect: Effect::Large,
        sources: &[fasterdata("100G Tuning, Interrupt Binding; DTN, Hardware")],
        on_request: false,
        check: numa_placement,
    },
    Rule {
        id: "cpu.numa_balancing",
        title: "automatic NUMA balancing",
        recommends: "kernel.numa_balancing: 0",
        reason: "lanes are pinned; moving their pages stalls them",
        applies_when: "several memory nodes, 40G and above",
        conflicts_with: &[],
        effect: Effect::Small,
        sources: &[tuned("hpc-compute, latency-performance"), kernel("admin-guide/sysctl/kernel")],
        on_request: false,
        check: numa_balancing,
    },
];

fn governor(facts: &Facts, _: &Targets) -> Vec<Finding> {
    if facts.cpu.frequency.is_empty() {
        return vec![Finding::not_applicable("", "the kernel does not control the clock here")];
    }
    let mut governors: Vec<&str> =
        facts.cpu.frequency.iter().map(|policy| policy.governor.as_deref().unwrap_or("unknown")).collect();
    governors.sort_unstable();
    governors.dedup();
    let current = governors.join(", ");
    let mut finding = Finding::differs(
        "",
        Severity::High,
        &current,
        "performance",
        "cores lower their clock rate between bursts and raise it too late",
    );
    for policy in &facts.cpu.frequency {
        let folder = format!("/sys/devices/system/cpu/cpufreq/{}", policy.policy);
        let performance = |name: &Option<String>| name.as_deref() == Some("performance");
        if !performance(&policy.governor) {
            if policy.governors.iter().any(|name| name == "performance") {
                finding = finding.change(Setting::kernel_file(format!("{folder}/scaling_governor")), "performance");
            } else {
                finding.steps.push(format!("{}: its driver offers no governor 'performance'", policy.policy));
            }
        } else if policy.energy_preference.is_some() && !performance(&policy.energy_preference) {
            // Drivers usually change the preference with the governor. Where they do not, it keeps
            // the clock low.
            let setting = Setting::kernel_file(format!("{folder}/energy_performance_preference"));
            finding = finding.change(setting, "performance");
        }
    }
    if finding.changes.is_empty() && finding.steps.is_empty() {
        return vec![Finding::ok("", current)];
    }
    vec![finding]
}

fn boost(facts: &Facts, _: &Targets) -> Vec<Finding> {
    match facts.cpu.boost {
        Some(true) => vec![Finding::ok("", "on")],
        None => vec![Finding::not_applicable("", "the kernel does not report it")],
        Some(false) => {
            let why = "the cores stay at their base rate";
            let step = "echo 1 > /sys/devices/system/cpu/cpufreq/boost, or echo 0 > /sys/devices/system/cpu/intel_pstate/no_turbo; or in the BIOS";
            vec![Finding::differs("", Severity::Warning, "off", "on", why).step(step)]
        }
    }
}

fn c_states(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    if facts.cpu.idle_states.is_empty() {
        return vec![Finding::not_applicable("", "the kernel does not manage idle states here")];
    }
    if facts.cpu.latency_limit_us.is_some_and(|limit| u64::from(limit) <= WAKE_UP_MAX_US) {
        return vec![Finding::ok("", "a process holds a limit of at most 10 us")];
    }
    let deep = facts.cpu.idle_states.iter().filter(|state| state.latency_us > WAKE_UP_MAX_US);
    let near = targets
        .links(facts)
        .map(|link| local_cpus(facts, link))
        .reduce(|all, more| all.iter().chain(more.iter()).collect())
        .unwrap_or_else(|| facts.cpu.online.clone());
    let open: Vec<_> =
        deep.map(|state| (state, near.difference(&state.disabled_on))).filter(|(_, cpus)| !cpus.is_empty()).collect();
    if open.is_empty() {
        return vec![Finding::ok("", "no state takes longer than 10 us to leave")];
    }
    let current =
        open.iter().map(|(state, _)| format!("{} {} us", state.name, state.latency_us)).collect::<Vec<_>>().join(", ");
    let why = "a core that sleeps deeply takes the first packets of a burst late";
    let mut finding = Finding::differs("", Severity::Info, current, "at most 10 us", why)
        .step("to avoid them only while transfers run, let the node open /dev/cpu_dma_latency");
    for (state, cpus) in open {
        for cpu in cpus.iter() {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/cpuidle/state{}/disable", state.index);
            finding = finding.change(Setting::kernel_file(path), "1");
        }
    }
    vec![finding]
}

fn smt(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    if !targets.is_at_least(100) {
        return vec![Finding::not_applicable("", "below 100G")];
    }
    match facts.cpu.smt_active {
        None => vec![Finding::unknown("", "the kernel does not report it")],
        Some(false) => vec![Finding::ok("", "off")],
        Some(true) => {
            let why = "two lanes or interrupts may share a core; measure both ways before deciding";
            let step = "echo off > /sys/devices/system/cpu/smt/control; to keep it: nosmt on the kernel's command line";
            vec![Finding::differs("", Severity::Info, "on", "off, if measured", why).step(step)]
        }
    }
}

fn numa_placement(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    if facts.numa.len() < 2 {
        return vec![Finding::not_applicable("", "there is one memory node, or none is known")];
    }
    each_link(facts, targets, |link| {
        let Some(node) = link.numa_node else {
            return Finding::unknown(&link.name, "the firmware does not report the NIC's node")
                .step("in the BIOS: node interleaving off");
        };
        let near = local_cpus(facts, link);
        let lanes = targets.site.lane_cores.clone().unwrap_or_default();
        let far_lanes = lanes.difference(&near);
        let disks: Vec<&str> = facts
            .blocks
            .iter()
            .filter(|block| block.nvme && block.numa_node.is_some_and(|other| other != node))
            .map(|block| block.name.as_str())
            .collect();
        let reachable = facts.cpu.allowed.is_empty() || !facts.cpu.allowed.intersection(&near).is_empty();
        let suggestion: Vec<u32> = physical_cores(facts, &near).iter().collect();
        let suggestion: culvert_host::cpu_set::CpuSet =
            suggestion.iter().rev().take(targets.lanes as usize).copied().collect();
        let current = format!("node {node}");
        if !reachable {
            let why = "this process may not run on any CPU of the NIC's node";
            return Finding::differs(&link.name, Severity::Critical, current, "CPUs of the NIC's node", why)
                .step(format!("give the service or container CPUs of {near} (AllowedCPUs=, cpuset)"));
        }
        if !far_lanes.is_empty() {
            let why = format!("the lanes on {far_lanes} reach the NIC through the other socket");
            return Finding::differs(&link.name, Severity::High, current, format!("lanes on {suggestion}"), why)
                .step(format!("lane_cores = \"{suggestion}\" in the site file, --cores {suggestion} for a transfer"));
        }
        if !disks.is_empty() {
            let why = format!("{} on another node: their data crosses sockets", disks.join(", "));
            return Finding::differs(&link.name, Severity::Info, current, "disks on the NIC's node", why)
                .step("move the disks or the NIC to slots of one node where possible");
        }
        Finding::ok(&link.name, format!("{current}; lanes: --cores {suggestion}"))
    })
}

fn numa_balancing(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let key = "kernel.numa_balancing";
    if facts.numa.len() < 2 || !targets.is_at_least(25) {
        return vec![Finding::not_applicable(key, "one memory node, or below 40G")];
    }
    let why = "pages of pinned lanes are migrated".to_owned();
    let wanted = "0".to_owned();
    vec![WantedSysctl { key, wanted, compare: Compare::Equal, severity: Severity::Warning, why }.check(facts, targets)]
}
