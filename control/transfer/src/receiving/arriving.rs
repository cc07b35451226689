//! The chunks of a transfer that is being received, from their first segment until they are
//! verified.
//!
//! Chunks that earlier attempts or old files contain are *offered* to the sender, which may prove
//! them. A chunk that arrives by a flow is written by its lane, or *handed over* to this process.
//! It is verified when both sides' hashes are known and equal, and comes again if they differ.
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

use std::collections::{HashMap, HashSet};

use culvert_link::handles::LentBuffer;
use culvert_protocol::control::RefusalCode;
use culvert_protocol::tree_hash::ChunkHash;

use crate::bit_set::BitSet;
use crate::error::TransferError;
use crate::receiving::holes::Holes;
use crate::tries::TRIES_MAX;

/// Hashes of the sender's that may wait for their chunks. An honest sender hashes what it is about
/// to send, and sends what the receiver has buffers for.
const WAITING_HASHES_MAX: usize = 1 << 16;

/// The chunks of a transfer, from their first segment until they are verified.
#[derive(Debug)]
pub(super) struct Arriving {
    /// Which flow a chunk comes by, from its first segment until it is verified. By another flow it
    /// is not taken.
    came_by: HashMap<u32, usize>,
    /// Chunks that their lanes handed over whole, from then until they come again.
    handed: HashSet<u32>,
    /// Packs that are whole and wait for their hashes.
    packs: HashMap<u32, LentBuffer>,
    pack_hashes: HashMap<u32, Vec<ChunkHash>>,
    /// Hashes of one side that wait for the other's.
    theirs: HashMap<u32, ChunkHash>,
    ours: HashMap<u32, ChunkHash>,
    tries: HashMap<u32, u32>,
    /// Chunks that are verified, whichever way they came. Nothing is written to their places any
    /// more.
    verified: BitSet,
    /// Chunks of which the sender was told that they are here already, with their hashes.
    offered: HashMap<u32, ChunkHash>,
    /// Chunks that are holes in the sender's file.
    pub(super) holes: Holes,
}

/// Whether both sides have the same hash of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// One is not known yet.
    Incomplete,
    /// They have: this one.
    Same(ChunkHash),
    /// They have not.
    Different,
}

impl Arriving {
    /// None of `chunk_count` chunks yet.
    pub(super) fn new(chunk_count: u32) -> Self {
        Self {
            came_by: HashMap::new(),
            handed: HashSet::new(),
            packs: HashMap::new(),
            pack_hashes: HashMap::new(),
            theirs: HashMap::new(),
            ours: HashMap::new(),
            tries: HashMap::new(),
            verified: BitSet::new(chunk_count as usize),
            offered: HashMap::new(),
            holes: Holes::default(),
        }
    }

    /// Offers chunks to the sender that are here already.
    pub(super) fn offer(&mut self, chunks: impl IntoIterator<Item = (u32, ChunkHash)>) {
        self.offered.extend(chunks);
    }

    /// The chunks that are offered.
    pub(super) fn offered(&self) -> Vec<(u32, ChunkHash)> {
        self.offered.iter().map(|(&chunk, &hash)| (chunk, hash)).collect()
    }

    /// What is in a chunk's place will be overwritten.
    pub(super) fn withdraw_offer(&mut self, chunk: u32) {
        self.offered.remove(&chunk);
    }

    /// The sender proves a chunk: its hash, if it was offered and nothing of it came meanwhile.
    pub(super) fn take_offer(&mut self, chunk: u32) -> Option<ChunkHash> {
        //= W-39
        //# Nothing else can be proven.
        let hash = self.offered.remove(&chunk)?;
        (!self.came_by.contains_key(&chunk) && !self.holes.contains(chunk)).then_some(hash)
    }

    /// Whether a chunk comes by this flow.
    pub(super) fn comes_by(&self, chunk: u32, tag: usize) -> bool {
        self.came_by.get(&chunk) == Some(&tag)
    }

    /// Whether a chunk comes by any flow.
    pub(super) fn is_coming(&self, chunk: u32) -> bool {
        self.came_by.contains_key(&chunk)
    }

    /// The chunks that come by flows, and those that are becoming holes.
    pub(super) fn under_way(&self) -> impl Iterator<Item = u32> {
        self.came_by.keys().chain(self.holes.under_way()).copied()
    }

    /// A chunk that `tag` brings has its place from now on.
    pub(super) fn begin(&mut self, chunk: u32, tag: usize) {
        let earlier = self.came_by.insert(chunk, tag);
        // Invariant I-receiving-one-flow: a chunk is taken from one flow at a time.
        assert!(earlier.is_none(), "a chunk was taken from two flows at once");
    }

    /// Whether nothing more is taken of a chunk that comes by another flow: what was verified is
    /// not written over.
    pub(super) fn is_closed(&self, chunk: u32) -> bool {
        //= W-40
        //# A chunk belongs to the flow its first segment arrived on. Segments of it that arrive on
        //# another flow, or after it is verified, are discarded.
        self.is_verified(chunk) || self.is_coming(chunk) || self.holes.contains(chunk)
    }

    /// Whether a chunk has come, or has come and was found wrong.
    pub(super) fn has_come(&self, chunk: u32) -> bool {
        self.is_verified(chunk) || self.is_coming(chunk) || self.tries.contains_key(&chunk)
    }

    /// A lane handed a chunk over; false if it has before.
    pub(super) fn hand_over(&mut self, chunk: u32) -> bool {
        self.handed.insert(chunk)
    }

    /// A chunk that was handed over is written.
    pub(super) fn end_handing(&mut self, chunk: u32) {
        self.handed.remove(&chunk);
    }

    /// Notes the sender's hash of a chunk.
    ///
    /// # Errors
    /// [`TransferError`] if it names far more than it sends.
    pub(super) fn note_theirs(&mut self, chunk: u32, hash: ChunkHash) -> Result<(), TransferError> {
        if self.theirs.len() >= WAITING_HASHES_MAX {
            return Err(TransferError::protocol("it names hashes of far more chunks than it sends"));
        }
        self.theirs.insert(chunk, hash);
        Ok(())
    }

    /// Notes this side's hash of a chunk.
    pub(super) fn note_ours(&mut self, chunk: u32, hash: ChunkHash) {
        self.ours.insert(chunk, hash);
    }

    /// Whether this side's hash of a chunk waits for the sender's.
    pub(super) fn has_ours(&self, chunk: u32) -> bool {
        self.ours.contains_key(&chunk)
    }

    /// Compares both sides' hashes of a chunk, and forgets them, once both are there.
    pub(super) fn compare(&mut self, chunk: u32) -> Compared {
        //= W-40
        //# The sender sends `ChunkHashes`, `PackHashes` and `Holes` as it reads; the receiver
        //# compares them with its own.
        let (Some(&ours), Some(&theirs)) = (self.ours.get(&chunk), self.theirs.get(&chunk)) else {
            return Compared::Incomplete;
        };
        self.ours.remove(&chunk);
        self.theirs.remove(&chunk);
        if ours == theirs { Compared::Same(ours) } else { Compared::Different }
    }

    /// A chunk's data is wrong: it may come again, by any flow. Returns the flow that it came by.
    ///
    /// # Errors
    /// [`TransferError`] if it was wrong too often.
    pub(super) fn reopen(&mut self, chunk: u32) -> Result<Option<usize>, TransferError> {
        let tries = self.tries.entry(chunk).or_insert(0);
        *tries = tries.saturating_add(1);
        if *tries >= TRIES_MAX {
            let text = format!(
                "chunk {chunk} arrived {TRIES_MAX} times with data that does not match the sender's \
                 hash: memory or disk of one of the hosts is faulty"
            );
            return Err(TransferError::here(RefusalCode::Verification, text));
        }
        self.handed.remove(&chunk);
        Ok(self.came_by.remove(&chunk))
    }

    /// A pack is whole.
    pub(super) fn note_pack(&mut self, chunk: u32, buffer: LentBuffer) {
        self.packs.insert(chunk, buffer);
    }

    /// The sender names the hashes of a pack's files.
    pub(super) fn note_pack_hashes(&mut self, chunk: u32, hashes: Vec<ChunkHash>) {
        self.pack_hashes.insert(chunk, hashes);
    }

    /// Takes a whole pack, with its hashes if they have come. `needs_hashes` keeps it until they
    /// have.
    pub(super) fn take_pack(&mut self, chunk: u32, needs_hashes: bool) -> Option<(LentBuffer, Option<Vec<ChunkHash>>)> {
        if needs_hashes && !self.pack_hashes.contains_key(&chunk) {
            return None;
        }
        let buffer = self.packs.remove(&chunk)?;
        Some((buffer, self.pack_hashes.remove(&chunk)))
    }

    /// A chunk's bytes are in their place and are the sender's.
    pub(super) fn verify(&mut self, chunk: u32) {
        self.came_by.remove(&chunk);
        self.verified.insert(chunk);
    }

    /// A chunk that was verified elsewhere is not in its place: it has to come.
    pub(super) fn discount(&mut self, chunk: u32) {
        self.verified.remove(chunk);
    }

    /// Whether a chunk is verified.
    pub(super) fn is_verified(&self, chunk: u32) -> bool {
        self.verified.contains(chunk)
    }

    /// Takes nothing more of the chunks that `is_given_up` chooses; returns them with their flows.
    pub(super) fn give_up(&mut self, is_given_up: impl Fn(u32) -> bool) -> Vec<(u32, usize)> {
        self.came_by.extract_if(|&chunk, _| is_given_up(chunk)).collect()
    }

    /// How many chunks come by flows.
    pub(super) fn coming(&self) -> usize {
        self.came_by.len()
    }

    /// How many packs are whole and wait for their hashes.
    pub(super) fn packs_waiting(&self) -> usize {
        self.packs.len()
    }

    /// How many chunks are whole and wait for the sender's hash.
    pub(super) fn whole(&self) -> usize {
        self.ours.len().saturating_add(self.packs.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= W-39
    //# Nothing else can be proven.
    #[test]
    fn only_what_was_offered_and_has_not_come_is_proven() {
        let mut arriving = Arriving::new(4);
        arriving.offer([(0, [1; 32]), (1, [2; 32])]);
        arriving.begin(1, 0);
        assert_eq!(arriving.take_offer(0), Some([1; 32]));
        assert_eq!(arriving.take_offer(0), None, "once");
        assert_eq!(arriving.take_offer(1), None, "it comes");
        assert_eq!(arriving.take_offer(2), None, "it was not offered");
    }

    //= W-40
    //# A chunk belongs to the flow its first segment arrived on. Segments of it that arrive on
    //# another flow, or after it is verified, are discarded.
    #[test]
    fn a_chunk_comes_by_one_flow_until_it_is_verified() {
        let mut arriving = Arriving::new(4);
        assert!(!arriving.is_closed(3));
        arriving.begin(3, 1);
        assert!(arriving.is_closed(3) && arriving.comes_by(3, 1) && !arriving.comes_by(3, 0));
        arriving.note_ours(3, [1; 32]);
        assert_eq!(arriving.compare(3), Compared::Incomplete);
        arriving.note_theirs(3, [2; 32]).unwrap();
        assert_eq!(arriving.compare(3), Compared::Different);
        assert_eq!(arriving.reopen(3).unwrap(), Some(1));
        assert!(!arriving.is_closed(3), "it comes again, by any flow");
        arriving.begin(3, 0);
        arriving.verify(3);
        assert!(arriving.is_closed(3) && !arriving.is_coming(3));
        assert!(arriving.reopen(3).is_ok() && arriving.reopen(3).is_err(), "three times wrong");
    }
}
