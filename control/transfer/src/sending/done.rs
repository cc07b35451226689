//! What helpers of a sending transfer report.

use culvert_link::handles::LentBuffer;
use culvert_protocol::control::FileError;
use culvert_protocol::tree_hash::ChunkHash;

use crate::packs::FilledPack;
use crate::sending::files::OpenedFile;

/// A helper's work that has ended.
#[derive(Debug)]
pub(super) enum Done {
    /// A file was opened, or not.
    Opened { file: u32, result: Result<OpenedFile, FileError> },
    /// A pack was filled.
    Filled { chunk: u32, pack: FilledPack, buffer: LentBuffer },
    /// A range was read, or not.
    RangeFilled { chunk: u32, hash: Result<ChunkHash, FileError>, buffer: LentBuffer },
    /// A hole was hashed.
    Hole { chunk: u32, hash: ChunkHash },
    /// A chunk that the partner says it has was hashed here: the hash, if it is the same.
    Proved { chunk: u32, same: Option<ChunkHash> },
    /// A file was looked at once more after its last chunk was delivered.
    Checked { file: u32, result: Result<(), FileError> },
}
