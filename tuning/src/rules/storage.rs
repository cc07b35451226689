//! Disks and file systems.

use culvert_host::facts::{Block, Facts, Mount};
use culvert_host::setting::Setting;

use super::rule::{Effect, Rule, Source};
use super::support::{fasterdata, kernel, tuned};
use crate::finding::{Finding, Severity};
use crate::targets::Targets;

/// Read-ahead for sequential reads, in KiB.
const READ_AHEAD_KIB: u64 = 4096;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "storage.scheduler",
        title: "I/O scheduler of NVMe disks",
        recommends: "none",
        reason: "an NVMe disk orders its own requests in many queues; a scheduler puts a lock in front of them",
        applies_when: "NVMe disks; rotating disks keep theirs",
        conflicts_with: &["udev rules of distributions"],
        effect: Effect::Small,
        sources: &[fasterdata("DTN, Tuning"), kernel("block/switching-sched")],
        on_request: false,
        check: scheduler,
    },
    Rule {
        id: "storage.read_ahead",
        title: "read-ahead",
        recommends: "4096 KiB",
        reason: "buffered reads of large files wait for the disk between small requests; Culvert reads past the page cache and does not need it",
        applies_when: "disks below it",
        conflicts_with: &["databases on the same disk"],
        effect: Effect::Small,
        sources: &[tuned("throughput-performance: readahead"), fasterdata("DTN, Tuning")],
        on_request: false,
        check: read_ahead,
    },
    Rule {
        id: "storage.mount_options",
        title: "mount options",
        recommends: "noatime; no discard (a weekly fstrim instead); never sync or nobarrier",
        reason: "strict access times write on every read; discard waits for the disk on every delete; sync waits on every write",
        applies_when: "file systems on disks of this host; left to the admin",
        conflicts_with: &[],
        effect: Effect::Medium,
        sources: &[
            fasterdata("DTN, Tuning"),
            Source { document: "mount(8), xfs(5), ext4(5)", section: "mount options" },
        ],
        on_request: false,
        check: mount_options,
    },
    Rule {
        id: "storage.pcie",
        title: "slots of NVMe disks",
        recommends: "all lanes at full speed",
        reason: "a disk whose link trained to half its width has half its rate",
        applies_when: "NVMe disks whose slot reports it",
        conflicts_with: &[],
        effect: Effect::Medium,
        sources: &[Source { document: "PCI Express Base Specification", section: "link speeds and widths" }],
        on_request: false,
        check: pcie,
    },
    Rule {
        id: "storage.poll_queues",
        title: "poll queues of NVMe disks",
        recommends: "nvme.poll_queues=N as a module parameter, where lanes poll for completions",
        reason: "polling for a completion costs no interrupt",
        applies_when: "NVMe disks, 100G and above; measure",
        conflicts_with: &["a restart, or reloading the driver"],
        effect: Effect::Small,
        sources: &[
            kernel("admin-guide/kernel-parameters, nvme.poll_queues"),
            Source { document: "io_uring_setup(2)", section: "IORING_SETUP_IOPOLL" },
        ],
        on_request: false,
        check: poll_queues,
    },
];

fn disks(facts: &Facts, kind: fn(&Block) -> bool) -> impl Iterator<Item = &Block> {
    facts.blocks.iter().filter(move |block| kind(block))
}

fn or_none(findings: Vec<Finding>, why: &str) -> Vec<Finding> {
    if findings.is_empty() { vec![Finding::not_applicable("", why)] } else { findings }
}

fn scheduler(facts: &Facts, _: &Targets) -> Vec<Finding> {
    let findings = disks(facts, |block| block.nvme).map(|block| match block.scheduler.as_deref() {
        Some("none") => Finding::ok(&block.name, "none"),
        None => Finding::unknown(&block.name, "sysfs does not show it"),
        Some(other) => {
            let why = "requests wait for a lock in front of queues that do not need one";
            let path = format!("/sys/block/{}/queue/scheduler", block.name);
            Finding::differs(&block.name, Severity::Warning, other, "none", why)
                .change(Setting::kernel_file(path), "none")
        }
    });
    or_none(findings.collect(), "there is no NVMe disk")
}

fn read_ahead(facts: &Facts, _: &Targets) -> Vec<Finding> {
    // Members of a volume are read through the volume.
    let member = |name: &String| facts.blocks.iter().any(|block| block.members.contains(name));
    let findings = facts.blocks.iter().filter(|block| !member(&block.name)).map(|block| match block.read_ahead_kib {
        None => Finding::unknown(&block.name, "sysfs does not show it"),
        Some(now) if now >= READ_AHEAD_KIB => Finding::ok(&block.name, format!("{now} KiB")),
        Some(now) => {
            let why = "buffered reads of large files are split into small requests";
            let path = format!("/sys/block/{}/queue/read_ahead_kb", block.name);
            Finding::differs(&block.name, Severity::Info, format!("{now} KiB"), format!("{READ_AHEAD_KIB} KiB"), why)
                .change(Setting::kernel_file(path), READ_AHEAD_KIB.to_string())
        }
    });
    or_none(findings.collect(), "there is no disk")
}

fn mount_finding(mount: &Mount) -> Finding {
    let current = mount.options.join(",");
    let remount = |options: &str| format!("mount -o remount,{options} '{}', and in /etc/fstab", mount.path);
    if mount.has_option("sync") {
        let why = "every write waits for the disk";
        return Finding::differs(&mount.path, Severity::High, current, "without sync", why).step(remount("async"));
    }
    if mount.has_option("nobarrier") || mount.has_option("barrier=0") {
        let why = "data that was reported stored is lost when the power fails";
        return Finding::differs(&mount.path, Severity::High, current, "with barriers", why).step(remount("barrier=1"));
    }
    if mount.has_option("strictatime") {
        let why = "every read writes an access time";
        return Finding::differs(&mount.path, Severity::Warning, current, "noatime", why).step(remount("noatime"));
    }
    if mount.has_option("discard") && matches!(mount.file_system.as_str(), "xfs" | "ext4") {
        let why = "deleting waits for the disk to trim";
        return Finding::differs(&mount.path, Severity::Info, current, "without discard, with fstrim.timer", why)
            .step(remount("nodiscard"))
            .step("systemctl enable --now fstrim.timer");
    }
    if !mount.has_option("noatime") && matches!(mount.file_system.as_str(), "xfs" | "ext4" | "btrfs") {
        let why = "relatime still writes an access time once a day for each file that is read";
        return Finding::differs(&mount.path, Severity::Info, current, "noatime", why).step(remount("noatime"));
    }
    Finding::ok(&mount.path, current)
}

fn mount_options(facts: &Facts, _: &Targets) -> Vec<Finding> {
    let findings = facts.mounts.iter().filter(|mount| mount.block.is_some()).map(mount_finding).collect();
    or_none(findings, "no file system is on a disk of this host")
}

fn pcie(facts: &Facts, _: &Targets) -> Vec<Finding> {
    let findings = disks(facts, |block| block.nvme).filter_map(|block| {
        let pcie = block.pcie?;
        let less = |now: Option<f64>, max: Option<f64>| matches!((now, max), (Some(now), Some(max)) if now < max);
        let current = format!("x{} at {} GT/s", pcie.width?, pcie.speed_gigatransfers?);
        if less(pcie.width.map(f64::from), pcie.width_max.map(f64::from))
            || less(pcie.speed_gigatransfers, pcie.speed_max_gigatransfers)
        {
            let best =
                format!("x{} at {} GT/s", pcie.width_max.unwrap_or(0), pcie.speed_max_gigatransfers.unwrap_or(0.0));
            let why = "the disk's link trained below what it supports";
            return Some(
                Finding::differs(&block.name, Severity::Warning, current, best, why)
                    .step("reseat the disk; check backplane, cable and BIOS"),
            );
        }
        Some(Finding::ok(&block.name, current))
    });
    or_none(findings.collect(), "no NVMe disk reports its slot")
}

fn poll_queues(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    if !targets.is_at_least(100) {
        return vec![Finding::not_applicable("", "below 100G")];
    }
    let names = |polled: Option<bool>| -> Vec<&str> {
        let found = disks(facts, |block| block.nvme).filter(|block| block.io_poll == polled);
        found.map(|block| block.name.as_str()).collect()
    };
    let (with, without) = (names(Some(true)), names(Some(false)));
    if !without.is_empty() {
        let current = format!("no poll queues: {}", without.join(", "));
        let why = "completions arrive by interrupt only";
        return vec![
            Finding::differs("", Severity::Info, current, "nvme.poll_queues, if measured", why)
                .step("options nvme poll_queues=8 in /etc/modprobe.d, then restart"),
        ];
    }
    if with.is_empty() {
        return vec![Finding::not_applicable("", "there is no NVMe disk that reports it")];
    }
    vec![Finding::ok("", format!("polled completions work: {}", with.join(", ")))]
}
