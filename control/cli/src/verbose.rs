//! What `-v` adds to a transfer: what is being done, as it begins, and files as they are stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use culvert_engine::transfer::stored_names::{StoredNames, Told};
use culvert_model::progress::{Phase, Progress};
use culvert_model::units::show_bytes;
use culvert_protocol::counted::counted;
use tokio::sync::watch;

use crate::phase::phase_words;

static IS_VERBOSE: AtomicBool = AtomicBool::new(false);

/// Whether this command reports what it does.
pub fn set(is_verbose: bool) {
    IS_VERBOSE.store(is_verbose, Ordering::Relaxed);
}

/// Whether it does.
#[must_use]
pub fn is_set() -> bool {
    IS_VERBOSE.load(Ordering::Relaxed)
}

/// Tells files by name, on a thread of its own: a terminal that stands still keeps no transfer
/// waiting. What has been gathered when this is dropped is told first.
#[derive(Debug)]
pub struct FileTeller {
    names: Arc<StoredNames>,
    thread: Option<JoinHandle<()>>,
}

impl FileTeller {
    /// Begins, if files are to be told. `verb` is what has become of them.
    #[must_use]
    pub fn begin(verb: &'static str) -> Option<Self> {
        if !is_set() {
            return None;
        }
        let names = Arc::new(StoredNames::default());
        let reader = names.clone();
        let tell = move || {
            while let Some(told) = reader.next() {
                told.iter().for_each(|told| say_aside!("culvert: {}", file_line(verb, told)));
            }
        };
        // Without a thread nothing is told by name: that is no reason to move nothing.
        let thread = std::thread::Builder::new().name("names".to_owned()).spawn(tell).ok()?;
        Some(Self { names, thread: Some(thread) })
    }

    /// Where names go.
    #[must_use]
    pub fn names(&self) -> Arc<StoredNames> {
        self.names.clone()
    }
}

impl Drop for FileTeller {
    fn drop(&mut self) {
        self.names.end();
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }
}

/// Tells the phases of a transfer, if they are to be told, until `until` resolves, and returns what
/// that resolves to.
pub async fn beside<T>(mut progress: watch::Receiver<Progress>, until: impl Future<Output = T>) -> T {
    if !is_set() {
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

fn file_line(verb: &str, told: &Told) -> String {
    match told {
        Told::File { name, bytes } => format!("{verb} {name} ({})", show_bytes(*bytes)),
        Told::More(count) => {
            format!("{verb} {}, faster than their names could be written", counted(*count, "more file"))
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
