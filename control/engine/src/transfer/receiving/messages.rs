//! What the sender says while it sends. Nothing that it names is believed to exist before it was
//! looked up.
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

use culvert_model::progress::Phase;
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::Message;

use crate::transfer::error::TransferError;
use crate::transfer::manifest_exchange::unexpected;
use crate::transfer::receiving::received::Received;
use crate::transfer::receiving::state::Receiving;

/// Hashes of the sender's that may wait for their chunks. An honest sender hashes what it is about
/// to send, and sends what the receiver has buffers for.
const WAITING_HASHES_MAX: usize = 1 << 16;

impl Receiving {
    /// A message. By itself it is not progress: only its effect is.
    pub(super) async fn message(&mut self, message: Message) -> Result<Option<Received>, TransferError> {
        match message {
            Message::ChunkHashes(hashes) => {
                for (chunk, hash) in hashes {
                    self.check_chunk_number(chunk)?;
                    // Files in packs have hashes of their own, and what is verified needs no other.
                    if self.arriving.verified.contains(chunk)
                        || matches!(self.arriving.chunks.content(chunk), Some(ChunkContent::Pack { .. }))
                    {
                        continue;
                    }
                    if self.arriving.theirs.len() >= WAITING_HASHES_MAX {
                        return Err(TransferError::protocol("it names hashes of far more chunks than it sends"));
                    }
                    self.arriving.theirs.insert(chunk, hash);
                    self.compare(chunk).await?;
                }
            }
            Message::PackHashes { chunk, hashes } => {
                let wanted = |files: &[u32]| if self.context.options.checksum { files.len() } else { 0 };
                let fits = matches!(self.arriving.chunks.content(chunk), Some(ChunkContent::Pack { files, .. }) if hashes.len() == wanted(files));
                if !fits {
                    return Err(TransferError::protocol(format!(
                        "it names hashes of chunk {chunk}, which is not a pack"
                    )));
                }
                if self.arriving.verified.contains(chunk) {
                    return Ok(None);
                }
                self.arriving.pack_hashes.insert(chunk, hashes);
                self.unpack_if_ready(chunk);
            }
            Message::Holes(holes) => self.take_holes(holes)?,
            Message::Proven(chunks) => {
                for chunk in chunks {
                    self.check_chunk_number(chunk)?;
                    self.proven(chunk)?;
                }
            }
            Message::FilesComplete(complete) => {
                for (file, hash) in complete {
                    if self.intake.manifest.len() <= file as usize {
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
                if !is_left || self.tally.stored.contains(error.file) || self.files.is_finishing(error.file) {
                    return Err(TransferError::protocol("it gives up a file that it does not send"));
                }
                self.fail_file(error, false);
            }
            Message::RefusedHere => self.inbound.is_refused_there = true,
            Message::LeftOut(left_out) => self.failures.left_out = left_out,
            Message::AllSent(summary) => {
                self.ending.sender = Some(summary);
                self.context.progress.send_modify(|progress| progress.phase = Phase::Finishing);
            }
            Message::Countersigned { signature } => return self.countersigned(&signature).await.map(Some),
            Message::Refused(refusal) => return Err(self.inbound.refused(&self.context, refusal)),
            other => return Err(unexpected(&other, "hashes")),
        }
        Ok(None)
    }

    pub(super) fn check_chunk_number(&self, chunk: u32) -> Result<(), TransferError> {
        if chunk < self.arriving.chunk_count {
            return Ok(());
        }
        Err(TransferError::protocol(format!("it names a chunk {chunk} that the transfer does not have")))
    }

    /// A chunk that was here already is the sender's.
    pub(super) fn proven(&mut self, chunk: u32) -> Result<(), TransferError> {
        let chunks = self.arriving.chunks.clone();
        let Some(ChunkContent::Range { file, part, .. }) = chunks.content(chunk) else {
            return Err(TransferError::protocol("it proves a pack, which nobody asked for"));
        };
        // Only what was found to be undamaged was offered, and nothing that came meanwhile counts
        // twice.
        let offered = self
            .arriving
            .offered
            .remove(&chunk)
            .filter(|_| !self.arriving.came_by.contains_key(&chunk) && !self.holes.contains(chunk));
        let Some(hash) = offered else {
            return Err(TransferError::protocol("it proves a chunk that is not stored"));
        };
        self.arriving.verified.insert(chunk);
        self.tally.steps = self.tally.steps.saturating_add(1);
        // What an earlier attempt stored is where it belongs, stands in its journal and counted
        // from the beginning; what the old file has does neither.
        if !self.proved_in_old(file, chunk, part, hash) {
            self.files.chunk_verified(file, chunk, part, Some(hash), true);
        }
        self.finish_file_if_ready(file);
        Ok(())
    }

    pub(super) fn chunk_bytes(&self, chunk: u32) -> u32 {
        match self.intake.memory_bytes {
            Some(bytes) => {
                let chunk_bytes = u64::from(self.context.options.chunk_bytes);
                let before = u64::from(chunk).saturating_mul(chunk_bytes);
                u32::try_from(bytes.saturating_sub(before).min(chunk_bytes)).unwrap_or(u32::MAX)
            }
            None => self.arriving.chunks.content(chunk).map_or(0, |content| content.bytes()),
        }
    }
}
