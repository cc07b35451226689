//! Delivers the spool's documents to the archive, if one is configured.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_perfsonar::archive::spool::Spool;
use culvert_perfsonar::archive::{Archive, PAUSE_MAX, PAUSE_MIN};
use culvert_protocol::counted::{agree, counted};
use culvert_protocol::foreign_text::foreign_text;
use culvert_state::StateDirectory;

use crate::publish;
use crate::service::{ArchiveCounters, PathService};

/// How often the spool is read while it is empty.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Starts delivery to the archive of `[archive]`. `here` is this node's name.
///
/// # Errors
/// In words: a spool, or a file with a secret, that cannot be used.
pub fn start(service: &Arc<PathService>, state: &StateDirectory, here: &str) -> Result<(), String> {
    let Some(table) = service.settings().archive else { return Ok(()) };
    let spool = publish::spool(state, &table)?;
    let archive = publish::archive(state, &table, here)?;
    let (service, state) = (Arc::clone(service), state.clone());
    // Spool and pins are files, whose calls block: in a thread of its own, delivery delays nothing
    // else.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("the archive's thread cannot start: {error}"))?;
    std::thread::spawn(move || runtime.block_on(deliver(&service.archive, &state, &spool, &archive)));
    Ok(())
}

/// Delivers documents forever.
async fn deliver(counters: &ArchiveCounters, state: &StateDirectory, spool: &Spool, archive: &Archive) {
    let mut pause = PAUSE_MIN;
    let mut dropped_before = 0;
    loop {
        let (delivered, error) = archive.drain(spool).await;
        counters.delivered.fetch_add(delivered, Ordering::Relaxed);
        let dropped = spool.dropped();
        counters.dropped.fetch_add(dropped - dropped_before, Ordering::Relaxed);
        dropped_before = dropped;
        counters.failures.fetch_add(u64::from(error.is_some()), Ordering::Relaxed);
        if delivered > 0 {
            pause = PAUSE_MIN;
            let host =
                archive.url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default().to_owned();
            if let Ok(Some(pin)) = publish::keep_pin(state, &host, archive.http.seen_pin()) {
                say_aside!("culvert: the key of the archive {host} is pinned: {pin}");
            }
        }
        match error {
            None => tokio::time::sleep(POLL_INTERVAL).await,
            Some(error) => {
                say_aside!(
                    "culvert: {}; {} {}, next attempt in {} s",
                    foreign_text(&error.to_string()),
                    counted(spool.len(), "document"),
                    agree(spool.len(), "waits", "wait"),
                    pause.as_secs()
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}
