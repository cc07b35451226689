//! What people type.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::finding::Severity;
use crate::plan::Selection;
use crate::profile::ProfileName;
use crate::rules;
use crate::setting::Risk;

/// How long confirming may take, unless told otherwise.
const CONFIRM_WITHIN_S: &str = "60";
/// The longest time that can be asked for: a day.
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
    /// Compare this host with what it should have; changes nothing and needs no root
    Audit(AuditArgs),
    /// Show what `apply` would change; changes nothing
    Plan(PlanArgs),
    /// Change it; undone by itself unless confirmed in time
    Apply(ApplyArgs),
    /// Keep what was applied
    Confirm {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Put back what was there before
    Rollback(RollbackArgs),
    /// Show what is held, what waits, and what was rolled back
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Measure what a rule is worth on this host: runs with and without it, interleaved
    Measure(MeasureArgs),
    /// Show everything that is known of this host, as a document that can be saved
    Facts(FactsArgs),
    /// Explain one rule, or list all
    Explain {
        /// The rule; without it, all of them
        rule: Option<String>,
    },
    /// Keep held settings when drivers or other programs undo them; runs until nothing is held
    Watch(WatchArgs),
    /// Roll back a transaction that is not confirmed in time
    #[command(hide = true)]
    Guard {
        /// The transaction
        transaction: String,
    },
}

/// Which host, profile and site file.
#[derive(Clone, Debug, Default, Args)]
pub struct SourceArgs {
    /// The profile: dtn-10g, dtn-40g, dtn-100g, dtn-400g or measurement; by default the site file's, or what the links suggest
    #[arg(long, value_name = "NAME")]
    pub profile: Option<ProfileName>,
    /// The site file; by default /etc/culvert/tuning.toml, if it is there
    #[arg(long, value_name = "FILE")]
    pub site: Option<PathBuf>,
    /// Look at a saved facts document instead of this host
    #[arg(long, value_name = "FILE", conflicts_with = "probe")]
    pub facts: Option<PathBuf>,
    /// Send packets to the site file's partners, to learn round trip times and whether full packets arrive
    #[arg(long)]
    pub probe: bool,
}

/// Which rules.
#[derive(Clone, Debug, Default, Args)]
pub struct SelectionArgs {
    /// Only this rule, even if it only applies on request; may be given several times
    #[arg(long = "rule", value_name = "RULE", value_parser = known_rule)]
    pub rules: Vec<String>,
    /// Not this rule; may be given several times
    #[arg(long, value_name = "RULE", value_parser = known_rule)]
    pub skip: Vec<String>,
    /// Leave out what may cost more while it is changed: none, link-reset or reachability
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
    /// Show everything that was looked at, not only what should be changed
    #[arg(long)]
    pub(super) all: bool,
    /// Exit with 7 if a finding is this bad or worse: critical, high, warning or info
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
    /// Show every change, also those that look alike
    #[arg(long)]
    pub(super) all: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// The profile: dtn-10g, dtn-40g, dtn-100g, dtn-400g or measurement
    #[arg(long, value_name = "NAME")]
    pub(super) profile: Option<ProfileName>,
    /// The site file; by default /etc/culvert/tuning.toml, if it is there
    #[arg(long, value_name = "FILE")]
    pub(super) site: Option<PathBuf>,
    #[command(flatten)]
    pub(super) selection: SelectionArgs,
    /// Undo everything unless `culvert tune confirm` is typed within this time: seconds, or 90s, 5m
    #[arg(long, value_name = "TIME", default_value = CONFIRM_WITHIN_S, value_parser = seconds)]
    pub(super) timeout: Duration,
    /// Keep the changes at once, without the timer
    #[arg(long, conflicts_with = "timeout")]
    pub(super) confirmed: bool,
    /// Have them again after a restart of the host
    #[arg(long)]
    pub(super) persist: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// The transaction; by default the newest that is not over
    pub(super) transaction: Option<String>,
    /// Everything, the newest first
    #[arg(long, conflicts_with = "transaction")]
    pub(super) all: bool,
    /// Do not put anything back: for settings of a network namespace that no longer exists
    #[arg(long, requires = "transaction", conflicts_with = "all")]
    pub(super) forget: bool,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `measure`.
#[derive(Debug, Args)]
pub struct MeasureArgs {
    /// The rule; without it, what was measured before is shown
    #[arg(value_parser = known_rule)]
    pub(super) rule: Option<String>,
    /// The profile
    #[arg(long, value_name = "NAME")]
    pub(super) profile: Option<ProfileName>,
    /// The site file
    #[arg(long, value_name = "FILE")]
    pub(super) site: Option<PathBuf>,
    /// Pairs of runs, at least 5
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u16).range(5..=1000))]
    pub(super) pairs: u16,
    /// How long one run takes: seconds, or 90s, 5m
    #[arg(long, value_name = "TIME", default_value = "5", value_parser = seconds)]
    pub(super) run: Duration,
    /// Streams of the loopback workload and of iperf3
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub(super) streams: u16,
    /// Measure with iperf3 against its server on this host
    #[arg(long, value_name = "HOST", conflicts_with = "command")]
    pub(super) iperf3: Option<String>,
    /// Measure with a command that prints bits per second, or JSON with goodput_bps; after --
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
    /// Print JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `facts`.
#[derive(Debug, Args)]
pub struct FactsArgs {
    /// The site file with the partners
    #[arg(long, value_name = "FILE")]
    pub(super) site: Option<PathBuf>,
    /// Send packets to the site file's partners
    #[arg(long)]
    pub(super) probe: bool,
    /// Facts are always JSON; accepted for the sake of scripts
    #[arg(long)]
    pub(super) json: bool,
}

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// How often to look: seconds, or 90s, 5m
    #[arg(long, value_name = "TIME", default_value = "10", value_parser = seconds)]
    pub(super) interval: Duration,
    /// Look once and end
    #[arg(long)]
    pub(super) once: bool,
    /// Print a JSON object for each look that found something
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

/// `90`, `90s`, `5m`.
fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("'{text}' is no time between 1s and 24h: write seconds, or 90s, 5m, 1h");
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
