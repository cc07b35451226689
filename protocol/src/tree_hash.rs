//! The hash of a file from the hashes of its chunks: the same value that `b3sum` prints.
//!
//! BLAKE3 is a binary tree over 1 KiB blocks. A chunk whose size is a power of two and that starts
//! at a multiple of it is a complete subtree, so lanes hash chunks independently and in any order,
//! and [`TreeHash`] joins their chaining values. Neighboring subtrees are joined as soon as both
//! exist: memory is bounded by how far apart chunks arrive, not by the file.

use std::collections::BTreeMap;

use blake3::hazmat::{ChainingValue, HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};
use blake3::{Hash, Hasher};

/// Hashes one chunk, piece by piece, while its bytes are in the cache.
#[derive(Clone, Debug)]
pub struct ChunkHasher {
    hasher: Hasher,
    is_whole_file: bool,
}

/// The hash of a chunk: the chaining value of its subtree, or the file's hash if the chunk is the
/// whole file.
pub type ChunkHash = [u8; 32];

impl ChunkHasher {
    /// Begins the chunk at `offset` of a file of `file_bytes`; `chunk_bytes` is the transfer's
    /// chunk size.
    #[must_use]
    pub fn new(file_bytes: u64, offset: u64, chunk_bytes: u32) -> Self {
        debug_assert!(chunk_bytes.is_power_of_two() && chunk_bytes >= 1024, "chunks are subtrees");
        debug_assert!(offset.is_multiple_of(chunk_bytes.into()), "chunks are subtrees");
        let is_whole_file = file_bytes <= u64::from(chunk_bytes);
        let mut hasher = Hasher::new();
        if !is_whole_file {
            hasher.set_input_offset(offset);
        }
        Self { hasher, is_whole_file }
    }

    /// Adds the next bytes of the chunk.
    #[inline]
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// The chunk's hash, once all of it was added.
    #[must_use]
    pub fn finish(&self) -> ChunkHash {
        if self.is_whole_file { *self.hasher.finalize().as_bytes() } else { self.hasher.finalize_non_root() }
    }
}

/// The hash of a chunk of zeros, for the holes of sparse files.
#[must_use]
pub fn hash_of_zeros(file_bytes: u64, offset: u64, bytes: u32, chunk_bytes: u32) -> ChunkHash {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut hasher = ChunkHasher::new(file_bytes, offset, chunk_bytes);
    let mut left = bytes as usize;
    while left > 0 {
        let step = ZEROS.get(..left).unwrap_or(&ZEROS);
        hasher.update(step);
        left = left.saturating_sub(step.len());
    }
    hasher.finish()
}

/// Joins chunk hashes to a file's hash.
#[derive(Clone, Debug)]
pub struct TreeHash {
    chunks: u64,
    /// Joined subtrees by the number of their first chunk; the value is (chunks in it, chaining
    /// value).
    subtrees: BTreeMap<u64, (u64, ChainingValue)>,
    added: u64,
}

impl TreeHash {
    /// For a file of `chunks` chunks (at least one).
    #[must_use]
    pub const fn new(chunks: u64) -> Self {
        Self { chunks, subtrees: BTreeMap::new(), added: 0 }
    }

    /// Adds the hash of the file's chunk number `at`, in any order, each once.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "chunk numbers of a file are below 2^28, and so are their sums and doubles"
    )]
    pub fn add(&mut self, at: u64, hash: ChunkHash) {
        debug_assert!(at < self.chunks, "chunk {at} of {}", self.chunks);
        self.added += 1;
        let (mut first, mut count, mut value) = (at, 1, hash);
        // A subtree of 2^k chunks has its sibling at the neighboring multiple of 2^k. The last
        // join is the root's, which `finish` makes.
        while count * 2 < self.chunks {
            let is_left = (first / count).is_multiple_of(2);
            let sibling = if is_left { first + count } else { first - count };
            match self.subtrees.get(&sibling) {
                Some(&(sibling_count, sibling_value)) if sibling_count == count => {
                    self.subtrees.remove(&sibling);
                    let (left, right) = if is_left { (value, sibling_value) } else { (sibling_value, value) };
                    value = merge_subtrees_non_root(&left, &right, Mode::Hash);
                    first = first.min(sibling);
                    count *= 2;
                }
                _ => break,
            }
        }
        self.subtrees.insert(first, (count, value));
    }

    /// How many chunks were added.
    #[must_use]
    pub const fn added(&self) -> u64 {
        self.added
    }

    /// The file's hash; `None` while a chunk is missing.
    #[must_use]
    pub fn finish(&self) -> Option<Hash> {
        let covered: u64 = self.subtrees.values().map(|&(count, _)| count).sum();
        if covered != self.chunks {
            return None;
        }
        if self.chunks == 1 {
            return self.subtrees.get(&0).map(|&(_, hash)| Hash::from_bytes(hash));
        }
        Some(Hash::from_bytes(self.join(0, self.chunks, true)))
    }

    /// Joins the subtrees that cover `count` chunks from `first`; BLAKE3's left subtree is the
    /// largest power of two that leaves something for the right.
    #[expect(clippy::arithmetic_side_effects, reason = "called for two chunks or more, divided until one is left")]
    fn join(&self, first: u64, count: u64, is_root: bool) -> ChainingValue {
        if let Some(&(there, value)) = self.subtrees.get(&first)
            && there == count
            && !is_root
        {
            return value;
        }
        let left_count = 1 << (63 - (count - 1).leading_zeros());
        let left = self.join(first, left_count, false);
        let right = self.join(first + left_count, count - left_count, false);
        if is_root {
            *merge_subtrees_root(&left, &right, Mode::Hash).as_bytes()
        } else {
            merge_subtrees_non_root(&left, &right, Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHUNK: u32 = 4096;

    fn chunk_hash(file: &[u8], at: usize) -> ChunkHash {
        let begin = at * CHUNK as usize;
        let mut hasher = ChunkHasher::new(file.len() as u64, begin as u64, CHUNK);
        for piece in file[begin..file.len().min(begin + CHUNK as usize)].chunks(1500) {
            hasher.update(piece);
        }
        hasher.finish()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]
        #[test]
        fn is_what_b3sum_prints_whatever_the_order(bytes in 1..40 * CHUNK as usize, seed: u64) {
            let file: Vec<u8> = (0..bytes).map(|at| (at as u64).wrapping_mul(seed | 1).to_le_bytes()[3]).collect();
            let chunks = bytes.div_ceil(CHUNK as usize);
            let mut order: Vec<usize> = (0..chunks).collect();
            order.sort_by_key(|&at| (at as u64 ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut tree = TreeHash::new(chunks as u64);
            for at in order {
                prop_assert_eq!(tree.finish(), None);
                tree.add(at as u64, chunk_hash(&file, at));
            }
            prop_assert_eq!(tree.finish(), Some(blake3::hash(&file)));
        }
    }

    #[test]
    fn zeros_hash_as_a_file_of_zeros_does() {
        let file = vec![0; 3 * CHUNK as usize + 5];
        let mut tree = TreeHash::new(4);
        for at in 0..4 {
            let bytes = if at == 3 { 5 } else { CHUNK };
            tree.add(at, hash_of_zeros(file.len() as u64, at * u64::from(CHUNK), bytes, CHUNK));
        }
        assert_eq!(tree.finish(), Some(blake3::hash(&file)));
    }

    #[test]
    fn memory_does_not_grow_with_a_file_that_arrives_in_order() {
        let mut tree = TreeHash::new(1 << 20);
        for at in 0..1 << 16 {
            tree.add(at, [at as u8; 32]);
            assert!(tree.subtrees.len() <= 20);
        }
    }
}
