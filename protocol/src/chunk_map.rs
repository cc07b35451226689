//! How a manifest's files are split and packed into chunks. Both ends compute this, and it is never
//! sent (W-37).
//!
//! A file larger than [`ChunkMap::pack_file_bytes_max`] has chunks of its own, each a complete
//! BLAKE3 subtree. Smaller files are packed one after another into chunks of up to the chunk size,
//! so that ten thousand tiny files cost a few dozen chunks. Empty files, directories and symlinks
//! have no chunk.

use crate::manifest::Manifest;

/// Chunk sizes that a transfer may use: powers of two, so that a chunk is a BLAKE3 subtree.
pub const CHUNK_BYTES: std::ops::RangeInclusive<u32> = 64 << 10..=crate::wire::CHUNK_BYTES_MAX;
/// The chunk size unless another is asked for.
pub const CHUNK_BYTES_DEFAULT: u32 = 4 << 20;
/// The most chunks of a transfer. Each flow keeps a bit per chunk; at 4 MiB this is one pebibyte.
pub const CHUNKS_MAX: u32 = 1 << 28;
/// The most files in one pack: what a worker reads or writes between two signs of life.
pub const PACK_FILES_MAX: usize = 2_048;

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkContent<'a> {
    /// A range of one file.
    Range {
        /// The file's entry.
        file: u32,
        /// Which of the file's chunks, from 0.
        part: u64,
        /// Where it begins in the file.
        offset: u64,
        /// Its bytes.
        bytes: u32,
    },
    /// Several small files, one behind the other.
    Pack {
        /// Their entries, in order.
        files: &'a [u32],
        /// Their bytes together.
        bytes: u32,
    },
}

impl ChunkContent<'_> {
    /// Bytes of the chunk.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        match self {
            Self::Range { bytes, .. } | Self::Pack { bytes, .. } => *bytes,
        }
    }
}

/// The transfer does not fit the chunk numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the transfer has more than {CHUNKS_MAX} chunks of {chunk_bytes} bytes: use a larger chunk size or split it")]
pub struct TooManyChunks {
    chunk_bytes: u32,
}

/// Consecutive chunks of one file, or one pack.
#[derive(Clone, Copy, Debug)]
enum Run {
    File { file: u32, file_bytes: u64 },
    Pack { files_at: u32, files: u32, bytes: u32 },
}

/// The chunks of a transfer.
#[derive(Debug)]
pub struct ChunkMap {
    chunk_bytes: u32,
    /// First chunk of each run, ascending, and the run.
    runs: Vec<(u32, Run)>,
    pack_files: Vec<u32>,
    chunk_count: u32,
}

impl ChunkMap {
    /// Files up to this size are packed. A quarter of a chunk: every pack is at least three
    /// quarters full even if the next file does not fit, and larger files benefit from direct I/O.
    #[must_use]
    pub const fn pack_file_bytes_max(chunk_bytes: u32) -> u64 {
        chunk_bytes as u64 / 4
    }

    /// Cuts and packs those of `manifest`'s files that `is_sent` names into chunks of
    /// `chunk_bytes`.
    ///
    /// # Errors
    /// [`TooManyChunks`] if their numbers would exceed [`CHUNKS_MAX`].
    ///
    /// # Panics
    /// If `chunk_bytes` is not a power of two within [`CHUNK_BYTES`].
    pub fn new(manifest: &Manifest, chunk_bytes: u32, is_sent: impl Fn(u32) -> bool) -> Result<Self, TooManyChunks> {
        // Invariant I-chunk-size: A chunk size is a power of two, so that each chunk is a subtree
        // of its file's BLAKE3 hash.
        assert!(chunk_bytes.is_power_of_two() && CHUNK_BYTES.contains(&chunk_bytes), "chunks of {chunk_bytes} bytes");
        let mut map = Self { chunk_bytes, runs: Vec::new(), pack_files: Vec::new(), chunk_count: 0 };
        //= W-37
        //# Chunks are determined by the manifest and the chunk size alone, so both ends derive the
        //# same ones. A file larger than a quarter of a chunk has chunks of its own; smaller files
        //# are packed in order.
        let mut pack = OpenPack::default();
        for (file, _) in manifest.entries() {
            let Some(bytes) = manifest.file_bytes(file).filter(|&bytes| bytes > 0 && is_sent(file)) else { continue };
            if bytes > Self::pack_file_bytes_max(chunk_bytes) {
                let chunks = bytes.div_ceil(chunk_bytes.into());
                map.push_run(chunks, Run::File { file, file_bytes: bytes })?;
                continue;
            }
            // Below a quarter of a chunk.
            let bytes = u32::try_from(bytes).unwrap_or(chunk_bytes);
            if pack.bytes.saturating_add(bytes) > chunk_bytes || pack.files.len() == PACK_FILES_MAX {
                map.close(&mut pack)?;
            }
            pack.files.push(file);
            pack.bytes = pack.bytes.saturating_add(bytes);
        }
        map.close(&mut pack)?;
        Ok(map)
    }

    fn push_run(&mut self, chunks: u64, run: Run) -> Result<(), TooManyChunks> {
        let too_many = TooManyChunks { chunk_bytes: self.chunk_bytes };
        let chunks = u32::try_from(chunks).map_err(|_| too_many)?;
        let end = self.chunk_count.checked_add(chunks).filter(|&end| end <= CHUNKS_MAX).ok_or(too_many)?;
        self.runs.push((self.chunk_count, run));
        self.chunk_count = end;
        Ok(())
    }

    fn close(&mut self, pack: &mut OpenPack) -> Result<(), TooManyChunks> {
        if pack.files.is_empty() {
            return Ok(());
        }
        // Invariant I-chunk-pack: A pack has at least one byte and no more than a chunk.
        assert!(pack.bytes > 0 && pack.bytes <= self.chunk_bytes, "a pack of {} bytes", pack.bytes);
        let too_many = TooManyChunks { chunk_bytes: self.chunk_bytes };
        let run = Run::Pack {
            files_at: u32::try_from(self.pack_files.len()).map_err(|_| too_many)?,
            files: u32::try_from(pack.files.len()).map_err(|_| too_many)?,
            bytes: std::mem::take(&mut pack.bytes),
        };
        self.pack_files.append(&mut pack.files);
        self.push_run(1, run)
    }

    /// Bytes of a full chunk.
    #[must_use]
    pub const fn chunk_bytes(&self) -> u32 {
        self.chunk_bytes
    }

    /// The number of chunks; chunk numbers are below it.
    #[must_use]
    pub const fn chunk_count(&self) -> u32 {
        self.chunk_count
    }

    /// The number of chunks that a file of `file_bytes` has of its own; zero if it is packed.
    #[must_use]
    pub fn chunks_of_file(&self, file_bytes: u64) -> u64 {
        if file_bytes > Self::pack_file_bytes_max(self.chunk_bytes) {
            file_bytes.div_ceil(self.chunk_bytes.into())
        } else {
            0
        }
    }

    /// Every file that has chunks of its own, with the number of its first chunk.
    pub fn files(&self) -> impl Iterator<Item = (u32, u32)> {
        self.runs.iter().filter_map(|&(first, run)| match run {
            Run::File { file, .. } => Some((file, first)),
            Run::Pack { .. } => None,
        })
    }

    /// What chunk number `chunk` holds; `None` if there is no such chunk.
    #[must_use]
    pub fn content(&self, chunk: u32) -> Option<ChunkContent<'_>> {
        if chunk >= self.chunk_count {
            return None;
        }
        let at = self.runs.partition_point(|&(first, _)| first <= chunk).checked_sub(1)?;
        let &(first, run) = self.runs.get(at)?;
        Some(match run {
            Run::File { file, file_bytes } => {
                let part = u64::from(chunk.checked_sub(first)?);
                let offset = part.checked_mul(self.chunk_bytes.into())?;
                let bytes = file_bytes.checked_sub(offset)?.min(self.chunk_bytes.into());
                ChunkContent::Range { file, part, offset, bytes: u32::try_from(bytes).ok()? }
            }
            Run::Pack { files_at, files, bytes } => {
                let files = self.pack_files.get(files_at as usize..)?.get(..files as usize)?;
                ChunkContent::Pack { files, bytes }
            }
        })
    }
}

#[derive(Default)]
struct OpenPack {
    files: Vec<u32>,
    bytes: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{Entry, EntryKind, FileTime};
    use proptest::prelude::*;

    fn manifest_of(sizes: &[u64]) -> Manifest {
        let mut manifest = Manifest::default();
        for (at, &bytes) in sizes.iter().enumerate() {
            let name = format!("f{at}");
            let kind = EntryKind::File { bytes, is_sparse: false };
            let entry = Entry { name: name.as_bytes(), kind, target: b"", mode: 0o644, modified: FileTime::default() };
            manifest.push(&entry).unwrap();
        }
        manifest
    }

    proptest! {
        #[test]
        fn every_byte_is_in_exactly_one_chunk(sizes in proptest::collection::vec(
            prop_oneof![0..20_000u64, 0..1_000_000u64], 0..80)) {
            //= W-37
            //# A file larger than a quarter of a chunk has chunks of its own; smaller files are
            //# packed in order.
            let chunk_bytes = 64 << 10;
            let manifest = manifest_of(&sizes);
            let map = ChunkMap::new(&manifest, chunk_bytes, |_| true).unwrap();
            let mut covered = vec![0u64; sizes.len()];
            for chunk in 0..map.chunk_count() {
                let content = map.content(chunk).unwrap();
                prop_assert!(content.bytes() > 0 && content.bytes() <= chunk_bytes);
                match content {
                    ChunkContent::Range { file, part, offset, bytes } => {
                        prop_assert_eq!(offset, covered[file as usize]);
                        prop_assert_eq!(offset, part * u64::from(chunk_bytes));
                        covered[file as usize] += u64::from(bytes);
                    }
                    ChunkContent::Pack { files, bytes } => {
                        prop_assert!(files.len() <= PACK_FILES_MAX);
                        prop_assert_eq!(files.iter().map(|&file| sizes[file as usize]).sum::<u64>(), u64::from(bytes));
                        for &file in files {
                            covered[file as usize] += sizes[file as usize];
                        }
                    }
                }
            }
            prop_assert_eq!(covered, sizes);
            prop_assert_eq!(map.content(map.chunk_count()), None);
        }
    }

    #[test]
    fn files_that_are_not_sent_have_no_chunk() {
        let manifest = manifest_of(&[10, 20, 1 << 20, 30]);
        let map = ChunkMap::new(&manifest, 64 << 10, |file| file != 1 && file != 2).unwrap();
        assert_eq!(map.chunk_count(), 1);
        assert_eq!(map.content(0), Some(ChunkContent::Pack { files: &[0, 3], bytes: 40 }));
        assert_eq!(map.files().count(), 0);
    }

    #[test]
    fn files_beyond_the_numbers_are_refused() {
        let manifest = manifest_of(&[(u64::from(CHUNKS_MAX) + 1) << 16]);
        assert!(ChunkMap::new(&manifest, 64 << 10, |_| true).is_err());
        assert!(ChunkMap::new(&manifest, 4 << 20, |_| true).is_ok());
    }

    #[test]
    fn a_tebibyte_is_one_run() {
        let manifest = manifest_of(&[1 << 40]);
        let map = ChunkMap::new(&manifest, CHUNK_BYTES_DEFAULT, |_| true).unwrap();
        assert_eq!(map.chunk_count(), 1 << 18);
        assert_eq!(map.runs.len(), 1);
    }
}
