//! Handling of delivered chunks, and of those that the receiver requests again.
//!
//! A chunk counts once, however often it is sent. When all of a file's chunks count, the file is
//! checked once more, and its hash is announced.

use std::sync::Arc;

use culvert_protocol::chunk_map::ChunkContent;

use crate::transfer::error::TransferError;
use crate::transfer::sending::delivered::{OutgoingProgress, ResendRequest};
use crate::transfer::sending::done::Done;
use crate::transfer::sending::files;
use crate::transfer::sending::payload::Payload;
use crate::transfer::sending::state::Sending;
use crate::transfer::tries::TRIES_MAX;

impl Sending {
    /// The receiver found a chunk's data damaged. It gives up after a few attempts, so an honest
    /// receiver does not ask more often, or for chunks that were not sent.
    pub(super) fn asked_again(&mut self, chunk: u32) -> Result<(), TransferError> {
        // The request may overtake the report that the chunk arrived: then it goes again after
        // that.
        let is_under_way = self.queue.assigned.contains_key(&chunk);
        let first = ResendRequest { times: 0, waits: false, is_counted: !is_under_way };
        let asked = self.queue.asked_again.entry(chunk).or_insert(first);
        if chunk >= self.queue.next_chunk || asked.waits || asked.times >= TRIES_MAX {
            let text = format!("it asks for chunk {chunk} again, which was not sent or was sent often enough");
            return Err(TransferError::protocol(text));
        }
        asked.times += 1;
        asked.waits = true;
        self.pace.said_all_sent = false;
        self.hashing.root = None;
        if !is_under_way {
            self.send_again(chunk);
        }
        Ok(())
    }

    /// A chunk was delivered: if the receiver has requested it again meanwhile, it is sent once
    /// more.
    pub(super) fn send_again_if_asked(&mut self, chunk: u32) {
        if self.queue.asked_again.get(&chunk).is_some_and(|asked| asked.waits) {
            self.send_again(chunk);
        }
    }

    fn send_again(&mut self, chunk: u32) {
        if let Some(asked) = self.queue.asked_again.get_mut(&chunk) {
            asked.waits = false;
        }
        self.pace.bytes_delivered = self.pace.bytes_delivered.saturating_sub(u64::from(self.chunk_bytes(chunk)));
        self.queue.again.push_back(chunk);
    }

    /// The receiver has a chunk, however it got it.
    pub(super) fn chunk_delivered(&mut self, chunk: u32) {
        self.pace.bytes_delivered += u64::from(self.chunk_bytes(chunk));
        let hash = self.hashing.hashed.remove(&chunk);
        // Settling may close it, and it is to be looked at once more as it was opened.
        let opened = self.payload.file_of(chunk).and_then(|file| self.files.get(file));
        self.chunk_settled(chunk);
        let counted_before = |asked: &mut ResendRequest| std::mem::replace(&mut asked.is_counted, true);
        if self.queue.asked_again.get_mut(&chunk).is_some_and(counted_before) {
            return;
        }
        let Payload::Files { tree, chunks } = &self.payload else { return };
        match chunks.content(chunk) {
            Some(ChunkContent::Range { file, part, .. }) => {
                let count = chunks.chunks_of_file(tree.listing.manifest.file_bytes(file).unwrap_or(0));
                let progress = self.hashing.progress_of.entry(file).or_insert_with(|| OutgoingProgress::new(count));
                if progress.count(part, hash) {
                    if let Some(hash) = progress.tree.finish() {
                        self.hashing.set(file, *hash.as_bytes());
                    }
                    self.check_once_more(file, opened);
                }
            }
            Some(ChunkContent::Pack { files, .. }) => {
                let count = files.len() as u64;
                self.context.progress.send_modify(|progress| progress.files_done += count);
            }
            None => {}
        }
    }

    /// Looks at a file after its last chunk was delivered: did it change while it was read?
    fn check_once_more(&mut self, file: u32, opened: Option<Arc<files::OpenedFile>>) {
        let Payload::Files { tree, .. } = &self.payload else { return };
        if self.failures.failed.contains(&file) {
            return;
        }
        self.queue.checking += 1;
        let (tree, done) = (tree.clone(), self.done.clone());
        let hash = self.hashing.hashes.get(file as usize).copied();
        tokio::task::spawn_blocking(move || {
            let result = files::check(&tree, file, opened.as_deref(), hash);
            let _ = done.send(Done::Checked { file, result });
        });
    }

    /// A chunk needs its file no longer.
    pub(super) fn chunk_settled(&mut self, chunk: u32) {
        if let Some(file) = self.payload.file_of(chunk) {
            // Chunks are prepared in order, so a file is done with once the next chunk is another
            // file's.
            let is_over = self.payload.file_of(self.queue.next_chunk) != Some(file);
            self.files.end_use(file, is_over);
        }
    }
}
