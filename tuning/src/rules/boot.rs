//! Kernel parameters and firmware settings, which take effect at boot. These rules only advise.

use culvert_host::facts::Facts;
use culvert_protocol::counted::counted;

use super::rule::{Effect, Rule};
use super::support::{culvert, fasterdata, kernel};
use crate::finding::{Finding, Severity};
use crate::targets::Targets;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "boot.iommu",
        title: "IOMMU",
        recommends: "iommu=pt on the kernel's command line",
        reason: "translated DMA pays for every buffer that is mapped; up to 40 % difference",
        applies_when: "an IOMMU is in use on a host that is not a virtual machine",
        conflicts_with: &["untrusted devices (Thunderbolt), whose DMA should stay translated"],
        effect: Effect::Medium,
        sources: &[fasterdata("100G Tuning: IOMMU"), kernel("admin-guide/kernel-parameters, iommu")],
        on_request: false,
        check: iommu,
    },
    Rule {
        id: "boot.isolation",
        title: "cores for busy polling",
        recommends: "isolcpus=managed_irq,domain,CORES nohz_full=CORES for lanes that poll all the time",
        reason: "the scheduler's tick and other tasks interrupt a lane a thousand times a second",
        applies_when: "lane_cores are in the site file; worth it only for steady full load",
        conflicts_with: &["hosts that also compute"],
        effect: Effect::Small,
        sources: &[kernel("admin-guide/kernel-parameters, isolcpus, nohz_full")],
        on_request: false,
        check: isolation,
    },
    Rule {
        id: "boot.idle_parameters",
        title: "idle states off by boot parameters",
        recommends: "no boot parameters that limit idle states or the clock",
        reason: "idle=poll, processor.max_cstate and intel_idle.max_cstate waste power all day; the \
            node holds its limit only while transfers run",
        applies_when: "one of them is set",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[kernel("admin-guide/pm/cpuidle"), culvert("idle states")],
        on_request: false,
        check: idle_parameters,
    },
];

fn iommu(facts: &Facts, _: &Targets) -> Vec<Finding> {
    let Some(groups) = facts.iommu.groups else {
        return vec![Finding::not_applicable("", "the kernel shows no IOMMU")];
    };
    if groups == 0 {
        return vec![Finding::ok("", "not in use")];
    }
    if facts.system.virtualization.virtual_machine == Some(true) {
        return vec![Finding::not_applicable("", "the hypervisor's business")];
    }
    let types = &facts.iommu.domain_types;
    if types.is_empty() {
        return vec![
            Finding::unknown("", "the kernel does not show the types of the domains (before 5.11)")
                .step("look for iommu=pt in /proc/cmdline"),
        ];
    }
    let current =
        types.iter().map(|(kind, count)| format!("{} {kind}", counted(*count, "group"))).collect::<Vec<_>>().join(", ");
    if types.keys().all(|kind| kind == "identity") {
        return vec![Finding::ok("", current)];
    }
    let maker = if facts.cpu.model.as_deref().is_some_and(|model| model.contains("AMD")) {
        "amd_iommu=on"
    } else {
        "intel_iommu=on"
    };
    let why = "DMA of the NIC is translated: each buffer is mapped and unmapped";
    let step = if facts.system.kernel_parameter("iommu") == Some("pt") {
        "iommu=pt is on the command line, yet domains are translated: check the firmware and the kernel's log"
            .to_owned()
    } else {
        format!(
            "add '{maker} iommu=pt' to the kernel's command line (grubby --update-kernel=ALL --args=…, or /etc/default/grub), then restart"
        )
    };
    vec![Finding::differs("", Severity::Warning, current, "identity (pass-through)", why).step(step)]
}

fn isolation(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let Some(lanes) = &targets.site.lane_cores else {
        return vec![Finding::not_applicable("", "lane_cores are not in the site file")];
    };
    if lanes.is_subset(&facts.cpu.isolated) {
        return vec![Finding::ok("", format!("{} are isolated", facts.cpu.isolated))];
    }
    let why = "other tasks may run on the lanes' cores";
    let finding = Finding::differs(
        "",
        Severity::Info,
        "not isolated",
        format!("{lanes} isolated, if lanes poll all the time"),
        why,
    );
    vec![finding.step(format!("isolcpus=managed_irq,domain,{lanes} nohz_full={lanes} on the kernel's command line"))]
}

fn idle_parameters(facts: &Facts, _: &Targets) -> Vec<Finding> {
    let found: Vec<&str> = facts
        .system
        .kernel_parameters
        .iter()
        .filter(|parameter| {
            ["idle=", "processor.max_cstate=", "intel_idle.max_cstate="].iter().any(|name| parameter.starts_with(name))
        })
        .map(String::as_str)
        .collect();
    if found.is_empty() {
        return vec![Finding::not_applicable("", "none is set")];
    }
    let why = "the host never enters deep idle states, even without transfers";
    let finding = Finding::differs("", Severity::Info, found.join(" "), "none of them", why);
    vec![finding.step("remove them from the kernel's command line once the node holds the limit itself")]
}
