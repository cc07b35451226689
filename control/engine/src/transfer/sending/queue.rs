//! The chunks of a transfer that is being sent, until they are delivered, and their hashes.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use culvert_link::commands::Source;
use culvert_protocol::tree_hash::ChunkHash;
use tokio::task::JoinHandle;

use crate::transfer::bit_set::BitSet;
use crate::transfer::sending::delivered::{OutgoingProgress, ResendRequest};

/// The chunks of a transfer, from the first look at them until they are delivered.
#[derive(Debug)]
pub(super) struct Queue {
    /// The next chunk that has not been looked at.
    pub(super) next_chunk: u32,
    pub(super) chunk_count: u32,
    /// Chunks to be prepared before `next_chunk`: sent again, or not the same as the partner's.
    pub(super) again: VecDeque<u32>,
    /// Prepared chunks that wait for a flow.
    pub(super) prepared: VecDeque<(u32, Source)>,
    /// Chunks in a flow's hands.
    pub(super) assigned: HashMap<u32, usize>,
    /// Packs whose flows have asked for their content, until they are delivered; true while they
    /// are being filled.
    pub(super) filling: HashMap<u32, bool>,
    /// Chunks that helpers work on.
    pub(super) preparing: usize,
    /// Files that are looked at once more.
    pub(super) checking: usize,
    /// Chunks that the receiver says to have stored.
    pub(super) stored: BitSet,
    pub(super) asked_again: HashMap<u32, ResendRequest>,
}

/// The hashes of chunks and of files.
#[derive(Debug)]
pub(super) struct Hashing {
    /// The files' hashes, shared with the helper that computes the root.
    pub(super) hashes: Arc<Vec<ChunkHash>>,
    pub(super) hashed: HashMap<u32, ChunkHash>,
    pub(super) progress_of: HashMap<u32, OutgoingProgress>,
    /// The root of everything that was sent, as a helper computes it, and how many files had failed
    /// by then.
    pub(super) root: Option<(usize, JoinHandle<String>)>,
}

impl Hashing {
    /// Notes a file's hash, if the transfer has hashes.
    pub(super) fn set(&mut self, file: u32, hash: ChunkHash) {
        if let Some(place) = Arc::make_mut(&mut self.hashes).get_mut(file as usize) {
            *place = hash;
        }
    }
}
