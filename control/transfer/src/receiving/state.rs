//! The state of the receiving side: each part has one owner. The steps that several events lead to
//! are here too.

use std::time::Instant;

use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{FileError, LeftOut, Message};
use culvert_protocol::tree_hash::ChunkHash;
use culvert_system::processor_time::CpuMeter;
use tokio::sync::mpsc::UnboundedSender;

use crate::TransferContext;
use crate::error::TransferError;
use crate::progress_watchdog::ProgressWatchdog;
use crate::receiving::arriving::{Arriving, Compared};
use crate::receiving::comparing::WrongWhole;
use crate::receiving::done::Done;
use crate::receiving::ending::begin_to_conclude;
use crate::receiving::failures::{Failures, wrong_whole};
use crate::receiving::inbound::Inbound;
use crate::receiving::intake::Intake;
use crate::receiving::job::Job;
use crate::receiving::opening::empty_files;
use crate::receiving::parts::put_empty;
use crate::receiving::stalling::outstanding;
use crate::receiving::statement::Ending;
use crate::receiving::storing::{Storing, begin_to_finish};
use crate::receiving::tally::Tally;

/// The state of the receiving side. Each part has one owner.
pub(super) struct Receiving {
    pub(super) job: Job,
    pub(super) inbound: Inbound,
    pub(super) arriving: Arriving,
    pub(super) storing: Storing,
    pub(super) tally: Tally,
    pub(super) patience: ProgressWatchdog,
    pub(super) failures: Failures,
    pub(super) ending: Ending,
}

impl Receiving {
    /// Nothing received yet. `would_leave_out` is what the sender of a dry run would not send.
    pub(super) fn new(
        context: TransferContext,
        intake: Intake,
        would_leave_out: (u64, Vec<LeftOut>),
        done: UnboundedSender<Done>,
        began: Instant,
        began_unix_ms: u64,
    ) -> Result<Self, TransferError> {
        let job = Job::new(context, intake, done)?;
        let cpu = CpuMeter::begin(job.plane().process_id());
        Ok(Self {
            inbound: Inbound::new(),
            arriving: Arriving::new(job.chunk_count),
            storing: Storing::new(&job),
            tally: Tally::new(&job),
            patience: ProgressWatchdog::new(job.context.patience, Instant::now()),
            failures: Failures { would_leave_out, ..Failures::default() },
            ending: Ending::new(cpu, began, began_unix_ms),
            job,
        })
    }

    /// Files without bytes, which have no chunk, are stored at once.
    pub(super) fn store_empty_files(&mut self) {
        let empty = empty_files(&self.job);
        if let Some(sink) = self.job.intake.sink.clone() {
            // The transfer does not end before.
            self.storing.begin_motion();
            return put_empty(&self.job, sink, empty);
        }
        for part in empty.chunks(1_024) {
            self.storing.committing.committer.store_empty(part.to_vec());
        }
    }

    /// When everything is stored: begins to make the last of it durable.
    pub(super) fn conclude_if_done(&mut self) {
        let has_work = !self.tally.is_complete() || self.storing.is_in_motion();
        if !has_work && self.ending.begin() {
            // Nothing else will be stored: only the root still needs the hashes.
            begin_to_conclude(&self.job, self.tally.take_hashes(), self.failures.failed.clone());
        }
    }

    /// Checks that the transfer makes progress.
    pub(super) fn check_patience(&mut self) -> Result<(), TransferError> {
        // How much has arrived is the lanes' claim.
        let progress = self.tally.steps().saturating_add(self.inbound.new_bytes());
        let outstanding = || outstanding(&self.tally, &self.arriving, &self.storing, &self.ending);
        self.patience.check(progress, Instant::now(), outstanding)
    }

    /// A chunk's bytes are written, and have this hash.
    pub(super) async fn chunk_written(&mut self, chunk: u32, hash: Option<ChunkHash>) -> Result<(), TransferError> {
        self.tally.add_arrived(self.job.chunk_bytes(chunk));
        match hash {
            Some(hash) => {
                self.arriving.note_ours(chunk, hash);
                self.compare(chunk).await
            }
            None => {
                self.chunk_verified(chunk, [0; 32]);
                Ok(())
            }
        }
    }

    /// Compares both sides' hashes of a chunk once both are there.
    pub(super) async fn compare(&mut self, chunk: u32) -> Result<(), TransferError> {
        match self.arriving.compare(chunk) {
            Compared::Incomplete => Ok(()),
            Compared::Same(hash) => {
                self.chunk_verified(chunk, hash);
                Ok(())
            }
            Compared::Different => {
                self.tally.discount_arrived(self.job.chunk_bytes(chunk));
                self.try_again(chunk).await
            }
        }
    }

    /// Asks for a chunk once more, unless that has been done often enough.
    pub(super) async fn try_again(&mut self, chunk: u32) -> Result<(), TransferError> {
        if let Some(tag) = self.arriving.reopen(chunk)? {
            self.inbound.reopen(self.job.plane(), tag, chunk);
        }
        self.job.writer().send(Message::SendAgain(vec![chunk])).await?;
        Ok(())
    }

    /// A chunk's bytes are written and are the sender's.
    pub(super) fn chunk_verified(&mut self, chunk: u32, hash: ChunkHash) {
        self.arriving.verify(chunk);
        self.tally.step();
        if self.job.is_measurement() {
            self.tally.note_memory();
            return;
        }
        let Some(ChunkContent::Range { file, part, .. }) = self.job.chunks.content(chunk) else { return };
        let hash = self.job.context.options.checksum.then_some(hash);
        self.storing.files.chunk_verified(file, chunk, part, hash, false);
        self.finish_file_if_ready(file);
    }

    /// Gives a file its name if it is complete and the sender has confirmed that it did not change.
    pub(super) fn finish_file_if_ready(&mut self, file: u32) {
        if self.failures.failed.contains(&file) {
            return;
        }
        self.use_old(file);
        //= W-41
        //# Only then may the file get its name.
        match self.storing.files.take_if_ready(file) {
            None => self.storing.open_wanted(&self.job, &self.arriving),
            Some(Err(())) => self.fail_file(wrong_whole(&self.job.intake, file), true),
            Some(Ok(whole)) => {
                if let Some(hash) = whole.hash {
                    self.tally.set_hash(file, hash);
                }
                begin_to_finish(&self.job, file, whole);
            }
        }
    }

    /// Does what can be done with what was proved of a file that would be replaced.
    pub(super) fn use_old(&mut self, file: u32) {
        let used = self.storing.use_old(&self.job, &self.arriving, &self.failures.failed, file);
        if let Err(WrongWhole) = used {
            self.fail_file(wrong_whole(&self.job.intake, file), true);
        }
    }

    /// Files have their final names, durably.
    pub(super) fn files_stored(&mut self, files: &[u32]) {
        self.tally.note_stored(&self.job, &self.failures.failed, files);
    }

    /// Gives up a file because of an error of this side, unless it merely lacks the resources to
    /// continue with any: then what was started stays for the next attempt.
    pub(super) fn fail_file_or_end(&mut self, error: FileError) -> Result<(), TransferError> {
        match TransferError::of_shortage(&error) {
            Some(end) => Err(end),
            None => {
                self.fail_file(error, true);
                Ok(())
            }
        }
    }

    /// Gives up a file. `tell` if the sender does not know yet.
    pub(super) fn fail_file(&mut self, error: FileError, tell: bool) {
        let (job, file) = (&self.job, error.file);
        if self.tally.is_stored(file) || !self.failures.failed.insert(file) {
            return;
        }
        self.tally.note_failed(file);
        if tell {
            // The order against other messages does not matter, and a closed connection shows when
            // it is read.
            let _ = job.writer().send_urgent(Message::FileRefused(error.clone()));
        }
        self.failures.errors.push(error);
        for (chunk, tag) in self.arriving.give_up(|chunk| job.file_of(chunk) == Some(file)) {
            self.inbound.abandon(job.plane(), tag, chunk);
        }
        if let Some(discarded) = self.storing.files.discard(file) {
            self.storing.remove_beside(job, file, discarded);
        }
        self.storing.open_wanted(job, &self.arriving);
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.inbound.close(self.job.plane());
    }
}
