//! Chunks that this process fills: a lane lends a buffer, a helper reads into it, and the chunk
//! goes when the buffer is given back.

use std::time::Instant;

use culvert_link::handles::LentBuffer;
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{FileError, Message, PACKS_ARE_TOLD_SINCE};
use culvert_protocol::names::printable;
use culvert_protocol::tree_hash::ChunkHash;

use crate::events::{Event, Stage};
use crate::transfer::error::TransferError;
use crate::transfer::packs::{FilledPack, fill};
use crate::transfer::sending::done::Done;
use crate::transfer::sending::payload::Payload;
use crate::transfer::sending::preparing::Range;
use crate::transfer::sending::state::Sending;

impl Sending {
    /// A lane has a buffer for a chunk that is read here.
    pub(super) fn fill(&mut self, chunk: u32, mut buffer: LentBuffer) -> Result<(), TransferError> {
        let Payload::Files { tree, chunks } = &self.payload else {
            return Err(self.context.plane.nonsense("it asks for a measurement to be filled").into());
        };
        let (tree, chunks) = (tree.clone(), chunks.clone());
        if !self.is_filled(chunk) || self.queue.filling.insert(chunk, true).is_some() {
            return Err(self
                .context
                .plane
                .nonsense("it asks for something to be filled that lanes read, or for one twice")
                .into());
        }
        let reader = self.payload.file_of(chunk).and_then(|file| self.reader_of(file));
        let (done, chunk_bytes) = (self.done.clone(), self.context.options.chunk_bytes);
        let (checksum, observer) = (self.context.options.checksum, self.context.observer.clone());
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let filled = match (chunks.content(chunk), reader) {
                (Some(ChunkContent::Range { file, offset, bytes, .. }), Some(reader)) => {
                    let file_bytes = tree.listing.manifest.file_bytes(file).unwrap_or(0);
                    let range = Range { file_bytes, offset, bytes };
                    let hash = range.read(&*reader, buffer.bytes_mut(), chunk_bytes, checksum).map_err(|why| {
                        let name = printable(tree.listing.manifest.entry(file).name);
                        let text = format!("'{name}' cannot be read: {why}");
                        FileError { file, code: "unreadable".to_owned(), text }
                    });
                    Done::RangeFilled { chunk, hash, buffer }
                }
                (Some(ChunkContent::Pack { files, .. }), _) => {
                    let pack = fill(&tree, files, &mut buffer, checksum);
                    Done::Filled { chunk, pack, buffer }
                }
                _ => Done::Filled { chunk, pack: FilledPack { hashes: Vec::new(), failed: Vec::new() }, buffer },
            };
            observer.note(Event::StageTook { stage: Stage::Read, time: began.elapsed() });
            let _ = done.send(filled);
        });
        Ok(())
    }

    /// A range is in its buffer, or cannot be read.
    pub(super) fn range_filled(
        &mut self,
        chunk: u32,
        hash: Result<ChunkHash, FileError>,
        buffer: LentBuffer,
    ) -> Result<(), TransferError> {
        self.queue.filling.insert(chunk, false);
        match hash {
            Ok(hash) if self.context.options.checksum => {
                self.outbox.chunk_hashes.push((chunk, hash));
                self.hashing.hashed.insert(chunk, hash);
            }
            Ok(_) => {}
            // Its chunks are taken back before this one can go.
            Err(error) => self.fail_file_or_end(error)?,
        }
        // From here on it may go.
        drop(buffer);
        Ok(())
    }

    /// A pack is in its buffer.
    pub(super) fn pack_filled(
        &mut self,
        chunk: u32,
        pack: FilledPack,
        buffer: LentBuffer,
    ) -> Result<(), TransferError> {
        self.queue.filling.insert(chunk, false);
        let is_told = self.context.options.checksum || self.context.connection.version >= PACKS_ARE_TOLD_SINCE;
        for error in pack.failed {
            // An older receiver would store the file as it is in the pack.
            if is_told { self.fail_file_or_end(error)? } else { self.fail_file(error) }
        }
        self.note_pack_hashes(chunk, &pack.hashes);
        // The receiver stores a pack when it has heard of it: files of it that failed are
        // told before.
        if self.context.options.checksum {
            self.outbox.others.push(Message::PackHashes { chunk, hashes: pack.hashes });
        } else if is_told {
            self.outbox.others.push(Message::PackHashes { chunk, hashes: Vec::new() });
        }
        // From here on it may go.
        drop(buffer);
        Ok(())
    }
}
