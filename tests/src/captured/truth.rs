//! What the transfer of a captured data plane moves, and the truth about it.

use std::collections::HashSet;
use std::path::Path;

use culvert_protocol::chunk_map::{ChunkContent, ChunkMap};
use culvert_protocol::manifest::{Entry, EntryKind, FileTime, Manifest};
use culvert_protocol::tree_hash::{ChunkHash, ChunkHasher};

/// The transfer's chunk size, the smallest possible.
pub const CHUNK_BYTES: u32 = 64 << 10;

/// Names and sizes in manifest order: large files with chunks of their own, small ones in a pack,
/// both in a new directory with few files and beside it, and an empty one. The directory has no
/// size.
const ENTRIES: [(&str, Option<usize>); 8] = [
    ("big", Some(2 * CHUNK_BYTES as usize + 1_000)),
    ("c", Some(1)),
    ("d", None),
    ("empty", Some(0)),
    ("whole", Some(CHUNK_BYTES as usize)),
    ("d/a", Some(100)),
    ("d/b", Some(5_000)),
    ("d/mid", Some(20_000)),
];

/// The files, their chunks and hashes.
#[derive(Debug)]
pub struct Truth {
    /// The files.
    pub manifest: Manifest,
    /// Their contents, by entry; none for a directory.
    pub contents: Vec<Vec<u8>>,
    /// Their chunks.
    pub chunks: ChunkMap,
    /// The chunks' bytes.
    pub chunk_contents: Vec<Vec<u8>>,
    /// Hashes of chunks of large files, as lanes compute them.
    pub chunk_hashes: Vec<Option<ChunkHash>>,
    /// Hashes of files.
    pub file_hashes: Vec<ChunkHash>,
}

impl Truth {
    /// Builds it.
    ///
    /// # Panics
    /// If the manifest cannot be built.
    #[must_use]
    pub fn new() -> Self {
        let (mut manifest, mut contents) = (Manifest::default(), Vec::new());
        for (name, bytes) in ENTRIES {
            let file = |bytes: usize| EntryKind::File { bytes: bytes as u64, is_sparse: false };
            let kind = bytes.map_or(EntryKind::Directory, file);
            let modified = FileTime { seconds: 1_700_000_000, nanoseconds: 5 };
            let entry = Entry { name: name.as_bytes(), kind, target: b"", mode: 0o755, modified };
            manifest.push(&entry).expect("an entry");
            contents.push(content(name, bytes.unwrap_or(0)));
        }
        let chunks = ChunkMap::new(&manifest, CHUNK_BYTES, |_| true).expect("a few chunks");
        let mut truth = Self {
            file_hashes: contents.iter().map(|content| *blake3::hash(content).as_bytes()).collect(),
            manifest,
            contents,
            chunks,
            chunk_contents: Vec::new(),
            chunk_hashes: Vec::new(),
        };
        for chunk in 0..truth.chunk_count() {
            let (content, hash) = truth.cut(chunk);
            truth.chunk_contents.push(content);
            truth.chunk_hashes.push(hash);
        }
        truth
    }

    /// How many chunks there are.
    #[must_use]
    pub const fn chunk_count(&self) -> u32 {
        self.chunks.chunk_count()
    }

    fn cut(&self, chunk: u32) -> (Vec<u8>, Option<ChunkHash>) {
        match self.chunks.content(chunk).expect("a chunk") {
            ChunkContent::Pack { files, .. } => {
                (files.iter().flat_map(|&file| self.contents[file as usize].clone()).collect(), None)
            }
            ChunkContent::Range { file, offset, bytes, .. } => {
                let content = &self.contents[file as usize];
                let range = content[offset as usize..offset as usize + bytes as usize].to_vec();
                let hash = chunk_hash(content.len() as u64, offset, &range);
                (range, Some(hash))
            }
        }
    }

    /// The hashes of a pack's files.
    #[must_use]
    pub fn pack_hashes(&self, chunk: u32) -> Option<Vec<ChunkHash>> {
        match self.chunks.content(chunk) {
            Some(ChunkContent::Pack { files, .. }) => {
                Some(files.iter().map(|&file| self.file_hashes[file as usize]).collect())
            }
            _ => None,
        }
    }

    /// The large file that a chunk belongs to, and the offset in it.
    #[must_use]
    pub fn range(&self, chunk: u32) -> Option<(u32, u64)> {
        match self.chunks.content(chunk) {
            Some(ChunkContent::Range { file, offset, .. }) => Some((file, offset)),
            _ => None,
        }
    }

    /// The root in the receipt of the whole transfer without the files that failed.
    #[must_use]
    pub fn root_without(&self, failed: &HashSet<u32>) -> String {
        let version = culvert_protocol::control::PROTOCOL_VERSION;
        let is_stored = |file: u32| !failed.contains(&file);
        culvert_engine::transfer::root_of(&self.manifest, &self.file_hashes, version, is_stored)
    }

    /// The root in the receipt of the whole transfer.
    #[must_use]
    pub fn root(&self) -> String {
        self.root_without(&HashSet::new())
    }

    /// Writes the files.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn write_to(&self, directory: &Path) {
        std::fs::create_dir_all(directory.join("d")).expect("a directory");
        for (file, entry) in self.manifest.entries() {
            let path = directory.join(std::str::from_utf8(entry.name).expect("plain names"));
            if entry.kind != EntryKind::Directory {
                std::fs::write(path, &self.contents[file as usize]).expect("a file");
            }
        }
    }
}

impl Default for Truth {
    fn default() -> Self {
        Self::new()
    }
}

/// The hash of a chunk as a lane computes it.
#[must_use]
pub fn chunk_hash(file_bytes: u64, offset: u64, content: &[u8]) -> ChunkHash {
    let mut hasher = ChunkHasher::new(file_bytes, offset, CHUNK_BYTES);
    hasher.update(content);
    hasher.finish()
}

fn content(name: &str, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at / 7 + 3 * at + name.len()) as u8).collect()
}
