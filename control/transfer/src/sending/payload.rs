//! What is to be sent, and what of it the partner has.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use culvert_objects::source::SourceTree;
use culvert_protocol::chunk_map::{ChunkContent, ChunkMap};
use culvert_protocol::control::FlowOffer;
use culvert_protocol::dry_run::{Fates, Room};
use culvert_protocol::manifest::Manifest;
use culvert_protocol::tree_hash::ChunkHash;

use crate::measurement::memory_chunks;

/// What a transfer sends.
#[derive(Debug)]
pub enum Payload {
    /// Files.
    Files {
        /// The files.
        tree: Arc<SourceTree>,
        /// Their chunks.
        chunks: Arc<ChunkMap>,
    },
    /// So many bytes from memory.
    Memory {
        /// How many.
        bytes: u64,
    },
}

impl Payload {
    pub(super) fn chunk_count(&self, chunk_bytes: u32) -> u32 {
        match self {
            Self::Files { chunks, .. } => chunks.chunk_count(),
            Self::Memory { bytes } => memory_chunks(*bytes, chunk_bytes),
        }
    }

    /// What a chunk consists of; nothing if it is one of a measurement.
    pub(super) fn content(&self, chunk: u32) -> Option<ChunkContent<'_>> {
        match self {
            Self::Files { chunks, .. } => chunks.content(chunk),
            Self::Memory { .. } => None,
        }
    }

    /// The file with chunks of its own that a chunk is a part of, if it is one.
    pub(super) fn file_of(&self, chunk: u32) -> Option<u32> {
        match self.content(chunk) {
            Some(ChunkContent::Range { file, .. }) => Some(file),
            _ => None,
        }
    }

    /// The size of a chunk.
    pub(super) fn chunk_bytes(&self, chunk: u32, chunk_bytes: u32) -> u32 {
        match self {
            Self::Files { chunks, .. } => chunks.content(chunk).map_or(0, |content| content.bytes()),
            Self::Memory { bytes } => {
                let chunk_bytes = u64::from(chunk_bytes);
                (bytes - u64::from(chunk) * chunk_bytes).min(chunk_bytes) as u32
            }
        }
    }

    /// How many chunks of its own a file has.
    pub(super) fn chunks_of_file(&self, file: u32) -> u64 {
        match self {
            Self::Files { tree, chunks } => chunks.chunks_of_file(tree.listing.manifest.file_bytes(file).unwrap_or(0)),
            Self::Memory { .. } => 0,
        }
    }

    /// How many entries the manifest has.
    pub(super) fn entry_count(&self) -> usize {
        match self {
            Self::Files { tree, .. } => tree.listing.manifest.len(),
            Self::Memory { .. } => 0,
        }
    }

    /// How many sources could not be listed.
    pub(super) fn problem_count(&self) -> u64 {
        match self {
            Self::Files { tree, .. } => tree.listing.problem_count,
            Self::Memory { .. } => 0,
        }
    }
}

/// What the partner already has, from its plan.
#[derive(Debug, Default)]
pub struct PartnerHas {
    /// Entries that are not sent.
    pub skipped: Arc<HashSet<u32>>,
    /// Files that an earlier attempt stored, with their hashes.
    pub resumed: HashMap<u32, ChunkHash>,
    /// Chunks that an earlier attempt stored.
    pub proofs: HashMap<u32, ChunkHash>,
    /// The flows.
    pub offers: Vec<FlowOffer>,
    /// Bytes of chunks and files that earlier attempts stored.
    pub stored_bytes: u64,
    /// In a dry run: the outcome for each entry.
    pub fates: Fates,
    /// In a dry run: what is needed at the destination, and is free.
    pub room: Option<Room>,
    /// Reports that overtook the plan's end, as urgent messages may.
    pub early_reports: Vec<Vec<u8>>,
}

impl PartnerHas {
    /// Directories and symlinks that the partner makes or replaces.
    #[must_use]
    pub fn others_made(&self, manifest: &Manifest) -> u64 {
        let is_file = |file: u32| manifest.file_bytes(file).is_some();
        (0..manifest.len() as u32).filter(|&file| !is_file(file) && !self.skipped.contains(&file)).count() as u64
    }
}
