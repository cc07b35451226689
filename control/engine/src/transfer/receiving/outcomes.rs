//! What the work of helpers comes to.

use culvert_protocol::control::{Message, RefusalCode, Run, runs};
use culvert_protocol::names::printable;

use crate::transfer::error::TransferError;
use crate::transfer::receiving::done::Done;
use crate::transfer::receiving::files::WaitingChunk;
use crate::transfer::receiving::open_file;
use crate::transfer::receiving::state::Receiving;

impl Receiving {
    pub(super) async fn work_done(&mut self, done: Done) -> Result<(), TransferError> {
        match done {
            Done::Removed => self.tally.partials_in_motion -= 1,
            Done::Opened { file, result } => {
                self.tally.partials_in_motion -= 1;
                let waiting = match result {
                    Ok(opened) if self.failures.failed.contains(&file) => {
                        self.remove_beside(file, open_file::Discarded::Open(opened));
                        self.files.take_waiting(file)
                    }
                    Ok(opened) => match self.files.insert(file, opened) {
                        Ok(waiting) => waiting,
                        Err(opened) => {
                            self.remove_beside(file, open_file::Discarded::Open(opened));
                            Vec::new()
                        }
                    },
                    Err(error) => {
                        if error.code == "no_space" {
                            return Err(TransferError::here(RefusalCode::NoSpace, error.text));
                        }
                        self.fail_file_or_end(error)?;
                        self.files.take_waiting(file)
                    }
                };
                for chunk in waiting {
                    match chunk {
                        WaitingChunk::Segments { tag, chunk } if self.failures.failed.contains(&file) => {
                            self.inbound.abandon(&self.context.plane, tag, chunk);
                        }
                        WaitingChunk::Segments { tag, chunk } => self.place_in_file(tag, chunk),
                        WaitingChunk::Hole { chunk, hash } => self.punch(chunk, hash),
                    }
                }
                // It may have been wanted for its name only.
                self.finish_file_if_ready(file);
            }
            Done::Unpacked { chunk, pack } => self.unpacked(chunk, pack).await?,
            Done::PartWritten { chunk, written } => self.part_written(chunk, written).await?,
            Done::Put(put) => self.objects_put(put).await?,
            Done::Committed(committed) => {
                if let Some(error) = committed.fatal {
                    return Err(error);
                }
                self.files_stored(&committed.stored);
                for error in committed.failed {
                    self.fail_file_or_end(error)?;
                }
                if !committed.chunks.is_empty() {
                    self.say_stored(committed.chunks).await?;
                }
            }
            Done::Finished { file, result } => match result {
                // Given up while it got its name.
                Ok(()) if self.failures.failed.contains(&file) => {}
                Ok(()) => {
                    let (chunks, closing) = self.files.close(file);
                    // To close a file may wait for its server.
                    tokio::task::spawn_blocking(move || drop(closing));
                    self.files_stored(&[file]);
                    self.open_files();
                    self.say_stored(chunks).await?;
                }
                // Its partial file goes with it.
                Err(error) => self.fail_file_or_end(error)?,
            },
            Done::Synced { chunks, result } => {
                self.committing.syncing = false;
                result.map_err(TransferError::Here)?;
                self.tally.steps += chunks.len() as u64;
                self.open_files();
                self.say_stored(chunks).await?;
            }
            Done::Kept { file, hash, result } => self.kept(file, hash, result)?,
            Done::Copied { file, copied } => self.copied(file, copied).await?,
            Done::HolesHashed(hashed) => self.holes_hashed(hashed)?,
            Done::Punched { chunk, hash, result } => self.punched(chunk, hash, result)?,
            Done::Concluded(root) => self.state_what_is_stored(root.map_err(TransferError::Here)?).await?,
        }
        Ok(())
    }

    async fn unpacked(
        &mut self,
        chunk: u32,
        pack: culvert_objects::fs::destination::small_files::staged::StagedPack,
    ) -> Result<(), TransferError> {
        if !pack.mismatched.is_empty() {
            // The files that were right are dropped with it; they come again with the chunk.
            let done = self.done.clone();
            tokio::task::spawn_blocking(move || {
                drop(pack);
                drop(done);
            });
            return self.try_again(chunk).await;
        }
        self.arriving.came_by.remove(&chunk);
        self.arriving.verified.insert(chunk);
        self.tally.steps += 1;
        self.tally.bytes_arrived += u64::from(self.chunk_bytes(chunk));
        if let Some(full) = pack.failed.iter().find(|error| error.code == "no_space") {
            return Err(TransferError::here(RefusalCode::NoSpace, full.text.clone()));
        }
        for error in pack.failed {
            self.fail_file_or_end(error)?;
        }
        let hash_of = |file: u32| self.tally.hashes.get(file as usize).copied().unwrap_or_default();
        let staged = pack.staged.into_iter().map(|staged| (hash_of(staged.file), staged)).collect();
        self.committing.committer.commit(chunk, staged, pack.settled);
        Ok(())
    }

    pub(super) fn files_stored(&mut self, files: &[u32]) {
        let before = self.tally.files_stored;
        for &file in files {
            if !self.failures.failed.contains(&file) && self.tally.stored.insert(file) {
                self.tally.files_left -= 1;
                self.tally.files_stored += 1;
                let bytes = self.intake.manifest.file_bytes(file).unwrap_or(0);
                self.tally.bytes_stored += bytes;
                if let Some(names) = &self.context.names {
                    names.add(&printable(&self.intake.name(file)), bytes);
                }
            }
        }
        let stored = self.tally.files_stored - before;
        self.tally.steps += stored;
        self.context.progress.send_modify(|progress| progress.files_done += stored);
    }

    pub(super) async fn say_stored(&self, mut chunks: Vec<u32>) -> Result<(), TransferError> {
        chunks.sort_unstable();
        let stored: Vec<Run> = runs(chunks);
        for part in stored.chunks(2_048) {
            self.context.connection.writer.send(Message::Stored(part.to_vec())).await?;
        }
        Ok(())
    }
}
