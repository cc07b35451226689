//! Memory: hugepages for packet buffers, the page cache, reserves.

use culvert_host::facts::{Facts, HugepagePool};
use culvert_host::setting::Setting;
use culvert_protocol::counted::{agree, counted, grouped};

use super::rule::{Effect, Rule, Source};
use super::support::{Compare, WantedSysctl, bytes, culvert, kernel, tuned};
use crate::finding::{Finding, Severity};
use crate::targets::Targets;

/// The hugepage size of every x86 and most ARM hosts.
const HUGEPAGE_BYTES: u64 = 2 << 20;
/// The upper limit of memory kept free for interrupts, in KiB.
const MIN_FREE_MAX_KIB: u64 = 4 << 20;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "memory.hugepages",
        title: "hugepages for packet buffers",
        recommends: "2 MiB pages for 64 MiB per lane, on the NIC's node",
        reason: "buffers in small pages miss the TLB on nearly every packet; they work, but more slowly",
        applies_when: "100G and above; below that, small pages suffice",
        conflicts_with: &["other users of the pool"],
        effect: Effect::Small,
        sources: &[kernel("admin-guide/mm/hugetlbpage"), culvert("choosing values")],
        on_request: false,
        check: hugepages,
    },
    Rule {
        id: "memory.transparent_hugepages",
        title: "transparent hugepages",
        recommends: "madvise",
        reason: "programs that benefit ask for them; 'always' stalls others while pages are assembled",
        applies_when: "the kernel has them",
        conflicts_with: &["tuned throughput-performance and hpc-compute set always"],
        effect: Effect::Small,
        sources: &[kernel("admin-guide/mm/transhuge"), tuned("hpc-compute")],
        on_request: false,
        check: transparent_hugepages,
    },
    Rule {
        id: "memory.min_free",
        title: "memory kept free for interrupts",
        recommends: "vm.min_free_kbytes: 1 % of the memory, at most 4 GiB",
        reason: "a NIC allocates memory in interrupts, where nothing can be freed first, and with \
            jumbo frames in larger pieces",
        applies_when: "100G and above",
        conflicts_with: &[],
        effect: Effect::Small,
        sources: &[tuned("hpc-compute"), kernel("admin-guide/sysctl/vm")],
        on_request: false,
        check: min_free,
    },
    Rule {
        id: "memory.swappiness",
        title: "swapping",
        recommends: "vm.swappiness: 10",
        reason: "a large page cache must not push programs out",
        applies_when: "always",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[tuned("throughput-performance")],
        on_request: false,
        check: swappiness,
    },
    Rule {
        id: "memory.dirty",
        title: "unwritten data in memory",
        recommends: "vm.dirty_background_bytes and dirty_bytes: 5 and 15 seconds of what the storage writes",
        reason: "percentages of a large memory let tens of gigabytes pile up, and writers stall for seconds when they are flushed",
        applies_when: "storage_bytes_per_second in the site file; Culvert itself writes past the page cache",
        conflicts_with: &["tuned throughput-performance sets 10 and 40 %"],
        effect: Effect::Small,
        sources: &[kernel("admin-guide/sysctl/vm"), culvert("choosing values")],
        on_request: false,
        check: dirty,
    },
    Rule {
        id: "memory.zone_reclaim",
        title: "reclaiming before going to the other node",
        recommends: "vm.zone_reclaim_mode: 0",
        reason: "the page cache of one node would be dropped while the other has memory",
        applies_when: "several memory nodes",
        conflicts_with: &["tuned hpc-compute sets 1"],
        effect: Effect::Small,
        sources: &[
            kernel("admin-guide/sysctl/vm"),
            Source { document: "tuned 2.28, profiles", section: "hpc-compute (the opposite)" },
        ],
        on_request: false,
        check: zone_reclaim,
    },
];

fn small_pages(pools: &[HugepagePool]) -> Option<&HugepagePool> {
    pools.iter().find(|pool| pool.page_bytes == HUGEPAGE_BYTES)
}

fn hugepages(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    if !targets.is_at_least(100) {
        return vec![Finding::not_applicable("", "below 100G small pages suffice")];
    }
    let need = targets.umem_bytes.div_ceil(HUGEPAGE_BYTES);
    let node = targets.links(facts).find_map(|link| facts.node(link.numa_node?));
    let pools = node.map_or(&facts.memory.hugepages, |node| &node.hugepages);
    let Some(pool) = small_pages(pools) else {
        return vec![Finding::unknown("", "the kernel shows no pool of 2 MiB pages")];
    };
    let place = node.map_or("the host".to_owned(), |node| format!("node {}", node.id));
    let current = format!("{} of 2 MiB on {place}, {} free", counted(pool.total, "page"), grouped(pool.free));
    if pool.total >= need {
        return vec![Finding::ok("", current)];
    }
    let why = {
        let lanes = counted(targets.lanes, "lane");
        format!("{lanes} {} {} of packet buffers", agree(targets.lanes, "uses", "use"), bytes(targets.umem_bytes))
    };
    let path = node.map_or("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages".to_owned(), |node| {
        format!("/sys/devices/system/node/node{}/hugepages/hugepages-2048kB/nr_hugepages", node.id)
    });
    let finding =
        Finding::differs("", Severity::Warning, current, format!("{} on {place}", counted(need, "page")), why);
    vec![finding.change(Setting::kernel_file(path), need.to_string())]
}

fn transparent_hugepages(facts: &Facts, _: &Targets) -> Vec<Finding> {
    match facts.memory.transparent_hugepages.as_deref() {
        None => vec![Finding::not_applicable("", "the kernel has none")],
        Some("always") => {
            let why = "programs that did not ask for them are stalled while pages are assembled";
            let setting = Setting::kernel_file("/sys/kernel/mm/transparent_hugepage/enabled");
            vec![Finding::differs("", Severity::Info, "always", "madvise", why).change(setting, "madvise")]
        }
        Some(mode) => vec![Finding::ok("", mode)],
    }
}

fn min_free(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let key = "vm.min_free_kbytes";
    if !targets.is_at_least(100) || facts.memory.total_bytes == 0 {
        return vec![Finding::not_applicable(key, "below 100G")];
    }
    // Rounded down to a power of two, so that the same host always gets the same number.
    let wanted = (facts.memory.total_bytes / 1024 / 100).clamp(1, MIN_FREE_MAX_KIB);
    let wanted = (1_u64 << wanted.ilog2()).to_string();
    let why = "the NIC finds no memory in a burst and drops".to_owned();
    vec![WantedSysctl { key, wanted, compare: Compare::AtLeast, severity: Severity::Info, why }.check(facts, targets)]
}

fn swappiness(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let why = "programs are swapped out in favor of the page cache".to_owned();
    let (key, wanted) = ("vm.swappiness", "10".to_owned());
    vec![WantedSysctl { key, wanted, compare: Compare::AtMost, severity: Severity::Info, why }.check(facts, targets)]
}

/// The threshold of unwritten data in bytes.
fn dirty_bytes(facts: &Facts, name: &str) -> Option<u64> {
    let number = |suffix: &str| facts.sysctl_number(&format!("vm.{name}_{suffix}"));
    match number("bytes") {
        Some(set) if set > 0 => u64::try_from(set).ok(),
        _ => Some(facts.memory.total_bytes / 100 * u64::try_from(number("ratio")?).ok()?),
    }
}

fn dirty(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let Some(rate) = targets.site.storage_bytes_per_second else {
        return vec![Finding::not_applicable("", "storage_bytes_per_second is not in the site file")];
    };
    [("dirty_background", true, rate * 5), ("dirty", false, rate * 15)]
        .into_iter()
        .map(|(name, background, most)| {
            let scope = format!("vm.{name}");
            let Some(now) = dirty_bytes(facts, name) else {
                return Finding::unknown(&scope, "the sysctls could not be read");
            };
            if now <= most {
                return Finding::ok(&scope, bytes(now));
            }
            let why = format!("flushing {} takes {:.0} s", bytes(now), now as f64 / rate as f64);
            Finding::differs(&scope, Severity::Info, bytes(now), bytes(most), why)
                .change(Setting::DirtyLimit { background }, format!("bytes {most}"))
        })
        .collect()
}

fn zone_reclaim(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let key = "vm.zone_reclaim_mode";
    if facts.numa.len() < 2 {
        return vec![Finding::not_applicable(key, "there is one memory node")];
    }
    let why = "the page cache of one node is dropped while the other has memory".to_owned();
    let wanted = "0".to_owned();
    vec![WantedSysctl { key, wanted, compare: Compare::Equal, severity: Severity::Warning, why }.check(facts, targets)]
}
