//! The hashes of chunks and files that are being sent, and the root of everything.

use std::collections::HashMap;
use std::sync::Arc;

use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::tree_hash::{ChunkHash, TreeHash};
use tokio::task::JoinHandle;

use crate::root_of;
use crate::sending::failures::Failures;
use crate::sending::job::Job;
use crate::sending::payload::{PartnerHas, Payload};

/// The hashes of chunks and of files.
#[derive(Debug)]
pub(super) struct Hashing {
    /// The files' hashes, shared with the helper that computes the root; none without checksums.
    files: Arc<Vec<ChunkHash>>,
    /// The hashes of chunks that are not delivered yet.
    chunks: HashMap<u32, ChunkHash>,
    /// Files with chunks of their own that have some delivered.
    progress_of: HashMap<u32, FileProgress>,
    /// The root of everything that was sent, as a helper computes it, and how many files had failed
    /// by then.
    root: Option<(usize, JoinHandle<String>)>,
}

/// How much of a file is delivered.
#[derive(Debug)]
struct FileProgress {
    left: u64,
    tree: TreeHash,
}

impl FileProgress {
    fn new(chunks: u64) -> Self {
        Self { left: chunks, tree: TreeHash::new(chunks) }
    }

    /// Counts a chunk; whether it was the last.
    fn count(&mut self, part: u64, hash: Option<ChunkHash>) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        if let Some(hash) = hash {
            self.tree.add(part, hash);
        }
        left == 0
    }
}

impl Hashing {
    /// The hashes of `file_count` files, of which `resumed` are known.
    pub(super) fn new(file_count: usize, resumed: &HashMap<u32, ChunkHash>) -> Self {
        let mut hashing = Self {
            files: Arc::new(vec![[0; 32]; file_count]),
            chunks: HashMap::new(),
            progress_of: HashMap::new(),
            root: None,
        };
        resumed.iter().for_each(|(&file, &hash)| hashing.set(file, hash));
        hashing
    }

    /// Notes a file's hash, if the transfer has hashes.
    pub(super) fn set(&mut self, file: u32, hash: ChunkHash) {
        if let Some(place) = Arc::make_mut(&mut self.files).get_mut(file as usize) {
            *place = hash;
        }
    }

    /// A file's hash, if the transfer has hashes.
    pub(super) fn of(&self, file: u32) -> Option<ChunkHash> {
        self.files.get(file as usize).copied()
    }

    /// Notes the hash of a chunk that is on its way.
    pub(super) fn note_chunk(&mut self, chunk: u32, hash: ChunkHash) {
        self.chunks.insert(chunk, hash);
    }

    /// Whether the hash of a chunk that is on its way is known.
    pub(super) fn has_chunk(&self, chunk: u32) -> bool {
        self.chunks.contains_key(&chunk)
    }

    /// Takes the hash of a chunk that is delivered.
    pub(super) fn take_chunk(&mut self, chunk: u32) -> Option<ChunkHash> {
        self.chunks.remove(&chunk)
    }

    /// Counts a delivered chunk of a file that has `chunks` of its own; whether it was the last.
    pub(super) fn count_part(&mut self, file: u32, chunks: u64, part: u64, hash: Option<ChunkHash>) -> bool {
        let progress = self.progress_of.entry(file).or_insert_with(|| FileProgress::new(chunks));
        let is_last = progress.count(part, hash);
        if is_last && let Some(hash) = progress.tree.finish() {
            self.set(file, *hash.as_bytes());
        }
        is_last
    }

    /// Notes the hashes of a pack's files.
    pub(super) fn note_pack(&mut self, payload: &Payload, chunk: u32, hashes: &[ChunkHash]) {
        if self.files.is_empty() {
            return;
        }
        if let Some(ChunkContent::Pack { files, .. }) = payload.content(chunk) {
            files.iter().zip(hashes).for_each(|(&file, &hash)| self.set(file, hash));
        }
    }

    /// Something goes again: the root that was computed may not be the last.
    pub(super) fn forget_root(&mut self) {
        self.root = None;
    }

    /// Lets a helper compute the root of everything that was stored, as the receiver does too,
    /// unless it has with the same files.
    pub(super) fn begin_root(&mut self, job: &Job, has: &PartnerHas, failures: &Failures) {
        let failed_count = failures.failed.len();
        if self.root.as_ref().is_some_and(|(known, _)| *known == failed_count) {
            return;
        }
        let tree = match &job.payload {
            Payload::Files { tree, .. } if job.context.options.checksum => Some(tree.clone()),
            _ => None,
        };
        let (skipped, failed, hashes) = (has.skipped.clone(), failures.failed.clone(), self.files.clone());
        let version = job.context.connection.version;
        let computing = tokio::task::spawn_blocking(move || {
            let stored = |file: u32| !skipped.contains(&file) && !failed.contains(&file);
            tree.map_or_else(String::new, |tree| root_of(&tree.listing.manifest, &hashes, version, stored))
        });
        self.root = Some((failed_count, computing));
    }

    /// The root of everything that was stored.
    pub(super) async fn root(&mut self, job: &Job, has: &PartnerHas, failures: &Failures) -> String {
        self.begin_root(job, has, failures);
        match self.root.take() {
            Some((_, computing)) => match computing.await {
                Ok(root) => root,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            None => String::new(),
        }
    }
}
