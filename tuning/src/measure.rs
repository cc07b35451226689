//! What a rule is worth on this host: an interleaved benchmark with and without it.
//!
//! Rules come with an expected effect; this measures the real one. Runs are paired and their order
//! alternates (before, after, after, before, …), so that a drift of the machine falls on both
//! sides. "No effect" is an answer. The rule is in force only while it is measured: each change is
//! a transaction with its guard, and the last thing is a rollback.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::host::Host;
use crate::transaction::{ApplyOptions, Intent, Store, TransactionError, apply, roll_back};

mod answer;
mod effect;
mod ledger;
mod statistics;
mod workload;

pub use answer::Answer;
pub use effect::Effect;
pub use ledger::{EffectLedger, LedgerError};
pub use statistics::Estimate;
pub use workload::{CommandWorkload, LoopbackWorkload, Workload, WorkloadError};

/// Fewer pairs say nothing.
pub const PAIRS_MIN: usize = 5;
/// How much longer than expected a measurement may take before the guard undoes the change.
const PATIENCE: u32 = 4;
/// Added to that, for changes that reset links.
const PATIENCE_MORE: Duration = Duration::from_secs(120);

/// Why a measurement did not come about.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The change could not be made or undone.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// A run failed; the change is undone.
    #[error("{0}; the host is as it was")]
    Workload(#[from] WorkloadError),
}

/// What is measured and how.
#[derive(Clone, Debug)]
pub struct MeasureOptions {
    /// The rule.
    pub rule: String,
    /// Pairs of runs.
    pub pairs: usize,
    /// How long one run takes.
    pub run: Duration,
    /// The kernel's release.
    pub kernel: String,
}

/// Runs the workload in pairs with and without `intents`, and leaves the host as it was. `progress`
/// is called for each run.
///
/// The caller holds the store's lock and has called [`crate::transaction::recover`].
///
/// # Errors
/// [`MeasureError`]; the host is then as it was, or the error says what is left.
pub fn measure(
    store: &mut Store,
    host: &mut dyn Host,
    intents: &[Intent],
    workload: &mut dyn Workload,
    options: &MeasureOptions,
    start_guard: &mut dyn FnMut(&str) -> Result<(), String>,
    progress: &mut dyn FnMut(&str),
) -> Result<Effect, MeasureError> {
    let pairs_wanted = options.pairs.max(PAIRS_MIN);
    let apply_options = ApplyOptions {
        profile: format!("measuring {}", options.rule),
        // The guard is for a crash in between; every run of this side may fall into one stretch.
        confirm_within: Some(options.run * PATIENCE * 2 + PATIENCE_MORE),
        persistent: false,
        attended: true,
    };
    let mut applied = false;
    let mut pairs = Vec::new();
    // The first run warms up and does not count.
    let mut outcome = workload.run(options.run).map(|_| ()).map_err(MeasureError::from);
    'pairs: while outcome.is_ok() && pairs.len() < pairs_wanted {
        let after_first = pairs.len() % 2 == 1;
        let mut measured = [0.0; 2];
        for with in [after_first, !after_first] {
            match switch(store, host, intents, &apply_options, start_guard, &mut applied, with) {
                Ok(()) => {}
                Err(error) => {
                    outcome = Err(error.into());
                    break 'pairs;
                }
            }
            match workload.run(options.run) {
                Ok(rate) => measured[usize::from(with)] = rate,
                Err(error) => {
                    outcome = Err(error.into());
                    break 'pairs;
                }
            }
            let side = if with { "with" } else { "without" };
            progress(&format!("pair {}: {side} {:.3} Gb/s", pairs.len() + 1, measured[usize::from(with)] / 1e9));
        }
        pairs.push((measured[0], measured[1]));
    }
    if applied {
        roll_back(store, host, None, "the measurement is over")?;
    }
    outcome?;
    let ratio = Estimate::of_pairs(&pairs);
    Ok(Effect {
        rule: options.rule.clone(),
        at_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        kernel: options.kernel.clone(),
        workload: workload.name(),
        changes: intents.iter().map(|intent| format!("{} = {}", intent.setting, intent.to)).collect(),
        answer: ratio.answer(),
        pairs,
        ratio,
    })
}

/// Puts the rule in force or takes it away, if it is not so already.
fn switch(
    store: &mut Store,
    host: &mut dyn Host,
    intents: &[Intent],
    options: &ApplyOptions,
    start_guard: &mut dyn FnMut(&str) -> Result<(), String>,
    applied: &mut bool,
    with: bool,
) -> Result<(), TransactionError> {
    if with == *applied {
        return Ok(());
    }
    if with {
        apply(store, host, intents.to_vec(), options, start_guard)?;
    } else {
        roll_back(store, host, None, "the other side is measured")?;
    }
    *applied = with;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;
    use crate::setting::{Setting, Value};

    /// A machine that is faster with the setting, or not, with noise.
    struct Modelled<'a> {
        host: &'a std::cell::RefCell<FakeHost>,
        gain: f64,
        runs: u32,
        fails_at: Option<u32>,
    }

    impl Workload for Modelled<'_> {
        fn name(&self) -> String {
            "a model".to_owned()
        }

        fn run(&mut self, _: Duration) -> Result<f64, WorkloadError> {
            self.runs += 1;
            if self.fails_at == Some(self.runs) {
                return Err(WorkloadError("the far end hung up".to_owned()));
            }
            let with = self.host.borrow().settings()[&Setting::sysctl("a.b")].text() == "2";
            // A slow drift and noise that no seed of a test can help.
            let noise = f64::from(self.runs * 7919 % 13) / 1300.0;
            let drift = 1.0 - f64::from(self.runs) * 0.002;
            Ok(10e9 * drift * (1.0 + noise) * if with { self.gain } else { 1.0 })
        }
    }

    /// The host is shared between the engine and the model.
    struct Shared<'a>(&'a std::cell::RefCell<FakeHost>);

    impl Host for Shared<'_> {
        fn read(&mut self, setting: &Setting) -> Result<Value, crate::host::HostError> {
            self.0.borrow_mut().read(setting)
        }
        fn write(&mut self, setting: &Setting, value: &Value) -> Result<(), crate::host::HostError> {
            self.0.borrow_mut().write(setting, value)
        }
        fn may_write(&mut self, setting: &Setting) -> Result<(), crate::host::HostError> {
            self.0.borrow_mut().may_write(setting)
        }
        fn settings_of_link(&mut self, link: &str) -> Result<Vec<Setting>, crate::host::HostError> {
            self.0.borrow_mut().settings_of_link(link)
        }
        fn place(&self) -> crate::host::Place {
            self.0.borrow().place()
        }
        fn now_boot_ms(&self) -> u64 {
            self.0.borrow().now_boot_ms()
        }
    }

    fn measured(gain: f64, fails_at: Option<u32>) -> (Result<Effect, MeasureError>, String) {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::at(folder.path());
        let _lock = store.lock(false).unwrap();
        let mut fake = FakeHost::default();
        fake.put(Setting::sysctl("a.b"), "1");
        let host = std::cell::RefCell::new(fake);
        let intents = [Intent { rule: "r.r".to_owned(), setting: Setting::sysctl("a.b"), to: Value::new("2") }];
        let options =
            MeasureOptions { rule: "r.r".to_owned(), pairs: 8, run: Duration::ZERO, kernel: "6.18".to_owned() };
        let mut workload = Modelled { host: &host, gain, runs: 0, fails_at };
        let effect =
            measure(&mut store, &mut Shared(&host), &intents, &mut workload, &options, &mut |_| Ok(()), &mut |_| {});
        let left = host.borrow().settings()[&Setting::sysctl("a.b")].text().to_owned();
        (effect, left)
    }

    #[test]
    fn an_effect_is_found_and_its_absence_too() {
        for (gain, answer) in [(1.2, Answer::Faster), (0.8, Answer::Slower), (1.0, Answer::NoEffect)] {
            let (effect, left) = measured(gain, None);
            let effect = effect.unwrap();
            assert_eq!(effect.answer, answer, "{}", effect.text());
            assert!(effect.ratio.low <= gain && gain <= effect.ratio.high, "{}", effect.text());
            assert_eq!(effect.pairs.len(), 8);
            assert_eq!(left, "1");
        }
    }

    #[test]
    fn a_run_that_fails_leaves_the_host_as_it_was() {
        for at in 1..12 {
            let (effect, left) = measured(1.1, Some(at));
            assert!(effect.unwrap_err().to_string().contains("the far end hung up"));
            assert_eq!(left, "1", "after run {at}");
        }
    }
}
