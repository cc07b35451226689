//! The measured effect of a rule, as the ledger stores it.

use culvert_protocol::counted::counted;
use serde::{Deserialize, Serialize};

use super::answer::Answer;
use super::statistics::Estimate;

/// A wider confidence interval would hide relevant effects.
const SCATTER_MAX: f64 = 0.1;

/// One measured effect, as the ledger stores it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Effect {
    /// The rule.
    pub rule: String,
    /// The time of the measurement in seconds since 1970.
    pub at_unix_s: u64,
    /// The kernel's release: another one may give another result.
    pub kernel: String,
    /// The workload.
    pub workload: String,
    /// The changed settings.
    pub changes: Vec<String>,
    /// Bits per second without and with the rule, pair by pair.
    pub pairs: Vec<(f64, f64)>,
    /// The ratio of with to without: the median of the pairs and its 95 % bootstrap interval.
    pub ratio: Estimate,
    /// The result.
    pub answer: Answer,
}

impl Effect {
    /// The result in a sentence.
    #[must_use]
    pub fn text(&self) -> String {
        let percent = |ratio: f64| format!("{:+.1} %", (ratio - 1.0) * 100.0);
        let interval = format!("95 %: {} to {}", percent(self.ratio.low), percent(self.ratio.high));
        match self.answer {
            Answer::Faster => format!("{}: faster, {} ({interval})", self.rule, percent(self.ratio.median)),
            Answer::Slower => format!("{}: slower, {} ({interval})", self.rule, percent(self.ratio.median)),
            Answer::NoEffect => {
                let scatter = if self.ratio.high - self.ratio.low > SCATTER_MAX {
                    "; the runs scatter too much to see a small one: more --pairs, or a longer --run"
                } else {
                    ""
                };
                let (pairs, median) = (counted(self.pairs.len(), "pair"), percent(self.ratio.median));
                format!("{}: no effect seen in {pairs}, {median} ({interval}){scatter}", self.rule)
            }
        }
    }
}
