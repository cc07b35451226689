//! `watch` and `guard`: processes that stay.

use std::time::Instant;

use serde_json::json;

use super::{CommandContext, Failure, WatchArgs, exit};
use crate::guard::watch_over;
use crate::host::RealHost;
use crate::transaction::StoreError;
use crate::watch::{Drift, DriftOutcome, Watcher};

pub(super) fn watch(arguments: &WatchArgs, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let mut host = RealHost::open();
    let mut watcher = Watcher::new(arguments.interval);
    // What is not there is told once, not every ten seconds.
    let mut told: Vec<Drift> = Vec::new();
    loop {
        let mut store = context.store();
        match store.lock(false) {
            Ok(_lock) => context.recover(&mut store, &mut host, false)?,
            Err(StoreError::Locked { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let report = watcher.check_once(&store, &mut host, Instant::now())?;
        let news: Vec<Drift> = report
            .drifted
            .iter()
            .filter(|drift| drift.outcome == DriftOutcome::SetAgain || !told.contains(drift))
            .cloned()
            .collect();
        if arguments.json && (!news.is_empty() || arguments.once) {
            let line = json!({"held": report.held, "paused": report.paused, "drifted": news});
            context.text(&format!("{line}\n"))?;
        } else {
            for drift in &news {
                context.text(&format!("{drift}\n"))?;
            }
        }
        context.out.flush()?;
        if arguments.once {
            return Ok(exit::DONE);
        }
        if report.held == 0 && !report.paused {
            context.say("nothing is held");
            return Ok(exit::DONE);
        }
        told = report.drifted;
        std::thread::sleep(watcher.interval());
    }
}

pub(super) fn guard(transaction: &str, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let mut host = RealHost::open();
    let state = context.state_directory.clone();
    let done = watch_over(&state, transaction, &mut host, &mut context.out)?;
    // The log of the guard is its standard error.
    context.say(&done);
    Ok(exit::DONE)
}
