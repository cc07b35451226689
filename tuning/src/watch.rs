//! The watcher: sets confirmed settings again when drivers or other programs change them, and
//! reports it.
//!
//! It has no thread or clock: the caller's loop (the node, `culvert tune watch`) calls
//! [`Watcher::keep`] every [`Watcher::interval`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use culvert_host::setting::{Setting, Value};
use culvert_host::{Host, HostError};
use serde::Serialize;

use crate::guard;
use crate::transaction::{
    Recovered, State, Store, StoreError, Transaction, TransactionError, held_settings, recover, write_and_compare,
};

/// The default interval between checks: irqbalance moves interrupts as often.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// How often the watcher sets a setting again before it concludes that another program keeps
/// changing it.
const TIMES_MAX: u32 = 5;
/// After this time without setting it again, counting restarts.
const COUNTED_FOR: Duration = Duration::from_secs(600);

/// Keeps held settings in force.
#[derive(Debug)]
pub struct Watcher {
    interval: Duration,
    strikes: BTreeMap<Setting, Strikes>,
    /// The drifts of the last check, so that a missing setting is reported once, not every ten
    /// seconds.
    reported: Vec<Drift>,
}

#[derive(Debug)]
struct Strikes {
    count: u32,
    last: Instant,
}

/// The result of one check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct WatchReport {
    /// The number of settings held here.
    pub held: usize,
    /// Whether the check was skipped because a transaction is in progress.
    pub paused: bool,
    /// Settings that had another value.
    pub drifted: Vec<Drift>,
}

/// The result of one round of [`Watcher::keep`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Transactions that a crash or a dead guard had left open, and that were repaired.
    pub recovered: Vec<Recovered>,
    /// The number of settings held here.
    pub held: usize,
    /// Whether the check was skipped because a transaction is in progress.
    pub paused: bool,
    /// Settings that had another value, without those that the last round reported identically.
    pub news: Vec<Drift>,
}

impl Kept {
    /// Whether the watcher has nothing to keep, now or after a transaction in progress.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.held == 0 && !self.paused
    }
}

/// A held setting that had another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// The setting.
    pub setting: Setting,
    /// The value that it should have.
    pub wanted: Value,
    /// The value that was found; `None` if it could not be read.
    pub found: Option<Value>,
    /// The watcher's reaction.
    pub outcome: DriftOutcome,
    /// Running programs that are known to change such settings.
    pub suspects: Vec<String>,
}

/// The watcher's reaction to a drift.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", content = "reason", rename_all = "snake_case")]
pub enum DriftOutcome {
    /// The setting has its value again.
    SetAgain,
    /// The link, disk or interrupt does not exist at present.
    NotThere(String),
    /// The setting could not be set.
    Failed(String),
    /// Another program keeps changing it; the watcher leaves it alone for ten minutes.
    GivenUp,
}

impl fmt::Display for Drift {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let suspects = if self.suspects.is_empty() {
            String::new()
        } else {
            format!(" ({} may have changed it)", self.suspects.join(", "))
        };
        let found = self.found.as_ref().map_or("cannot be read".to_owned(), |found| format!("is '{found}'"));
        match &self.outcome {
            DriftOutcome::SetAgain => {
                write!(out, "{}: it {found}, set again to '{}'{suspects}", self.setting, self.wanted)
            }
            DriftOutcome::NotThere(reason) => write!(out, "{}: does not exist at present: {reason}", self.setting),
            DriftOutcome::Failed(reason) => {
                write!(
                    out,
                    "{}: it {found} and could not be set to '{}': {reason}{suspects}",
                    self.setting, self.wanted
                )
            }
            DriftOutcome::GivenUp => write!(
                out,
                "{}: it {found} again after {TIMES_MAX} times; left alone for ten \
                 minutes{suspects}; stop what changes it, or run culvert tune rollback",
                self.setting
            ),
        }
    }
}

impl Default for Watcher {
    fn default() -> Self {
        Self::new(INTERVAL)
    }
}

impl Watcher {
    /// A watcher for a caller that calls it every `interval`.
    #[must_use]
    pub fn new(interval: Duration) -> Self {
        Self { interval, strikes: BTreeMap::new(), reported: Vec::new() }
    }

    /// The time between two checks.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.interval
    }

    /// One round of the caller's loop: repairs what a crash left behind, then checks
    /// ([`Watcher::check_once`]).
    ///
    /// If nothing was ever applied, it creates no file and reads no setting.
    ///
    /// # Errors
    /// [`TransactionError`] if the state directory cannot be used, or something could not be
    /// repaired here.
    pub fn keep(
        &mut self,
        state_directory: &Path,
        host: &mut dyn Host,
        now: Instant,
    ) -> Result<Kept, TransactionError> {
        let mut store = Store::at(state_directory);
        if store.transactions()?.is_empty() {
            return Ok(Kept::default());
        }
        let recovered = match store.lock(false) {
            Ok(_lock) => recover(&mut store, host, &|id| guard::lives(state_directory, id))?,
            Err(StoreError::Locked { .. }) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        let report = self.check_once(&store, host, now)?;
        let is_news = |drift: &&Drift| drift.outcome == DriftOutcome::SetAgain || !self.reported.contains(drift);
        let news = report.drifted.iter().filter(is_news).cloned().collect();
        // A skipped check reports nothing new.
        if !report.paused {
            self.reported = report.drifted;
        }
        Ok(Kept { recovered, held: report.held, paused: report.paused, news })
    }

    /// Checks every held setting and sets those whose value differs again. While a transaction is
    /// in progress, it checks nothing and returns a report that is marked as paused.
    ///
    /// # Errors
    /// [`TransactionError::Store`] if the state directory cannot be read.
    pub fn check_once(
        &mut self,
        store: &Store,
        host: &mut dyn Host,
        now: Instant,
    ) -> Result<WatchReport, TransactionError> {
        let _lock = match store.lock(false) {
            Err(StoreError::Locked { .. }) => return Ok(WatchReport { paused: true, ..WatchReport::default() }),
            other => other?,
        };
        let transactions = store.transactions()?;
        let under_way = |one: &Transaction| matches!(one.state, State::Applying | State::Pending | State::RollingBack);
        if transactions.iter().any(under_way) {
            return Ok(WatchReport { paused: true, ..WatchReport::default() });
        }
        let held = held_here(&transactions, host);
        let mut report = WatchReport { held: held.len(), ..WatchReport::default() };
        for (setting, wanted) in held {
            match host.read(&setting) {
                Ok(found) if setting.same(&wanted, &found) => {}
                other => report.drifted.push(self.set_again(host, &setting, &wanted, other, now)),
            }
        }
        Ok(report)
    }

    fn set_again(
        &mut self,
        host: &mut dyn Host,
        setting: &Setting,
        wanted: &Value,
        found: Result<Value, HostError>,
        now: Instant,
    ) -> Drift {
        let suspects = suspects(host, setting);
        let drift =
            |found, outcome| Drift { setting: setting.clone(), wanted: wanted.clone(), found, outcome, suspects };
        let found = match found {
            Err(error) if error.is_missing() => return drift(None, DriftOutcome::NotThere(error.to_string())),
            found => found.ok(),
        };
        let strikes = self.strikes.entry(setting.clone()).or_insert(Strikes { count: 0, last: now });
        if now.duration_since(strikes.last) >= COUNTED_FOR {
            strikes.count = 0;
        }
        if strikes.count >= TIMES_MAX {
            return drift(found, DriftOutcome::GivenUp);
        }
        strikes.count += 1;
        strikes.last = now;
        // Invariant I-tuning-watch-limit: The watcher sets a setting again at most five times in a
        // row before it leaves the setting alone for ten minutes.
        assert!(strikes.count <= TIMES_MAX, "{setting} was set again too often");
        match write_and_compare(host, setting, wanted) {
            Ok(()) => drift(found, DriftOutcome::SetAgain),
            Err(error) => drift(found, DriftOutcome::Failed(error.to_string())),
        }
    }
}

/// The settings held in this network namespace, in the order of writing. Files are left out: the
/// watcher does not undo an admin's edits of them.
#[must_use]
pub fn held_here(transactions: &[Transaction], host: &dyn Host) -> Vec<(Setting, Value)> {
    let here = host.place();
    let of_here: Vec<Transaction> = transactions
        .iter()
        .filter(|one| one.place.network_namespace == here.network_namespace)
        .filter(|one| one.place.boot_id == here.boot_id || one.persistent)
        .cloned()
        .collect();
    let mut held: Vec<(Setting, Value)> =
        held_settings(&of_here).into_iter().filter(|(setting, _)| setting.ends_with_the_boot()).collect();
    held.sort_by_key(|(setting, _)| setting.stage());
    held
}

/// Running programs that are known to change such a setting.
fn suspects(host: &mut dyn Host, setting: &Setting) -> Vec<String> {
    let known: &[&str] = match setting {
        Setting::IrqAffinity { .. } => &["irqbalance"],
        Setting::KernelFile { path } if path.contains("/cpufreq/") => &["tuned", "power-profiles-daemon"],
        Setting::Sysctl { .. } | Setting::DirtyLimit { .. } | Setting::KernelFile { .. } => &["tuned"],
        Setting::Service { .. } | Setting::OwnedFile { .. } => &[],
        _ => &["NetworkManager", "systemd-networkd"],
    };
    let runs = |unit: &&&str| {
        let service = Setting::Service { unit: (**unit).to_owned() };
        host.read(&service).is_ok_and(|state| state.text() == "running")
    };
    known.iter().filter(runs).map(|unit| (*unit).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use culvert_host::fake::{FakeHost, Fault};

    use super::*;
    use crate::transaction::{ApplyOptions, Intent, apply, recover};

    fn interrupt() -> Setting {
        Setting::IrqAffinity { link: "a".to_owned(), vector: "a-TxRx-0".to_owned() }
    }

    fn held() -> (tempfile::TempDir, Store, FakeHost) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::at(folder.path());
        let mut host = FakeHost::default();
        host.put(interrupt(), "0-3");
        let intent = Intent { rule: "nic.irq_affinity".to_owned(), setting: interrupt(), to: Value::new("2") };
        let options = ApplyOptions { confirm_within: None, ..ApplyOptions::default() };
        let lock = store.lock(false).unwrap();
        apply(&mut store, &mut host, vec![intent], &options, &mut |_| Ok(())).unwrap();
        drop(lock);
        (folder, store, host)
    }

    #[test]
    fn what_irqbalance_undoes_is_set_again_and_said() {
        let (_folder, store, mut host) = held();
        let mut watcher = Watcher::default();
        let now = Instant::now();
        assert_eq!(watcher.check_once(&store, &mut host, now).unwrap().drifted, []);
        host.put(interrupt(), "0-3");
        host.put(Setting::Service { unit: "irqbalance".to_owned() }, "running");
        let report = watcher.check_once(&store, &mut host, now).unwrap();
        assert_eq!(report.drifted[0].outcome, DriftOutcome::SetAgain);
        let text = report.drifted[0].to_string();
        assert!(text.contains("'0-3'") && text.contains("'2'") && text.contains("irqbalance"), "{text}");
        assert_eq!(host.settings()[&interrupt()].text(), "2");
    }

    #[test]
    fn it_gives_up_and_tries_again_later() {
        let (_folder, store, mut host) = held();
        let mut watcher = Watcher::default();
        let mut now = Instant::now();
        for _ in 0..TIMES_MAX {
            host.put(interrupt(), "0-3");
            assert_eq!(watcher.check_once(&store, &mut host, now).unwrap().drifted[0].outcome, DriftOutcome::SetAgain);
            now += INTERVAL;
        }
        host.put(interrupt(), "0-3");
        assert_eq!(watcher.check_once(&store, &mut host, now).unwrap().drifted[0].outcome, DriftOutcome::GivenUp);
        now += COUNTED_FOR;
        assert_eq!(watcher.check_once(&store, &mut host, now).unwrap().drifted[0].outcome, DriftOutcome::SetAgain);
    }

    #[test]
    fn what_cannot_be_set_or_is_gone_is_said() {
        let (_folder, store, mut host) = held();
        let mut watcher = Watcher::default();
        host.put(interrupt(), "0-3");
        host.fail(interrupt(), Fault::Refused);
        let report = watcher.check_once(&store, &mut host, Instant::now()).unwrap();
        assert!(matches!(report.drifted[0].outcome, DriftOutcome::Failed(_)));
        host.unplug("a");
        let report = watcher.check_once(&store, &mut host, Instant::now()).unwrap();
        assert!(matches!(report.drifted[0].outcome, DriftOutcome::NotThere(_)));
    }

    #[test]
    fn a_round_tells_once_what_stays_so() {
        let (folder, _store, mut host) = held();
        let mut watcher = Watcher::default();
        let mut keep = |host: &mut FakeHost| watcher.keep(folder.path(), host, Instant::now()).unwrap();
        assert_eq!(keep(&mut host), Kept { held: 1, ..Kept::default() });
        host.unplug("a");
        assert!(matches!(keep(&mut host).news[0].outcome, DriftOutcome::NotThere(_)));
        assert_eq!(keep(&mut host).news, []);
        assert!(!keep(&mut host).is_idle());
    }

    #[test]
    fn a_round_puts_right_what_a_dead_guard_left() {
        let folder = tempfile::tempdir().unwrap();
        let mut host = FakeHost::default();
        host.put(interrupt(), "0-3");
        let intent = Intent { rule: "nic.irq_affinity".to_owned(), setting: interrupt(), to: Value::new("2") };
        let options = ApplyOptions { confirm_within: Some(Duration::from_secs(3600)), ..ApplyOptions::default() };
        apply(&mut Store::at(folder.path()), &mut host, vec![intent], &options, &mut |_| Ok(())).unwrap();
        let kept = Watcher::default().keep(folder.path(), &mut host, Instant::now()).unwrap();
        assert!(kept.recovered[0].text.contains("guard") && kept.is_idle(), "{kept:?}");
        assert_eq!(host.settings()[&interrupt()].text(), "0-3");
    }

    #[test]
    fn where_nothing_was_applied_nothing_is_made() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("tuning");
        assert!(Watcher::default().keep(&state, &mut FakeHost::default(), Instant::now()).unwrap().is_idle());
        assert!(!state.exists());
    }

    #[test]
    fn it_waits_while_changes_are_made_and_ends_with_the_boot() {
        let (_folder, mut store, mut host) = held();
        let mut watcher = Watcher::default();
        let lock = store.lock(false).unwrap();
        assert!(watcher.check_once(&store, &mut host, Instant::now()).unwrap().paused);
        drop(lock);
        host.restart();
        host.put(interrupt(), "0-3");
        recover(&mut store, &mut host, &|_| false).unwrap();
        assert_eq!(watcher.check_once(&store, &mut host, Instant::now()).unwrap(), WatchReport::default());
    }
}
