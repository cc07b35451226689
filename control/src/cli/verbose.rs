//! What `-v` adds to a transfer: what is being done, as it begins.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::watch;

use crate::cli::progress::phase_words;
use crate::transfer::{Phase, Progress};
use crate::units::show_bytes;
use culvert_tuning::counted::counted;

static IS_VERBOSE: AtomicBool = AtomicBool::new(false);

/// Whether this command reports what it does.
pub fn set(is_verbose: bool) {
    IS_VERBOSE.store(is_verbose, Ordering::Relaxed);
}

/// Tells the phases of a transfer, if they are to be told, until `until` resolves, and returns what that resolves to.
pub async fn beside<T>(mut progress: watch::Receiver<Progress>, until: impl Future<Output = T>) -> T {
    if !IS_VERBOSE.load(Ordering::Relaxed) {
        return until.await;
    }
    tokio::pin!(until);
    let mut told = Phase::Queued;
    loop {
        let changed = async {
            // A reader that has gone does not matter any more.
            if progress.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            outcome = &mut until => return outcome,
            () = changed => {
                let now = progress.borrow_and_update();
                if now.phase != told {
                    told = now.phase;
                    say_aside!("culvert: {}", line(&now));
                }
            }
        }
    }
}

/// A phase as it begins.
fn line(now: &Progress) -> String {
    let phase = phase_words(now.phase);
    match now.phase {
        Phase::Planning if now.files_total > 0 => {
            format!("comparing {} with the destination", counted(now.files_total, "file"))
        }
        Phase::Moving if now.files_total > 0 => {
            format!("{phase}: {}, {}", counted(now.files_total, "file"), show_bytes(now.bytes_total))
        }
        _ => phase.to_owned(),
    }
}
