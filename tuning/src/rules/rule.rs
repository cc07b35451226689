//! What a rule is.

use crate::facts::Facts;
use crate::finding::Finding;
use crate::targets::Targets;

/// How much following a rule is worth where it applies, by its sources; measuring
/// (`culvert tune measure`) beats it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// A multiple of the speed.
    Large,
    /// Tens of percent.
    Medium,
    /// A few percent, or steadiness.
    Small,
    /// Safety, correctness or knowledge; no speed by itself.
    None,
}

impl Effect {
    /// The word for it.
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
    /// What it is about, in a few words.
    pub title: &'static str,
    /// What it recommends.
    pub recommends: &'static str,
    /// Why.
    pub reason: &'static str,
    /// When it applies.
    pub applies_when: &'static str,
    /// What works against it.
    pub conflicts_with: &'static [&'static str],
    /// How much it is worth.
    pub effect: Effect,
    /// Where it comes from.
    pub sources: &'static [Source],
    /// Whether `apply` skips it unless it is requested by name.
    pub on_request: bool,
    /// Looks at a host.
    pub(crate) check: fn(&Facts, &Targets) -> Vec<Finding>,
}

impl Rule {
    /// What the rule says of a host.
    #[must_use]
    pub fn check(&self, facts: &Facts, targets: &Targets) -> Vec<Finding> {
        let mut findings = (self.check)(facts, targets);
        for finding in &mut findings {
            self.id.clone_into(&mut finding.rule);
        }
        findings
    }
}
