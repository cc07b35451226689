//! Files that are compared by their chunks with those that they would replace.
//!
//! The chunks of the old file are hashed where they are, and the sender proves those that its own
//! file has too. If that is all of them, and nobody has touched the old file, it stays, and nothing
//! is written. Else the file is made as any other, and what was proved is copied into it beside
//! what comes by the flows. If the old file has changed by then the copies are hashed once more,
//! and what is not right is asked for: so whatever is written to the old file meanwhile, what is
//! stored is the sender's.

use std::collections::HashMap;

use culvert_link::commands::FileRange;
use culvert_objects::fs::destination::file_errors::unwritable;
use culvert_objects::fs::destination::old_files::{OldFile, Range, copy_ranges};
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{FileError, Message, RefusalCode};
use culvert_protocol::tree_hash::{ChunkHash, TreeHash};
use culvert_system::os_error;
use rustix::io::Errno;

use crate::shares::Kind;
use crate::transfer::blocking;
use crate::transfer::error::TransferError;
use crate::transfer::receiving::done::Done;
use crate::transfer::receiving::old_files::{Comparison, Copied, OldFileRetention, ProvedChunk, keep_old};
use crate::transfer::receiving::state::Receiving;

impl Receiving {
    /// Hashes files that would be replaced: what the sender's file has too need not be sent.
    /// Returns the bytes that were hashed.
    pub(super) async fn prove_old_files(&mut self) -> Result<u64, TransferError> {
        let intake = self.intake.clone();
        let first_chunks: HashMap<u32, u32> = self.arriving.chunks.files().collect();
        let mut bytes = 0u64;
        for compared in &intake.compared {
            let Some(&first) = first_chunks.get(&compared.file) else { continue };
            let (opening, file) = (intake.clone(), compared.file);
            let opened = blocking(move || {
                let destination = opening.destination.as_ref().ok_or(Errno::INVAL)?;
                OldFile::open(destination, &destination.name(&opening.manifest, file))
            });
            let _place = self.context.share.piece(Kind::Files);
            // What cannot be read is replaced by what is sent.
            let Ok(old) = opened.await else { continue };
            let plane = self.context.plane.clone();
            let Ok(installed) = plane.install_file(&old.buffered, old.direct.as_ref()).await else { continue };
            let hashed = self.hash_chunks(installed.slot(), first..first + compared.parts as u32).await?;
            bytes += hashed.iter().map(|&(chunk, _)| u64::from(self.chunk_bytes(chunk))).sum::<u64>();
            self.arriving.offered.extend(hashed);
            let new_bytes = intake.manifest.file_bytes(file).unwrap_or(0);
            let comparison = Comparison {
                version: old.version,
                proved: Vec::new(),
                chunks: self.arriving.chunks.chunks_of_file(new_bytes),
                may_be_same: old.version.bytes == new_bytes,
                is_keeping: false,
                copying: 0,
            };
            self.old.files.insert(file, comparison);
            tokio::task::spawn_blocking(move || drop((installed, old)));
        }
        Ok(bytes)
    }

    /// The sender has proved a chunk, if it is one of an old file.
    pub(super) fn proved_in_old(&mut self, file: u32, chunk: u32, part: u64, hash: ChunkHash) -> bool {
        let Some(old) = self.old.files.get_mut(&file) else { return false };
        old.proved.push(ProvedChunk { chunk, part, hash });
        let bytes = u64::from(self.chunk_bytes(chunk));
        self.tally.reused_bytes = self.tally.reused_bytes.saturating_add(bytes);
        self.tally.bytes_arrived = self.tally.bytes_arrived.saturating_add(bytes);
        true
    }

    /// Does what can be done with what was proved of a file: keeps it, copies from it, or waits.
    pub(super) fn use_old(&mut self, file: u32) {
        let Some(old) = self.old.files.get(&file) else { return };
        if old.proved.is_empty() || old.is_keeping || self.failures.failed.contains(&file) {
            return;
        }
        let has_all = old.proved.len() as u64 == old.chunks;
        if has_all && old.may_be_same {
            if let Some(theirs) = self.files.complete(file) {
                self.keep_if_same(file, theirs);
            }
        } else if self.files.get(file).is_some() {
            self.copy_from_old(file);
        } else if has_all || self.files.is_closed(file) {
            // Nothing else would open it.
            self.files.want_open(file);
            self.open_files();
        }
    }

    fn keep_if_same(&mut self, file: u32, theirs: ChunkHash) {
        let Some(old) = self.old.files.get_mut(&file) else { return };
        let mut tree = TreeHash::new(old.chunks);
        old.proved.iter().for_each(|proved| tree.add(proved.part, proved.hash));
        if tree.finish().is_none_or(|hash| *hash.as_bytes() != theirs) {
            self.fail_wrong_whole(file);
            return;
        }
        old.is_keeping = true;
        let (version, preserve) = (old.version, self.context.options.preserve);
        let (intake, done) = (self.intake.clone(), self.done.clone());
        tokio::task::spawn_blocking(move || {
            let result = keep_old(&intake, file, version, preserve);
            let _ = done.send(Done::Kept { file, hash: theirs, result });
        });
    }

    /// A file that has the sender's bytes stays, or not.
    pub(super) fn kept(
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
                self.old.files.remove(&file);
                if let Some(place) = self.tally.hashes.get_mut(file as usize) {
                    *place = hash;
                }
                let _ = self.files.close(file);
                self.note_same(file);
            }
            Ok(OldFileRetention::Changed) => {
                if let Some(old) = self.old.files.get_mut(&file) {
                    (old.is_keeping, old.may_be_same) = (false, false);
                }
                self.use_old(file);
            }
            Err(error) => self.fail_file_or_end(error)?,
        }
        Ok(())
    }

    /// Counts a file that was there with the sender's bytes: as stored, if this transfer has stored
    /// it in an earlier attempt, else as there already.
    fn note_same(&mut self, file: u32) {
        let is_own = self.intake.compared.iter().any(|compared| compared.file == file && compared.was_stored);
        if is_own {
            self.files_stored(&[file]);
            return;
        }
        if !self.tally.stored.insert(file) {
            return;
        }
        let bytes = self.intake.manifest.file_bytes(file).unwrap_or(0);
        self.old.same.insert(file);
        self.old.same_bytes = self.old.same_bytes.saturating_add(bytes);
        self.tally.reused_bytes = self.tally.reused_bytes.saturating_sub(bytes);
        self.tally.files_left = self.tally.files_left.saturating_sub(1);
        self.tally.steps = self.tally.steps.saturating_add(1);
        self.context.progress.send_modify(|progress| progress.files_done += 1);
    }

    /// Copies what was proved into the file, which is open.
    fn copy_from_old(&mut self, file: u32) {
        let Some(opened) = self.files.opened_file(file) else { return };
        let Some(old) = self.old.files.get_mut(&file) else { return };
        let proved = std::mem::take(&mut old.proved);
        old.copying = old.copying.saturating_add(1);
        let version = old.version;
        let range_of = |chunk: u32| match self.arriving.chunks.content(chunk) {
            Some(ChunkContent::Range { offset, bytes, .. }) => Some((offset, bytes)),
            _ => None,
        };
        let ranges: Vec<Range> = proved.iter().filter_map(|proved| range_of(proved.chunk)).collect();
        let (intake, done, plane) = (self.intake.clone(), self.done.clone(), self.context.plane.clone());
        let chunk_bytes = self.context.options.chunk_bytes;
        let file_bytes = self.intake.manifest.file_bytes(file).unwrap_or(0);
        tokio::spawn(async move {
            let (to, wanted) = (opened.partial(), ranges.clone());
            let copied = blocking(move || {
                let destination = intake.destination.as_ref().ok_or(Errno::INVAL);
                let copied = destination.and_then(|destination| {
                    let name = destination.name(&intake.manifest, file);
                    copy_ranges(destination, &name, version, &to, &wanted)
                });
                copied.map_err(|error| (error, unwritable(&intake.name(file), file, error)))
            });
            let mut result = Copied::default();
            match copied.await {
                Ok(true) => result.right = proved,
                Err((error, text)) if os_error::code(error) == RefusalCode::NoSpace => result.error = Some(text),
                // Some of it may be right all the same.
                Ok(false) | Err(_) => {
                    for (proved, &(offset, bytes)) in proved.into_iter().zip(&ranges) {
                        let range = FileRange { file: opened.slot(), offset, file_bytes };
                        let lane = (proved.chunk as usize % plane.lanes().len()) as u16;
                        match plane.check(lane, range, bytes, chunk_bytes).await {
                            Ok(Ok(hash)) if hash == proved.hash => result.right.push(proved),
                            _ => result.wrong.push(proved.chunk),
                        }
                    }
                }
            }
            tokio::task::spawn_blocking(move || drop(opened));
            let _ = done.send(Done::Copied { file, copied: result });
        });
    }

    /// Chunks were copied, or not.
    pub(super) async fn copied(&mut self, file: u32, copied: Copied) -> Result<(), TransferError> {
        if let Some(old) = self.old.files.get_mut(&file) {
            old.copying = old.copying.saturating_sub(1);
        }
        if self.failures.failed.contains(&file) {
            return Ok(());
        }
        let Copied { right, wrong, error } = copied;
        if let Some(error) = error {
            if error.code == "no_space" {
                return Err(TransferError::here(RefusalCode::NoSpace, error.text));
            }
            return self.fail_file_or_end(error);
        }
        for ProvedChunk { chunk, part, hash } in right {
            self.files.chunk_verified(file, chunk, part, Some(hash), false);
        }
        for &chunk in &wrong {
            let bytes = u64::from(self.chunk_bytes(chunk));
            self.arriving.verified.remove(chunk);
            self.tally.reused_bytes = self.tally.reused_bytes.saturating_sub(bytes);
            self.tally.bytes_arrived = self.tally.bytes_arrived.saturating_sub(bytes);
        }
        for part in wrong.chunks(1_000) {
            self.context.connection.writer.send(Message::SendAgain(part.to_vec())).await?;
        }
        self.tally.steps = self.tally.steps.saturating_add(1);
        self.finish_file_if_ready(file);
        Ok(())
    }
}
