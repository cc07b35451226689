//! Chunks on their way to the flows: prepared ahead, assigned where there is room, taken back when
//! their file is given up.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use culvert_link::commands::{FileRange, Source};
use culvert_objects::source::{RangeReader, SourceTree};
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::tree_hash::{ChunkHash, hash_of_zeros};

use crate::blocking;
use crate::flows::SendingFlows;
use crate::sending::done::Done;
use crate::sending::files::{self, OpenedFile, OutgoingFiles, Reading};
use crate::sending::job::Job;
use crate::sending::payload::Payload;
use crate::sending::queue::Queue;
use crate::sending::range::Range;
use crate::shares::Kind;

/// Chunks that are being prepared at once, a flow: enough to hide the opening of files.
const PREPARING_PER_FLOW: usize = 8;

/// Chunks on their way to the flows, the files that they are read from, and the flows.
#[derive(Debug)]
pub(super) struct Pipeline {
    pub(super) queue: Queue,
    pub(super) files: OutgoingFiles,
    pub(super) flows: SendingFlows,
    /// Chunks that the receiver says it has, until they were checked.
    proofs: HashMap<u32, ChunkHash>,
}

impl Pipeline {
    /// Nothing prepared yet. `proofs` are the chunks that the receiver says it has.
    pub(super) fn new(chunk_count: u32, flows: SendingFlows, proofs: HashMap<u32, ChunkHash>) -> Self {
        Self { queue: Queue::new(chunk_count), files: OutgoingFiles::default(), flows, proofs }
    }

    /// Prepares and assigns chunks as far as there is room.
    pub(super) fn advance(&mut self, job: &Job, failed: &HashSet<u32>) {
        while self.prepare_ahead(job, failed) | self.assign_prepared(job, failed) {}
    }

    /// Begins whatever a chunk needs before it can be assigned: an open file, the proof that the
    /// receiver has it already, the hash of a hole.
    pub(super) fn prepare(&mut self, job: &Job, failed: &HashSet<u32>, chunk: u32) {
        let Payload::Files { tree, chunks } = &job.payload else {
            self.queue.push_prepared(chunk, Source::Memory);
            return;
        };
        match chunks.content(chunk) {
            None => {}
            Some(ChunkContent::Pack { .. }) => self.queue.push_prepared(chunk, Source::Fill),
            Some(ChunkContent::Range { file, .. }) if failed.contains(&file) => {}
            Some(ChunkContent::Range { file, offset, bytes, .. }) => {
                if let Some(opened) = self.files.get(file) {
                    let file_bytes = tree.listing.manifest.file_bytes(file).unwrap_or(0);
                    self.prepare_range(job, chunk, file, &opened, Range { file_bytes, offset, bytes });
                } else {
                    self.queue.begin_preparing();
                    if self.files.wait_for(file, chunk) {
                        self.open(job, tree, file);
                    }
                }
            }
        }
    }

    /// A file was opened, or not; returns the chunks that waited for it.
    pub(super) fn opened(&mut self, file: u32, opened: Option<OpenedFile>) -> Vec<u32> {
        let waiting = self.files.opened(file, opened);
        self.queue.end_preparing(waiting.len());
        waiting
    }

    /// A flow has a chunk no longer.
    pub(super) fn unassign(&mut self, tag: usize, chunk: u32) {
        self.flows.settled(tag);
        self.queue.unassign(chunk);
    }

    /// A chunk needs its file no longer.
    pub(super) fn settle(&mut self, payload: &Payload, chunk: u32) {
        if let Some(file) = payload.file_of(chunk) {
            // Chunks are prepared in order, so a file is done with once the next chunk is another
            // file's.
            let is_over = payload.file_of(self.queue.next_chunk()) != Some(file);
            self.files.end_use(file, is_over);
        }
    }

    /// Takes the chunks of a file back that is given up.
    pub(super) fn take_back(&mut self, payload: &Payload, file: u32) {
        let is_of_file = |chunk: u32| payload.file_of(chunk) == Some(file);
        for (chunk, tag) in self.queue.assigned().filter(|&(chunk, _)| is_of_file(chunk)) {
            self.flows.withdraw(tag, chunk);
        }
        for chunk in self.queue.take_prepared(is_of_file) {
            self.settle(payload, chunk);
        }
        self.files.close_when_unused(file);
    }

    /// Whether this process fills a chunk: packs, and what only this process can read.
    pub(super) fn is_filled_here(&self, payload: &Payload, chunk: u32) -> bool {
        match payload.content(chunk) {
            Some(ChunkContent::Pack { .. }) => true,
            Some(ChunkContent::Range { file, .. }) => self.reader_of(file).is_some(),
            None => false,
        }
    }

    /// With what this process reads an open object, if lanes do not.
    pub(super) fn reader_of(&self, file: u32) -> Option<Arc<dyn RangeReader>> {
        match self.files.get(file)?.reading()? {
            Reading::Ranges(reader) => Some(reader),
            Reading::Lanes(_) => None,
        }
    }

    /// Begins the preparation of the next chunks; whether there was any to begin.
    fn prepare_ahead(&mut self, job: &Job, failed: &HashSet<u32>) -> bool {
        let ahead = PREPARING_PER_FLOW * self.flows.len();
        let mut began = false;
        while self.queue.ahead() < ahead {
            // Chunks of open files come before those of others, so these are delivered and closed
            // whatever waits here.
            let may_begin = |chunk| has_place_for(job, &self.files, chunk);
            let Some(chunk) = self.queue.take_next(may_begin) else { break };
            self.prepare(job, failed, chunk);
            began = true;
        }
        began
    }

    /// Hands prepared chunks to flows that have room; whether any was handed over.
    fn assign_prepared(&mut self, job: &Job, failed: &HashSet<u32>) -> bool {
        let mut assigned = false;
        while self.queue.has_prepared() {
            let Some(tag) = self.flows.with_room(self.queue.left()) else { break };
            let Some((chunk, source)) = self.queue.pop_prepared() else { break };
            assigned = true;
            if job.payload.file_of(chunk).is_some_and(|file| failed.contains(&file)) {
                self.settle(&job.payload, chunk);
                continue;
            }
            self.queue.assign(chunk, tag);
            self.flows.assign(tag, chunk, job.chunk_bytes(chunk), source);
        }
        assigned
    }

    fn open(&self, job: &Job, tree: &Arc<SourceTree>, file: u32) {
        let (plane, tree, earlier) = (job.context.plane.clone(), tree.clone(), self.files.version(file));
        let place = job.context.share.piece(Kind::Files);
        job.help(async move {
            let result = files::open(&plane, tree, file, earlier, place).await;
            Done::Opened { file, result }
        });
    }

    /// A chunk of an open file: proof, hole, or to be sent.
    fn prepare_range(&mut self, job: &Job, chunk: u32, file: u32, opened: &OpenedFile, range: Range) {
        let Some(reading) = opened.reading() else { return };
        self.files.begin_use(file);
        if let Some(theirs) = self.proofs.remove(&chunk) {
            self.queue.begin_preparing();
            check_proof(job, chunk, range, reading, theirs);
        } else if opened.is_hole(range.offset, range.bytes) {
            self.queue.begin_preparing();
            hash_hole(job, chunk, range);
        } else {
            let source = match reading {
                Reading::Lanes(file) => {
                    Source::File(FileRange { file, offset: range.offset, file_bytes: range.file_bytes })
                }
                Reading::Ranges(_) => Source::Fill,
            };
            self.queue.push_prepared(chunk, source);
        }
    }
}

/// Whether the file of a chunk is open, or may be opened in addition to those that are.
fn has_place_for(job: &Job, files: &OutgoingFiles, chunk: u32) -> bool {
    let has_place = |file| {
        let (in_all, of_partner) = (job.context.plane.files_open(), job.context.share.count(Kind::Files));
        files.has_place_for(file, in_all, of_partner)
    };
    job.payload.file_of(chunk).is_none_or(has_place)
}

/// Hashes a chunk that the receiver says it has.
fn check_proof(job: &Job, chunk: u32, range: Range, reading: Reading, theirs: ChunkHash) {
    //= W-39
    //# If a sender's source has a chunk listed in `Proofs` with the same hash, it sends `Proven`
    //# instead of the chunk.
    let (plane, chunk_bytes) = (job.context.plane.clone(), job.context.options.chunk_bytes);
    let lane = (chunk as usize % plane.lanes().len()) as u16;
    job.help(async move {
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
        Done::Proved { chunk, same }
    });
}

/// Hashes the zeros of a hole, if the transfer has hashes.
fn hash_hole(job: &Job, chunk: u32, range: Range) {
    let (checksum, chunk_bytes) = (job.context.options.checksum, job.context.options.chunk_bytes);
    job.help(async move {
        let Range { file_bytes, offset, bytes } = range;
        let hash = if checksum {
            blocking(move || hash_of_zeros(file_bytes, offset, bytes, chunk_bytes)).await
        } else {
            [0; 32]
        };
        Done::Hole { chunk, hash }
    });
}
