//! Handles the outcomes of helpers by passing them to the parts concerned.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use culvert_objects::fs::destination::small_files::staged::StagedPack;
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{FileError, Message, runs};
use culvert_protocol::tree_hash::ChunkHash;

use crate::error::TransferError;
use crate::receiving::committer::Committed;
use crate::receiving::done::Done;
use crate::receiving::ending::{Stored, send_statement, tell_not_kept};
use crate::receiving::failures::full;
use crate::receiving::files::WaitingChunk;
use crate::receiving::hole_making::{hash_next, punch};
use crate::receiving::holes::HashedHole;
use crate::receiving::old_files::{Copied, OldFileRetention, ProvedChunk};
use crate::receiving::open_file::{Discarded, OpenFile};
use crate::receiving::put_objects::Put;
use crate::receiving::state::Receiving;

impl Receiving {
    /// Handles the outcome of a helper.
    pub(super) async fn work_done(&mut self, done: Done) -> Result<(), TransferError> {
        match done {
            Done::Removed => self.storing.end_motion(),
            Done::Opened { file, result } => self.file_opened(file, result)?,
            Done::Unpacked { chunk, pack } => self.unpacked(chunk, pack).await?,
            Done::PartWritten { chunk, written } => self.part_written(chunk, written).await?,
            Done::Put(put) => self.objects_put(put).await?,
            Done::Committed(committed) => self.committed(committed).await?,
            Done::Finished { file, result } => self.file_finished(file, result).await?,
            Done::Synced { chunks, result } => {
                self.storing.committing.end_sync();
                result.map_err(TransferError::Here)?;
                self.tally.add_steps(chunks.len() as u64);
                self.storing.open_wanted(&self.job, &self.arriving);
                self.say_stored(chunks).await?;
            }
            Done::Kept { file, hash, result } => self.old_kept(file, hash, result)?,
            Done::Copied { file, copied } => self.old_copied(file, copied).await?,
            Done::HolesHashed(hashed) => self.holes_hashed(hashed)?,
            Done::Punched { chunk, hash, result } => self.hole_punched(chunk, hash, result)?,
            Done::Concluded(root) => self.state_what_is_stored(root.map_err(TransferError::Here)?).await?,
        }
        Ok(())
    }

    /// A file is open, or cannot be opened: the chunks that waited for it go on.
    fn file_opened(&mut self, file: u32, result: Result<OpenFile, FileError>) -> Result<(), TransferError> {
        self.storing.end_motion();
        let waiting = match result {
            Ok(opened) if self.failures.failed.contains(&file) => {
                self.storing.remove_beside(&self.job, file, Discarded::Open(opened));
                self.storing.files.take_waiting(file)
            }
            Ok(opened) => self.storing.files.insert(file, opened).unwrap_or_else(|opened| {
                self.storing.remove_beside(&self.job, file, Discarded::Open(opened));
                Vec::new()
            }),
            Err(error) => {
                if let Some(full) = full(&error) {
                    return Err(full);
                }
                self.fail_file_or_end(error)?;
                self.storing.files.take_waiting(file)
            }
        };
        let (job, failed) = (&self.job, &self.failures.failed);
        for chunk in waiting {
            match chunk {
                WaitingChunk::Segments { tag, chunk } if failed.contains(&file) => {
                    self.inbound.abandon(job.plane(), tag, chunk);
                }
                WaitingChunk::Segments { tag, chunk } => {
                    if let Some(sink) = self.storing.sink_of(job, chunk) {
                        self.inbound.place(job.plane(), tag, chunk, sink);
                    }
                }
                WaitingChunk::Hole { chunk, hash } => {
                    punch(job, &self.storing.files, &mut self.arriving.holes, failed, chunk, hash);
                }
            }
        }
        // It may have been wanted for its name only.
        self.finish_file_if_ready(file);
        Ok(())
    }

    /// The files of a pack are written under temporary names.
    async fn unpacked(&mut self, chunk: u32, pack: StagedPack) -> Result<(), TransferError> {
        if !pack.mismatched.is_empty() {
            // The files that were right are dropped with it; they come again with the chunk. Who
            // ends the transfer waits for those that can report.
            let done = self.job.where_helpers_report();
            tokio::task::spawn_blocking(move || {
                drop(pack);
                drop(done);
            });
            return self.try_again(chunk).await;
        }
        self.pack_verified(chunk);
        if let Some(full) = pack.failed.iter().find_map(full) {
            return Err(full);
        }
        for error in pack.failed {
            self.fail_file_or_end(error)?;
        }
        let staged = pack.staged.into_iter().map(|staged| (self.tally.hash_of(staged.file), staged)).collect();
        self.storing.committing.committer.commit(chunk, staged, pack.settled);
        Ok(())
    }

    /// A part of an object was written, or not.
    async fn part_written(
        &mut self,
        chunk: u32,
        written: Result<Option<ChunkHash>, FileError>,
    ) -> Result<(), TransferError> {
        // Its file was given up meanwhile.
        if !self.arriving.is_coming(chunk) {
            return Ok(());
        }
        self.arriving.end_handing(chunk);
        match written {
            Err(error) => self.fail_file_or_end(error),
            Ok(hash) => self.chunk_written(chunk, hash).await,
        }
    }

    /// Small objects are stored, or not.
    async fn objects_put(&mut self, put: Put) -> Result<(), TransferError> {
        let Put { pack, is_mismatched, stored, failed } = put;
        match pack {
            Some(chunk) if is_mismatched => return self.try_again(chunk).await,
            Some(chunk) => self.pack_verified(chunk),
            None => self.storing.end_motion(),
        }
        for error in failed {
            if self.job.intake.manifest.file_bytes(error.file).is_some() {
                self.fail_file_or_end(error)?;
            } else {
                self.failures.errors.push(error.clone());
                self.job.writer().send(Message::FileRefused(error)).await?;
            }
        }
        let is_file = |file: &u32| self.job.intake.manifest.file_bytes(*file).is_some();
        let files: Vec<u32> = stored.into_iter().filter(is_file).collect();
        self.files_stored(&files);
        self.say_stored(pack.into_iter().collect()).await
    }

    /// The bytes of a pack are the sender's.
    fn pack_verified(&mut self, chunk: u32) {
        self.arriving.verify(chunk);
        self.tally.step();
        self.tally.add_arrived(self.job.chunk_bytes(chunk));
    }

    /// The committer has ended a round.
    async fn committed(&mut self, committed: Committed) -> Result<(), TransferError> {
        if let Some(error) = committed.fatal {
            return Err(error);
        }
        self.files_stored(&committed.stored);
        for error in committed.failed {
            self.fail_file_or_end(error)?;
        }
        if committed.chunks.is_empty() {
            return Ok(());
        }
        self.say_stored(committed.chunks).await
    }

    /// A large file has its final name, durably, or does not.
    async fn file_finished(&mut self, file: u32, result: Result<(), FileError>) -> Result<(), TransferError> {
        match result {
            // Given up while it got its name.
            Ok(()) if self.failures.failed.contains(&file) => Ok(()),
            Ok(()) => {
                let (chunks, closing) = self.storing.files.close(file);
                // To close a file may wait for its server.
                tokio::task::spawn_blocking(move || drop(closing));
                self.files_stored(&[file]);
                self.storing.open_wanted(&self.job, &self.arriving);
                self.say_stored(chunks).await
            }
            // Its partial file goes with it.
            Err(error) => self.fail_file_or_end(error),
        }
    }

    /// A file that has the sender's bytes stays, or not.
    fn old_kept(
        &mut self,
        file: u32,
        hash: ChunkHash,
        result: Result<OldFileRetention, FileError>,
    ) -> Result<(), TransferError> {
        if self.failures.failed.contains(&file) {
            return Ok(());
        }
        match result {
            Ok(OldFileRetention::Yes) => {
                self.storing.old.files.remove(&file);
                self.tally.set_hash(file, hash);
                let _ = self.storing.files.close(file);
                self.note_same(file);
                Ok(())
            }
            Ok(OldFileRetention::Changed) => {
                self.storing.old.cannot_stay(file);
                self.use_old(file);
                Ok(())
            }
            Err(error) => self.fail_file_or_end(error),
        }
    }

    /// Counts a file that was there with the sender's bytes: as stored, if this transfer has stored
    /// it in an earlier attempt, else as there already.
    fn note_same(&mut self, file: u32) {
        let is_own = self.job.intake.compared.iter().any(|compared| compared.file == file && compared.was_stored);
        if is_own {
            self.files_stored(&[file]);
        } else if self.tally.note_same(&self.job, file) {
            self.storing.old.note_same(file, self.job.file_bytes(file));
        }
    }

    /// Chunks of an old file were copied, or not.
    async fn old_copied(&mut self, file: u32, copied: Copied) -> Result<(), TransferError> {
        self.storing.old.end_copying(file);
        if self.failures.failed.contains(&file) {
            return Ok(());
        }
        let Copied { right, wrong, error } = copied;
        if let Some(error) = error {
            return match full(&error) {
                Some(full) => Err(full),
                None => self.fail_file_or_end(error),
            };
        }
        for ProvedChunk { chunk, part, hash } in right {
            self.storing.files.chunk_verified(file, chunk, part, Some(hash), false);
        }
        for &chunk in &wrong {
            self.arriving.discount(chunk);
            self.tally.discount_reused(self.job.chunk_bytes(chunk));
        }
        //= W-47
        //# if the old file has changed since, it requests what was lost with `SendAgain`
        for part in wrong.chunks(1_000) {
            self.job.writer().send(Message::SendAgain(part.to_vec())).await?;
        }
        self.tally.step();
        self.finish_file_if_ready(file);
        Ok(())
    }

    /// Holes were hashed: those that are what the sender says are made.
    fn holes_hashed(&mut self, hashed: Vec<HashedHole>) -> Result<(), TransferError> {
        self.arriving.holes.end_hashing();
        hash_next(&self.job, &mut self.arriving.holes);
        for HashedHole { chunk, hash, is_of_zeros } in hashed {
            if !is_of_zeros {
                return Err(TransferError::protocol("its hash of a hole is not that of zeros"));
            }
            let Some(file) = self.job.file_of(chunk) else { continue };
            let (job, failed) = (&self.job, &self.failures.failed);
            if failed.contains(&file) {
                self.arriving.holes.end(chunk);
            } else if self.storing.files.get(file).is_some() {
                punch(job, &self.storing.files, &mut self.arriving.holes, failed, chunk, hash);
            } else {
                self.storing.wait_for(job, &self.arriving, file, WaitingChunk::Hole { chunk, hash });
            }
        }
        Ok(())
    }

    /// A hole was made, or not.
    fn hole_punched(
        &mut self,
        chunk: u32,
        hash: ChunkHash,
        result: Result<(), FileError>,
    ) -> Result<(), TransferError> {
        self.arriving.holes.end(chunk);
        let Some(ChunkContent::Range { file, bytes, .. }) = self.job.chunks.content(chunk) else { return Ok(()) };
        if self.failures.failed.contains(&file) {
            return Ok(());
        }
        match result {
            Ok(()) => {
                self.tally.add_arrived(bytes);
                self.chunk_verified(chunk, hash);
                Ok(())
            }
            Err(error) => self.fail_file_or_end(error),
        }
    }

    /// Everything is stored: states it, signs it, and sends it.
    async fn state_what_is_stored(&mut self, root: String) -> Result<(), TransferError> {
        let Some(sender) = self.ending.sender else { return Ok(()) };
        // Invariant I-receiving-statement: a statement is made when each file is stored or failed.
        assert!(self.tally.is_complete(), "the statement is made before every file is stored or given up");
        let failed_count = self.failures.errors.count;
        let stored = Stored { job: &self.job, tally: &self.tally, old: &self.storing.old, failed_count };
        let stated = stored.state(&self.ending, &sender, root);
        self.failures.not_kept = tell_not_kept(&self.job).await?;
        send_statement(&self.job, &stated).await?;
        self.ending.stated = Some(stated);
        Ok(())
    }

    /// Tells the sender which chunks are on stable storage.
    async fn say_stored(&self, mut chunks: Vec<u32>) -> Result<(), TransferError> {
        //= W-42
        //# `Stored` lists chunks that are on stable storage.
        // Invariant I-receiving-stored: only verified chunks are reported as stored.
        assert!(chunks.iter().all(|&chunk| self.arriving.is_verified(chunk)), "a chunk is stored and not verified");
        chunks.sort_unstable();
        for part in runs(chunks).chunks(2_048) {
            self.job.writer().send(Message::Stored(part.to_vec())).await?;
        }
        Ok(())
    }
}
