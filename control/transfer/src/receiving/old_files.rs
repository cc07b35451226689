//! What is known of files that are compared with those that they would replace
//! ([`super::comparing`]).

use std::collections::{HashMap, HashSet};

use culvert_objects::fs::destination::attributes::Attributes;
use culvert_objects::fs::destination::file_errors::unwritable;
use culvert_objects::fs::destination::old_files::{OldVersion, keep};
use culvert_protocol::control::FileError;
use culvert_protocol::tree_hash::{ChunkHash, TreeHash};
use rustix::io::Errno;

use crate::receiving::intake::Intake;

/// A chunk that the sender has proved to be in the old file, and that is nowhere else yet.
#[derive(Clone, Copy, Debug)]
pub struct ProvedChunk {
    pub(super) chunk: u32,
    pub(super) part: u64,
    pub(super) hash: ChunkHash,
}

/// A file that is being compared.
#[derive(Debug)]
pub(super) struct Comparison {
    pub(super) version: OldVersion,
    pub(super) proved: Vec<ProvedChunk>,
    /// Chunks of the sender's file.
    pub(super) chunks: u64,
    /// Whether it is the sender's file if all chunks are proved.
    pub(super) may_be_same: bool,
    pub(super) is_keeping: bool,
    /// Copies that are under way.
    copying: u32,
}

impl Comparison {
    /// An old file of `version`, of whose `chunks` chunks none is proved yet.
    pub(super) const fn new(version: OldVersion, chunks: u64, may_be_same: bool) -> Self {
        Self { version, proved: Vec::new(), chunks, may_be_same, is_keeping: false, copying: 0 }
    }

    /// Whether the sender has proved all chunks of its file.
    pub(super) fn has_all(&self) -> bool {
        self.proved.len() as u64 == self.chunks
    }

    /// The hash of the sender's file, if all of its chunks are proved.
    pub(super) fn hash(&self) -> Option<ChunkHash> {
        let mut tree = TreeHash::new(self.chunks);
        self.proved.iter().for_each(|proved| tree.add(proved.part, proved.hash));
        tree.finish().map(|hash| *hash.as_bytes())
    }

    /// Takes the proved chunks to copy them.
    pub(super) fn begin_copying(&mut self) -> Vec<ProvedChunk> {
        self.copying = self.copying.saturating_add(1);
        std::mem::take(&mut self.proved)
    }
}

/// The files of a transfer that are being compared.
#[derive(Debug, Default)]
pub struct OldFiles {
    pub(super) files: HashMap<u32, Comparison>,
    /// Files that were there with the sender's bytes.
    same: HashSet<u32>,
    /// Their bytes.
    pub same_bytes: u64,
}

impl OldFiles {
    /// How many files were there with the sender's bytes.
    #[must_use]
    pub fn same_count(&self) -> u64 {
        self.same.len() as u64
    }

    /// A file was there with the sender's bytes.
    pub fn note_same(&mut self, file: u32, bytes: u64) {
        self.same.insert(file);
        self.same_bytes = self.same_bytes.saturating_add(bytes);
    }

    /// The sender has proved a chunk; false if it is not one of an old file.
    pub(super) fn note_proved(&mut self, file: u32, proved: ProvedChunk) -> bool {
        let Some(old) = self.files.get_mut(&file) else { return false };
        old.proved.push(proved);
        true
    }

    /// A copy has ended.
    pub(super) fn end_copying(&mut self, file: u32) {
        if let Some(old) = self.files.get_mut(&file) {
            old.copying = old.copying.saturating_sub(1);
        }
    }

    /// Whether chunks of a file are being copied.
    #[must_use]
    pub fn is_copying(&self, file: u32) -> bool {
        self.files.get(&file).is_some_and(|old| old.copying > 0)
    }

    /// An old file has changed since it was hashed, or cannot stay for another reason.
    pub(super) fn cannot_stay(&mut self, file: u32) {
        if let Some(old) = self.files.get_mut(&file) {
            (old.is_keeping, old.may_be_same) = (false, false);
        }
    }
}

/// What became of chunks that were to be copied.
#[derive(Debug, Default)]
pub struct Copied {
    /// They are in the file.
    pub(super) right: Vec<ProvedChunk>,
    /// The old file no longer has them.
    pub(super) wrong: Vec<u32>,
    /// They cannot be written.
    pub(super) error: Option<FileError>,
}

/// Whether an old file stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldFileRetention {
    /// It does.
    Yes,
    /// It has changed since it was hashed.
    Changed,
}

pub(super) fn keep_old(
    intake: &Intake,
    file: u32,
    version: OldVersion,
    preserve: bool,
) -> Result<OldFileRetention, FileError> {
    let fail = |error| unwritable(&intake.name(file), file, error);
    let destination = intake.destination.as_ref().ok_or_else(|| fail(Errno::INVAL))?;
    let name = destination.name(&intake.manifest, file);
    let attributes = Attributes::of(&intake.manifest.entry(file), preserve);
    match keep(destination, &name, version, &attributes).map_err(fail)? {
        Some(refused) => {
            intake.note_refused(file, refused);
            Ok(OldFileRetention::Yes)
        }
        None => Ok(OldFileRetention::Changed),
    }
}
