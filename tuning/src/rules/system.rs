//! Limits, the clock, and what containers and virtual machines cannot change themselves.

use culvert_host::facts::Facts;

use super::rule::{Effect, Rule, Source};
use super::support::{culvert, kernel};
use crate::finding::{Finding, Severity};
use crate::profile::ProfileName;
use crate::targets::Targets;

/// With fewer open files, a transfer of many small files may run out.
const FILES_MIN: u64 = 65_536;
/// The recommended limit for services.
const FILES_WANTED: u64 = 1_048_576;
/// With a larger clock error, one-way delays cannot be compared; in microseconds.
const CLOCK_ERROR_MAX_US: u64 = 10_000;
/// The limit of the clock error for measurement hosts, in microseconds.
const MEASUREMENT_CLOCK_ERROR_MAX_US: u64 = 1_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "limits.nofile",
        title: "open files",
        recommends: "LimitNOFILE=1048576",
        reason: "many flows and many files at once",
        applies_when: "always; the limit shown is that of the process that collected the facts, and a service may have another",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[Source { document: "systemd.exec(5)", section: "Process Properties" }],
        on_request: false,
        check: nofile,
    },
    Rule {
        id: "time.sync",
        title: "clock",
        recommends: "synchronized by chrony, ntpd or ptp4l",
        reason: "one-way delays, receipts and logs of two hosts are compared",
        applies_when: "always",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[
            Source { document: "adjtimex(2)", section: "STA_UNSYNC, maxerror" },
            Source { document: "perfSONAR documentation", section: "NTP" },
        ],
        on_request: false,
        check: clock,
    },
    Rule {
        id: "time.source",
        title: "clock source",
        recommends: "tsc (x86), arch_sys_counter (ARM), or the hypervisor's paravirtual clock",
        reason: "reading hpet or acpi_pm takes a thousand times longer, and pacing reads the clock for every train",
        applies_when: "always",
        conflicts_with: &[],
        effect: Effect::Medium,
        sources: &[kernel("timers/timekeeping")],
        on_request: false,
        check: clock_source,
    },
    Rule {
        id: "host.container",
        title: "container",
        recommends: "host settings are made on the host",
        reason: "a container sees its own network namespace and a read-only /proc/sys; the host's settings still decide the speed",
        applies_when: "the process runs in a container or in a network namespace of its own",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[culvert("containers and virtual machines")],
        on_request: false,
        check: container,
    },
    Rule {
        id: "host.virtual_machine",
        title: "virtual machine",
        recommends: "a NIC passed through (SR-IOV), pinned CPUs, the host's CPU model",
        reason: "the clock, idle states, interrupts and slots of the physical host decide, and only its admin sees them",
        applies_when: "the kernel runs on a hypervisor",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[culvert("containers and virtual machines")],
        on_request: false,
        check: virtual_machine,
    },
    Rule {
        id: "host.facts",
        title: "facts that could not be read",
        recommends: "run as root once, to see everything",
        reason: "what is unknown is never assumed to be good",
        applies_when: "something could not be read",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[culvert("facts")],
        on_request: false,
        check: unreadable,
    },
];

fn nofile(facts: &Facts, _: &Targets) -> Vec<Finding> {
    let Some(limit) = facts.limits.nofile else {
        return vec![Finding::unknown("", "the limit is not known")];
    };
    let current = limit.soft.map_or("unlimited".to_owned(), |files| files.to_string());
    if limit.allows(FILES_MIN) {
        return vec![Finding::ok("", current)];
    }
    // A program may raise the soft limit up to the hard one.
    let severity = if limit.hard.is_none_or(|hard| hard >= FILES_MIN) { Severity::Info } else { Severity::Warning };
    let why = "transfers of many small files open many at once";
    vec![
        Finding::differs("", severity, current, FILES_WANTED.to_string(), why)
            .step(format!("in the service: LimitNOFILE={FILES_WANTED}; for a shell: ulimit -n {FILES_WANTED}")),
    ]
}

fn clock(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let keeper = ["chronyd", "ptp4l", "ntpd", "ntpsec", "systemd-timesyn", "timemaster"]
        .into_iter()
        .find(|name| facts.service_runs(name));
    let current = keeper.map_or("no time service runs".to_owned(), |keeper| format!("{keeper} runs"));
    let most = match targets.profile {
        ProfileName::Measurement => MEASUREMENT_CLOCK_ERROR_MAX_US,
        _ => CLOCK_ERROR_MAX_US,
    };
    match (facts.clock.synchronized, facts.clock.error_max_us) {
        (None, _) => vec![Finding::unknown("", "the kernel's clock state could not be read")],
        (Some(false), _) => {
            let why = "delays and times of two hosts cannot be compared";
            let step = match (keeper, facts.system.container.is_some()) {
                (Some(_), _) => "ask the service why: chronyc sources, ntpq -p",
                (None, true) => "on the host: install and start chrony",
                (None, false) => "install and start chrony",
            };
            vec![
                Finding::differs("", Severity::Warning, format!("not synchronized; {current}"), "synchronized", why)
                    .step(step),
            ]
        }
        (Some(true), Some(error)) if error > most => {
            let why = format!("the clock may be wrong by {:.1} ms", error as f64 / 1e3);
            vec![
                Finding::differs("", Severity::Info, current, format!("within {} ms", most / 1000), why)
                    .step("use nearer or more time servers, or PTP if the NIC has a hardware clock"),
            ]
        }
        (Some(true), _) => vec![Finding::ok("", current)],
    }
}

fn clock_source(facts: &Facts, _: &Targets) -> Vec<Finding> {
    match facts.clock.source.as_deref() {
        None => vec![Finding::unknown("", "sysfs does not show it")],
        Some(slow @ ("hpet" | "acpi_pm" | "jiffies" | "pit")) => {
            let why = "reading the clock takes a microsecond instead of nanoseconds";
            vec![Finding::differs("", Severity::High, slow, "tsc", why).step(
                "see the kernel log for why tsc was marked unstable; update the BIOS; use \
                    tsc=reliable only if the vendor says so",
            )]
        }
        Some(source) => vec![Finding::ok("", source)],
    }
}

fn container(facts: &Facts, _: &Targets) -> Vec<Finding> {
    let own_namespace = facts.system.initial_network_namespace == Some(false);
    let Some(kind) = facts.system.container.as_deref().or(own_namespace.then_some("network namespace")) else {
        return vec![Finding::not_applicable("", "not in a container")];
    };
    let read_only = facts.system.proc_sys_read_only == Some(true);
    let current = match (own_namespace, read_only) {
        (true, true) => format!("{kind}, network of its own, /proc/sys read-only"),
        (true, false) => format!("{kind}, network of its own"),
        (false, true) => format!("{kind}, the host's network, /proc/sys read-only"),
        (false, false) => format!("{kind}, the host's network"),
    };
    let why = "settings of the host's kernel, CPUs and NICs are made on the host";
    vec![
        Finding::differs("", Severity::Info, current, "tune on the host", why)
            .step("on the host: culvert tune audit, or culvert tune plan --facts with this document"),
    ]
}

fn virtual_machine(facts: &Facts, _: &Targets) -> Vec<Finding> {
    if facts.system.virtualization.virtual_machine != Some(true) {
        return vec![Finding::not_applicable("", "not a virtual machine, or not detectable")];
    }
    let current = facts.system.virtualization.hypervisor.clone().unwrap_or_else(|| "unknown hypervisor".to_owned());
    let why = "clock, idle states and interrupts of the physical host decide the speed";
    vec![
        Finding::differs("", Severity::Info, current, "SR-IOV, pinned CPUs, host CPU model", why)
            .step("run culvert tune audit on the physical host as well"),
    ]
}

fn unreadable(facts: &Facts, _: &Targets) -> Vec<Finding> {
    if facts.unreadable.is_empty() {
        return vec![Finding::not_applicable("", "everything could be read")];
    }
    // Without the error numbers of the operating system, which add nothing.
    let words = |why: &str| why.split(" (os error").next().unwrap_or_default().to_owned();
    let findings = facts.unreadable.iter().map(|missing| Finding::unknown(&missing.what, words(&missing.why)));
    findings.collect()
}
