//! Files that are being sent: opened once, shared by their chunks, closed after the last.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use culvert_link::commands::FileSlot;
use culvert_objects::fs::sources::SourceTree;
use culvert_plane::dataplane::{DataPlane, InstalledFile};
use culvert_protocol::control::FileError;
use culvert_protocol::tree_hash::ChunkHash;
use rustix::fs::{Advice, OFlags, SeekFrom, fadvise, fstat, seek};
use rustix::io::Errno;

use crate::limits::files_per_partner;
use crate::shares::Piece;
use crate::transfer::source_version::{SourceVersion, changed, check_listed, unreadable};
use crate::transfer::{blocking, open_files};

/// A file that is open for sending.
#[derive(Clone, Debug)]
pub struct OpenedFile {
    installed: Arc<InstalledFile>,
    /// This process's descriptor, for looking at it again, and what was found at the first look.
    file: Arc<OwnedFd>,
    version: SourceVersion,
    /// Its place among the partner's open files.
    _place: Arc<Piece>,
    /// The file's holes, as ranges, if it is sparse.
    holes: Arc<Vec<(u64, u64)>>,
}

impl OpenedFile {
    /// Where the data plane has it.
    #[must_use]
    pub fn slot(&self) -> FileSlot {
        self.installed.slot()
    }

    /// Whether a whole range is a hole.
    #[must_use]
    pub fn is_hole(&self, offset: u64, bytes: u32) -> bool {
        is_hole(&self.holes, offset, bytes)
    }
}

fn is_hole(holes: &[(u64, u64)], offset: u64, bytes: u32) -> bool {
    let at = holes.partition_point(|&(begin, _)| begin <= offset);
    at > 0 && holes[at - 1].1 >= offset + u64::from(bytes)
}

/// Opens a file and hands it to the data plane.
///
/// # Errors
/// What to say of the file.
pub async fn open(
    plane: &Arc<DataPlane>,
    tree: Arc<SourceTree>,
    file: u32,
    earlier: Option<SourceVersion>,
    place: Piece,
) -> Result<OpenedFile, FileError> {
    let (buffered, direct, version, holes) = blocking(move || open_descriptors(&tree, file, earlier)).await?;
    let installed = plane.install_file(&buffered, direct.as_ref()).await.map_err(|error| FileError {
        file,
        code: culvert_system::os_error::SHORTAGE.to_owned(),
        text: error.to_string(),
    })?;
    // Closing may wait for a file server.
    tokio::task::spawn_blocking(move || drop(direct));
    let (installed, file, holes) = (Arc::new(installed), Arc::new(buffered), Arc::new(holes));
    Ok(OpenedFile { installed, file, version, _place: Arc::new(place), holes })
}

type Descriptors = (OwnedFd, Option<OwnedFd>, SourceVersion, Vec<(u64, u64)>);

fn open_descriptors(tree: &SourceTree, file: u32, earlier: Option<SourceVersion>) -> Result<Descriptors, FileError> {
    let fail = |error| unreadable(tree, file, error);
    let buffered = tree.open(file, OFlags::empty()).map_err(fail)?;
    let version = SourceVersion::begin(tree, file, &buffered)?;
    // What was sent of it before must be of the file that is read on.
    if earlier.is_some_and(|earlier| !version.is_of(&earlier)) {
        return Err(changed(tree, file));
    }
    let version = earlier.unwrap_or(version);
    let stat = version.stat();
    let direct = tree.open(file, OFlags::DIRECT).ok().filter(|direct| {
        fstat(direct).is_ok_and(|direct| (direct.st_dev, direct.st_ino) == (stat.st_dev, stat.st_ino))
    });
    // Through the cache, the kernel reads ahead.
    let _ = fadvise(&buffered, 0, None, Advice::Sequential);
    let bytes = version.bytes();
    let holes = if (stat.st_blocks as u64) * 512 < bytes { find_holes(&buffered, bytes) } else { Vec::new() };
    Ok((buffered, direct, version, holes))
}

/// The file's holes, ascending. None on a file system that cannot report them.
fn find_holes(file: &OwnedFd, bytes: u64) -> Vec<(u64, u64)> {
    let mut holes = Vec::new();
    let mut at = 0;
    while at < bytes {
        let Ok(hole) = seek(file, SeekFrom::Hole(at)) else { break };
        if hole >= bytes {
            break;
        }
        at = match seek(file, SeekFrom::Data(hole)) {
            Ok(data) => data,
            // No data behind the hole.
            Err(Errno::NXIO) => bytes,
            Err(_) => break,
        };
        holes.push((hole, at));
    }
    holes
}

/// Looks at a file once more.
///
/// # Errors
/// What to say of it if it changed.
pub fn check(
    tree: &SourceTree,
    file: u32,
    opened: Option<&OpenedFile>,
    hash: Option<ChunkHash>,
) -> Result<(), FileError> {
    match opened {
        Some(opened) => opened.version.check_content(tree, file, &opened.file, hash),
        None => {
            let stat = tree.open(file, OFlags::empty()).and_then(fstat);
            check_listed(tree, file, &stat.map_err(|error| unreadable(tree, file, error))?)
        }
    }
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
    versions: HashMap<u32, SourceVersion>,
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
            self.versions.entry(file).or_insert(opened.version);
            self.files.insert(file, State::Open { opened: Arc::new(opened), uses: 0, is_over: false });
        }
        waiting
    }

    /// What a file was when it was opened first.
    #[must_use]
    pub fn version(&self, file: u32) -> Option<SourceVersion> {
        self.versions.get(&file).copied()
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use culvert_objects::fs::sources::listing::list;
    use culvert_objects::fs::sources::named::local_source;

    use super::*;

    #[test]
    fn holes_are_found() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100 << 20).unwrap();
        file.write_all_at(&[1; 4096], 50 << 20).unwrap();
        let holes = find_holes(&file.into(), 100 << 20);
        if holes.is_empty() {
            eprintln!("skipped: this file system does not tell holes");
            return;
        }
        assert!(is_hole(&holes, 0, 1 << 20));
        assert!(is_hole(&holes, 96 << 20, 4 << 20));
        assert!(!is_hole(&holes, 48 << 20, 4 << 20));
    }

    /// What was sent before would be of one file, and the rest of another.
    #[test]
    fn a_file_that_was_replaced_or_changed_is_not_opened_once_more() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("f");
        std::fs::write(&path, "one version").unwrap();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let tree = list(vec![local_source(&path).unwrap()], drop).unwrap();
        let (.., version, _) = open_descriptors(&tree, 0, None).unwrap();
        assert_eq!(open_descriptors(&tree, 0, Some(version)).unwrap().2.stat().st_ino, version.stat().st_ino);
        let other = room.path().join("other");
        std::fs::write(&other, "two version").unwrap();
        std::fs::File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
        std::fs::rename(&other, &path).unwrap();
        // By size and time it is what was listed.
        assert!(open_descriptors(&tree, 0, None).is_ok());
        assert_eq!(open_descriptors(&tree, 0, Some(version)).unwrap_err().code, "changed");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(open_descriptors(&tree, 0, Some(version)).unwrap_err().code, "vanished");
    }
}
