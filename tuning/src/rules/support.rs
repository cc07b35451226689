//! Helpers that several rules share.

use culvert_host::facts::Facts;
use culvert_host::setting::Setting;

use super::rule::Source;
use crate::finding::{Finding, Severity};
use crate::targets::Targets;

/// fasterdata.es.net, the pages on host tuning.
pub(super) const fn fasterdata(section: &'static str) -> Source {
    Source { document: "fasterdata.es.net", section }
}

/// A page of the kernel's documentation.
pub(super) const fn kernel(section: &'static str) -> Source {
    Source { document: "Linux kernel documentation", section }
}

/// A profile of tuned, according to its source.
pub(super) const fn tuned(section: &'static str) -> Source {
    Source { document: "tuned 2.28, profiles", section }
}

/// This project's own measurements and studies of sources.
pub(super) const fn culvert(section: &'static str) -> Source {
    Source { document: "Culvert, docs/tuning.md", section }
}

/// How a sysctl is compared.
#[derive(Clone, Copy, Debug)]
pub(super) enum Compare {
    /// The value must equal this one.
    Equal,
    /// Every number must be at least this one; larger ones stay.
    AtLeast,
    /// The value must not exceed this one.
    AtMost,
}

/// A sysctl that should have a value.
pub(super) struct WantedSysctl<'a> {
    pub(super) key: &'a str,
    pub(super) wanted: String,
    pub(super) compare: Compare,
    pub(super) severity: Severity,
    pub(super) why: String,
}

impl WantedSysctl<'_> {
    /// Compares with the facts. The site file's value takes precedence over the recommendation.
    pub(super) fn check(&self, facts: &Facts, targets: &Targets) -> Finding {
        let (wanted, compare, why) = match targets.site.sysctl.get(self.key) {
            Some(site) => (site.clone(), Compare::Equal, "the site file asks for it".to_owned()),
            None => (self.wanted.clone(), self.compare, self.why.clone()),
        };
        let Some(current) = facts.sysctl(self.key) else {
            return self.absent(facts, &wanted);
        };
        let Some(better) = better_value(current, &wanted, compare) else {
            return Finding::ok(self.key, current);
        };
        Finding::differs(self.key, self.severity, current, &better, why).change(Setting::sysctl(self.key), better)
    }

    fn absent(&self, facts: &Facts, wanted: &str) -> Finding {
        if facts.system.initial_network_namespace == Some(false) && self.key.starts_with("net.") {
            let finding = Finding::unknown(self.key, "only the host's own network namespace has this key");
            return finding.step(format!("on the host: sysctl -w {}='{wanted}'", self.key));
        }
        Finding::not_applicable(self.key, "this kernel has no such key, or it could not be read")
    }
}

/// A size as text.
pub(super) fn bytes(size: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = size as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if value.fract() == 0.0 { format!("{value:.0} {}", UNITS[unit]) } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// One finding that no link exists to check.
pub(super) fn no_links() -> Vec<Finding> {
    vec![Finding::not_applicable("", "no link for transfers was found: name one in the site file under [links]")]
}

/// A finding for each link that carries transfers.
pub(super) fn each_link(
    facts: &Facts,
    targets: &Targets,
    check: impl Fn(&culvert_host::facts::Link) -> Finding,
) -> Vec<Finding> {
    let findings: Vec<Finding> = targets.links(facts).map(check).collect();
    if findings.is_empty() { no_links() } else { findings }
}

/// The value to write; `None` if the current one suffices.
fn better_value(current: &str, wanted: &str, compare: Compare) -> Option<String> {
    let numbers = |text: &str| text.split_whitespace().map(str::parse::<u64>).collect::<Result<Vec<_>, _>>().ok();
    let (Some(now), Some(goal)) = (numbers(current), numbers(wanted)) else {
        return (current != wanted).then(|| wanted.to_owned());
    };
    if now.len() != goal.len() {
        return Some(wanted.to_owned());
    }
    let pick = |(now, goal): (&u64, &u64)| match compare {
        Compare::Equal => *goal,
        Compare::AtLeast => *now.max(goal),
        Compare::AtMost => *now.min(goal),
    };
    let best: Vec<u64> = now.iter().zip(&goal).map(pick).collect();
    (best != now).then(|| best.iter().map(u64::to_string).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn larger_values_stay_where_more_is_fine() {
        let better = |now: &str, goal: &str, compare| better_value(now, goal, compare);
        assert_eq!(
            better("4096 131072 6291456", "4096 87380 33554432", Compare::AtLeast).as_deref(),
            Some("4096 131072 33554432")
        );
        assert_eq!(better("67108864", "33554432", Compare::AtLeast), None);
        assert_eq!(better("60", "10", Compare::AtMost).as_deref(), Some("10"));
        assert_eq!(better("1", "10", Compare::AtMost), None);
        assert_eq!(better("pfifo_fast", "fq", Compare::Equal).as_deref(), Some("fq"));
        assert_eq!(better("1", "1", Compare::Equal), None);
    }

    #[test]
    fn sizes_are_short() {
        assert_eq!(bytes(67_108_864), "64 MiB");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(2_147_483_647), "2.0 GiB");
    }
}
