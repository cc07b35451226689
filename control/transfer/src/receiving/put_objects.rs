//! Small objects that were given to a store.

use std::collections::HashSet;

use culvert_objects::sink::ObjectSink;
use culvert_protocol::control::FileError;
use culvert_protocol::tree_hash::ChunkHash;

use crate::receiving::intake::Intake;

/// Small objects that were given to a store.
#[derive(Debug, Default)]
pub(super) struct Put {
    /// The pack that they came with; none if they came with none, being empty.
    pub(super) pack: Option<u32>,
    /// Whether bytes were not those that the sender hashed: then nothing was stored.
    pub(super) is_mismatched: bool,
    /// Those that are stored.
    pub(super) stored: Vec<u32>,
    /// Those that are not.
    pub(super) failed: Vec<FileError>,
}

impl Put {
    /// Gives the files of a pack to the store, except `failed` ones; none if the bytes of any are
    /// not those of its hash.
    pub(super) fn all(
        &mut self,
        sink: &dyn ObjectSink,
        intake: &Intake,
        files: &[u32],
        mut bytes: &[u8],
        hashes: Option<&[ChunkHash]>,
        failed: &HashSet<u32>,
    ) {
        let mut pieces = Vec::with_capacity(files.len());
        for (at, &file) in files.iter().enumerate() {
            let file_bytes = intake.manifest.file_bytes(file).unwrap_or(0) as usize;
            let Some((piece, rest)) = bytes.split_at_checked(file_bytes) else { break };
            bytes = rest;
            if !failed.contains(&file) {
                pieces.push((at, file, piece));
            }
        }
        let is_right = |&(at, _, piece): &(usize, u32, &[u8])| match hashes {
            None => true,
            Some(hashes) => hashes.get(at).is_some_and(|hash| blake3::hash(piece).as_bytes() == hash),
        };
        self.is_mismatched = !pieces.iter().all(is_right);
        if !self.is_mismatched {
            pieces.into_iter().for_each(|(_, file, piece)| self.one(sink, intake, file, piece));
        }
    }

    /// Gives an object to the store.
    pub(super) fn one(&mut self, sink: &dyn ObjectSink, intake: &Intake, file: u32, bytes: &[u8]) {
        match sink.put(&intake.manifest, file, bytes) {
            Ok(()) => self.stored.push(file),
            Err(error) => self.failed.push(error),
        }
    }
}
