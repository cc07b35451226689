//! The definition of a rule.

use culvert_host::facts::Facts;

use crate::finding::Finding;
use crate::targets::Targets;

/// The expected effect of following a rule, according to its sources. `culvert tune measure` gives
/// the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// A multiple of the speed.
    Large,
    /// Tens of percent.
    Medium,
    /// A few percent, or stability.
    Small,
    /// Safety, correctness or knowledge, but no speed.
    None,
}

impl Effect {
    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Large => "large",
            Self::Medium => "medium",
            Self::Small => "small",
            Self::None => "none",
        }
    }
}

/// Where a recommendation comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The document.
    pub document: &'static str,
    /// The section or page in it.
    pub section: &'static str,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// Its name: `area.thing`.
    pub id: &'static str,
    /// Its subject in a few words.
    pub title: &'static str,
    /// The recommendation.
    pub recommends: &'static str,
    /// The reason.
    pub reason: &'static str,
    /// When it applies.
    pub applies_when: &'static str,
    /// What contradicts it.
    pub conflicts_with: &'static [&'static str],
    /// The expected effect.
    pub effect: Effect,
    /// Where it comes from.
    pub sources: &'static [Source],
    /// Whether `apply` skips it unless it is requested by name.
    pub on_request: bool,
    /// Checks a host.
    pub(crate) check: fn(&Facts, &Targets) -> Vec<Finding>,
}

impl Rule {
    /// The rule's findings about a host.
    #[must_use]
    pub fn check(&self, facts: &Facts, targets: &Targets) -> Vec<Finding> {
        let mut findings = (self.check)(facts, targets);
        for finding in &mut findings {
            self.id.clone_into(&mut finding.rule);
        }
        findings
    }
}
