//! The result of a rule: one finding for each link, disk or other object that it checked.

use std::fmt;

use culvert_host::setting::{Risk, Setting, Value};
use serde::{Deserialize, Serialize};

/// The cost of a finding for this host. The names are the values of the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Full speed is out of reach, or transfers fail.
    Critical,
    /// A large part of the speed is lost.
    High,
    /// Some of the speed or its stability is lost.
    Warning,
    /// For information.
    Info,
}

impl Severity {
    /// All severities, the worst first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Warning, Self::Info];

    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::High => "high",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

impl std::str::FromStr for Severity {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|severity| severity.word() == word);
        known.ok_or_else(|| format!("unknown severity '{word}': write critical, high, warning or info"))
    }
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// The current value is the recommended one.
    Ok,
    /// Another value would be better.
    Differs,
    /// Something on this host counteracts the recommendation.
    Conflict,
    /// The fact is unknown, which never counts as ok.
    Unknown,
    /// The rule does not apply to this host.
    NotApplicable,
}

/// A setting that the rule would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The setting.
    pub setting: Setting,
    /// The recommended value.
    pub to: Value,
}

/// The outcome of a rule for one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The rule.
    pub rule: String,
    /// The checked object: a link, a disk, a mount point; empty for the host as a whole.
    pub scope: String,
    /// The outcome.
    pub status: Status,
    /// The cost; without meaning if the status is ok or not applicable.
    pub severity: Severity,
    /// The current value.
    pub current: String,
    /// The recommended value.
    pub recommended: String,
    /// The reason, with this host's numbers.
    pub why: String,
    /// What `apply` would change.
    pub changes: Vec<Change>,
    /// Steps for the admin: commands, boot parameters, firmware settings.
    pub steps: Vec<String>,
}

impl Finding {
    fn new(scope: &str, status: Status, severity: Severity) -> Self {
        Self {
            rule: String::new(),
            scope: scope.to_owned(),
            status,
            severity,
            current: String::new(),
            recommended: String::new(),
            why: String::new(),
            changes: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// A finding whose current value is the recommended one.
    #[must_use]
    pub fn ok(scope: &str, current: impl Into<String>) -> Self {
        Self { current: current.into(), ..Self::new(scope, Status::Ok, Severity::Info) }
    }

    /// A finding for which another value would be better.
    #[must_use]
    pub fn differs(
        scope: &str,
        severity: Severity,
        current: impl Into<String>,
        recommended: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self {
            current: current.into(),
            recommended: recommended.into(),
            why: why.into(),
            ..Self::new(scope, Status::Differs, severity)
        }
    }

    /// A finding that something counteracts the recommendation.
    #[must_use]
    pub fn conflict(
        scope: &str,
        severity: Severity,
        current: impl Into<String>,
        recommended: impl Into<String>,
        why: impl Into<String>,
    ) -> Self {
        Self { status: Status::Conflict, ..Self::differs(scope, severity, current, recommended, why) }
    }

    /// A finding that the fact is unknown.
    #[must_use]
    pub fn unknown(scope: &str, why: impl Into<String>) -> Self {
        Self { current: "unknown".to_owned(), why: why.into(), ..Self::new(scope, Status::Unknown, Severity::Info) }
    }

    /// A finding that the rule does not apply.
    #[must_use]
    pub fn not_applicable(scope: &str, why: impl Into<String>) -> Self {
        Self { why: why.into(), ..Self::new(scope, Status::NotApplicable, Severity::Info) }
    }

    /// Adds a change that `apply` would make.
    #[must_use]
    pub fn change(mut self, setting: Setting, to: impl Into<String>) -> Self {
        self.changes.push(Change { setting, to: Value::new(to) });
        self
    }

    /// Adds a step for the admin.
    #[must_use]
    pub fn step(mut self, step: impl Into<String>) -> Self {
        self.steps.push(step.into());
        self
    }

    /// Whether the finding calls for action.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self.status, Status::Differs | Status::Conflict)
    }

    /// The highest risk among its changes.
    #[must_use]
    pub fn risk(&self) -> Risk {
        self.changes.iter().map(|change| change.setting.risk()).max().unwrap_or_default()
    }
}
