//! The result of a measurement of a rule's effect.

use serde::{Deserialize, Serialize};

/// The result of a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Faster with the rule.
    Faster,
    /// Slower with the rule.
    Slower,
    /// The confidence interval includes both.
    NoEffect,
}
