//! What the work of helpers comes to.

use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::tree_hash::ChunkHash;

use crate::transfer::error::TransferError;
use crate::transfer::sending::done::Done;
use crate::transfer::sending::payload::Payload;
use crate::transfer::sending::state::Sending;

impl Sending {
    pub(super) fn work_done(&mut self, done: Done) -> Result<(), TransferError> {
        match done {
            Done::Opened { file, result } => {
                let waiting = self.files.opened(file, result.as_ref().ok().cloned());
                self.queue.preparing -= waiting.len();
                match result {
                    Ok(_) => waiting.into_iter().for_each(|chunk| self.prepare(chunk)),
                    Err(error) => self.fail_file_or_end(error)?,
                }
            }
            Done::Filled { chunk, pack, buffer } => self.pack_filled(chunk, pack, buffer)?,
            Done::RangeFilled { chunk, hash, buffer } => self.range_filled(chunk, hash, buffer)?,
            Done::Hole { chunk, hash } => {
                self.queue.preparing -= 1;
                self.outbox.holes.push((chunk, hash));
                self.hashing.hashed.insert(chunk, hash);
                self.chunk_delivered(chunk);
            }
            Done::Proved { chunk, same: Some(hash) } => {
                self.queue.preparing -= 1;
                self.outbox.proven.push(chunk);
                self.tell_proven(chunk);
                self.hashing.hashed.insert(chunk, hash);
                // The bytes were counted when the partner's plan came.
                self.pace.bytes_delivered = self.pace.bytes_delivered.saturating_sub(self.chunk_bytes(chunk).into());
                self.chunk_delivered(chunk);
            }
            Done::Proved { chunk, same: None } => {
                self.queue.preparing -= 1;
                self.pace.bytes_delivered = self.pace.bytes_delivered.saturating_sub(self.chunk_bytes(chunk).into());
                self.chunk_settled(chunk);
                self.queue.again.push_back(chunk);
            }
            Done::Checked { file, result } => {
                self.queue.checking -= 1;
                self.files.forget(file);
                match result {
                    Ok(()) => {
                        let hash = self.hashing.hashes.get(file as usize).copied().unwrap_or_default();
                        self.outbox.complete.push((file, hash));
                        self.context.progress.send_modify(|progress| progress.files_done += 1);
                    }
                    Err(error) => self.fail_file_or_end(error)?,
                }
            }
        }
        Ok(())
    }

    pub(super) fn note_pack_hashes(&mut self, chunk: u32, hashes: &[ChunkHash]) {
        if self.hashing.hashes.is_empty() {
            return;
        }
        let Payload::Files { chunks, .. } = &self.payload else { return };
        let chunks = chunks.clone();
        if let Some(ChunkContent::Pack { files, .. }) = chunks.content(chunk) {
            for (&file, &hash) in files.iter().zip(hashes) {
                self.hashing.set(file, hash);
            }
        }
    }
}
