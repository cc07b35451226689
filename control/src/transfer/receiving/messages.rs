//! What the sender says while it sends. Nothing that it names is believed to exist before it was looked up.

use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::Message;
use culvert_protocol::tree_hash::{ChunkHash, hash_of_zeros};

use super::files::WaitingChunk;
use super::{Received, Receiving, WAITING_HASHES_MAX};
use crate::transfer::manifest_exchange::unexpected;
use crate::transfer::{Phase, TransferError, blocking};

impl Receiving {
    /// A message that brings the transfer further.
    pub(super) async fn step(&mut self, message: Message) -> Result<Option<Received>, TransferError> {
        self.steps += 1;
        self.message(message).await
    }

    async fn message(&mut self, message: Message) -> Result<Option<Received>, TransferError> {
        match message {
            Message::ChunkHashes(hashes) => {
                for (chunk, hash) in hashes {
                    self.check_chunk_number(chunk)?;
                    // Files in packs have hashes of their own, and what is verified needs no other.
                    if self.verified.contains(chunk)
                        || matches!(self.chunks.content(chunk), Some(ChunkContent::Pack { .. }))
                    {
                        continue;
                    }
                    if self.theirs.len() >= WAITING_HASHES_MAX {
                        return Err(TransferError::protocol("it names hashes of far more chunks than it sends"));
                    }
                    self.theirs.insert(chunk, hash);
                    self.compare(chunk).await?;
                }
            }
            Message::PackHashes { chunk, hashes } => {
                let fits = matches!(self.chunks.content(chunk), Some(ChunkContent::Pack { files, .. }) if files.len() == hashes.len());
                if !fits {
                    return Err(TransferError::protocol(format!("it names hashes of a pack {chunk} that is none")));
                }
                if self.verified.contains(chunk) {
                    return Ok(None);
                }
                self.pack_hashes.insert(chunk, hashes);
                self.unpack_if_ready(chunk);
            }
            Message::Holes(holes) => self.holes(holes).await?,
            Message::Proven(chunks) => {
                for chunk in chunks {
                    self.check_chunk_number(chunk)?;
                    self.proven(chunk)?;
                }
            }
            Message::FilesComplete(complete) => {
                for (file, hash) in complete {
                    if self.intake.manifest.len() as u32 <= file {
                        return Err(TransferError::protocol("it completes a file that it does not have"));
                    }
                    self.files.note_complete(file, hash);
                    self.finish_file_if_ready(file);
                }
            }
            Message::FileFailed(error) => {
                let is_left = (error.file as usize) < self.intake.manifest.len()
                    && self.intake.manifest.file_bytes(error.file).is_some()
                    && self.intake.is_sent(error.file);
                if !is_left || self.stored.contains(error.file) || self.files.is_finishing(error.file) {
                    return Err(TransferError::protocol("it gives up a file that it does not send"));
                }
                self.fail_file(error, false);
            }
            Message::LeftOut(left_out) => self.left_out = left_out,
            Message::AllSent(summary) => {
                self.sender = Some(summary);
                self.context.progress.send_modify(|progress| progress.phase = Phase::Finishing);
            }
            Message::Countersigned { signature } => return self.countersigned(&signature).map(Some),
            Message::Refused(refusal) => return Err(TransferError::Partner(refusal)),
            other => return Err(unexpected(&other, "hashes")),
        }
        Ok(None)
    }

    pub(super) fn check_chunk_number(&self, chunk: u32) -> Result<(), TransferError> {
        if chunk < self.chunk_count {
            return Ok(());
        }
        Err(TransferError::protocol(format!("it names a chunk {chunk} that the transfer does not have")))
    }

    /// Chunks that the sender's file has as holes.
    pub(super) async fn holes(&mut self, holes: Vec<(u32, ChunkHash)>) -> Result<(), TransferError> {
        let (checksum, chunk_bytes) = (self.context.options.checksum, self.context.options.chunk_bytes);
        for (chunk, theirs) in holes {
            self.check_chunk_number(chunk)?;
            let Some(ChunkContent::Range { file, offset, bytes, .. }) = self.chunks.content(chunk) else {
                return Err(TransferError::protocol("it has a hole in a pack"));
            };
            if self.failed.contains(&file) {
                continue;
            }
            self.check_hole(chunk)?;
            let file_bytes = self.intake.manifest.file_bytes(file).unwrap_or(0);
            if checksum {
                let ours = blocking(move || hash_of_zeros(file_bytes, offset, bytes, chunk_bytes)).await;
                if ours != theirs {
                    return Err(TransferError::protocol("its hash of a hole is not that of zeros"));
                }
            }
            if self.files.get(file).is_some() {
                self.punch(chunk, theirs)?;
            } else {
                self.wait_for_file(file, WaitingChunk::Hole { chunk, hash: theirs });
            }
        }
        Ok(())
    }

    /// Whether there can be a hole in a chunk's place: nothing has come there.
    fn check_hole(&self, chunk: u32) -> Result<(), TransferError> {
        if self.verified.contains(chunk) || self.came_by.contains_key(&chunk) {
            return Err(TransferError::protocol(format!("it has a hole where it has sent bytes (chunk {chunk})")));
        }
        Ok(())
    }

    /// Makes a hole in a file that is open, unless it was given up.
    pub(super) fn punch(&mut self, chunk: u32, hash: ChunkHash) -> Result<(), TransferError> {
        let chunks = self.chunks.clone();
        let Some(ChunkContent::Range { file, offset, bytes, .. }) = chunks.content(chunk) else { return Ok(()) };
        if self.failed.contains(&file) {
            return Ok(());
        }
        // Bytes may have come while the file was opened.
        self.check_hole(chunk)?;
        if let Err(error) = self.files.punch(file, offset, bytes) {
            let error = crate::destination::small_files::unwritable(&self.intake.manifest, file, error);
            self.fail_file(error, true);
            return Ok(());
        }
        self.bytes_arrived += u64::from(bytes);
        self.chunk_verified(chunk, hash);
        Ok(())
    }

    /// A chunk that was here already is the sender's.
    pub(super) fn proven(&mut self, chunk: u32) -> Result<(), TransferError> {
        let chunks = self.chunks.clone();
        let Some(ChunkContent::Range { file, part, bytes, .. }) = chunks.content(chunk) else {
            return Err(TransferError::protocol("it proves a pack, which nobody asked for"));
        };
        // Only what was found to be undamaged was offered, and nothing that came meanwhile counts twice.
        let offered = self.offered.remove(&chunk).filter(|_| !self.came_by.contains_key(&chunk));
        let Some(hash) = offered else {
            return Err(TransferError::protocol("it proves a chunk that is not stored"));
        };
        // What an earlier attempt stored stands in its journal and counted from the beginning; what the old file has does neither.
        let is_of_old_file = self.intake.compared.binary_search_by_key(&file, |compared| compared.file).is_ok();
        if is_of_old_file {
            self.reused_bytes += u64::from(bytes);
            self.bytes_arrived += u64::from(bytes);
        }
        self.verified.insert(chunk);
        self.files.chunk_verified(file, chunk, part, Some(hash), !is_of_old_file);
        self.finish_file_if_ready(file);
        Ok(())
    }

    pub(super) fn chunk_bytes(&self, chunk: u32) -> u32 {
        match self.intake.memory_bytes {
            Some(bytes) => {
                let chunk_bytes = u64::from(self.context.options.chunk_bytes);
                bytes.saturating_sub(u64::from(chunk) * chunk_bytes).min(chunk_bytes) as u32
            }
            None => self.chunks.content(chunk).map_or(0, |content| content.bytes()),
        }
    }
}
