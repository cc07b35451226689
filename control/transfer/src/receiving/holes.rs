//! Chunks that are holes in the sender's file, until they are made.
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

use culvert_protocol::chunk_map::{ChunkContent, ChunkMap};
use culvert_protocol::tree_hash::{ChunkHash, hash_of_zeros};

use crate::receiving::intake::Intake;

/// Holes that may wait before the partner has to.
const WAITING_MAX: usize = 2_048;
/// Holes that a helper hashes before it reports.
const AT_ONCE: usize = 16;

/// A hole that the sender named.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hole {
    pub(super) chunk: u32,
    /// Its hash, as the sender has it.
    pub(super) hash: ChunkHash,
}

/// A hole, and whether zeros have the hash that the sender named.
#[derive(Clone, Copy, Debug)]
pub struct HashedHole {
    pub(super) chunk: u32,
    pub(super) hash: ChunkHash,
    pub(super) is_of_zeros: bool,
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

    /// The sender names a hole; false if it has before.
    pub(super) fn name(&mut self, hole: Hole) -> bool {
        let is_new = self.under_way.insert(hole.chunk);
        if is_new {
            self.waiting.push_back(hole);
        }
        is_new
    }

    /// Takes the next holes to hash; none while others are being hashed.
    pub(super) fn begin_hashing(&mut self) -> Vec<Hole> {
        if self.is_hashing {
            return Vec::new();
        }
        let next: Vec<Hole> = self.waiting.drain(..AT_ONCE.min(self.waiting.len())).collect();
        self.is_hashing = !next.is_empty();
        next
    }

    /// Holes were hashed.
    pub(super) const fn end_hashing(&mut self) {
        self.is_hashing = false;
    }

    /// A hole is made, or no longer wanted.
    pub(super) fn end(&mut self, chunk: u32) {
        self.under_way.remove(&chunk);
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
pub(super) fn hash_all(
    holes: &[Hole],
    intake: &Intake,
    chunks: &ChunkMap,
    checksum: bool,
    chunk_bytes: u32,
) -> Vec<HashedHole> {
    let of_zeros = |hole: &Hole| match chunks.content(hole.chunk) {
        Some(ChunkContent::Range { file, offset, bytes, .. }) if checksum => {
            let file_bytes = intake.manifest.file_bytes(file).unwrap_or(0);
            hash_of_zeros(file_bytes, offset, bytes, chunk_bytes) == hole.hash
        }
        _ => true,
    };
    holes.iter().map(|hole| HashedHole { chunk: hole.chunk, hash: hole.hash, is_of_zeros: of_zeros(hole) }).collect()
}
