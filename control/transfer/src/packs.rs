//! Filling a pack: small files read one behind the other into a lane's buffer, and hashed while
//! they are in the cache.

use culvert_link::handles::LentBuffer;
use culvert_objects::source::SourceTree;
use culvert_protocol::control::FileError;
use culvert_protocol::tree_hash::ChunkHash;

/// A filled pack.
#[derive(Debug)]
pub struct FilledPack {
    /// One hash for each file, zero for those that failed and for all if there are no hashes.
    pub hashes: Vec<ChunkHash>,
    /// The files that failed.
    pub failed: Vec<FileError>,
}

/// Reads `files` into `buffer`. A file that cannot be read, or is not what was listed, leaves zeros
/// and fails by name.
#[must_use]
pub fn fill(tree: &SourceTree, files: &[u32], buffer: &mut LentBuffer, checksum: bool) -> FilledPack {
    let mut filled = FilledPack { hashes: Vec::with_capacity(files.len()), failed: Vec::new() };
    let mut rest = buffer.bytes_mut();
    for &file in files {
        let bytes = tree.listing.manifest.file_bytes(file).unwrap_or(0) as usize;
        let Some((place, after)) = rest.split_at_mut_checked(bytes) else { break };
        rest = after;
        let hash = match tree.read_whole(file, place) {
            Ok(()) if checksum => *blake3::hash(place).as_bytes(),
            Ok(()) => [0; 32],
            Err(error) => {
                place.fill(0);
                filled.failed.push(error);
                [0; 32]
            }
        };
        filled.hashes.push(hash);
    }
    filled
}
