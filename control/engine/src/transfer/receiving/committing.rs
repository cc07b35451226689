//! When what was written is made durable.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedSender;

use crate::transfer::receiving::committer::Committer;
use crate::transfer::receiving::done::Done;
use crate::transfer::receiving::files::IncomingFiles;
use crate::transfer::receiving::intake::Intake;

/// Written chunks are made durable and journaled this often, so that a crash costs no more than
/// this.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);

/// What makes durable what was written, and when it did so last.
#[derive(Debug)]
pub(super) struct Committing {
    pub(super) committer: Committer,
    pub(super) committed_at: Instant,
    pub(super) syncing: bool,
}

impl Committing {
    /// Files wait for others to be closed, which they are when what is written is durable.
    pub(super) fn commit_soon(
        &mut self,
        files: &mut IncomingFiles,
        intake: &Arc<Intake>,
        done: &UnboundedSender<Done>,
    ) {
        if !self.syncing {
            self.commit(files, intake, done);
        }
    }

    /// Makes what was written so far durable, and records it in the journal.
    pub(super) fn commit_written(
        &mut self,
        files: &mut IncomingFiles,
        intake: &Arc<Intake>,
        done: &UnboundedSender<Done>,
    ) {
        if !self.syncing && self.committed_at.elapsed() >= COMMIT_INTERVAL {
            self.commit(files, intake, done);
        }
    }

    fn commit(&mut self, files: &mut IncomingFiles, intake: &Arc<Intake>, done: &UnboundedSender<Done>) {
        self.committed_at = Instant::now();
        let Some(work) = files.take_uncommitted() else { return };
        self.syncing = true;
        let (intake, done) = (intake.clone(), done.clone());
        tokio::task::spawn_blocking(move || {
            let chunks = work.chunks();
            let result = work.commit(&intake);
            let _ = done.send(Done::Synced { chunks, result });
        });
    }
}
