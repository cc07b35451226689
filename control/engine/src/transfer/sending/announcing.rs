//! Which files the receiver has, for a user who reads their names as it happens.
//!
//! The receiver acknowledges chunks that are durable. A file is told when it has all of its chunks,
//! which says that its bytes arrived and are safe; that it has its name is said at the end, by the
//! receipt. Files of which nothing is acknowledged (empty ones, and those of which an earlier
//! attempt had stored a part) are told then.

use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::names::printable;

use crate::transfer::sending::payload::Payload;
use crate::transfer::sending::state::Sending;

impl Sending {
    /// The receiver says for the first time that it has stored a chunk.
    pub(super) fn tell_chunk(&mut self, chunk: u32) {
        let Some(telling) = &mut self.announcements else { return };
        let Payload::Files { tree, chunks } = &self.payload else { return };
        let files = match chunks.content(chunk) {
            Some(ChunkContent::Pack { files, .. }) => files.to_vec(),
            Some(ChunkContent::Range { file, .. }) => {
                let all = chunks.chunks_of_file(tree.listing.manifest.file_bytes(file).unwrap_or(0));
                let left = telling.left.entry(file).or_insert(all);
                *left = left.saturating_sub(1);
                if *left > 0 {
                    return;
                }
                telling.left.remove(&file);
                vec![file]
            }
            None => return,
        };
        files.into_iter().for_each(|file| self.tell_file(file));
    }

    /// The receiver had a chunk already. A file of which it had all is not sent, and not told.
    pub(super) fn tell_proven(&mut self, chunk: u32) {
        let Some(telling) = &mut self.announcements else { return };
        let Payload::Files { tree, chunks } = &self.payload else { return };
        let Some(ChunkContent::Range { file, .. }) = chunks.content(chunk) else { return };
        let proven = telling.proven.entry(file).or_insert(0);
        *proven = proven.saturating_add(1);
        if *proven >= chunks.chunks_of_file(tree.listing.manifest.file_bytes(file).unwrap_or(0)) {
            telling.told.insert(file);
        }
    }

    /// Everything is stored: what was not told yet is told now.
    pub(super) fn tell_rest(&mut self) {
        if self.announcements.is_none() {
            return;
        }
        let Payload::Files { tree, .. } = &self.payload else { return };
        let tree = tree.clone();
        let is_sent = |file: &u32| {
            let is_file = tree.listing.manifest.file_bytes(*file).is_some();
            is_file && !self.has.skipped.contains(file) && !self.has.resumed.contains_key(file)
        };
        let files: Vec<u32> = (0..tree.listing.manifest.len() as u32).filter(is_sent).collect();
        files.into_iter().for_each(|file| self.tell_file(file));
    }

    fn tell_file(&mut self, file: u32) {
        let (Some(telling), Some(names)) = (&mut self.announcements, &self.context.names) else { return };
        let Payload::Files { tree, .. } = &self.payload else { return };
        if !self.failures.failed.contains(&file) && telling.told.insert(file) {
            names.add(
                &printable(tree.listing.manifest.entry(file).name),
                tree.listing.manifest.file_bytes(file).unwrap_or(0),
            );
        }
    }
}
