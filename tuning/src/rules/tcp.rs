//! TCP, which other tools on the host and Culvert's control connection use.

use culvert_host::facts::{Facts, Link};
use culvert_protocol::counted::{agree, counted};

use super::rule::{Effect, Rule, Source};
use super::support::{Compare, WantedSysctl, bytes, culvert, fasterdata, kernel, tuned};
use crate::finding::{Finding, Severity};
use crate::targets::Targets;

/// The page size, the unit of `tcp_mem`.
const PAGE_BYTES: u64 = 4096;
/// Congestion controls that suit long fast paths.
const GOOD_CONTROLS: [&str; 4] = ["cubic", "bbr", "htcp", "bbr2"];

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "net.tcp_buffers",
        title: "TCP autotuning limits",
        recommends: "third number of tcp_rmem, tcp_wmem: 32 MiB (10G to 100 ms), 64 MiB (10G to 200 ms, 40G), 1 GiB (100G); measurement 128 MiB, 256 MiB, 1 GiB; never above memory / (4 streams)",
        reason: "autotuning stops there, so a stream gets no faster than that many bytes per round trip",
        applies_when: "always",
        conflicts_with: &[
            "tuned network-throughput caps them at 16 MiB: 1.34 Gb/s per stream at 100 ms",
            "other files in sysctl.d",
        ],
        effect: Effect::Large,
        sources: &[
            fasterdata("Host Tuning, Linux; 100G Tuning; Test/Measurement Host Tuning"),
            culvert("choosing values"),
        ],
        on_request: false,
        check: tcp_buffers,
    },
    Rule {
        id: "net.tcp_memory",
        title: "memory for all TCP buffers",
        recommends: "tcp_mem as scaled by the kernel, and large enough for the streams",
        reason: "the kernel scales it to the memory; where it is small, autotuning stops early under load",
        applies_when: "always",
        conflicts_with: &[],
        effect: Effect::Small,
        sources: &[fasterdata("Host Tuning, Linux: do not change tcp_mem"), kernel("networking/ip-sysctl")],
        on_request: false,
        check: tcp_memory,
    },
    Rule {
        id: "net.congestion_control",
        title: "congestion control",
        recommends: "cubic; at 100G and above bbr if a measurement favors it",
        reason: "Reno needs hours without loss to fill a long fast path",
        applies_when: "always",
        conflicts_with: &[],
        effect: Effect::Large,
        sources: &[
            fasterdata("Host Tuning, Linux; 100G Tuning"),
            Source { document: "RFC 9438", section: "CUBIC, section 1" },
        ],
        on_request: false,
        check: congestion_control,
    },
    Rule {
        id: "net.tcp_options",
        title: "TCP options for large windows",
        recommends: "tcp_window_scaling, tcp_timestamps, tcp_sack, tcp_moderate_rcvbuf: 1",
        reason: "without window scaling no window exceeds 64 KiB; without the others losses are repaired slowly and buffers do not grow",
        applies_when: "always",
        conflicts_with: &["old hardening guides that turn timestamps off"],
        effect: Effect::Large,
        sources: &[Source { document: "RFC 7323", section: "section 2" }, kernel("networking/ip-sysctl")],
        on_request: false,
        check: tcp_options,
    },
    Rule {
        id: "net.tcp_mtu_probing",
        title: "TCP black hole detection",
        recommends: "tcp_mtu_probing: 1",
        reason: "with jumbo frames, a router that silently drops large packets stops a connection; \
            probing finds a size that works",
        applies_when: "a link for transfers has an MTU above 1500",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[fasterdata("Host Tuning, Linux"), Source { document: "RFC 4821", section: "section 7" }],
        on_request: false,
        check: tcp_mtu_probing,
    },
    Rule {
        id: "net.tcp_metrics",
        title: "memory of old connections",
        recommends: "tcp_no_metrics_save: 1",
        reason: "a new connection inherits the slow start threshold of an earlier one with a loss",
        applies_when: "always",
        conflicts_with: &[],
        effect: Effect::Small,
        sources: &[fasterdata("Host Tuning, Linux")],
        on_request: false,
        check: tcp_metrics,
    },
    Rule {
        id: "net.tcp_slow_start_after_idle",
        title: "slow start after a pause",
        recommends: "tcp_slow_start_after_idle: 0",
        reason: "a disk that stalls for a moment costs a connection its whole window",
        applies_when: "always",
        conflicts_with: &[],
        effect: Effect::Small,
        sources: &[tuned("network-throughput, throughput-performance"), kernel("networking/ip-sysctl")],
        on_request: false,
        check: tcp_slow_start,
    },
    Rule {
        id: "net.multihomed_arp",
        title: "two links in one subnet",
        recommends: "conf.all.arp_ignore 1, conf.all.arp_announce 2",
        reason: "by default any link answers for any address of the host, so traffic arrives at the wrong NIC",
        applies_when: "two links for transfers have addresses in the same IPv4 subnet",
        conflicts_with: &[],
        effect: Effect::Medium,
        sources: &[
            Source { document: "perfSONAR toolkit", section: "configure_sysctl, multiple interfaces" },
            kernel("networking/ip-sysctl"),
        ],
        on_request: false,
        check: multihomed_arp,
    },
];

fn tcp_buffers(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let max = targets.tcp_buffer_max_bytes;
    let per_stream = |bytes: u64| bytes as f64 * 8.0 / (targets.rtt_ms / 1e3) / 1e9;
    let limit = if targets.limited_by_memory { "; this host's memory permits no more" } else { "" };
    let hundred = targets.is_at_least(100);
    let defaults = [
        ("net.ipv4.tcp_rmem", if hundred { "131072" } else { "87380" }),
        ("net.ipv4.tcp_wmem", if hundred { "16384" } else { "65536" }),
    ];
    defaults
        .into_iter()
        .map(|(key, default)| {
            let wanted = format!("4096 {default} {max}");
            // Only the maximum is compared: a larger start value is the admin's choice, and a
            // smaller one matters little.
            let current = facts.sysctl(key).unwrap_or_default();
            let wanted = keep_first_two(current, &wanted);
            let now = current.split_whitespace().nth(2).and_then(|last| last.parse::<u64>().ok()).unwrap_or(0);
            let why = format!(
                "one stream reaches {:.1} Gb/s at {} ms with {}, {:.1} Gb/s with {}{limit}",
                per_stream(now),
                targets.rtt_ms,
                bytes(now),
                per_stream(max),
                bytes(max)
            );
            WantedSysctl { key, wanted, compare: Compare::AtLeast, severity: Severity::High, why }.check(facts, targets)
        })
        .collect()
}

/// The wanted triple, but with the first two numbers of the current one if that is a triple.
fn keep_first_two(current: &str, wanted: &str) -> String {
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    match (words(current).as_slice(), words(wanted).as_slice()) {
        ([first, second, _], [_, _, last]) => format!("{first} {second} {last}"),
        _ => wanted.to_owned(),
    }
}

fn tcp_memory(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let key = "net.ipv4.tcp_mem";
    let most = facts.sysctl(key).and_then(|value| value.split_whitespace().nth(2)?.parse::<u64>().ok());
    let Some(most) = most else {
        return vec![Finding::not_applicable(key, "only the host's own network namespace has this key")];
    };
    let (have, need) = (most * PAGE_BYTES, u64::from(targets.streams) * targets.tcp_buffer_max_bytes);
    if have >= need {
        return vec![Finding::ok(key, bytes(have))];
    }
    let why = {
        let streams = counted(targets.streams, "stream");
        format!("{streams} with full buffers {} {}", agree(targets.streams, "needs", "need"), bytes(need))
    };
    let finding = Finding::differs(key, Severity::Info, bytes(have), bytes(need), why);
    vec![finding.step("more memory, or fewer or smaller streams; fasterdata advises against changing tcp_mem")]
}

fn congestion_control(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let key = "net.ipv4.tcp_congestion_control";
    let site = targets.site.sysctl.get(key);
    let current = facts.sysctl(key).unwrap_or_default();
    let good = site.map_or_else(|| GOOD_CONTROLS.contains(&current), |site| site == current);
    if good {
        return vec![Finding::ok(key, current)];
    }
    let wanted = site.map_or("cubic", String::as_str);
    let why = format!("{current} fills a long fast path slowly after each loss");
    let finding =
        WantedSysctl { key, wanted: wanted.to_owned(), compare: Compare::Equal, severity: Severity::High, why }
            .check(facts, targets);
    let option = format!("TCP_CONG_{}", wanted.to_uppercase());
    if facts.datapath.kernel_features.get(&option).is_some_and(|state| state == "absent") {
        let why = format!("this kernel has no {wanted}: install the package with its extra modules");
        return vec![Finding { changes: Vec::new(), why, ..finding }];
    }
    vec![finding]
}

fn tcp_options(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    ["tcp_window_scaling", "tcp_timestamps", "tcp_sack", "tcp_moderate_rcvbuf"]
        .into_iter()
        .map(|name| {
            let key = format!("net.ipv4.{name}");
            // For timestamps, 2 means the same as 1, without random offsets.
            if facts.sysctl_number(&key).is_some_and(|value| value >= 1) {
                return Finding::ok(&key, facts.sysctl(&key).unwrap_or_default());
            }
            let why = "it was turned off; large windows do not work without it".to_owned();
            let wanted = "1".to_owned();
            WantedSysctl { key: &key, wanted, compare: Compare::Equal, severity: Severity::Critical, why }
                .check(facts, targets)
        })
        .collect()
}

fn tcp_mtu_probing(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let key = "net.ipv4.tcp_mtu_probing";
    let jumbo = |link: &Link| {
        link.mtu_bytes > 1500
            || targets.site.links.get(&link.name).and_then(|site| site.mtu).is_some_and(|mtu| mtu > 1500)
    };
    if !targets.links(facts).any(jumbo) {
        return vec![Finding::not_applicable(key, "no link for transfers has jumbo frames")];
    }
    let why = "a black hole for large packets would stop connections instead of slowing them".to_owned();
    let wanted = "1".to_owned();
    vec![
        WantedSysctl { key, wanted, compare: Compare::AtLeast, severity: Severity::Warning, why }.check(facts, targets),
    ]
}

fn tcp_metrics(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let why = "a connection with a loss slows the next one to the same host".to_owned();
    let (key, wanted) = ("net.ipv4.tcp_no_metrics_save", "1".to_owned());
    vec![WantedSysctl { key, wanted, compare: Compare::Equal, severity: Severity::Warning, why }.check(facts, targets)]
}

fn tcp_slow_start(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let why = "a pause of one round trip costs the window".to_owned();
    let (key, wanted) = ("net.ipv4.tcp_slow_start_after_idle", "0".to_owned());
    vec![WantedSysctl { key, wanted, compare: Compare::Equal, severity: Severity::Warning, why }.check(facts, targets)]
}

/// The network of an IPv4 address with prefix length.
fn subnet(address: &str) -> Option<(u32, u32)> {
    let (address, length) = address.split_once('/')?;
    let address: std::net::Ipv4Addr = address.parse().ok()?;
    let length: u32 = length.parse().ok().filter(|length| (1..=32).contains(length))?;
    Some((u32::from(address) >> (32 - length), length))
}

fn multihomed_arp(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let networks: Vec<(&str, (u32, u32))> = targets
        .links(facts)
        .flat_map(|link| link.addresses.iter().filter_map(|address| Some((link.name.as_str(), subnet(address)?))))
        .collect();
    let pair = networks.iter().enumerate().find_map(|(at, (name, network))| {
        networks[at + 1..]
            .iter()
            .find(|(other, same)| same == network && other != name)
            .map(|(other, _)| (*name, *other))
    });
    let Some((first, second)) = pair else {
        return vec![Finding::not_applicable("", "no two links for transfers share a subnet")];
    };
    let why = format!("{first} and {second} are in one subnet: each answers for the other's address");
    [("net.ipv4.conf.all.arp_ignore", "1"), ("net.ipv4.conf.all.arp_announce", "2")]
        .into_iter()
        .map(|(key, wanted)| {
            let (wanted, why) = (wanted.to_owned(), why.clone());
            WantedSysctl { key, wanted, compare: Compare::AtLeast, severity: Severity::Warning, why }
                .check(facts, targets)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::Site;

    #[test]
    fn two_links_in_one_subnet_are_found() {
        let link = |name: &str, address: &str| Link {
            name: name.to_owned(),
            device: Some(name.to_owned()),
            up: true,
            addresses: vec![address.to_owned()],
            ..Link::default()
        };
        let mut facts =
            Facts { links: vec![link("a", "192.0.2.1/24"), link("b", "198.51.100.1/24")], ..Facts::default() };
        facts.sysctls.insert("net.ipv4.conf.all.arp_ignore".to_owned(), "0".to_owned());
        let targets = Targets::choose(&facts, &Site::default(), None);
        assert!(!multihomed_arp(&facts, &targets)[0].is_open());
        facts.links[1].addresses = vec!["192.0.2.2/24".to_owned()];
        assert!(multihomed_arp(&facts, &targets)[0].is_open());
    }
}
