//! Measures the effect of a rule on this host, in interleaved runs with and without it.
//!
//! Rules state an expected effect; this measures the real one. Runs are paired and their order
//! alternates (without, with, with, without, …), so that drift of the machine affects both sides
//! equally. "No effect" is a valid result. The rule is in force only during the measurement: each
//! change is a transaction with a guard, and the measurement ends with a rollback.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use culvert_host::Host;

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

/// Fewer pairs prove nothing.
pub const PAIRS_MIN: usize = 5;
/// The multiple of the expected duration after which the guard undoes the change.
const PATIENCE: u32 = 4;
/// Added to that for changes that reset links.
const PATIENCE_MORE: Duration = Duration::from_secs(120);

/// Why a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// The change could not be made or undone.
    #[error(transparent)]
    Transaction(#[from] TransactionError),
    /// A run failed; the change is undone.
    #[error("{0}; the host is as it was")]
    Workload(#[from] WorkloadError),
}

/// What to measure and how.
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

/// Runs the workload in pairs with and without `intents`, and restores the host. Calls `progress`
/// for each run.
///
/// The caller holds the store's lock and has called [`crate::transaction::recover`].
///
/// # Errors
/// [`MeasureError`]; the host is then restored, or the error names what is not.
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
        // The guard is for a crash meanwhile; consecutive runs of this side may share one
        // transaction.
        confirm_within: Some(options.run * PATIENCE * 2 + PATIENCE_MORE),
        persistent: false,
        attended: true,
    };
    let mut applied = false;
    let mut pairs = Vec::new();
    // The first run is a warm-up and not counted.
    let mut outcome = workload.run(options.run).map(|_| ()).map_err(MeasureError::from);
    while outcome.is_ok() && pairs.len() < pairs_wanted {
        let with_first = pairs.len() % 2 == 1;
        let mut rates = [0.0; 2];
        for with in [with_first, !with_first] {
            let switched = switch(store, host, intents, &apply_options, start_guard, &mut applied, with);
            let run = switched.map_err(MeasureError::from).and_then(|()| Ok(workload.run(options.run)?));
            match run {
                Ok(rate) => rates[usize::from(with)] = rate,
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
            let side = if with { "with" } else { "without" };
            progress(&format!("pair {}: {side} {:.3} Gb/s", pairs.len() + 1, rates[usize::from(with)] / 1e9));
        }
        pairs.push((rates[0], rates[1]));
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

/// Applies the rule or rolls it back, unless that is already the case.
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
    use culvert_host::fake::FakeHost;
    use culvert_host::setting::{Setting, Value};

    use super::*;

    /// A machine with noise that is faster with the setting, or not.
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
            // A slow drift, and noise that follows a fixed pattern.
            let noise = f64::from(self.runs * 7919 % 13) / 1300.0;
            let drift = 1.0 - f64::from(self.runs) * 0.002;
            Ok(10e9 * drift * (1.0 + noise) * if with { self.gain } else { 1.0 })
        }
    }

    /// The host is shared between the engine and the model.
    struct Shared<'a>(&'a std::cell::RefCell<FakeHost>);

    impl Host for Shared<'_> {
        fn read(&mut self, setting: &Setting) -> Result<Value, culvert_host::HostError> {
            self.0.borrow_mut().read(setting)
        }
        fn write(&mut self, setting: &Setting, value: &Value) -> Result<(), culvert_host::HostError> {
            self.0.borrow_mut().write(setting, value)
        }
        fn may_write(&mut self, setting: &Setting) -> Result<(), culvert_host::HostError> {
            self.0.borrow_mut().may_write(setting)
        }
        fn settings_of_link(&mut self, link: &str) -> Result<Vec<Setting>, culvert_host::HostError> {
            self.0.borrow_mut().settings_of_link(link)
        }
        fn place(&self) -> culvert_host::Place {
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
