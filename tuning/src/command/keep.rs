//! `watch` and `guard`: long-running processes.

use std::time::Instant;

use culvert_host::RealHost;
use serde_json::json;

use super::arguments::WatchArgs;
use super::context::{CommandContext, Failure, exit};
use crate::guard::watch_over;
use crate::watch::Watcher;

pub(super) fn watch(arguments: &WatchArgs, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let mut host = RealHost::open();
    let mut watcher = Watcher::new(arguments.interval);
    loop {
        let kept = watcher.keep(&context.state_directory, &mut host, Instant::now())?;
        context.tell(&kept.recovered);
        if arguments.json && (!kept.news.is_empty() || arguments.once) {
            let line = json!({"held": kept.held, "paused": kept.paused, "drifted": kept.news});
            context.text(&format!("{line}\n"))?;
        } else {
            for drift in &kept.news {
                context.text(&format!("{drift}\n"))?;
            }
        }
        if arguments.once {
            return Ok(exit::DONE);
        }
        if kept.is_idle() {
            context.say("nothing is held");
            return Ok(exit::DONE);
        }
        std::thread::sleep(watcher.interval());
    }
}

pub(super) fn guard(transaction: &str, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let mut host = RealHost::open();
    let state = context.state_directory.clone();
    let done = watch_over(&state, transaction, &mut host, &mut context.out)?;
    // The guard's standard error is its log.
    context.say(&done);
    Ok(exit::DONE)
}
