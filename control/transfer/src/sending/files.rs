//! Files that are being sent: opened once, shared by their chunks, closed after the last.

use std::collections::HashMap;
use std::sync::Arc;

use culvert_link::commands::FileSlot;
use culvert_objects::source::{OpenedSource, RangeReader, SourceContent, SourceTree, Version};
use culvert_plane::{DataPlane, InstalledFile};
use culvert_protocol::control::FileError;
use culvert_protocol::tree_hash::ChunkHash;

use crate::limits::files_per_partner;
use crate::shares::Piece;
use crate::{blocking, open_files};

/// An object that is open for sending.
#[derive(Clone, Debug)]
pub struct OpenedFile {
    /// Where lanes have its descriptors; none if this process reads it for them.
    installed: Option<Arc<InstalledFile>>,
    /// The open object, for the check after its last chunk, and its version when it was opened.
    opened: Arc<OpenedSource>,
    /// Its place among the partner's open files.
    _place: Arc<Piece>,
}

/// How the chunks of an open object are read.
#[derive(Debug)]
pub enum Reading {
    /// By lanes, from this file.
    Lanes(FileSlot),
    /// By this process.
    Ranges(Arc<dyn RangeReader>),
}

impl OpenedFile {
    /// How its chunks are read.
    #[must_use]
    pub fn reading(&self) -> Option<Reading> {
        match &self.opened.content {
            SourceContent::Descriptors { .. } => Some(Reading::Lanes(self.installed.as_ref()?.slot())),
            SourceContent::Ranges(reader) => Some(Reading::Ranges(reader.clone())),
        }
    }

    /// Whether a whole range is a hole.
    #[must_use]
    pub fn is_hole(&self, offset: u64, bytes: u32) -> bool {
        match &self.opened.content {
            SourceContent::Descriptors { holes, .. } => is_hole(holes, offset, bytes),
            SourceContent::Ranges(_) => false,
        }
    }
}

/// Opens an object, and hands it to the data plane if it has descriptors.
///
/// # Errors
/// What to say of the object.
pub async fn open(
    plane: &Arc<DataPlane>,
    tree: Arc<SourceTree>,
    file: u32,
    earlier: Option<Version>,
    place: Piece,
) -> Result<OpenedFile, FileError> {
    let mut opened = blocking(move || tree.open(file, earlier.as_ref())).await?;
    let installed = match &mut opened.content {
        SourceContent::Ranges(_) => None,
        SourceContent::Descriptors { buffered, direct, .. } => {
            let installed = plane.install_file(&*buffered, direct.as_ref()).await.map_err(|error| FileError {
                file,
                code: culvert_system::os_error::SHORTAGE.to_owned(),
                text: error.to_string(),
            })?;
            let direct = direct.take();
            // Closing may wait for a file server.
            tokio::task::spawn_blocking(move || drop(direct));
            Some(Arc::new(installed))
        }
    };
    Ok(OpenedFile { installed, opened: Arc::new(opened), _place: Arc::new(place) })
}

/// Looks at an object once more, which was read as `opened` and has `hash`.
///
/// # Errors
/// What to say of it if it changed.
pub fn check(
    tree: &SourceTree,
    file: u32,
    opened: Option<&OpenedFile>,
    hash: Option<ChunkHash>,
) -> Result<(), FileError> {
    tree.check(file, opened.map(|opened| &*opened.opened), hash)
}

#[derive(Debug)]
enum State {
    /// Being opened; these chunks wait.
    Opening(Vec<u32>),
    /// Open, used by so many chunks.
    Open { opened: Arc<OpenedFile>, uses: usize, is_over: bool },
}

/// The files that are open or being opened.
#[derive(Debug, Default)]
pub struct OutgoingFiles {
    files: HashMap<u32, State>,
    /// What files were when they were opened first, until all of them has been sent.
    versions: HashMap<u32, Version>,
}

impl OutgoingFiles {
    /// A file, if it is open.
    #[must_use]
    pub fn get(&self, file: u32) -> Option<Arc<OpenedFile>> {
        match self.files.get(&file) {
            Some(State::Open { opened, .. }) => Some(opened.clone()),
            _ => None,
        }
    }

    /// Whether a file is open, or may be opened in addition to those that are.
    #[must_use]
    pub fn has_place_for(&self, file: u32, open_in_all: usize, open_of_partner: usize) -> bool {
        let open = self.files.len().max(open_in_all);
        let is_full = open >= open_files::at_once_max() || open_of_partner >= files_per_partner();
        self.files.is_empty() || self.files.contains_key(&file) || !is_full
    }

    /// Lets a chunk wait for its file; true if the file must be opened.
    pub fn wait_for(&mut self, file: u32, chunk: u32) -> bool {
        if let Some(State::Opening(waiting)) = self.files.get_mut(&file) {
            waiting.push(chunk);
            return false;
        }
        self.files.insert(file, State::Opening(vec![chunk]));
        true
    }

    /// A file was opened, or not; returns the chunks that waited.
    pub fn opened(&mut self, file: u32, opened: Option<OpenedFile>) -> Vec<u32> {
        let waiting = match self.files.remove(&file) {
            Some(State::Opening(waiting)) => waiting,
            _ => Vec::new(),
        };
        if let Some(opened) = opened {
            self.versions.entry(file).or_insert_with(|| opened.opened.version.clone());
            self.files.insert(file, State::Open { opened: Arc::new(opened), uses: 0, is_over: false });
        }
        waiting
    }

    /// What a file was when it was opened first.
    #[must_use]
    pub fn version(&self, file: u32) -> Option<Version> {
        self.versions.get(&file).cloned()
    }

    /// All of a file has been sent, or it was given up.
    pub fn forget(&mut self, file: u32) {
        self.versions.remove(&file);
    }

    /// A chunk needs its file.
    pub fn begin_use(&mut self, file: u32) {
        if let Some(State::Open { uses, .. }) = self.files.get_mut(&file) {
            *uses += 1;
        }
    }

    /// A chunk needs its file no longer; `is_over` says that no further chunk will.
    pub fn end_use(&mut self, file: u32, over: bool) {
        if let Some(State::Open { uses, is_over, .. }) = self.files.get_mut(&file) {
            *uses = uses.saturating_sub(1);
            *is_over |= over;
        }
        self.close_if_unused(file);
    }

    /// No further chunk will need the file.
    pub fn close_when_unused(&mut self, file: u32) {
        if let Some(State::Open { is_over, .. }) = self.files.get_mut(&file) {
            *is_over = true;
        }
        self.close_if_unused(file);
    }

    fn close_if_unused(&mut self, file: u32) {
        if let Some(State::Open { uses: 0, is_over: true, .. }) = self.files.get(&file) {
            let closing = self.files.remove(&file);
            // Closing may wait for a file server.
            tokio::task::spawn_blocking(move || drop(closing));
        }
    }
}

fn is_hole(holes: &[(u64, u64)], offset: u64, bytes: u32) -> bool {
    let at = holes.partition_point(|&(begin, _)| begin <= offset);
    at > 0 && holes[at - 1].1 >= offset + u64::from(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_a_hole_if_all_of_it_is() {
        let holes = [(0, 50 << 20), (51 << 20, 100 << 20)];
        assert!(is_hole(&holes, 0, 1 << 20) && is_hole(&holes, 96 << 20, 4 << 20));
        assert!(!is_hole(&holes, 48 << 20, 4 << 20) && !is_hole(&[], 0, 1));
    }
}
