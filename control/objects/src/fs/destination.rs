//! The destination of an incoming transfer: an open directory, and only what is beneath it.
//!
//! ```text
//! manifest ──> name_check ──> plan ──> rights, room ──> making ──> files (large), small_files
//!                             (one action per entry)   (directories, symlinks)
//! ```
//!
//! Names come from a partner. Each was checked when it was parsed ([`culvert_protocol::names`]);
//! here it is opened with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, so that even a name
//! that changes its meaning between two calls cannot lead outside. [`plan`] decides what happens to
//! each entry before the first byte moves; [`files`] and [`small_files`] carry it out.

pub mod action;
pub mod attributes;
pub mod file_errors;
pub mod files;
pub mod fresh_directories;
pub mod identity;
pub mod making;
pub mod modes;
pub mod name_check;
pub mod names;
pub mod old_files;
pub mod opened;
pub mod plan;
pub(super) mod refusals;
pub mod rights;
pub mod room;
pub mod small_files;
pub mod temporary;
pub mod times;

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_protocol::manifest::Manifest;
use culvert_system::os_error::duplicate;
use rustix::fs::{OFlags, fstat, syncfs};
use rustix::io::Errno;

use crate::fs::destination::identity::identity;
use crate::fs::destination::names::split_name;
use crate::fs::destination::opened::{OpenedDirectories, OpenedLog};
use crate::fs::destination::temporary::Attempt;
use crate::fs::sources::open_beneath;

/// What happens to a destination that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingDestination {
    /// Nothing is made: this is a dry run.
    Nothing,
    /// Its directories are made. The last one gets this mode, less the umask, if there is one.
    WithMode(Option<u16>),
}

/// What has become of a destination since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationState {
    /// Its path still leads to it.
    InPlace,
    /// Its path leads to nothing, or to something else.
    Moved,
    /// It was removed with its contents. Another transfer may have put a filled directory in its
    /// place.
    Removed,
}

/// An open destination.
#[derive(Debug)]
pub struct Destination {
    /// The directory to which the manifest's names are relative.
    base: OwnedFd,
    /// The device of the base's file system.
    device: u64,
    /// A directory of each other file system mounted below the base, as far as they were used.
    others: Mutex<HashMap<u64, OwnedFd>>,
    /// Its path, for messages.
    pub path: PathBuf,
    /// The name that a single file gets instead of its own.
    pub single_name: Option<Vec<u8>>,
    /// Whether the directory was made just now, so that it is empty.
    pub is_fresh: bool,
    /// The common part of this transfer's temporary names.
    pub attempt: Attempt,
    /// Directories whose modes are widened meanwhile; `None` if that is not permitted ([`opened`]).
    opened: Option<Arc<OpenedDirectories>>,
}

impl Destination {
    pub(super) fn new(base: OwnedFd, path: PathBuf, single_name: Option<Vec<u8>>, is_fresh: bool) -> Self {
        // If the base cannot be examined, every directory counts as on another file system, and is
        // synced too.
        let device = fstat(&base).map_or(0, |stat| stat.st_dev);
        let attempt = Attempt::begin();
        let others = Mutex::default();
        Self { base, device, others, path, single_name, is_fresh, attempt, opened: None }
    }

    /// The directory.
    #[must_use]
    pub fn base(&self) -> BorrowedFd<'_> {
        self.base.as_fd()
    }

    /// Whether the path under which this was opened still leads to it.
    #[must_use]
    pub fn whereabouts(&self) -> DestinationState {
        let Ok(stat) = fstat(&self.base) else { return DestinationState::InPlace };
        if stat.st_nlink == 0 {
            return DestinationState::Removed;
        }
        match rustix::fs::stat(&self.path) {
            Ok(there) if identity(&there) == identity(&stat) => DestinationState::InPlace,
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => DestinationState::Moved,
            // A directory above it can no longer be searched, which does not mean that it moved.
            Err(_) => DestinationState::InPlace,
        }
    }

    /// The name that entry `file` gets here.
    #[must_use]
    pub fn name<'a>(&'a self, manifest: &'a Manifest, file: u32) -> Cow<'a, [u8]> {
        match &self.single_name {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Borrowed(manifest.entry(file).name),
        }
    }

    /// Opens the directory that holds `name`, and returns the last component.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn parent_of<'a>(&self, name: &'a [u8]) -> Result<(OwnedFd, &'a Path), Errno> {
        let (parent, last) = split_name(name);
        Ok((self.open_directory(parent)?, Path::new(OsStr::from_bytes(last))))
    }

    /// Runs `act` in the directory that holds `name`, with the name's last component. If another
    /// transfer replaces that directory by one that it has filled, runs `act` again in the new one.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn in_parent_of<T>(
        &self,
        name: &[u8],
        act: impl FnMut(&Arc<OwnedFd>, &Path) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (directory, _) = split_name(name);
        self.in_directory_of(name, Arc::new(self.open_directory(directory)?), act)
    }

    /// As [`Destination::in_parent_of`], starting with `parent`, which is open already.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn in_directory_of<T>(
        &self,
        name: &[u8],
        mut parent: Arc<OwnedFd>,
        mut act: impl FnMut(&Arc<OwnedFd>, &Path) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (directory, last) = split_name(name);
        for _ in 0..REPLACED_TRIES {
            match self.opening(directory, || act(&parent, Path::new(OsStr::from_bytes(last)))) {
                Err(_) if is_removed(parent.as_fd()) => {}
                done => return done,
            }
            // During the other transfer's rename, the name still leads to the directory that is
            // being replaced.
            std::thread::sleep(REPLACED_PAUSE);
            parent = Arc::new(self.open_directory(directory)?);
        }
        act(&parent, Path::new(OsStr::from_bytes(last)))
    }

    /// Opens a directory by its name below the base; the base itself for an empty name.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn open_directory(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        if name.is_empty() {
            return duplicate(&self.base);
        }
        let path = Path::new(OsStr::from_bytes(name));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = self.opening(name, || open_beneath(self.base.as_fd(), path, flags))?;
        let device = fstat(&directory)?.st_dev;
        if device != self.device {
            let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            if let Entry::Vacant(place) = others.entry(device) {
                place.insert(duplicate(&directory)?);
            }
        }
        Ok(directory)
    }

    /// Makes everything durable that was written, made and named so far, on the base's file system
    /// and those mounted below it.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn sync(&self) -> Result<(), Errno> {
        syncfs(&self.base)?;
        self.others.lock().unwrap_or_else(PoisonError::into_inner).values().try_for_each(syncfs)
    }

    /// Permits from now on to widen the modes of directories that forbid storing in them.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn may_open(&mut self, notes: Box<dyn OpenedLog>) -> Result<(), Errno> {
        self.opened = Some(OpenedDirectories::new(duplicate(&self.base)?, notes));
        Ok(())
    }

    /// Runs `act`. If the mode of `directory`, or of one above it, forbids that, widens the modes
    /// and runs it again.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn opening<T>(&self, directory: &[u8], mut act: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
        match &self.opened {
            Some(opened) => opened.opening(directory, act),
            None => act(),
        }
    }

    /// Takes over a directory whose mode an earlier attempt widened and did not restore. Only its
    /// inode is known.
    pub fn adopt_opened(&self, name: &[u8], inode: u64, mode: u32) {
        if let Some(opened) = &self.opened {
            opened.adopt(name, inode, mode);
        }
    }

    /// Forgets a directory that has got its final mode, which must stay.
    pub fn forget_opened(&self, name: &[u8]) {
        if let Some(opened) = &self.opened {
            opened.forget(name);
        }
    }

    /// Restores the modes of all widened directories; returns those for which that failed.
    pub fn close_opened(&self) -> Vec<(Vec<u8>, Errno)> {
        self.opened.as_ref().map_or_else(Vec::new, |opened| opened.close(|| self.sync()))
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        // A transfer that succeeded has done this already, and has reported failures.
        let _ = self.close_opened();
    }
}

/// Attempts, and the pause between them, after a directory was replaced. Only the transfer that
/// made a directory replaces it, once; that rename takes less than all pauses together.
const REPLACED_TRIES: usize = 10;
const REPLACED_PAUSE: Duration = Duration::from_millis(2);

/// Whether an open directory has been removed.
fn is_removed(directory: BorrowedFd<'_>) -> bool {
    fstat(directory).is_ok_and(|stat| stat.st_nlink == 0)
}
