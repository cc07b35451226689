//! The arguments of `culvert tune` and `culvert doctor`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use culvert_host::setting::Risk;

use crate::finding::Severity;
use crate::plan::Selection;
use crate::profile::ProfileName;
use crate::rules;

/// The default time for the confirmation, in seconds.
const CONFIRM_WITHIN_S: &str = "60";
/// The longest time that an option accepts: a day.
const SECONDS_MAX: u64 = 86_400;

/// `culvert tune`: bring this host to what the fastest hosts have, and always be able to go back.
#[derive(Debug, Args)]
pub struct TuneArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: TuneAction,
}

/// What `culvert tune` does.
#[derive(Debug, Subcommand)]
pub enum TuneAction {
    /// Compare this host's settings with the recommended ones; changes nothing, needs no root
    Audit(AuditArgs),
    /// Show what 'culvert tune apply' would change; changes nothing
    Plan(PlanArgs),
    /// Apply the plan; rolled back automatically unless confirmed in time
    Apply(ApplyArgs),
    /// Keep what was applied, and stop the timer that would roll it back
    Confirm {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Restore the settings from before a transaction
    Rollback(RollbackArgs),
    /// Show which changes are in force, unconfirmed or rolled back
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure what a rule gains on this host, in interleaved runs with and without it
    Measure(MeasureArgs),
    /// Print everything that is known about this host, as a document that can be saved
    Facts(FactsArgs),
    /// Explain a rule, or list all of them
    Explain {
        /// The rule [default: list all]
        rule: Option<String>,
    },
    /// Reapply confirmed settings whenever a driver or another program undoes them; runs until
    /// nothing is in force
    Watch(WatchArgs),
    /// Roll back a transaction that is not confirmed in time
    #[command(hide = true)]
    Guard {
        /// The transaction
        transaction: String,
    },
}

/// Host, profile and site file.
#[derive(Clone, Debug, Default, Args)]
pub struct SourceArgs {
    /// Profile: dtn-10g, dtn-40g, dtn-100g, dtn-400g or measurement [default: the site file's, or
    /// what the link speeds suggest]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<ProfileName>,
    /// Site file [default: /etc/culvert/tuning.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub site: Option<PathBuf>,
    /// Read facts from a saved document instead of this host
    #[arg(long, value_name = "FILE", conflicts_with = "probe")]
    pub facts: Option<PathBuf>,
    /// Probe the site file's partners for round-trip times and for whether full-size packets arrive
    #[arg(long)]
    pub probe: bool,
}

/// The selection of rules.
#[derive(Clone, Debug, Default, Args)]
pub struct SelectionArgs {
    /// Only this rule, even if it normally applies on request only; may be repeated
    #[arg(long = "rule", value_name = "RULE", value_parser = known_rule)]
    pub rules: Vec<String>,
    /// Skip this rule; may be repeated
    #[arg(long, value_name = "RULE", value_parser = known_rule)]
    pub skip: Vec<String>,
    /// Skip changes that are riskier to make than this: none, link-reset or reachability
    #[arg(long, value_name = "RISK", value_parser = risk)]
    pub max_risk: Option<Risk>,
}

impl SelectionArgs {
    pub(super) fn selection(&self) -> Selection {
        Selection { only: self.rules.clone(), skip: self.skip.clone(), risk_max: self.max_risk }
    }
}

/// Arguments of `audit`.
#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// Show everything that was checked, not only what should change
    #[arg(long)]
    pub(super) all: bool,
    /// Exit with status 7 if a finding is this severe or worse: critical, high, warning or info
    #[arg(long, value_name = "SEVERITY")]
    pub(super) fail_on: Option<Severity>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    pub(super) source: SourceArgs,
    #[command(flatten)]
    pub(super) selection: SelectionArgs,
    /// Show every change, including those that are alike
    #[arg(long)]
    pub(super) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// Profile: dtn-10g, dtn-40g, dtn-100g, dtn-400g or measurement
    #[arg(long, value_name = "NAME")]
    pub(super) profile: Option<ProfileName>,
    /// Site file [default: /etc/culvert/tuning.toml, if it exists]
    #[arg(long, value_name = "FILE")]
    pub(super) site: Option<PathBuf>,
    #[command(flatten)]
    pub(super) selection: SelectionArgs,
    /// Roll back unless 'culvert tune confirm' is run within this time: seconds, or 90s, 5m
    #[arg(long, value_name = "TIME", default_value = CONFIRM_WITHIN_S, value_parser = seconds)]
    pub(super) timeout: Duration,
    /// Keep the changes without a timer or a confirmation
    #[arg(long, conflicts_with = "timeout")]
    pub(super) confirmed: bool,
    /// Apply them again after a reboot
    #[arg(long)]
    pub(super) persist: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The transaction [default: the newest that is in force]
    pub(super) transaction: Option<String>,
    /// Roll back all transactions, the newest first
    #[arg(long, conflicts_with = "transaction")]
    pub(super) all: bool,
    /// Restore nothing, only forget the transaction: for settings of a network namespace that no
    /// longer exists
    #[arg(long, requires = "transaction", conflicts_with = "all")]
    pub(super) forget: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `measure`.
#[derive(Debug, Args)]
pub struct MeasureArgs {
    /// The rule [default: show earlier measurements]
    #[arg(value_parser = known_rule)]
    pub(super) rule: Option<String>,
    /// Profile
    #[arg(long, value_name = "NAME")]
    pub(super) profile: Option<ProfileName>,
    /// Site file
    #[arg(long, value_name = "FILE")]
    pub(super) site: Option<PathBuf>,
    /// Number of pairs of runs, at least 5
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(5..=1000))]
    pub(super) pairs: u16,
    /// Duration of one run: seconds, or 90s, 5m
    #[arg(long, value_name = "TIME", default_value = "5", value_parser = seconds)]
    pub(super) run: Duration,
    /// Streams of the loopback workload or of iperf3
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) streams: u16,
    /// Measure with iperf3 against the server on HOST
    #[arg(long, value_name = "HOST", conflicts_with = "command")]
    pub(super) iperf3: Option<String>,
    /// Measure with this command, which prints bits per second, or JSON with goodput_bps
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `facts`.
#[derive(Debug, Args)]
pub struct FactsArgs {
    /// Site file that names the partners
    #[arg(long, value_name = "FILE")]
    pub(super) site: Option<PathBuf>,
    /// Probe the site file's partners
    #[arg(long)]
    pub(super) probe: bool,
    /// Accepted for scripts; facts are always JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Time between checks: seconds, or 90s, 5m
    #[arg(long, value_name = "TIME", default_value = "10", value_parser = seconds)]
    pub(super) interval: Duration,
    /// Check once and exit
    #[arg(long)]
    pub(super) once: bool,
    /// Print one JSON object for each check that found something
    #[arg(long)]
    pub(super) json: bool,
}

/// `culvert doctor`: can this host run at full speed, and what to do.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    pub(super) source: SourceArgs,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

fn known_rule(id: &str) -> Result<String, String> {
    rules::find(id).map(|rule| rule.id.to_owned())
}

fn risk(word: &str) -> Result<Risk, String> {
    match word {
        "none" => Ok(Risk::None),
        "link-reset" => Ok(Risk::LinkReset),
        "reachability" => Ok(Risk::Reachability),
        _ => Err(format!("unknown risk '{word}': write none, link-reset or reachability")),
    }
}

/// Parses `90`, `90s`, `5m`.
fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is not a time between 1s and 24h: write seconds, or 90s, 5m, 1h");
    let (number, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) => (number, text.chars().last()),
        None => (text, None),
    };
    let factor = match unit {
        Some('m') => 60,
        Some('h') => 3600,
        _ => 1,
    };
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    seconds.filter(|seconds| (1..=SECONDS_MAX).contains(seconds)).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(seconds("60"), Ok(Duration::from_secs(60)));
        assert_eq!(seconds("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(seconds("5m"), Ok(Duration::from_secs(300)));
        for wrong in ["0", "-1", "x", "5d", "25h", "", "s"] {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }
}
