//! One page: whether this host can run at full speed, what prevents it, and what to do first.

use std::fmt::Write;

use culvert_host::facts::{Facts, Link};
use culvert_host::kernel_version::KernelVersion;
use culvert_protocol::counted::{agree, counted};
use serde::Serialize;

use crate::audit::{Audit, FindingCounts};
use crate::finding::{Finding, Severity, Status};
use crate::measure::Effect;
use crate::rules;
use crate::targets::gigabits;

/// The first kernel whose AF_XDP has everything that the data plane uses.
const AF_XDP_SINCE: KernelVersion = KernelVersion::new(5, 11);
/// The most entries of the to-do list that the page shows.
const SHOWN_MAX: usize = 12;

/// Whether the host can run at full speed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Nothing known prevents it.
    Yes,
    /// Some speed or stability is lost.
    Nearly,
    /// A large part of the speed is lost.
    No,
    /// Too few facts about the host are known.
    Unknown,
}

/// How ready one part of the data plane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadinessState {
    /// It works at full speed.
    Ready,
    /// It works in a slower way.
    Fallback,
    /// It does not work.
    Missing,
    /// It cannot be determined here.
    Unknown,
}

/// One part of the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Its name: `af_xdp eth0`, `io_uring`.
    pub name: String,
    /// How ready it is.
    pub state: ReadinessState,
    /// The reason in words.
    pub why: String,
}

/// An entry of the to-do list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToDo {
    /// The cost of leaving it.
    pub severity: Severity,
    /// The rule.
    pub rule: String,
    /// The names of the links, sysctls or disks that it concerns.
    pub scope: String,
    /// What is wrong, in words.
    pub what: String,
    /// How to do it.
    pub how: String,
    /// The rule's expected effect: `large`, `medium`, `small`, `none`.
    pub effect: String,
    /// The effect measured on this host, if any.
    pub measured: Option<String>,
}

/// The page.
#[derive(Clone, Debug, Serialize)]
pub struct Doctor {
    /// Whether this host can run at full speed.
    pub verdict: Verdict,
    /// The verdict in a sentence.
    pub text: String,
    /// Host, kernel, CPU, memory, links.
    pub host: Vec<(String, String)>,
    /// Programs with their versions.
    pub versions: Vec<(String, String)>,
    /// Parts of the data plane.
    pub readiness: Vec<Readiness>,
    /// Open findings by severity.
    pub counts: FindingCounts,
    /// The to-do list, the most effective entry first.
    pub todo: Vec<ToDo>,
}

impl Doctor {
    /// Composes the page. `readiness` is what the caller has probed; it takes precedence over facts
    /// about the same part. `has_af_xdp` is whether the program's data plane has AF_XDP. `measured`
    /// returns the latest measured effect of a rule.
    #[must_use]
    pub fn examine(
        facts: &Facts,
        audit: &Audit,
        versions: &[(String, String)],
        readiness: &[Readiness],
        has_af_xdp: bool,
        measured: &dyn Fn(&str) -> Option<Effect>,
    ) -> Self {
        let mut all: Vec<Readiness> = readiness_of(facts, audit, has_af_xdp);
        // Probed parts come first and replace facts about the same part.
        all.retain(|from_facts| readiness.iter().all(|probed| probed.name != from_facts.name));
        all.splice(..0, readiness.iter().cloned());
        let todo = join_alike(audit.most_effective_first().into_iter().map(|finding| to_do(finding, measured)));
        let verdict = match audit.worst() {
            Some(Severity::Critical | Severity::High) => Verdict::No,
            Some(Severity::Warning) => Verdict::Nearly,
            Some(Severity::Info) | None if facts.links.is_empty() => Verdict::Unknown,
            Some(Severity::Info) | None => Verdict::Yes,
        };
        let verdict = if all.iter().any(|one| one.state == ReadinessState::Missing) { Verdict::No } else { verdict };
        Self {
            text: verdict_text(verdict, audit),
            verdict,
            host: host_lines(facts, audit),
            versions: versions.to_vec(),
            readiness: all,
            counts: audit.counts,
            todo,
        }
    }

    /// The page as text.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = format!("{}\n\n", self.text);
        let lines = self.host.iter().chain(&self.versions);
        for (name, value) in lines {
            let _ = writeln!(out, "{name:<10}{value}");
        }
        out.push_str("\ndata plane\n");
        let width = self.readiness.iter().map(|one| one.name.chars().count()).max().unwrap_or(0);
        for one in &self.readiness {
            let mark = match one.state {
                ReadinessState::Ready => "ready",
                ReadinessState::Fallback => "fallback",
                ReadinessState::Missing => "missing",
                ReadinessState::Unknown => "unknown",
            };
            let _ = writeln!(out, "  {mark:<9} {:<width$}  {}", one.name, one.why);
        }
        if !self.todo.is_empty() {
            out.push_str("\nto do, most effective first\n");
        }
        for (number, todo) in self.todo.iter().take(SHOWN_MAX).enumerate() {
            let scope = if todo.scope.is_empty() { String::new() } else { format!(" [{}]", todo.scope) };
            let _ = writeln!(out, "{:>3}. {:<9}{}{scope}: {}", number + 1, todo.severity, todo.rule, todo.what);
            let _ = writeln!(out, "     {}", todo.how);
            if let Some(measured) = &todo.measured {
                let _ = writeln!(out, "     measured here: {measured}");
            }
        }
        if self.todo.len() > SHOWN_MAX {
            let _ = writeln!(out, "     and {} more: culvert tune audit", self.todo.len() - SHOWN_MAX);
        }
        let counts = &self.counts;
        let _ = writeln!(
            out,
            "\n{} critical, {} high, {} warning, {} info; {} unknown",
            counts.critical, counts.high, counts.warning, counts.info, counts.unknown
        );
        out
    }
}

fn verdict_text(verdict: Verdict, audit: &Audit) -> String {
    let rate = gigabits(audit.targets.rate_bits_per_second);
    let counts = &audit.counts;
    match verdict {
        Verdict::Unknown => "Too little is known about this host to tell; see what could not be read.".to_owned(),
        Verdict::Yes => format!("This host can run at {rate}, as far as can be told."),
        Verdict::Nearly => {
            let (findings, reduce) = (counted(counts.warning, "finding"), agree(counts.warning, "reduces", "reduce"));
            format!("This host comes close to {rate}: {findings} {reduce} the rate.")
        }
        Verdict::No => {
            let (severe, more) = (counts.critical + counts.high, counts.warning);
            let (findings, prevent) = (counted(severe, "finding"), agree(severe, "prevents", "prevent"));
            let rest = match more {
                0 => String::new(),
                more => format!(", and {more} more {} the rate", agree(more, "reduces", "reduce")),
            };
            format!("This host cannot run at {rate} yet: {findings} {prevent} it{rest}.")
        }
    }
}

fn host_lines(facts: &Facts, audit: &Audit) -> Vec<(String, String)> {
    let line = |name: &str, value: String| (name.to_owned(), value);
    let mut lines = vec![
        line("host", facts.system.host_name.clone()),
        line("kernel", facts.system.kernel_release.clone()),
        line(
            "cpu",
            format!(
                "{}, {}",
                facts.cpu.model.as_deref().unwrap_or("unknown"),
                facts.cpu.cores.map_or("unknown cores".to_owned(), |cores| counted(cores, "core"))
            ),
        ),
        line("memory", format!("{:.0} GiB", facts.memory.total_bytes as f64 / (1_u64 << 30) as f64)),
        line("profile", format!("{}, because {}", audit.targets.profile, audit.targets.chosen_because)),
    ];
    for link in audit.targets.links(facts) {
        let speed = link.speed_bits_per_second.map_or("speed unknown".to_owned(), gigabits);
        let driver = link.driver.as_deref().unwrap_or("no driver");
        lines.push(line("link", format!("{}: {driver}, {speed}, MTU {}", link.name, link.mtu_bytes)));
    }
    lines
}

/// Joins entries that differ only in their scope.
fn join_alike(todo: impl Iterator<Item = ToDo>) -> Vec<ToDo> {
    let mut joined: Vec<ToDo> = Vec::new();
    for one in todo {
        let alike = |other: &&mut ToDo| other.rule == one.rule && other.what == one.what && other.how == one.how;
        match joined.iter_mut().find(alike) {
            Some(other) => other.scope = format!("{}, {}", other.scope, one.scope),
            None => joined.push(one),
        }
    }
    joined
}

fn to_do(finding: &Finding, measured: &dyn Fn(&str) -> Option<Effect>) -> ToDo {
    let how = if finding.changes.is_empty() {
        finding.steps.first().cloned().unwrap_or_else(|| format!("culvert tune explain {}", finding.rule))
    } else if rules::find(&finding.rule).is_ok_and(|rule| rule.on_request) {
        format!("culvert tune apply --rule {}", finding.rule)
    } else {
        "culvert tune apply".to_owned()
    };
    ToDo {
        severity: finding.severity,
        rule: finding.rule.clone(),
        scope: finding.scope.clone(),
        what: finding.why.clone(),
        how,
        effect: rules::find(&finding.rule).map_or("none", |rule| rule.effect.word()).to_owned(),
        measured: measured(&finding.rule).map(|effect| effect.text()),
    }
}

/// The readiness of the data plane's parts, from the facts.
fn readiness_of(facts: &Facts, audit: &Audit, has_af_xdp: bool) -> Vec<Readiness> {
    let one = |name: &str, state, why: &str| Readiness { name: name.to_owned(), state, why: why.to_owned() };
    let mut all = Vec::new();
    for link in audit.targets.links(facts) {
        let (state, why) = af_xdp(facts, link, has_af_xdp);
        all.push(Readiness { name: format!("af_xdp {}", link.name), state, why: why.to_owned() });
        let cuts = link.has_feature("tx-udp-segmentation");
        let (state, why) = match cuts {
            Some(true) => (ReadinessState::Ready, "GSO and GRO, segmented by the NIC"),
            Some(false) => (ReadinessState::Ready, "GSO and GRO, segmented by the kernel"),
            None => (ReadinessState::Unknown, "the offloads are not known"),
        };
        all.push(Readiness { name: format!("udp {}", link.name), state, why: why.to_owned() });
        all.extend(has_af_xdp.then(|| queue_choice(link)).flatten());
    }
    let status =
        |rule: &str| audit.findings.iter().filter(|finding| finding.rule == rule).map(|finding| finding.status).max();
    let io_uring = facts.sysctl_number("kernel.io_uring_disabled");
    let built = facts.datapath.kernel_features.get("IO_URING").map(String::as_str);
    all.push(match (built, io_uring) {
        (Some("absent"), _) => {
            one("io_uring", ReadinessState::Missing, "not in this kernel: the data plane does not start")
        }
        (_, Some(2)) => one(
            "io_uring",
            ReadinessState::Missing,
            "switched off by kernel.io_uring_disabled: the data plane does not start",
        ),
        (_, Some(1)) if facts.system.root => one("io_uring", ReadinessState::Ready, "for privileged users"),
        (_, Some(1)) => one("io_uring", ReadinessState::Unknown, "for privileged users and kernel.io_uring_group only"),
        (_, Some(_)) | (Some(_), None) => one("io_uring", ReadinessState::Ready, "not switched off"),
        (None, None) => one("io_uring", ReadinessState::Unknown, "the kernel does not report it"),
    });
    all.push(match status("datapath.cipher") {
        Some(Status::Ok) => one("cipher", ReadinessState::Ready, "AES and carry-less multiplication, wide"),
        Some(Status::Differs) if facts.cpu.has_flag("aes") => {
            one("cipher", ReadinessState::Ready, "AES and carry-less multiplication")
        }
        Some(Status::Differs) => one("cipher", ReadinessState::Fallback, "the CPU has no AES: encryption in software"),
        _ => one("cipher", ReadinessState::Unknown, "the CPU's flags are not known"),
    });
    all.push(match status("datapath.memlock") {
        Some(Status::Ok) => one("memlock", ReadinessState::Ready, "enough for packet buffers"),
        Some(Status::Differs) => {
            one("memlock", ReadinessState::Fallback, "too little here for AF_XDP; a service can have more")
        }
        _ => one("memlock", ReadinessState::Unknown, "the limit is not known"),
    });
    let pages: u64 = facts.memory.hugepages.iter().map(|pool| pool.total * pool.page_bytes).sum();
    all.push(if pages >= audit.targets.umem_bytes {
        one("hugepages", ReadinessState::Ready, "enough for packet buffers")
    } else {
        one("hugepages", ReadinessState::Fallback, "small pages are used")
    });
    all
}

fn af_xdp(facts: &Facts, link: &Link, has_af_xdp: bool) -> (ReadinessState, &'static str) {
    if !has_af_xdp {
        let can = link.xdp.as_ref().is_some_and(|xdp| xdp.has("xsk-zerocopy"));
        let why = if can {
            "the NIC could, with zero-copy, but this program was built without it: udp"
        } else {
            "this program was built without it: udp"
        };
        return (ReadinessState::Fallback, why);
    }
    if facts.datapath.xdp_sockets == Some(false) {
        return (ReadinessState::Fallback, "the kernel has no AF_XDP: udp");
    }
    if facts.system.kernel_version().is_some_and(|kernel| kernel < AF_XDP_SINCE) {
        return (ReadinessState::Fallback, "the kernel is older than 5.11: udp");
    }
    let Some(xdp) = &link.xdp else {
        return (ReadinessState::Unknown, "the kernel does not report it (before 6.3): it is tried");
    };
    if xdp.program_attached == Some(true) {
        return (ReadinessState::Fallback, "an XDP program is attached already");
    }
    match (xdp.has("xsk-zerocopy"), xdp.has("basic")) {
        (true, _) => (ReadinessState::Ready, "zero-copy"),
        (false, true) => (ReadinessState::Fallback, "copy mode"),
        (false, false) => (ReadinessState::Fallback, "the driver has no XDP: udp"),
    }
}

/// How packets reach their lane's queue, for links with several queues.
fn queue_choice(link: &Link) -> Option<Readiness> {
    let channels = link.channels?;
    if channels.combined.max(channels.rx) < 2 {
        return None;
    }
    let rules = link.features.get("rx-ntuple-filter");
    let hashes_ports = link.flow_hash.get("udp4").is_some_and(|fields| fields == "sdfn");
    let (state, why) = match (rules, hashes_ports) {
        (Some(rules), _) if rules.active => {
            (ReadinessState::Ready, "receive rules direct each lane's port to its queue")
        }
        (Some(rules), _) if !rules.fixed => {
            (ReadinessState::Fallback, "receive rules are off: ethtool -K LINK ntuple on, or the hash decides")
        }
        (_, true) => (ReadinessState::Fallback, "no receive rules: the hash over addresses and ports decides"),
        (None, _) => (ReadinessState::Unknown, "the offloads are not known"),
        (Some(_), false) => (ReadinessState::Fallback, "no receive rules, and the hash does not count ports"),
    };
    let name = format!("queues {}", link.name);
    Some(Readiness { why: why.replace("LINK", &link.name), name, state })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Site;

    fn examine(name: &str) -> Doctor {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/facts/{name}.json"));
        let facts = Facts::load(&path).unwrap();
        let audit = Audit::run(&facts, &Site::default(), None);
        Doctor::examine(&facts, &audit, &[("culvert".to_owned(), "1.2.3".to_owned())], &[], true, &|_| None)
    }

    #[test]
    fn the_worst_comes_first() {
        let doctor = examine("dtn-100g-ice");
        assert_eq!(doctor.verdict, Verdict::No);
        assert_eq!(doctor.todo[0].rule, "nic.pcie");
        let severities: Vec<Severity> = doctor.todo.iter().map(|todo| todo.severity).collect();
        assert!(severities.windows(2).all(|pair| pair[0] <= pair[1]));
        let text = doctor.to_text();
        assert!(text.starts_with("This host cannot run at 100 Gb/s yet") && text.contains("1.2.3"), "{text}");
        assert!(text.contains("and ") && text.contains(" more: culvert tune audit"));
        let doctor = examine("dtn-100g-mlx5");
        let buffers: Vec<&ToDo> = doctor.todo.iter().filter(|todo| todo.rule == "net.socket_buffers").collect();
        assert_eq!(buffers.len(), 1, "{buffers:?}");
        assert_eq!(buffers[0].scope, "net.core.rmem_max, net.core.wmem_max");
    }

    #[test]
    fn readiness_is_told_for_each_link() {
        let doctor = examine("dtn-100g-mlx5");
        let of = |name: &str| doctor.readiness.iter().find(|one| one.name == name).unwrap();
        assert_eq!(of("af_xdp enp129s0f0np0").state, ReadinessState::Ready);
        assert_eq!(of("udp enp129s0f0np0").state, ReadinessState::Ready);
        assert_eq!(of("hugepages").state, ReadinessState::Fallback);
        let queues = of("queues enp129s0f0np0");
        assert_eq!(queues.state, ReadinessState::Fallback);
        assert!(queues.why.contains("ethtool -K enp129s0f0np0 ntuple on"), "{}", queues.why);
        assert_eq!(
            examine("dtn-10g-ixgbe").readiness.iter().find(|one| one.name == "io_uring").unwrap().state,
            ReadinessState::Missing
        );
    }

    #[test]
    fn queues_are_found_by_rules_or_by_the_hash() {
        use culvert_host::facts::{Channels, Feature};
        let link = |rules: Option<(bool, bool)>, hash: &str| {
            let features = rules.map(|(active, fixed)| ("rx-ntuple-filter".to_owned(), Feature { active, fixed }));
            Link {
                name: "n0".to_owned(),
                channels: Some(Channels { combined: 4, ..Channels::default() }),
                features: features.into_iter().collect(),
                flow_hash: [("udp4".to_owned(), hash.to_owned())].into(),
                ..Link::default()
            }
        };
        for (rules, hash, state, words) in [
            (Some((true, false)), "sd", ReadinessState::Ready, "receive rules direct"),
            (Some((false, false)), "sdfn", ReadinessState::Fallback, "ethtool -K n0 ntuple on"),
            (Some((false, true)), "sdfn", ReadinessState::Fallback, "the hash over addresses and ports decides"),
            (Some((false, true)), "sd", ReadinessState::Fallback, "does not count ports"),
            (None, "sd", ReadinessState::Unknown, "not known"),
        ] {
            let told = queue_choice(&link(rules, hash)).unwrap();
            assert!(told.state == state && told.why.contains(words) && told.name == "queues n0", "{rules:?} {told:?}");
        }
        let one = Channels { combined: 1, ..Channels::default() };
        assert_eq!(queue_choice(&Link { channels: Some(one), ..link(None, "sdfn") }), None);
        assert_eq!(queue_choice(&Link::default()), None);
    }

    #[test]
    fn what_was_probed_beats_what_facts_tell() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/facts/dtn-100g-mlx5.json");
        let facts = Facts::load(&path).unwrap();
        let audit = Audit::run(&facts, &Site::default(), None);
        let state = ReadinessState::Missing;
        let probed = Readiness { name: "io_uring".to_owned(), state, why: "forbidden by a filter".to_owned() };
        let doctor = Doctor::examine(&facts, &audit, &[], std::slice::from_ref(&probed), false, &|_| None);
        let named =
            |name: &str| -> Vec<&Readiness> { doctor.readiness.iter().filter(|one| one.name == name).collect() };
        assert_eq!(named("io_uring"), [&probed]);
        let [af_xdp] = named("af_xdp enp129s0f0np0")[..] else { panic!("{:?}", doctor.readiness) };
        assert_eq!(af_xdp.state, ReadinessState::Fallback);
        assert!(af_xdp.why.contains("built without"), "{}", af_xdp.why);
    }

    #[test]
    fn a_probe_that_fails_decides() {
        let facts = Facts::default();
        let audit = Audit::run(&facts, &Site::default(), None);
        let missing =
            Readiness { name: "udp".to_owned(), state: ReadinessState::Missing, why: "no sockets".to_owned() };
        assert_eq!(Doctor::examine(&facts, &audit, &[], &[missing], true, &|_| None).verdict, Verdict::No);
        assert_eq!(Doctor::examine(&facts, &audit, &[], &[], true, &|_| None).verdict, Verdict::Unknown);
    }
}
