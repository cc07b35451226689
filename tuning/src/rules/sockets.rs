//! Socket buffers and the queue in front of the protocol layer.

use culvert_host::facts::Facts;

use super::rule::{Effect, Rule, Source};
use super::support::{Compare, WantedSysctl, bytes, culvert, fasterdata, kernel};
use crate::finding::{Finding, Severity};
use crate::profile::ProfileName;
use crate::targets::{Targets, gigabits};

/// A `rmem_default` or `wmem_default` above this is far above the kernel's own, so something raised
/// it.
const SANE_DEFAULT_BYTES: i64 = 4 << 20;
/// More drops than one in a million packets are no accident.
const DROPS_PER_PACKET: f64 = 1e-6;
/// The budget is too small if more polling rounds than one per thousand packets end with work left.
const SQUEEZES_PER_PACKET: f64 = 1e-3;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "net.socket_buffers",
        title: "largest socket buffers",
        recommends: "rmem_max, wmem_max: 64 MiB (10G to 100 ms), 128 MiB (10G to 200 ms, 40G), 2 GiB - 1 (100G); measurement 256 MiB, 512 MiB, 2 GiB - 1",
        reason: "a program cannot ask for a larger socket buffer than this, and a path needs its bandwidth times its round trip",
        applies_when: "always",
        conflicts_with: &["tuned network-throughput", "other files in sysctl.d"],
        effect: Effect::Large,
        sources: &[fasterdata("Host Tuning, Linux; 100G Tuning; Test/Measurement Host Tuning")],
        on_request: false,
        check: socket_buffers,
    },
    Rule {
        id: "net.buffer_defaults",
        title: "default socket buffers",
        recommends: "rmem_default, wmem_default: the kernel's (212992)",
        reason: "every UDP and raw socket may pin that much memory, asked for or not; only the maximum helps transfers",
        applies_when: "a default is above 4 MiB",
        conflicts_with: &["OSG fasterdata-tuning.sh, which sets rmem_max / 4"],
        effect: Effect::None,
        sources: &[culvert("defects of other tuners"), kernel("admin-guide/sysctl/net")],
        on_request: true,
        check: buffer_defaults,
    },
    Rule {
        id: "net.optmem_max",
        title: "memory for zero-copy bookkeeping",
        recommends: "optmem_max: at least 1048576",
        reason: "MSG_ZEROCOPY and io_uring's zero-copy send keep their bookkeeping there and fail \
            with ENOBUFS when it is full",
        applies_when: "100G and above",
        conflicts_with: &[],
        effect: Effect::Small,
        sources: &[fasterdata("100G Tuning")],
        on_request: false,
        check: optmem_max,
    },
    Rule {
        id: "net.backlog",
        title: "backlog queue of the CPUs",
        recommends: "netdev_max_backlog: 250000 (10G), 400000 (40G), 500000 (100G), 1000000 (400G) where packets were dropped",
        reason: "packets from another CPU or a virtual link wait there; a full queue drops them",
        applies_when: "column 2 of softnet_stat shows more than one drop in a million packets",
        conflicts_with: &[],
        effect: Effect::Medium,
        sources: &[
            Source { document: "OSG fasterdata-tuning.sh 1.3.10", section: "tables per speed" },
            kernel("networking/scaling"),
        ],
        on_request: false,
        check: backlog,
    },
    Rule {
        id: "net.budget",
        title: "packets for each polling round",
        recommends: "netdev_budget 600, netdev_budget_usecs 8000 where rounds end too early",
        reason: "a round that ends with packets left waits for the next one, while the ring fills",
        applies_when: "column 3 of softnet_stat shows more than one such round in a thousand packets",
        conflicts_with: &[],
        effect: Effect::Small,
        sources: &[kernel("admin-guide/sysctl/net")],
        on_request: false,
        check: budget,
    },
];

fn socket_buffers(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let why = format!(
        "{} at {} ms means {} in flight, and a stream cannot have more in flight than its buffer holds",
        gigabits(targets.rate_bits_per_second),
        targets.rtt_ms,
        bytes((targets.rate_bits_per_second as f64 / 8.0 * targets.rtt_ms / 1e3) as u64),
    );
    ["net.core.rmem_max", "net.core.wmem_max"]
        .into_iter()
        .map(|key| {
            let wanted = targets.socket_buffer_max_bytes.to_string();
            WantedSysctl { key, wanted, compare: Compare::AtLeast, severity: Severity::High, why: why.clone() }
                .check(facts, targets)
        })
        .collect()
}

fn buffer_defaults(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    ["net.core.rmem_default", "net.core.wmem_default"]
        .into_iter()
        .map(|key| {
            if facts.sysctl_number(key).is_some_and(|value| value <= SANE_DEFAULT_BYTES) {
                return Finding::ok(key, facts.sysctl(key).unwrap_or_default());
            }
            let why = "it was raised: every UDP socket of this host may pin that much memory".to_owned();
            let wanted = "212992".to_owned();
            WantedSysctl { key, wanted, compare: Compare::AtMost, severity: Severity::Info, why }.check(facts, targets)
        })
        .collect()
}

fn optmem_max(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    if !targets.is_at_least(100) {
        return vec![Finding::not_applicable("net.core.optmem_max", "below 100G")];
    }
    let why = "zero-copy sends fail when their bookkeeping does not fit".to_owned();
    let wanted = "1048576".to_owned();
    let key = "net.core.optmem_max";
    vec![
        WantedSysctl { key, wanted, compare: Compare::AtLeast, severity: Severity::Warning, why }.check(facts, targets),
    ]
}

fn share(part: Option<u64>, whole: Option<u64>) -> Option<f64> {
    let whole = whole.filter(|whole| *whole > 0)?;
    Some(part? as f64 / whole as f64)
}

fn backlog(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let key = "net.core.netdev_max_backlog";
    let Some(drops) = share(facts.softnet.dropped, facts.softnet.processed) else {
        return vec![Finding::unknown(key, "softnet_stat could not be read, or there were no packets yet")];
    };
    if drops <= DROPS_PER_PACKET {
        return vec![Finding::not_applicable(key, "no packet was dropped there")];
    }
    let wanted = match targets.profile {
        ProfileName::Dtn10g | ProfileName::Measurement => "250000",
        ProfileName::Dtn40g => "400000",
        ProfileName::Dtn100g => "500000",
        ProfileName::Dtn400g => "1000000",
    };
    let why = format!("{:.4} % of the packets were dropped because a CPU's queue was full", drops * 100.0);
    let wanted = wanted.to_owned();
    vec![WantedSysctl { key, wanted, compare: Compare::AtLeast, severity: Severity::High, why }.check(facts, targets)]
}

fn budget(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let Some(squeezes) = share(facts.softnet.time_squeeze, facts.softnet.processed) else {
        return vec![Finding::unknown(
            "net.core.netdev_budget",
            "softnet_stat could not be read, or there were no packets yet",
        )];
    };
    if squeezes <= SQUEEZES_PER_PACKET {
        return vec![Finding::not_applicable("net.core.netdev_budget", "polling rounds finish their work")];
    }
    let why = format!("{:.2} polling rounds in a thousand packets ended with work left", squeezes * 1e3);
    [("net.core.netdev_budget", "600"), ("net.core.netdev_budget_usecs", "8000")]
        .into_iter()
        .map(|(key, wanted)| {
            let (wanted, why) = (wanted.to_owned(), why.clone());
            WantedSysctl { key, wanted, compare: Compare::AtLeast, severity: Severity::Warning, why }
                .check(facts, targets)
        })
        .collect()
}
