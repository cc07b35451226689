//! Files that are being sent: opened once, shared by their chunks, closed after the last.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use culvert_dataplane::link::commands::FileSlot;
use culvert_protocol::control::FileError;
use rustix::fs::{Advice, OFlags, SeekFrom, fadvise, fstat, seek};
use rustix::io::Errno;

use crate::dataplane::{DataPlane, InstalledFile};
use crate::sources::SourceTree;
use crate::transfer::blocking;
use crate::transfer::packs::{check_unchanged, unreadable};

/// A file that is open for sending.
#[derive(Clone, Debug)]
pub struct OpenedFile {
    installed: Arc<InstalledFile>,
    /// This process's descriptor, for looking at it again.
    file: Arc<OwnedFd>,
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
pub async fn open(plane: &Arc<DataPlane>, tree: Arc<SourceTree>, file: u32) -> Result<OpenedFile, FileError> {
    let opening = tree.clone();
    let (buffered, direct, holes) = blocking(move || open_descriptors(&opening, file)).await?;
    let installed = plane.install_file(&buffered, direct.as_ref()).await.map_err(|error| FileError {
        file,
        code: "unreadable".to_owned(),
        text: error.to_string(),
    })?;
    Ok(OpenedFile { installed: Arc::new(installed), file: Arc::new(buffered), holes: Arc::new(holes) })
}

type Descriptors = (OwnedFd, Option<OwnedFd>, Vec<(u64, u64)>);

fn open_descriptors(tree: &SourceTree, file: u32) -> Result<Descriptors, FileError> {
    let fail = |error| unreadable(tree, file, error);
    let buffered = tree.open(file, OFlags::empty()).map_err(fail)?;
    let stat = fstat(&buffered).map_err(fail)?;
    check_unchanged(tree, file, &stat)?;
    let direct = tree.open(file, OFlags::DIRECT).ok().filter(|direct| {
        fstat(direct).is_ok_and(|direct| (direct.st_dev, direct.st_ino) == (stat.st_dev, stat.st_ino))
    });
    // Through the cache, the kernel reads ahead.
    let _ = fadvise(&buffered, 0, None, Advice::Sequential);
    let bytes = stat.st_size as u64;
    let holes = if (stat.st_blocks as u64) * 512 < bytes { find_holes(&buffered, bytes) } else { Vec::new() };
    Ok((buffered, direct, holes))
}

/// The file's holes, ascending. A file system that cannot tell has none.
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
pub fn check(tree: &SourceTree, file: u32, opened: Option<&OpenedFile>) -> Result<(), FileError> {
    let stat = match opened {
        Some(opened) => fstat(&*opened.file),
        None => tree.open(file, OFlags::empty()).and_then(fstat),
    };
    check_unchanged(tree, file, &stat.map_err(|error| unreadable(tree, file, error))?)
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
            self.files.insert(file, State::Open { opened: Arc::new(opened), uses: 0, is_over: false });
        }
        waiting
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
            self.files.remove(&file);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt as _;

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
}
