//! The assignment of queues to cores: interrupts, receive side scaling, steering.

use culvert_host::collect::queue_of_name;
use culvert_host::cpu_set::CpuSet;
use culvert_host::facts::{Facts, Irq, Link};
use culvert_host::setting::Setting;
use culvert_protocol::counted::{agree, counted};

use super::rule::{Effect, Rule};
use super::support::{culvert, each_link, fasterdata, kernel};
use crate::finding::{Finding, Severity};
use crate::targets::{Targets, local_cpus, physical_cores};

/// Both addresses and both ports, in ethtool's letters.
const FOUR_TUPLE: &str = "sdfn";

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "nic.irq_affinity",
        title: "interrupts on cores",
        recommends: "each queue's interrupt on its own core, on the NIC's node and not on a lane's core",
        reason: "the right socket is up to twice as fast as the wrong one",
        applies_when: "the host has more than one CPU and the driver lets interrupts be moved",
        conflicts_with: &["irqbalance rewrites them every ten seconds", "drivers lose them when the link is reset"],
        effect: Effect::Large,
        sources: &[fasterdata("100G Tuning, Interrupt Binding"), kernel("core-api/irq/irq-affinity")],
        on_request: false,
        check: irq_affinity,
    },
    Rule {
        id: "nic.rss_spread",
        title: "hash buckets over queues",
        recommends: "every receive queue has its share of the buckets",
        reason: "a queue without buckets is idle, one with too many is a bottleneck",
        applies_when: "several receive queues and no XDP program that holds some of them",
        conflicts_with: &[],
        effect: Effect::Medium,
        sources: &[kernel("networking/scaling, RSS")],
        on_request: false,
        check: rss_spread,
    },
    Rule {
        id: "nic.flow_hash",
        title: "hash of UDP flows",
        recommends: "udp4, udp6: addresses and ports (sdfn)",
        reason: "many drivers hash UDP by the addresses only: all flows between two hosts then land in one queue, on one core",
        applies_when: "several receive queues and a driver that reports its hash",
        conflicts_with: &["fragmented UDP, which Culvert never sends"],
        effect: Effect::Large,
        sources: &[kernel("networking/scaling, RSS; ethtool rx-flow-hash"), culvert("flows and queues")],
        on_request: false,
        check: flow_hash,
    },
    Rule {
        id: "nic.rps",
        title: "receive packet steering",
        recommends: "rps_cpus empty where RSS has several queues",
        reason: "spreading again in software costs an interrupt to another core for every train",
        applies_when: "several receive queues",
        conflicts_with: &[],
        effect: Effect::Small,
        sources: &[kernel("networking/scaling, RPS: redundant with RSS")],
        on_request: false,
        check: rps,
    },
    Rule {
        id: "nic.xps",
        title: "transmit packet steering",
        recommends: "each transmit queue serves the core that its interrupt runs on",
        reason: "cores that share a queue wait for its lock",
        applies_when: "several transmit queues whose steering is empty",
        conflicts_with: &["drivers that set it by themselves (ixgbe, i40e, mlx5) are left alone"],
        effect: Effect::Small,
        sources: &[kernel("networking/scaling, XPS")],
        on_request: false,
        check: xps,
    },
];

/// The cores for the link's interrupts: physical cores of its node, without those of the lanes if
/// enough others remain.
fn interrupt_cores(facts: &Facts, targets: &Targets, link: &Link) -> CpuSet {
    let near = physical_cores(facts, &local_cpus(facts, link));
    let lanes = targets.site.lane_cores.clone().unwrap_or_default();
    let isolated = near.difference(&facts.cpu.isolated);
    let free = if isolated.is_empty() { near.difference(&lanes) } else { isolated.difference(&lanes) };
    if free.is_empty() { near } else { free }
}

/// The core for each interrupt: queues are assigned to cores round-robin. Receive and transmit
/// interrupts of the same queue share a core.
fn placement<'a>(irqs: &[&'a Irq], cores: &CpuSet) -> Vec<(&'a Irq, u32)> {
    let cores: Vec<u32> = cores.iter().collect();
    let places = irqs.iter().enumerate().map(|(at, irq)| {
        let queue = queue_of_name(&irq.vector).map_or(at, |queue| queue as usize);
        (*irq, cores[queue % cores.len()])
    });
    places.collect()
}

fn irq_affinity(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        // Interrupts of queues that nic.channels removes stay where they are; the next audit covers
        // new ones.
        let queues = super::links::wanted_channels(facts, targets, link).unwrap_or(u32::MAX);
        let stays = |irq: &&Irq| queue_of_name(&irq.vector).is_none_or(|queue| queue < queues);
        let irqs: Vec<&Irq> = link.queue_irqs().filter(stays).collect();
        let cores = interrupt_cores(facts, targets, link);
        if irqs.is_empty() {
            return Finding::not_applicable(&link.name, "the device has no interrupts of its own");
        }
        if facts.cpu.online.len() < 2 || cores.is_empty() {
            return Finding::not_applicable(&link.name, "there is one CPU");
        }
        let near = local_cpus(facts, link);
        let lanes = targets.site.lane_cores.clone().unwrap_or_default();
        // With an affinity of several CPUs the kernel picks one of them, and may pick another
        // later.
        let loose = irqs.iter().filter(|irq| irq.affinity.len() != 1).count();
        let far = irqs.iter().filter(|irq| irq.affinity.intersection(&near).is_empty()).count();
        let on_lanes = irqs.iter().filter(|irq| irq.affinity.len() == 1 && irq.affinity.is_subset(&lanes)).count();
        let mut taken: Vec<(u32, Option<u32>)> = irqs
            .iter()
            .filter(|irq| irq.affinity.len() == 1)
            .filter_map(|irq| Some((irq.affinity.iter().next()?, queue_of_name(&irq.vector))))
            .collect();
        taken.sort_unstable();
        taken.dedup();
        let shared = irqs.len() <= cores.len() && taken.windows(2).any(|pair| pair[0].0 == pair[1].0);
        let current =
            format!("{}: {loose} without a core of their own, {far} on another node", counted(irqs.len(), "interrupt"));
        let on_lanes_avoidable = on_lanes > 0 && !cores.is_subset(&lanes);
        if loose == 0 && far == 0 && !on_lanes_avoidable && !shared {
            return Finding::ok(
                &link.name,
                format!("{}, each on a core of the NIC's node", counted(irqs.len(), "interrupt")),
            );
        }
        let why = match (far, on_lanes_avoidable, shared) {
            (1.., _, _) => "packets are processed on the wrong socket".to_owned(),
            (0, true, _) => {
                format!("{} {} on cores of lanes", counted(on_lanes, "interrupt"), agree(on_lanes, "runs", "run"))
            }
            (0, false, true) => "two queues share a core while others are free".to_owned(),
            _ => "the kernel may move them to any core in their sets".to_owned(),
        };
        let severity = if far > 0 { Severity::High } else { Severity::Warning };
        let recommended = format!("one core for each queue, of {cores}");
        let finding = Finding::differs(&link.name, severity, current, recommended, why);
        let moves = placement(&irqs, &cores);
        let moves = moves.into_iter().filter(|(irq, core)| irq.affinity != CpuSet::from_iter([*core]));
        moves.fold(finding, |finding, (irq, core)| {
            let setting = Setting::IrqAffinity { link: link.name.clone(), vector: irq.vector.clone() };
            finding.change(setting, core.to_string())
        })
    })
}

/// The receive queues of a link, if there are several.
fn several_rx_queues(link: &Link) -> Option<u32> {
    link.channels.map(|channels| channels.rx_total()).filter(|queues| *queues > 1)
}

fn rss_spread(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let Some(now) = several_rx_queues(link) else {
            return Finding::not_applicable(&link.name, "there is one receive queue");
        };
        let Some(rss) = link.rss.as_ref().filter(|rss| !rss.indirection.is_empty()) else {
            return Finding::not_applicable(&link.name, "the driver has no RSS table");
        };
        if link.xdp.as_ref().and_then(|xdp| xdp.program_attached) == Some(true) {
            return Finding::not_applicable(&link.name, "an XDP program holds some of the queues");
        }
        let mut buckets = vec![0_usize; now as usize];
        for queue in &rss.indirection {
            if let Some(count) = buckets.get_mut(*queue as usize) {
                *count += 1;
            }
        }
        let (least, most) = (buckets.iter().min().unwrap_or(&0), buckets.iter().max().unwrap_or(&0));
        let current = format!(
            "{}, {least} to {most} of {} each",
            counted(now, "queue"),
            counted(rss.indirection.len(), "bucket")
        );
        // Bucket counts differ by one if they do not divide evenly, and drivers round them to at
        // most twice the fair share.
        let fair = rss.indirection.len() / now as usize;
        if *least > 0 && *most <= (fair * 2).max(1) {
            return Finding::ok(&link.name, current);
        }
        if let Some(wanted) = super::links::wanted_channels(facts, targets, link) {
            let why =
                format!("nic.channels changes the queues to {wanted} first; the driver then spreads the buckets again");
            return Finding { current, ..Finding::unknown(&link.name, why) };
        }
        // The table of some NICs holds fewer queues than the NIC has (ixgbe: 16).
        let served = buckets.iter().take_while(|count| **count > 0).count();
        let evenly = buckets[..served].iter().all(|count| *count <= (rss.indirection.len() / served.max(1) * 2).max(1));
        if served > 1 && evenly && buckets[served..].iter().all(|count| *count == 0) {
            let why = "the others only send; the NIC's table may have no room for more";
            return Finding::differs(&link.name, Severity::Info, current, counted(served, "channel"), why)
                .step(format!("ethtool -L {} combined {served}, if a measurement favors it", link.name));
        }
        let table: Vec<String> = (0..rss.indirection.len()).map(|bucket| (bucket % now as usize).to_string()).collect();
        let why = if *least == 0 { "some queues get nothing" } else { "one queue gets more than twice its share" };
        Finding::differs(&link.name, Severity::Warning, current, "an even spread", why)
            .change(Setting::RssTable { link: link.name.clone() }, table.join(" "))
    })
}

fn flow_hash(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        if several_rx_queues(link).is_none() {
            return Finding::not_applicable(&link.name, "there is one receive queue");
        }
        let known: Vec<(&String, &String)> = link.flow_hash.iter().filter(|(_, fields)| !fields.is_empty()).collect();
        if known.is_empty() {
            return Finding::unknown(&link.name, "the driver does not report its hash");
        }
        let current = known.iter().map(|(flow, fields)| format!("{flow} {fields}")).collect::<Vec<_>>().join(", ");
        let lacking: Vec<&String> = known
            .iter()
            .filter(|(_, fields)| !FOUR_TUPLE.chars().all(|letter| fields.contains(letter)))
            .map(|(flow, _)| *flow)
            .collect();
        if lacking.is_empty() {
            return Finding::ok(&link.name, current);
        }
        let why = "all flows between two hosts land in one receive queue";
        let finding = Finding::differs(&link.name, Severity::High, current, "sdfn", why);
        lacking.into_iter().fold(finding, |finding, flow| {
            finding.change(Setting::FlowHash { link: link.name.clone(), flow: flow.clone() }, FOUR_TUPLE)
        })
    })
}

fn rps(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        if several_rx_queues(link).is_none() {
            return Finding::not_applicable(&link.name, "there is one receive queue");
        }
        let steered: Vec<&str> = link
            .queues
            .iter()
            .filter(|queue| queue.name.starts_with("rx-") && queue.cpus.as_ref().is_some_and(|cpus| !cpus.is_empty()))
            .map(|queue| queue.name.as_str())
            .collect();
        if steered.is_empty() {
            return Finding::ok(&link.name, "off");
        }
        let why = "RSS spreads the packets already";
        let finding = Finding::differs(
            &link.name,
            Severity::Info,
            format!("on for {}", counted(steered.len(), "queue")),
            "off",
            why,
        );
        steered.into_iter().fold(finding, |finding, queue| {
            finding.change(Setting::link_file(&link.name, format!("queues/{queue}/rps_cpus")), "0")
        })
    })
}

fn xps(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let queues: Vec<_> =
            link.queues.iter().filter(|queue| queue.name.starts_with("tx-") && queue.cpus.is_some()).collect();
        if queues.len() < 2 {
            return Finding::not_applicable(&link.name, "there is one transmit queue");
        }
        if queues.iter().any(|queue| queue.cpus.as_ref().is_some_and(|cpus| !cpus.is_empty())) {
            return Finding::ok(&link.name, "set");
        }
        if super::links::wanted_channels(facts, targets, link).is_some() {
            return Finding::unknown(&link.name, "nic.channels changes the queues first");
        }
        let cores: Vec<u32> = interrupt_cores(facts, targets, link).iter().collect();
        if cores.is_empty() || facts.cpu.online.len() < 2 {
            return Finding::not_applicable(&link.name, "there is one CPU");
        }
        let finding = Finding::differs(
            &link.name,
            Severity::Info,
            "empty",
            "one core for each queue",
            "cores share the queues' locks",
        );
        queues.iter().enumerate().fold(finding, |finding, (at, queue)| {
            let mask = CpuSet::from_iter([cores[at % cores.len()]]).to_mask();
            finding.change(Setting::link_file(&link.name, format!("queues/{}/xps_cpus", queue.name)), mask)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn irq(irq: u32, vector: &str, affinity: &str) -> Irq {
        let affinity: CpuSet = affinity.parse().unwrap();
        Irq { irq, vector: vector.to_owned(), queue: true, effective: affinity.clone(), affinity }
    }

    #[test]
    fn interrupts_of_one_queue_share_a_core_and_queues_do_not() {
        let irqs =
            [irq(30, "virtio2-input.0", "0-3"), irq(31, "virtio2-output.0", "0-3"), irq(32, "virtio2-input.1", "0-3")];
        let irqs: Vec<&Irq> = irqs.iter().collect();
        let cores = placement(&irqs, &"2-3".parse().unwrap());
        assert_eq!(cores.iter().map(|(_, core)| *core).collect::<Vec<_>>(), [2, 2, 3]);
    }

    #[test]
    fn what_is_placed_is_found_in_order() {
        let mut facts = Facts::default();
        facts.cpu.online = "0-3".parse().unwrap();
        facts.links.push(Link {
            name: "a".to_owned(),
            device: Some("x".to_owned()),
            up: true,
            irqs: (0..4).map(|at| irq(40 + at, &format!("a-TxRx-{at}"), "0-3")).collect(),
            ..Link::default()
        });
        let targets = Targets::choose(&facts, &crate::site::Site::default(), None);
        let finding = irq_affinity(&facts, &targets).remove(0);
        assert_eq!(finding.changes.len(), 4);
        for change in &finding.changes {
            let Setting::IrqAffinity { vector, .. } = &change.setting else { panic!("{change:?}") };
            let irq = facts.links[0].irqs.iter_mut().find(|irq| irq.vector == *vector).unwrap();
            irq.affinity = change.to.text().parse().unwrap();
        }
        assert!(!irq_affinity(&facts, &targets)[0].is_open());
    }
}
