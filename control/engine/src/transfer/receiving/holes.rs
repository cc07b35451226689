//! Chunks that are holes in the sender's file: their hashes are computed and the holes are made
//! outside the runtime's thread, while the task continues with everything else.
//!
//! A partner names up to 512 holes in a message, each of which costs the hashing of a chunk. One
//! helper at a time works through them in order. The task reads no further message while more are
//! waiting than a few messages name. This bounds both what is waiting and what a partner uses: one
//! thread, and half of its time.
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

use std::collections::{HashSet, VecDeque};
use std::time::Instant;

use culvert_objects::fs::destination::file_errors::unwritable;
use culvert_protocol::chunk_map::{ChunkContent, ChunkMap};
use culvert_protocol::control::FileError;
use culvert_protocol::tree_hash::{ChunkHash, hash_of_zeros};

use crate::limits::HOLE_HASHING_REST;
use crate::transfer::blocking;
use crate::transfer::error::TransferError;
use crate::transfer::receiving::files::WaitingChunk;
use crate::transfer::receiving::intake::Intake;
use crate::transfer::receiving::open_file::Writing;
use crate::transfer::receiving::{Done, Receiving};

/// Holes that may wait before the partner has to.
const WAITING_MAX: usize = 2_048;
/// Holes that a helper hashes before it reports.
const AT_ONCE: usize = 16;

/// A hole that the sender named.
#[derive(Clone, Copy, Debug)]
struct Hole {
    chunk: u32,
    /// Its hash, as the sender has it.
    hash: ChunkHash,
}

/// A hole, and whether zeros have the hash that the sender named.
#[derive(Clone, Copy, Debug)]
pub struct HashedHole {
    chunk: u32,
    hash: ChunkHash,
    is_of_zeros: bool,
}

/// Holes that were named and are not made yet.
#[derive(Debug, Default)]
pub struct Holes {
    waiting: VecDeque<Hole>,
    is_hashing: bool,
    /// Those of all that are not made yet. By a flow they are not taken.
    under_way: HashSet<u32>,
}

impl Holes {
    /// Whether further messages may be read.
    #[must_use]
    pub fn may_grow(&self) -> bool {
        self.waiting.len() < WAITING_MAX
    }

    /// The chunks that are becoming holes.
    pub fn under_way(&self) -> impl Iterator<Item = &u32> {
        self.under_way.iter()
    }

    /// Whether a chunk is becoming a hole.
    #[must_use]
    pub fn contains(&self, chunk: u32) -> bool {
        self.under_way.contains(&chunk)
    }
}

/// Hashes zeros in the places of holes.
fn hash_all(holes: &[Hole], intake: &Intake, chunks: &ChunkMap, checksum: bool, chunk_bytes: u32) -> Vec<HashedHole> {
    let of_zeros = |hole: &Hole| match chunks.content(hole.chunk) {
        Some(ChunkContent::Range { file, offset, bytes, .. }) if checksum => {
            let file_bytes = intake.manifest.file_bytes(file).unwrap_or(0);
            hash_of_zeros(file_bytes, offset, bytes, chunk_bytes) == hole.hash
        }
        _ => true,
    };
    holes.iter().map(|hole| HashedHole { chunk: hole.chunk, hash: hole.hash, is_of_zeros: of_zeros(hole) }).collect()
}

impl Receiving {
    /// Chunks that the sender's file has as holes.
    pub(super) fn take_holes(&mut self, holes: Vec<(u32, ChunkHash)>) -> Result<(), TransferError> {
        for (chunk, hash) in holes {
            self.check_chunk_number(chunk)?;
            let Some(ChunkContent::Range { file, .. }) = self.arriving.chunks.content(chunk) else {
                return Err(TransferError::protocol("it has a hole in a pack"));
            };
            if self.failures.failed.contains(&file) {
                continue;
            }
            // There can be a hole only where nothing has come, nor come and been found wrong.
            let has_come = self.arriving.verified.contains(chunk) || self.arriving.came_by.contains_key(&chunk);
            if has_come || self.arriving.tries.contains_key(&chunk) || !self.holes.under_way.insert(chunk) {
                return Err(TransferError::protocol(format!(
                    "it has a hole where it has sent bytes, or a hole already (chunk {chunk})"
                )));
            }
            // What was found in its place will be zeros.
            self.arriving.offered.remove(&chunk);
            self.holes.waiting.push_back(Hole { chunk, hash });
        }
        self.hash_holes();
        Ok(())
    }

    /// Lets a helper hash the next holes, unless one is at it.
    fn hash_holes(&mut self) {
        if self.holes.is_hashing || self.holes.waiting.is_empty() {
            return;
        }
        self.holes.is_hashing = true;
        let next: Vec<Hole> = self.holes.waiting.drain(..AT_ONCE.min(self.holes.waiting.len())).collect();
        let (checksum, chunk_bytes) = (self.context.options.checksum, self.context.options.chunk_bytes);
        let (intake, chunks, done) = (self.intake.clone(), self.arriving.chunks.clone(), self.done.clone());
        let helper = self.context.share.hole_helper();
        tokio::spawn(async move {
            // One at a time for each partner, and not all of the time: what a message of a few
            // bytes costs here is the same as what it costs an honest sender, who reads nothing
            // either.
            let Ok(_permit) = helper.acquire().await else { return };
            let began = Instant::now();
            let hashed: Vec<HashedHole> =
                blocking(move || hash_all(&next, &intake, &chunks, checksum, chunk_bytes)).await;
            let spent = began.elapsed();
            let _ = done.send(Done::HolesHashed(hashed));
            tokio::time::sleep(spent.saturating_mul(HOLE_HASHING_REST)).await;
        });
    }

    /// Holes were hashed: those that are what the sender says are made.
    pub(super) fn holes_hashed(&mut self, hashed: Vec<HashedHole>) -> Result<(), TransferError> {
        self.holes.is_hashing = false;
        self.hash_holes();
        for HashedHole { chunk, hash, is_of_zeros } in hashed {
            if !is_of_zeros {
                return Err(TransferError::protocol("its hash of a hole is not that of zeros"));
            }
            let Some(ChunkContent::Range { file, .. }) = self.arriving.chunks.content(chunk) else { continue };
            if self.failures.failed.contains(&file) {
                self.holes.under_way.remove(&chunk);
            } else if self.files.get(file).is_some() {
                self.punch(chunk, hash);
            } else {
                self.wait_for_file(file, WaitingChunk::Hole { chunk, hash });
            }
        }
        Ok(())
    }

    /// Makes a hole in a file that is open, unless it was given up.
    pub(super) fn punch(&mut self, chunk: u32, hash: ChunkHash) {
        let Some(ChunkContent::Range { file, offset, bytes, .. }) = self.arriving.chunks.content(chunk) else { return };
        if let Some(Writing::Here(writer)) = self.files.get(file).filter(|_| !self.failures.failed.contains(&file)) {
            return self.write_zeros(chunk, hash, writer);
        }
        let partial = self.files.partial(file).filter(|_| !self.failures.failed.contains(&file));
        let Some(partial) = partial else {
            self.holes.under_way.remove(&chunk);
            return;
        };
        let (intake, done) = (self.intake.clone(), self.done.clone());
        tokio::task::spawn_blocking(move || {
            let punched = partial.punch(offset, bytes.into());
            let result = punched.map_err(|error| unwritable(&intake.name(file), file, error));
            let _ = done.send(Done::Punched { chunk, hash, result });
        });
    }

    /// A hole was made, or not.
    pub(super) fn punched(
        &mut self,
        chunk: u32,
        hash: ChunkHash,
        result: Result<(), FileError>,
    ) -> Result<(), TransferError> {
        self.holes.under_way.remove(&chunk);
        let Some(ChunkContent::Range { file, bytes, .. }) = self.arriving.chunks.content(chunk) else { return Ok(()) };
        if self.failures.failed.contains(&file) {
            return Ok(());
        }
        match result {
            Ok(()) => {
                self.tally.bytes_arrived = self.tally.bytes_arrived.saturating_add(bytes.into());
                self.chunk_verified(chunk, hash);
                Ok(())
            }
            Err(error) => self.fail_file_or_end(error),
        }
    }
}
