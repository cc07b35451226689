//! Filling a pack: small files read one behind the other into a lane's buffer, and hashed while they are in the cache.

use culvert_dataplane::link::handles::LentBuffer;
use culvert_protocol::control::FileError;
use culvert_protocol::manifest::EntryKind;
use culvert_protocol::names::printable;
use culvert_protocol::tree_hash::ChunkHash;
use rustix::fs::{OFlags, Stat, fstat};
use rustix::io::Errno;

use crate::sources::SourceTree;

/// A filled pack.
#[derive(Debug)]
pub struct FilledPack {
    /// One hash for each file, zero for those that failed and for all if there are no hashes.
    pub hashes: Vec<ChunkHash>,
    /// The files that failed.
    pub failed: Vec<FileError>,
}

/// Reads `files` into `buffer`. A file that cannot be read, or is not what was listed, leaves zeros and fails by name.
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
    let before = fstat(&opened).map_err(|error| unreadable(tree, file, error))?;
    check_unchanged(tree, file, &before)?;
    let mut read = 0;
    while read < place.len() {
        match rustix::io::read(&opened, &mut place[read..]) {
            Ok(0) => return Err(changed(tree, file)),
            Ok(count) => read += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(unreadable(tree, file, error)),
        }
    }
    let after = fstat(&opened).map_err(|error| unreadable(tree, file, error))?;
    check_unchanged(tree, file, &after)
}

/// Whether a file is still what was listed.
///
/// # Errors
/// What to say of it if it is not.
pub fn check_unchanged(tree: &SourceTree, file: u32, now: &Stat) -> Result<(), FileError> {
    let entry = tree.manifest.entry(file);
    let same_bytes = matches!(entry.kind, EntryKind::File { bytes, .. } if bytes == now.st_size as u64);
    let same_time = now.st_mtime == entry.modified.seconds && now.st_mtime_nsec as u32 == entry.modified.nanoseconds;
    if same_bytes && same_time { Ok(()) } else { Err(changed(tree, file)) }
}

/// What is said of a file that changed while it was read.
#[must_use]
pub fn changed(tree: &SourceTree, file: u32) -> FileError {
    let name = printable(tree.manifest.entry(file).name);
    let text = format!("'{name}' changed while it was sent; send it again when nobody writes it");
    FileError { file, code: "changed".to_owned(), text }
}

/// What is said of a file that cannot be read.
#[must_use]
pub fn unreadable(tree: &SourceTree, file: u32, error: Errno) -> FileError {
    let name = printable(tree.manifest.entry(file).name);
    let (code, text) = match error {
        Errno::NOENT => ("vanished", format!("'{name}' was removed while the transfer was under way")),
        Errno::LOOP => ("changed", format!("'{name}' became a symlink while the transfer was under way")),
        error => ("unreadable", format!("'{name}' cannot be read: {error}")),
    };
    FileError { file, code: code.to_owned(), text }
}
