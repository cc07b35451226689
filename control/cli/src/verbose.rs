//! Output of `-v`: the phases of a transfer as they start, and files as they are stored.

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

/// Sets whether this command reports details.
pub fn set(is_verbose: bool) {
    IS_VERBOSE.store(is_verbose, Ordering::Relaxed);
}

/// Whether this command reports details.
#[must_use]
pub fn is_set() -> bool {
    IS_VERBOSE.load(Ordering::Relaxed)
}

/// Prints the names of files on a thread of its own, so that a stopped terminal does not block the
/// transfer. Dropping it prints what is queued first.
#[derive(Debug)]
pub struct FileReporter {
    names: Arc<StoredNames>,
    thread: Option<JoinHandle<()>>,
}

impl FileReporter {
    /// Starts it if `-v` was given. `verb` says what happened to the files.
    #[must_use]
    pub fn start(verb: &'static str) -> Option<Self> {
        if !is_set() {
            return None;
        }
        let names = Arc::new(StoredNames::default());
        let reader = names.clone();
        let report = move || {
            while let Some(told) = reader.next() {
                told.iter().for_each(|told| say_aside!("culvert: {}", file_line(verb, told)));
            }
        };
        // If the thread cannot be started, names are not reported; the transfer runs all the same.
        let thread = std::thread::Builder::new().name("names".to_owned()).spawn(report).ok()?;
        Some(Self { names, thread: Some(thread) })
    }

    /// The queue of names.
    #[must_use]
    pub fn names(&self) -> Arc<StoredNames> {
        self.names.clone()
    }
}

impl Drop for FileReporter {
    fn drop(&mut self) {
        self.names.end();
        if let Some(thread) = self.thread.take() {
            // A panic has been reported already.
            let _ = thread.join();
        }
    }
}

/// Prints the phases of a transfer, if `-v` was given, until `until` resolves, and returns its
/// result.
pub async fn with_phases<T>(mut progress: watch::Receiver<Progress>, until: impl Future<Output = T>) -> T {
    if !is_set() {
        return until.await;
    }
    tokio::pin!(until);
    let mut last = Phase::Queued;
    loop {
        let changed = async {
            // The sender is gone, and `until` is about to resolve.
            if progress.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            outcome = &mut until => return outcome,
            () = changed => {
                let now = progress.borrow_and_update();
                if now.phase != last {
                    last = now.phase;
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

/// The line for the start of a phase.
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
