//! Where an incoming transfer is stored: a directory that is open, and nothing that is not beneath
//! it.
//!
//! Names come from a partner. Each was checked when it was parsed ([`culvert_protocol::names`]);
//! here it is opened with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, so that even a name
//! that changes its meaning between two calls cannot lead outside. [`plan`] decides what will
//! happen to each entry before the first byte moves; [`files`] carries it out.

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

/// What is made of a destination that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissingDestination {
    /// Nothing: this is a dry run.
    Nothing,
    /// Its directories. The last one gets this mode, as far as the umask permits, if the transfer
    /// knows one.
    WithMode(Option<u16>),
}

/// What has happened to a destination since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DestinationState {
    /// Its path leads to it.
    InPlace,
    /// Its path leads to nothing, or to something else.
    Moved,
    /// It is gone, and what was stored in it too. Another transfer may have put a filled directory
    /// into its place.
    Removed,
}

/// An open destination.
#[derive(Debug)]
pub struct Destination {
    /// The directory that the manifest's names are relative to.
    base: OwnedFd,
    /// The base's file system, and a directory of each other one that is mounted below it and was
    /// come by.
    device: u64,
    others: Mutex<HashMap<u64, OwnedFd>>,
    /// How it is shown.
    pub path: PathBuf,
    /// The name that a single file gets instead of its own.
    pub single_name: Option<Vec<u8>>,
    /// Whether the directory was made just now, so that nothing can be in it.
    pub is_fresh: bool,
    /// What the temporary names of this transfer have in common.
    pub attempt: Attempt,
    /// Directories that are open for as long as this is; none if none may be opened ([`opened`]).
    opened: Option<Arc<OpenedDirectories>>,
}

impl Destination {
    pub(super) fn new(base: OwnedFd, path: PathBuf, single_name: Option<Vec<u8>>, is_fresh: bool) -> Self {
        // A base that cannot be looked at has no other file systems below it that matter.
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
            // A directory above it may not be looked into any more: that moves nothing.
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
    /// The operating system's.
    pub fn parent_of<'a>(&self, name: &'a [u8]) -> Result<(OwnedFd, &'a Path), Errno> {
        let (parent, last) = split_name(name);
        Ok((self.open_directory(parent)?, Path::new(OsStr::from_bytes(last))))
    }

    /// Does something in the directory that holds `name`, with the name's last component. Another
    /// transfer may put a directory that it has filled into the place of an empty one while that is
    /// open here; then it is done in the one that is there now.
    ///
    /// # Errors
    /// The operating system's.
    pub fn in_parent_of<T>(
        &self,
        name: &[u8],
        act: impl FnMut(&Arc<OwnedFd>, &Path) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (directory, _) = split_name(name);
        self.in_directory_of(name, Arc::new(self.open_directory(directory)?), act)
    }

    /// As [`Destination::in_parent_of`], beginning with `parent`, which was opened before.
    ///
    /// # Errors
    /// The operating system's.
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
    /// The operating system's.
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

    /// Makes everything durable that was written, made and named so far: the base's file system,
    /// and those that are mounted below it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn sync(&self) -> Result<(), Errno> {
        syncfs(&self.base)?;
        self.others.lock().unwrap_or_else(PoisonError::into_inner).values().try_for_each(syncfs)
    }

    /// From now on directories may be opened whose modes forbid to store in them.
    ///
    /// # Errors
    /// The operating system's.
    pub fn may_open(&mut self, notes: Box<dyn OpenedLog>) -> Result<(), Errno> {
        self.opened = Some(OpenedDirectories::new(duplicate(&self.base)?, notes));
        Ok(())
    }

    /// Does something that a mode of `directory`, or of one on the way to it, may forbid: then they
    /// are opened, and it is done again.
    ///
    /// # Errors
    /// The operating system's.
    pub fn opening<T>(&self, directory: &[u8], mut act: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
        match &self.opened {
            Some(opened) => opened.opening(directory, act),
            None => act(),
        }
    }

    /// An earlier attempt has opened a directory and did not come to closing it: this one will. Of
    /// its identity only the inode is known.
    pub fn adopt_opened(&self, name: &[u8], inode: u64, mode: u32) {
        if let Some(opened) = &self.opened {
            opened.adopt(name, inode, mode);
        }
    }

    /// A directory has got a mode of its own: it is not closed any more.
    pub fn forget_opened(&self, name: &[u8]) {
        if let Some(opened) = &self.opened {
            opened.forget(name);
        }
    }

    /// Gives the directories that were opened their modes again; names those that could not get
    /// them.
    pub fn close_opened(&self) -> Vec<(Vec<u8>, Errno)> {
        self.opened.as_ref().map_or_else(Vec::new, |opened| opened.close(|| self.sync()))
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        // A transfer that has stored everything has done it before, and knows what could not be
        // closed.
        let _ = self.close_opened();
    }
}

/// A directory can be replaced once by the transfer that has made it; a rename takes no longer than
/// this together.
const REPLACED_TRIES: usize = 10;
const REPLACED_PAUSE: Duration = Duration::from_millis(2);

/// Whether an open directory is in no other any more.
fn is_removed(directory: BorrowedFd<'_>) -> bool {
    fstat(directory).is_ok_and(|stat| stat.st_nlink == 0)
}
