//! Host tuning in the node: keeps applied settings in force, and counts the audit's findings.
//!
//! Everything here reads files and netlink, which may take a while, so it runs on blocking threads.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use culvert_host::RealHost;
use culvert_host::latency_hold::LatencyHold;
use culvert_system::accounts::SYSTEM_STATE;
use culvert_tuning::audit::{Audit, FindingCounts};
use culvert_tuning::site::Site;
use culvert_tuning::watch::{Kept, Watcher};
use tokio::task::spawn_blocking;

use crate::metrics::Metrics;
use crate::settings::{Origin, Settings};

/// How often the node looks for applied settings while there are none.
const IDLE: Duration = Duration::from_secs(60);
/// How often findings are counted.
const COUNT_INTERVAL: Duration = Duration::from_secs(3600);

/// The longest wake-up latency of a CPU while transfers run, in microseconds: the limit of the rule
/// `cpu.c_states`.
const WAKE_UP_US: u32 = 10;

/// Keeps CPUs out of deep idle states while at least one transfer runs. This needs root, or access
/// to `/dev/cpu_dma_latency`; without it, transfers run all the same.
#[derive(Debug, Default)]
pub struct IdleStateHold(Mutex<Weak<LatencyHold>>);

impl IdleStateHold {
    /// Holds the limit until the last holder drops it; `None` without the permission.
    #[must_use]
    pub fn hold(&self) -> Option<Arc<LatencyHold>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hold) = held.upgrade() {
            return Some(hold);
        }
        let hold = Arc::new(LatencyHold::acquire(WAKE_UP_US).ok()?);
        *held = Arc::downgrade(&hold);
        Some(hold)
    }
}

/// The state directory of this host's tuning. A host is tuned as a whole, so the default is the
/// system's directory, not the user's.
#[must_use]
pub fn state_of_host(settings: &Settings) -> PathBuf {
    match settings.state.origin {
        Origin::Default => PathBuf::from(SYSTEM_STATE),
        _ => settings.state.value.clone(),
    }
}

/// The directory of tuning's journals within a state directory.
#[must_use]
pub fn directory_in(state: &Path) -> PathBuf {
    state.join("tuning")
}

/// Completes or undoes what a crash or restart left half done, then keeps confirmed settings in
/// force while the node runs, and logs what it does. Only root can change a host; for others it
/// returns at once.
pub async fn keep(directory: PathBuf) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut watcher = Watcher::default();
    let mut last_error = String::new();
    loop {
        let journals = directory.clone();
        let round = spawn_blocking(move || {
            let kept = watcher.keep(&journals, &mut RealHost::open(), Instant::now());
            (watcher, kept)
        });
        let Ok((back, kept)) = round.await else { return };
        watcher = back;
        let pause = match kept {
            Ok(kept) => {
                last_error.clear();
                log_changes(&kept);
                if kept.is_idle() { IDLE } else { watcher.interval() }
            }
            Err(error) => {
                let error = error.to_string();
                if error != last_error {
                    say_aside!("culvert: tuning: {error}");
                }
                last_error = error;
                IDLE
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Counts the audit's findings now and every hour, for the metric.
pub async fn count_findings(metrics: Arc<Metrics>) {
    let mut last_error = None;
    loop {
        let Ok((counts, error)) = spawn_blocking(findings).await else { return };
        metrics.note_findings(&counts);
        if error.is_some() && error != last_error {
            say_aside!(
                "culvert: tuning: findings are counted without the site file: {}",
                error.as_deref().unwrap_or_default()
            );
        }
        last_error = error;
        tokio::time::sleep(COUNT_INTERVAL).await;
    }
}

fn log_changes(kept: &Kept) {
    for recovered in &kept.recovered {
        say_aside!("culvert: tuning: {}: {}", recovered.id, recovered.text);
    }
    for drift in &kept.news {
        say_aside!("culvert: tuning: {drift}");
    }
}

/// The counts, and the site file's error.
fn findings() -> (FindingCounts, Option<String>) {
    let (site, error) = match Site::of_this_host() {
        Ok(site) => (site, None),
        Err(error) => (Site::default(), Some(error.to_string())),
    };
    let facts = RealHost::open().facts(&site.partners_to_ask(), false);
    (Audit::run(&facts, &site, None).counts, error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Flags;

    #[test]
    fn transfers_share_one_hold() {
        let idle_states = IdleStateHold::default();
        let Some(first) = idle_states.hold() else {
            eprintln!("skipped: /dev/cpu_dma_latency may not be opened here");
            return;
        };
        let second = idle_states.hold().unwrap();
        assert!(Arc::ptr_eq(&first, &second));
        drop((first, second));
        assert!(idle_states.0.lock().unwrap().upgrade().is_none());
    }

    #[test]
    fn a_host_is_tuned_once_unless_a_directory_is_named() {
        let named = Settings::resolve(&Flags { state: Some("/srv/x".to_owned()), ..Flags::default() }).unwrap();
        assert_eq!(directory_in(&state_of_host(&named)), Path::new("/srv/x/tuning"));
        let mut unnamed = named;
        unnamed.state.origin = Origin::Default;
        assert_eq!(state_of_host(&unnamed), Path::new("/var/lib/culvert"));
    }
}
