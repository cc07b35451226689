//! What a measurement says of a setting's effect.

use serde::{Deserialize, Serialize};

/// What a measurement answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Faster with the rule.
    Faster,
    /// Slower with the rule.
    Slower,
    /// The interval of confidence holds both.
    NoEffect,
}
