//! Runs all rules over one facts document.

use culvert_host::facts::Facts;
use serde::Serialize;

use crate::finding::{Finding, Severity, Status};
use crate::profile::ProfileName;
use crate::rules;
use crate::site::Site;
use crate::targets::Targets;

/// The findings of all rules about a host.
#[derive(Clone, Debug, Serialize)]
pub struct Audit {
    /// The host's name.
    pub host: String,
    /// When its facts were collected, in seconds since 1970.
    pub collected_unix_s: u64,
    /// The profile and its values.
    pub targets: Targets,
    /// Open findings by severity.
    pub counts: FindingCounts,
    /// Every finding, in the order of the rules.
    pub findings: Vec<Finding>,
}

/// Open findings by severity, for the metric `culvert_tuning_findings{severity}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct FindingCounts {
    /// Full speed is out of reach.
    pub critical: u32,
    /// A large part is lost.
    pub high: u32,
    /// Some is lost.
    pub warning: u32,
    /// For information.
    pub info: u32,
    /// Checks whose facts could not be read.
    pub unknown: u32,
}

impl FindingCounts {
    fn of(findings: &[Finding]) -> Self {
        let mut counts = Self::default();
        for finding in findings {
            if finding.status == Status::Unknown {
                counts.unknown += 1;
            } else if finding.is_open() {
                match finding.severity {
                    Severity::Critical => counts.critical += 1,
                    Severity::High => counts.high += 1,
                    Severity::Warning => counts.warning += 1,
                    Severity::Info => counts.info += 1,
                }
            }
        }
        counts
    }

    /// Every value of the label `severity` with its count, zeros included, so that no series
    /// disappears.
    #[must_use]
    pub fn labels(&self) -> [(&'static str, u32); 5] {
        [
            ("critical", self.critical),
            ("high", self.high),
            ("warning", self.warning),
            ("info", self.info),
            ("unknown", self.unknown),
        ]
    }
}

impl Audit {
    /// Runs every rule. `named` takes precedence over the site file's profile, which takes
    /// precedence over the one that the facts suggest.
    #[must_use]
    pub fn run(facts: &Facts, site: &Site, named: Option<ProfileName>) -> Self {
        let targets = Targets::choose(facts, site, named);
        let skipped = |id: &str| site.skip.iter().any(|skip| skip == id);
        let findings: Vec<Finding> =
            rules::all().filter(|rule| !skipped(rule.id)).flat_map(|rule| rule.check(facts, &targets)).collect();
        Self {
            host: facts.system.host_name.clone(),
            collected_unix_s: facts.origin.collected_unix_s,
            counts: FindingCounts::of(&findings),
            targets,
            findings,
        }
    }

    /// The worst severity among the open findings.
    #[must_use]
    pub fn worst(&self) -> Option<Severity> {
        self.findings.iter().filter(|finding| finding.is_open()).map(|finding| finding.severity).min()
    }

    /// Open findings, the most effective first: by severity, then by the rule's expected effect.
    #[must_use]
    pub fn most_effective_first(&self) -> Vec<&Finding> {
        let mut open: Vec<&Finding> = self.findings.iter().filter(|finding| finding.is_open()).collect();
        open.sort_by_key(|finding| (finding.severity, rules::find(&finding.rule).map(|rule| rule.effect).ok()));
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unknown_is_counted_as_that() {
        let findings = [
            Finding::ok("", "x"),
            Finding::unknown("", "y"),
            Finding::differs("", Severity::High, "a", "b", "c"),
            Finding::conflict("", Severity::High, "a", "b", "c"),
            Finding::not_applicable("", "z"),
        ];
        let counts = FindingCounts::of(&findings);
        assert_eq!((counts.high, counts.unknown, counts.info), (2, 1, 0));
        assert_eq!(counts.labels().map(|(_, count)| count), [0, 2, 0, 0, 1]);
    }

    #[test]
    fn skipped_rules_are_silent() {
        let site = Site::from_toml("skip = [\"cpu.governor\"]", "x").unwrap();
        let audit = Audit::run(&Facts::default(), &site, None);
        assert!(audit.findings.iter().all(|finding| finding.rule != "cpu.governor"));
        assert!(audit.findings.iter().any(|finding| finding.rule == "cpu.c_states"));
        assert_eq!(audit.worst(), None);
    }
}
