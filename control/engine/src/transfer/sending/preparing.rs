//! What a chunk needs before a flow can have it: an open file, the proof that the partner has it
//! already, the hash of a hole.

use std::sync::Arc;

use culvert_link::commands::{FileRange, Source};
use culvert_objects::source::{RangeReader, SourceTree};
use culvert_protocol::chunk_map::{ChunkContent, ChunkMap};
use culvert_protocol::tree_hash::{ChunkHash, ChunkHasher, hash_of_zeros};

use crate::shares::Kind;
use crate::transfer::blocking;
use crate::transfer::sending::done::Done;
use crate::transfer::sending::files::{OpenedFile, Reading};
use crate::transfer::sending::payload::Payload;
use crate::transfer::sending::state::Sending;

/// Chunks that are being prepared at once, a flow: enough to hide the opening of files.
const PREPARING_PER_FLOW: usize = 8;

impl Sending {
    /// Begins the preparation of the next chunks; whether there was any to begin.
    pub(super) fn prepare_ahead(&mut self) -> bool {
        let ahead = PREPARING_PER_FLOW * self.flows.len();
        let mut began = false;
        while self.queue.preparing + self.queue.prepared.len() < ahead {
            let chunk = match self.queue.again.pop_front() {
                Some(chunk) => chunk,
                // Chunks of open files come before those of others, so these are delivered and
                // closed whatever waits here.
                None if self.queue.next_chunk < self.queue.chunk_count && self.has_place_for(self.queue.next_chunk) => {
                    self.queue.next_chunk += 1;
                    self.queue.next_chunk - 1
                }
                None => break,
            };
            self.prepare(chunk);
            began = true;
        }
        began
    }

    /// Hands prepared chunks to flows that have room; whether any was handed over.
    pub(super) fn assign_prepared(&mut self) -> bool {
        let mut assigned = false;
        while let Some(&(chunk, source)) = self.queue.prepared.front() {
            let Some(tag) = self.flows.with_room(self.left()) else { break };
            self.queue.prepared.pop_front();
            assigned = true;
            if self.is_given_up(chunk) {
                self.chunk_settled(chunk);
                continue;
            }
            self.queue.assigned.insert(chunk, tag);
            self.flows.assign(tag, chunk, self.chunk_bytes(chunk), source);
        }
        assigned
    }

    fn has_place_for(&self, chunk: u32) -> bool {
        let has_place = |file| {
            let (in_all, of_partner) = (self.context.plane.files_open(), self.context.share.count(Kind::Files));
            self.files.has_place_for(file, in_all, of_partner)
        };
        self.payload.file_of(chunk).is_none_or(has_place)
    }

    /// Chunks that are not delivered yet.
    pub(super) fn left(&self) -> usize {
        let untouched = (self.queue.chunk_count - self.queue.next_chunk) as usize;
        untouched
            + self.queue.again.len()
            + self.queue.prepared.len()
            + self.queue.preparing
            + self.queue.assigned.len()
    }

    /// Begins whatever a chunk needs before it can be assigned.
    pub(super) fn prepare(&mut self, chunk: u32) {
        let Payload::Files { tree, chunks } = &self.payload else {
            self.queue.prepared.push_back((chunk, Source::Memory));
            return;
        };
        match chunks.content(chunk) {
            None => {}
            Some(ChunkContent::Pack { .. }) => self.queue.prepared.push_back((chunk, Source::Fill)),
            Some(ChunkContent::Range { file, .. }) => {
                if self.failures.failed.contains(&file) {
                    return;
                }
                let (tree, chunks) = (tree.clone(), chunks.clone());
                if let Some(opened) = self.files.get(file) {
                    self.prepare_range(chunk, &opened, &tree, &chunks);
                } else {
                    self.queue.preparing += 1;
                    if self.files.wait_for(file, chunk) {
                        let done = self.done.clone();
                        let (plane, earlier) = (self.context.plane.clone(), self.files.version(file));
                        let place = self.context.share.piece(Kind::Files);
                        tokio::spawn(async move {
                            let result =
                                crate::transfer::sending::files::open(&plane, tree, file, earlier, place).await;
                            let _ = done.send(Done::Opened { file, result });
                        });
                    }
                }
            }
        }
    }

    /// A chunk of an open file: proof, hole, or to be sent.
    pub(super) fn prepare_range(
        &mut self,
        chunk: u32,
        opened: &Arc<OpenedFile>,
        tree: &Arc<SourceTree>,
        chunks: &Arc<ChunkMap>,
    ) {
        let Some(ChunkContent::Range { file, offset, bytes, .. }) = chunks.content(chunk) else { return };
        let Some(reading) = opened.reading() else { return };
        let file_bytes = tree.listing.manifest.file_bytes(file).unwrap_or(0);
        self.files.begin_use(file);
        if let Some(theirs) = self.has.proofs.remove(&chunk) {
            self.check_proof(chunk, Range { file_bytes, offset, bytes }, reading, theirs);
        } else if opened.is_hole(offset, bytes) {
            self.queue.preparing += 1;
            let (done, checksum, chunk_bytes) =
                (self.done.clone(), self.context.options.checksum, self.context.options.chunk_bytes);
            tokio::spawn(async move {
                let hash = if checksum {
                    blocking(move || hash_of_zeros(file_bytes, offset, bytes, chunk_bytes)).await
                } else {
                    [0; 32]
                };
                let _ = done.send(Done::Hole { chunk, hash });
            });
        } else {
            let source = match reading {
                Reading::Lanes(file) => Source::File(FileRange { file, offset, file_bytes }),
                Reading::Ranges(_) => Source::Fill,
            };
            self.queue.prepared.push_back((chunk, source));
        }
    }

    /// Hashes a chunk that the partner says it has.
    fn check_proof(&mut self, chunk: u32, range: Range, reading: Reading, theirs: ChunkHash) {
        self.queue.preparing += 1;
        let (plane, done) = (self.context.plane.clone(), self.done.clone());
        let chunk_bytes = self.context.options.chunk_bytes;
        let lane = (chunk as usize % plane.lanes().len()) as u16;
        tokio::spawn(async move {
            let Range { file_bytes, offset, bytes } = range;
            // What cannot be read here is sent, and fails there by name.
            let ours = match reading {
                Reading::Lanes(file) => {
                    let range = FileRange { file, offset, file_bytes };
                    plane.check(lane, range, bytes, chunk_bytes).await.ok().and_then(Result::ok)
                }
                Reading::Ranges(reader) => {
                    let mut place = vec![0; bytes as usize];
                    blocking(move || range.read(&*reader, &mut place, chunk_bytes, true).ok()).await
                }
            };
            let same = (ours == Some(theirs)).then_some(theirs);
            let _ = done.send(Done::Proved { chunk, same });
        });
    }
}

/// A chunk's range of an object.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// The object's size.
    pub(super) file_bytes: u64,
    /// Where the chunk begins.
    pub(super) offset: u64,
    /// Its size.
    pub(super) bytes: u32,
}

impl Range {
    /// Reads the range, and hashes it if it is to be.
    pub(super) fn read(
        self,
        reader: &dyn RangeReader,
        place: &mut [u8],
        chunk_bytes: u32,
        checksum: bool,
    ) -> Result<ChunkHash, String> {
        let place = place.get_mut(..self.bytes as usize).ok_or("the buffer is too small")?;
        reader.read(self.offset, place)?;
        if !checksum {
            return Ok([0; 32]);
        }
        let mut hasher = ChunkHasher::new(self.file_bytes, self.offset, chunk_bytes);
        hasher.update(place);
        Ok(hasher.finish())
    }
}
