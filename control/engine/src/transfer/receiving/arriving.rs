//! The chunks of a transfer that is being received, until they are verified.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use culvert_link::handles::LentBuffer;
use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::tree_hash::ChunkHash;

use crate::transfer::bit_set::BitSet;

/// The chunks of a transfer, from their first segment until they are verified.
#[derive(Debug)]
pub(super) struct Arriving {
    pub(super) chunks: Arc<ChunkMap>,
    pub(super) chunk_count: u32,
    /// Which flow a chunk comes by, from its first segment until it is verified. By another flow it
    /// is not taken.
    pub(super) came_by: HashMap<u32, usize>,
    /// Packs that came whole, from then until they come again.
    pub(super) handed: HashSet<u32>,
    /// Packs that are whole and wait for their hashes.
    pub(super) packs: HashMap<u32, LentBuffer>,
    pub(super) pack_hashes: HashMap<u32, Vec<ChunkHash>>,
    /// Hashes of one side that wait for the other's.
    pub(super) theirs: HashMap<u32, ChunkHash>,
    pub(super) ours: HashMap<u32, ChunkHash>,
    pub(super) tries: HashMap<u32, u32>,
    /// Chunks that are verified, whichever way they came. Nothing is written to their places any
    /// more.
    pub(super) verified: BitSet,
    /// Chunks of which the sender was told that they are here already, with their hashes.
    pub(super) offered: HashMap<u32, ChunkHash>,
}
