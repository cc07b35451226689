//! Tells the user of a sending transfer which files the receiver has, by name, as it happens.
//!
//! The receiver acknowledges chunks that are durable. A file is announced when all of its chunks
//! are acknowledged: its bytes have arrived and are safe. That it has its name is known only at the
//! end, from the receipt. Files without acknowledged chunks (empty ones, and those of which an
//! earlier attempt stored a part) are announced then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::manifest::Manifest;
use culvert_protocol::names::printable;

use crate::bit_set::BitSet;
use crate::sending::payload::{PartnerHas, Payload};
use crate::stored_names::StoredNames;

/// Which files were announced, and how near the others are to it.
#[derive(Debug)]
pub(super) struct Announcements {
    names: Arc<StoredNames>,
    told: BitSet,
    /// Chunks that are not acknowledged yet, of files with some that are.
    left: HashMap<u32, u64>,
    /// Chunks that the receiver had already, by file.
    proven: HashMap<u32, u64>,
}

impl Announcements {
    /// None yet, of `files` files.
    pub(super) fn new(names: Arc<StoredNames>, files: usize) -> Self {
        Self { names, told: BitSet::new(files), left: HashMap::new(), proven: HashMap::new() }
    }

    /// The receiver acknowledges a chunk for the first time.
    pub(super) fn chunk_stored(&mut self, payload: &Payload, failed: &HashSet<u32>, chunk: u32) {
        let Payload::Files { tree, .. } = payload else { return };
        let manifest = &tree.listing.manifest;
        match payload.content(chunk) {
            Some(ChunkContent::Pack { files, .. }) => {
                files.iter().for_each(|&file| self.announce(manifest, failed, file));
            }
            Some(ChunkContent::Range { file, .. }) => {
                let left = self.left.entry(file).or_insert_with(|| payload.chunks_of_file(file));
                *left = left.saturating_sub(1);
                if *left == 0 {
                    self.left.remove(&file);
                    self.announce(manifest, failed, file);
                }
            }
            None => {}
        }
    }

    /// The receiver had a chunk already. A file that it had completely is not announced: nothing of
    /// it is sent.
    pub(super) fn chunk_proven(&mut self, payload: &Payload, chunk: u32) {
        let Some(file) = payload.file_of(chunk) else { return };
        let proven = self.proven.entry(file).or_insert(0);
        *proven = proven.saturating_add(1);
        if *proven >= payload.chunks_of_file(file) {
            self.told.insert(file);
        }
    }

    /// Everything is stored: announces the files that were not announced yet.
    pub(super) fn rest(&mut self, payload: &Payload, has: &PartnerHas, failed: &HashSet<u32>) {
        let Payload::Files { tree, .. } = payload else { return };
        let manifest = &tree.listing.manifest;
        for file in 0..manifest.len() as u32 {
            let is_file = manifest.file_bytes(file).is_some();
            if is_file && !has.skipped.contains(&file) && !has.resumed.contains_key(&file) {
                self.announce(manifest, failed, file);
            }
        }
    }

    fn announce(&mut self, manifest: &Manifest, failed: &HashSet<u32>, file: u32) {
        if !failed.contains(&file) && self.told.insert(file) {
            self.names.add(&printable(manifest.entry(file).name), manifest.file_bytes(file).unwrap_or(0));
        }
    }
}
