//! Filling a pack: small files read one behind the other into a lane's buffer, and hashed while
//! they are in the cache.

use std::os::fd::OwnedFd;

use culvert_link::handles::LentBuffer;
use culvert_objects::fs::sources::SourceTree;
use culvert_protocol::control::FileError;
use culvert_protocol::tree_hash::ChunkHash;
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::transfer::source_version::{Look, SourceVersion, TRIES_MAX, changed, unreadable};

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
        let bytes = tree.manifest.file_bytes(file).unwrap_or(0) as usize;
        let Some((place, after)) = rest.split_at_mut_checked(bytes) else { break };
        rest = after;
        let hash = match read_whole(tree, file, place) {
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

fn read_whole(tree: &SourceTree, file: u32, place: &mut [u8]) -> Result<(), FileError> {
    let opened = tree.open(file, OFlags::empty()).map_err(|error| unreadable(tree, file, error))?;
    for _ in 0..TRIES_MAX {
        if read_version(tree, file, &opened, place)? == Look::Same {
            return Ok(());
        }
    }
    Err(changed(tree, file))
}

/// Reads a file, and looks whether it was of one version.
fn read_version(tree: &SourceTree, file: u32, opened: &OwnedFd, place: &mut [u8]) -> Result<Look, FileError> {
    let version = SourceVersion::begin(tree, file, opened)?;
    let mut read = 0;
    while read < place.len() {
        match rustix::io::pread(opened, &mut place[read..], read as u64) {
            Ok(0) => return Err(version.ended_early(tree, file, opened)),
            Ok(count) => read += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(unreadable(tree, file, error)),
        }
    }
    version.check(tree, file, opened)
}
