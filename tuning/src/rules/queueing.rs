//! Queueing disciplines and pacing.

use culvert_host::facts::{Facts, Link};
use culvert_host::netlink::{QdiscEntry, QdiscTree};
use culvert_host::setting::Setting;

use super::rule::{Effect, Rule};
use super::support::{Compare, WantedSysctl, culvert, each_link, fasterdata, kernel};
use crate::finding::{Finding, Severity};
use crate::site::Pacing;
use crate::targets::{Targets, gigabits};

/// The handle of the mq that a link with several queues gets.
const MQ_HANDLE: &str = "c001:";
/// Roots that may be replaced because they neither pace nor shape. An admin chose any other.
const REPLACEABLE: [&str; 5] = ["pfifo_fast", "fq_codel", "fq", "mq", "pfifo"];
/// The largest rate that fq's attribute can express: 32 bits of bytes per second.
const FQ_RATE_MAX_BITS_PER_SECOND: u64 = 8 * (u32::MAX as u64 - 1);

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "net.default_qdisc",
        title: "default queueing discipline",
        recommends: "default_qdisc: fq",
        reason: "fq paces each flow at the rate its socket asks for; this applies to links that come up later",
        applies_when: "the kernel has fq",
        conflicts_with: &["systemd's 50-default.conf sets fq_codel"],
        effect: Effect::Medium,
        sources: &[fasterdata("Host Tuning, Linux; Packet Pacing")],
        on_request: false,
        check: default_qdisc,
    },
    Rule {
        id: "nic.qdisc",
        title: "queueing discipline of links",
        recommends: "fq; under mq where the link has several queues",
        reason: "a burst at line rate overruns shallow buffers on the path; pacing gains a factor \
            of 2 to 4 on paths of 50 to 80 ms",
        applies_when: "the kernel has fq and the link's root was not attached on purpose",
        conflicts_with: &[
            "shaping by htb or tbf, which is left alone",
            "tuned network-throughput does not set fq, though OSG's text says so",
        ],
        effect: Effect::Large,
        sources: &[fasterdata("Packet Pacing"), kernel("networking/scaling")],
        on_request: false,
        check: link_qdisc,
    },
    Rule {
        id: "nic.pacing",
        title: "pacing below the rate of the link",
        recommends: "80 to 90 % of the link in total: by the programs, as Culvert does, or by fq's \
            maxrate for every flow",
        reason: "a host that sends faster than the slowest part of the path loses packets there; \
            the rest is for other traffic",
        applies_when: "pacing = \"qdisc\" in the site file sets fq's maxrate to 85 % of the link divided by the streams",
        conflicts_with: &["it applies to all traffic of the host"],
        effect: Effect::Large,
        sources: &[fasterdata("Packet Pacing"), culvert("choosing values")],
        on_request: false,
        check: pacing,
    },
];

fn fq_is_absent(facts: &Facts) -> bool {
    facts.datapath.kernel_features.get("NET_SCH_FQ").is_some_and(|state| state == "absent")
}

fn default_qdisc(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let key = "net.core.default_qdisc";
    if fq_is_absent(facts) {
        let finding = Finding::differs(
            key,
            Severity::Info,
            facts.sysctl(key).unwrap_or("unknown"),
            "fq",
            "this kernel has no fq (CONFIG_NET_SCH_FQ); TCP then paces with its own timers, which cost CPU",
        );
        return vec![finding.step("install the kernel's extra modules, or a kernel with sch_fq")];
    }
    let why = "fq_codel and pfifo_fast do not pace; this applies to links that come up later".to_owned();
    let wanted = "fq".to_owned();
    vec![WantedSysctl { key, wanted, compare: Compare::Equal, severity: Severity::Warning, why }.check(facts, targets)]
}

/// Whether the link's tree paces every flow: fq at the root, or below each queue of mq.
fn paces(link: &Link) -> bool {
    match link.root_qdisc().map(|root| root.kind.as_str()) {
        Some("fq") => true,
        Some("mq") => {
            let mut leaves = link.qdiscs.iter().filter(|qdisc| qdisc.parent != "root").peekable();
            leaves.peek().is_some() && leaves.all(|leaf| leaf.kind == "fq")
        }
        _ => false,
    }
}

/// The rate to which fq limits every flow of the link, if it does.
fn flow_rate(link: &Link) -> Option<u64> {
    link.qdiscs.iter().filter(|qdisc| qdisc.kind == "fq").filter_map(|qdisc| qdisc.max_rate_bits_per_second).min()
}

/// The number of transmit queues after other rules have changed the link's channels.
fn queues(link: &Link, targets: &Targets, facts: &Facts) -> u32 {
    let now = link.channels.map_or(link.tx_queues.unwrap_or(1), |channels| channels.tx + channels.combined);
    let wanted = super::links::wanted_channels(facts, targets, link);
    now.min(wanted.unwrap_or(now)).max(1)
}

fn wanted_tree(link: &Link, targets: &Targets, facts: &Facts) -> QdiscTree {
    let rate = targets.qdisc_rate_bits_per_second(link).map(|rate| rate.min(FQ_RATE_MAX_BITS_PER_SECOND));
    let queues = queues(link, targets, facts);
    if queues == 1 {
        return QdiscTree(vec![QdiscEntry::fq("root", rate)]);
    }
    let root = QdiscEntry {
        kind: "mq".to_owned(),
        parent: "root".to_owned(),
        handle: MQ_HANDLE.to_owned(),
        options: String::new(),
    };
    let leaves = (1..=queues).map(|queue| QdiscEntry::fq(&format!("{MQ_HANDLE}{queue:x}"), rate));
    QdiscTree(std::iter::once(root).chain(leaves).collect())
}

fn describe(link: &Link) -> String {
    let Some(root) = link.root_qdisc() else { return "none".to_owned() };
    let mut leaves: Vec<&str> =
        link.qdiscs.iter().filter(|qdisc| qdisc.parent != "root").map(|qdisc| qdisc.kind.as_str()).collect();
    leaves.dedup();
    let below = if leaves.is_empty() { String::new() } else { format!(" with {}", leaves.join(", ")) };
    let rate = flow_rate(link).map(|rate| format!(", {} for each flow", gigabits(rate))).unwrap_or_default();
    format!("{}{below}{rate}", root.kind)
}

fn link_qdisc(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let current = describe(link);
        let wanted_rate = targets.qdisc_rate_bits_per_second(link).map(|rate| rate.min(FQ_RATE_MAX_BITS_PER_SECOND));
        // The attribute has whole bytes per second.
        let same_rate = wanted_rate.map(|rate| rate / 8) == flow_rate(link).map(|rate| rate / 8);
        if paces(link) && (targets.site.pacing == Pacing::Sockets || same_rate) {
            return Finding::ok(&link.name, current);
        }
        if fq_is_absent(facts) {
            return Finding::not_applicable(&link.name, "this kernel has no fq");
        }
        let Some(root) = link.root_qdisc() else {
            return Finding::not_applicable(&link.name, "the link has no queue of its own");
        };
        if root.kind == "noqueue" {
            return Finding::not_applicable(&link.name, "the link has no queue of its own");
        }
        let why = "bursts that leave the link are lost in the shallow buffers behind it";
        if !REPLACEABLE.contains(&root.kind.as_str()) {
            return Finding::conflict(
                &link.name,
                Severity::Warning,
                current,
                "fq",
                format!("{why}; {} was attached on purpose and is left alone", root.kind),
            )
            .step(format!("if it is not needed: tc qdisc del dev {} root", link.name));
        }
        let tree = wanted_tree(link, targets, facts);
        let recommended = match (tree.0.len(), wanted_rate) {
            (1, None) => "fq".to_owned(),
            (1, Some(rate)) => format!("fq, {} for each flow", gigabits(rate)),
            (_, None) => "mq with fq".to_owned(),
            (_, Some(rate)) => format!("mq with fq, {} for each flow", gigabits(rate)),
        };
        let value = serde_json::to_string(&tree).expect("a tree has a JSON form");
        Finding::differs(&link.name, Severity::High, current, recommended, why)
            .change(Setting::Qdisc { link: link.name.clone() }, value)
    })
}

fn pacing(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let Some(speed) = link.speed_bits_per_second else {
            return Finding::unknown(&link.name, "the link does not report its speed");
        };
        let each = targets.paced_rate_bits_per_second(speed);
        match (targets.site.pacing, flow_rate(link)) {
            (Pacing::Qdisc, _) => {
                Finding::ok(&link.name, format!("by fq, see nic.qdisc: {} for each flow", gigabits(each)))
            }
            (Pacing::Sockets, None) => Finding::ok(&link.name, "by the programs").step(format!(
                "programs that do not pace: iperf3 --fq-rate {each}, or pacing = \"qdisc\" in the site file"
            )),
            (Pacing::Sockets, Some(rate)) => Finding::conflict(
                &link.name,
                Severity::Warning,
                format!("fq limits every flow to {}", gigabits(rate)),
                "no limit by fq, or pacing = \"qdisc\" in the site file",
                "Culvert's flows pace themselves and would be limited to this rate too",
            ),
        }
    })
}
