//! When what was written is made durable.

use std::time::{Duration, Instant};

use crate::receiving::committer::Committer;
use crate::receiving::done::Done;
use crate::receiving::files::IncomingFiles;
use crate::receiving::job::Job;

/// Written chunks are made durable and journaled this often, so that a crash costs no more than
/// this.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Makes durable what was written, and knows when it did so last.
#[derive(Debug)]
pub(super) struct Committing {
    pub(super) committer: Committer,
    committed_at: Instant,
    is_syncing: bool,
}

impl Committing {
    /// Starts the committer.
    pub(super) fn begin(job: &Job) -> Self {
        let committed = job.where_helpers_report();
        let committer = Committer::start(job.intake.clone(), job.context.options.preserve, move |result| {
            // The task may be gone; what was committed then stands in the journal.
            let _ = committed.send(Done::Committed(result));
        });
        Self { committer, committed_at: Instant::now(), is_syncing: false }
    }

    /// Whether a helper makes large files durable.
    pub(super) const fn is_syncing(&self) -> bool {
        self.is_syncing
    }

    /// The helper has ended.
    pub(super) const fn end_sync(&mut self) {
        self.is_syncing = false;
    }

    /// Files wait for others to be closed, which they are when what is written is durable.
    pub(super) fn commit_soon(&mut self, job: &Job, files: &mut IncomingFiles) {
        if !self.is_syncing {
            self.commit(job, files);
        }
    }

    /// Makes what was written so far durable, and records it in the journal, if that was not done
    /// lately.
    pub(super) fn commit_written(&mut self, job: &Job, files: &mut IncomingFiles) {
        if !self.is_syncing && self.committed_at.elapsed() >= COMMIT_INTERVAL {
            self.commit(job, files);
        }
    }

    fn commit(&mut self, job: &Job, files: &mut IncomingFiles) {
        self.committed_at = Instant::now();
        let Some(work) = files.take_uncommitted() else { return };
        self.is_syncing = true;
        let intake = job.intake.clone();
        job.help_blocking(move || {
            let chunks = work.chunks();
            let result = work.commit(&intake);
            Done::Synced { chunks, result }
        });
    }
}
