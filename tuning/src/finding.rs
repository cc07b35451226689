//! What a rule says of a host: one finding for each thing that it looked at.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::setting::{Risk, Setting, Value};

/// How much a finding costs this host. The names are the values of the metric's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Full speed cannot be had, or transfers fail.
    Critical,
    /// A large part of the speed is lost.
    High,
    /// Some of the speed, or its steadiness, is lost.
    Warning,
    /// Good to know.
    Info,
}

impl Severity {
    /// All of them, the worst first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Warning, Self::Info];

    /// The word for it.
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

/// What came out of looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As it should be.
    Ok,
    /// Something else would be better.
    Differs,
    /// Something on this host works against the recommendation.
    Conflict,
    /// The fact is not known; never taken for good.
    Unknown,
    /// The rule says nothing of this host.
    NotApplicable,
}

/// A setting that the rule would change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// The setting.
    pub setting: Setting,
    /// The value to give it.
    pub to: Value,
}

/// One thing that a rule looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// The rule.
    pub rule: String,
    /// What was looked at: a link, a disk, a mount point; empty for the host as a whole.
    pub scope: String,
    /// What came out.
    pub status: Status,
    /// What it costs; of findings that are ok or not applicable it means nothing.
    pub severity: Severity,
    /// What is there.
    pub current: String,
    /// What would be better.
    pub recommended: String,
    /// Why, with the numbers of this host.
    pub why: String,
    /// What `apply` would change.
    pub changes: Vec<Change>,
    /// What only a person can do: commands, boot parameters, firmware settings.
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

    /// As it should be.
    #[must_use]
    pub fn ok(scope: &str, current: impl Into<String>) -> Self {
        Self { current: current.into(), ..Self::new(scope, Status::Ok, Severity::Info) }
    }

    /// Something else would be better.
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

    /// Something works against the recommendation.
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

    /// The fact is not known.
    #[must_use]
    pub fn unknown(scope: &str, why: impl Into<String>) -> Self {
        Self { current: "unknown".to_owned(), why: why.into(), ..Self::new(scope, Status::Unknown, Severity::Info) }
    }

    /// The rule says nothing here.
    #[must_use]
    pub fn not_applicable(scope: &str, why: impl Into<String>) -> Self {
        Self { why: why.into(), ..Self::new(scope, Status::NotApplicable, Severity::Info) }
    }

    /// With a change that `apply` would make.
    #[must_use]
    pub fn change(mut self, setting: Setting, to: impl Into<String>) -> Self {
        self.changes.push(Change { setting, to: Value::new(to) });
        self
    }

    /// With something that only a person can do.
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

    /// The worst that any of its changes can cost while it is made.
    #[must_use]
    pub fn risk(&self) -> Risk {
        self.changes.iter().map(|change| change.setting.risk()).max().unwrap_or_default()
    }
}
