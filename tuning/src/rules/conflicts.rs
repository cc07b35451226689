//! Programs and files that undo or contradict recommendations.

use std::collections::BTreeMap;

use culvert_host::facts::Facts;
use culvert_host::setting::Setting;

use super::recommended;
use super::rule::{Effect, Rule, Source};
use super::support::{Compare, WantedSysctl, culvert, fasterdata};
use crate::finding::{Change, Finding, Severity};
use crate::targets::Targets;

/// Profiles of tuned that cap TCP buffers at 16 MiB, according to their source.
const TUNED_CAPS: [&str; 2] = ["network-throughput", "throughput-performance"];
/// The file with Culvert's own sysctls.
const OWN_FILE: &str = "/etc/sysctl.d/90-culvert.conf";

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "conflict.irqbalance",
        title: "irqbalance",
        recommends: "stopped where interrupts are pinned",
        reason: "it moves interrupts every ten seconds; banning single ones is unreliable",
        applies_when: "it runs",
        conflicts_with: &["nic.irq_affinity"],
        effect: Effect::Medium,
        sources: &[
            fasterdata("100G Tuning, Interrupt Binding"),
            Source { document: "scylladb/seastar", section: "issues 502, 571, 797" },
        ],
        on_request: false,
        check: irqbalance,
    },
    Rule {
        id: "conflict.tuned",
        title: "tuned",
        recommends: "off, or a profile of the site's own that includes none of the capped values",
        reason: "network-throughput caps tcp_rmem and tcp_wmem at 16 MiB, 1.34 Gb/s for each stream at 100 ms, and re-applies it",
        applies_when: "it runs with a profile that contradicts a recommendation",
        conflicts_with: &["net.tcp_buffers", "memory.transparent_hugepages", "cpu.governor"],
        effect: Effect::Large,
        sources: &[
            Source { document: "tuned 2.28, profiles", section: "network-throughput: sysctl" },
            culvert("conflicts"),
        ],
        on_request: false,
        check: tuned,
    },
    Rule {
        id: "conflict.power_profiles",
        title: "power-profiles-daemon",
        recommends: "the profile performance, or stopped",
        reason: "it sets the clock governor and its preference from the desktop's settings",
        applies_when: "it runs",
        conflicts_with: &["cpu.governor"],
        effect: Effect::Small,
        sources: &[Source { document: "power-profiles-daemon", section: "README" }],
        on_request: false,
        check: power_profiles,
    },
    Rule {
        id: "conflict.sysctl_files",
        title: "files that set other values at boot",
        recommends: "each key is set in one place",
        reason: "at boot, the file whose name sorts last wins",
        applies_when: "a file in sysctl.d sets a recommended key to a lower value",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[Source { document: "sysctl.d(5)", section: "Configuration Directories and Precedence" }],
        on_request: false,
        check: sysctl_files,
    },
    Rule {
        id: "site.sysctl",
        title: "sysctls of the site file",
        recommends: "the values in the site file",
        reason: "the admin's values take precedence over every recommendation",
        applies_when: "a key under [sysctl] in the site file that no other rule handles",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[Source { document: "the site file", section: "[sysctl]" }],
        on_request: false,
        check: site_sysctls,
    },
];

fn irqbalance(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    if !facts.service_runs("irqbalance") {
        return vec![Finding::not_applicable("", "it does not run")];
    }
    if !targets.links(facts).any(|link| link.queue_irqs().next().is_some()) {
        return vec![Finding::not_applicable("", "no link for transfers has interrupts to pin")];
    }
    let why = "it moves the interrupts that nic.irq_affinity places";
    let finding = Finding::conflict("", Severity::Warning, "running", "stopped", why);
    if facts.system.systemd {
        return vec![finding.change(Setting::Service { unit: "irqbalance".to_owned() }, "stopped")];
    }
    vec![finding.step("stop irqbalance the way this system starts it")]
}

fn tuned(facts: &Facts, _: &Targets) -> Vec<Finding> {
    if !facts.service_runs("tuned") {
        return vec![Finding::not_applicable("", "it does not run")];
    }
    let profile = facts.services.get("tuned").and_then(|service| service.detail.as_deref()).unwrap_or("unknown");
    let capped = profile.split_whitespace().any(|name| TUNED_CAPS.contains(&name));
    let saving = ["balanced", "powersave", "desktop"].iter().any(|name| profile.contains(name));
    if !capped && !saving {
        return vec![
            Finding::ok("", format!("profile {profile}")).step("the watcher reports it if tuned undoes a setting"),
        ];
    }
    let why = if capped {
        "it caps TCP buffers at 16 MiB (1.34 Gb/s for each stream at 100 ms) and re-applies its values"
    } else {
        "it lets the cores lower their clock rate"
    };
    vec![
        Finding::conflict("", Severity::High, format!("profile {profile}"), "off", why)
            .step("tuned-adm off; or a profile in /etc/tuned of your own, without the sysctls that Culvert sets"),
    ]
}

fn power_profiles(facts: &Facts, _: &Targets) -> Vec<Finding> {
    if !facts.service_runs("power-profiles-") {
        return vec![Finding::not_applicable("", "it does not run")];
    }
    let why = "it resets the clock governor";
    vec![
        Finding::conflict("", Severity::Warning, "running", "performance or stopped", why)
            .step("powerprofilesctl set performance, or systemctl disable --now power-profiles-daemon"),
    ]
}

/// The values of sysctls that the other rules and the site file recommend.
fn wanted_sysctls(facts: &Facts, targets: &Targets) -> BTreeMap<String, String> {
    let others = recommended::rules().filter(|rule| !rule.on_request).flat_map(|rule| rule.check(facts, targets));
    let changes = others.chain(site_sysctls(facts, targets)).flat_map(|finding| finding.changes);
    let sysctls = changes.filter_map(|change: Change| match change.setting {
        Setting::Sysctl { key } => Some((key, change.to.text().to_owned())),
        _ => None,
    });
    sysctls.collect()
}

fn sysctl_files(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let mut last: BTreeMap<&str, (&str, &str)> = BTreeMap::new();
    for entry in &facts.sysctl_files {
        last.insert(&entry.key, (&entry.file, &entry.value));
    }
    let mut facts_at_boot = facts.clone();
    let others = last.iter().filter(|(_, (file, _))| *file != OWN_FILE);
    for (key, (_, value)) in others {
        if let Some(current) = facts_at_boot.sysctls.get_mut(*key) {
            (*value).clone_into(current);
        }
    }
    // The rules' findings for the state after the next boot show which files set lower values.
    let wanted = wanted_sysctls(&facts_at_boot, targets);
    let findings: Vec<Finding> = wanted
        .iter()
        .filter_map(|(key, wanted)| {
            let (file, value) = last.get(key.as_str()).filter(|(file, _)| *file != OWN_FILE)?;
            let why = format!("{file} sets it at boot");
            Some(Finding::conflict(key, Severity::Warning, *value, wanted, why).step(format!(
                "remove {key} from {file}; with --persist the tuning service sets it again after every boot"
            )))
        })
        .collect();
    if findings.is_empty() { vec![Finding::not_applicable("", "no file sets a lower value")] } else { findings }
}

fn site_sysctls(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let others = recommended::rules().flat_map(|rule| rule.check(facts, targets));
    let handled: Vec<String> = others.map(|finding| finding.scope).collect();
    let own = targets.site.sysctl.iter().filter(|(key, _)| !handled.contains(key));
    let findings: Vec<Finding> = own
        .map(|(key, value)| {
            let why = "the site file asks for it".to_owned();
            if facts.sysctl(key).is_some() {
                let wanted = value.clone();
                return WantedSysctl { key, wanted, compare: Compare::Equal, severity: Severity::Warning, why }
                    .check(facts, targets);
            }
            // Facts do not contain this key, so the plan reads it from the host.
            Finding::differs(key, Severity::Warning, "not in the facts", value, why).change(Setting::sysctl(key), value)
        })
        .collect();
    if findings.is_empty() { vec![Finding::not_applicable("", "none in the site file")] } else { findings }
}
