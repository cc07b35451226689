//! What helpers of a receiving transfer report.

use culvert_objects::fs::destination::small_files::staged::StagedPack;
use culvert_protocol::control::{FileError, Refusal};
use culvert_protocol::tree_hash::ChunkHash;

use crate::receiving::committer::Committed;
use crate::receiving::holes::HashedHole;
use crate::receiving::old_files::{Copied, OldFileRetention};
use crate::receiving::open_file::OpenFile;
use crate::receiving::put_objects::Put;

/// A helper's work that has ended.
#[derive(Debug)]
pub(super) enum Done {
    /// The partial file of a file that was given up is gone.
    Removed,
    /// A partial file was opened, or not.
    Opened { file: u32, result: Result<OpenFile, FileError> },
    /// A pack was written; its files go to the committer.
    Unpacked { chunk: u32, pack: StagedPack },
    /// A part of an object was written, or not; its hash, if the transfer has hashes.
    PartWritten { chunk: u32, written: Result<Option<ChunkHash>, FileError> },
    /// Small objects are stored, or not.
    Put(Put),
    /// Files of packs, and empty files, have their final names, durably.
    Committed(Committed),
    /// A large file has its final name, durably, or does not.
    Finished { file: u32, result: Result<(), FileError> },
    /// What was written of some files so far is durable.
    Synced { chunks: Vec<u32>, result: Result<(), Refusal> },
    /// The old file has the sender's bytes, and stays or does not.
    Kept { file: u32, hash: ChunkHash, result: Result<OldFileRetention, FileError> },
    /// Chunks of the old file were copied, or not.
    Copied { file: u32, copied: Copied },
    /// Holes were hashed, and compared with the sender's hashes.
    HolesHashed(Vec<HashedHole>),
    /// A chunk of a file was made a hole, or not.
    Punched { chunk: u32, hash: ChunkHash, result: Result<(), FileError> },
    /// Everything is durable; the root for the statement.
    Concluded(Result<String, Refusal>),
}
