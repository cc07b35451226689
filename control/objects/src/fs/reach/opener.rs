//! Opens the path to a destination, and makes the directories that are missing.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Component, Path, PathBuf};

use culvert_protocol::control::{Refusal, RefusalCode};
use culvert_system::os_error::duplicate;
use rustix::fs::{
    Access, AtFlags, CWD, Mode, OFlags, ResolveFlags, accessat, fsync, mkdirat, openat, openat2, statat, syncfs,
};
use rustix::io::Errno;

use crate::fs::destination::MissingDestination;
use crate::fs::destination::refusals::{refusal, writing_above};
use crate::fs::sources::open_beneath;

/// Opens and makes directories below a root.
pub(super) struct Opener {
    pub(super) root: OwnedFd,
    pub(super) shown: PathBuf,
    /// Whether symlinks in the path are followed: for the owner, never for a partner.
    pub(super) follows_symlinks: bool,
    pub(super) making: MissingDestination,
}

impl Opener {
    /// Opens a directory to store in: readable, so that it can be listed and synced.
    pub(super) fn open_directory(&self, below: &Path) -> Result<OwnedFd, Errno> {
        self.open(below, OFlags::RDONLY)
    }

    /// Opens a directory in the path, which need not be readable for mkdir(2).
    fn open_on_the_way(&self, below: &Path) -> Result<OwnedFd, Errno> {
        self.open(below, OFlags::PATH)
    }

    fn open(&self, below: &Path, access: OFlags) -> Result<OwnedFd, Errno> {
        let below = if below.as_os_str().is_empty() { Path::new(".") } else { below };
        let flags = access | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if self.follows_symlinks {
            return openat2(&self.root, below, flags, Mode::empty(), ResolveFlags::IN_ROOT);
        }
        open_beneath(self.root.as_fd(), below, flags)
    }

    /// Makes the missing directories of `below`, and opens the last; the flag says whether that one
    /// was made.
    pub(super) fn make_directories(&self, below: &Path) -> Result<(OwnedFd, bool), Refusal> {
        let MissingDestination::WithMode(mode) = self.making else {
            // The deepest existing directory, whose file system has the free space.
            for (missing, directory) in below.ancestors().enumerate() {
                let opened =
                    if missing == 0 { self.open_directory(directory) } else { self.open_on_the_way(directory) };
                match opened {
                    Ok(directory) => {
                        if let Some(missing) = missing.checked_sub(1).and_then(|above| below.ancestors().nth(above)) {
                            self.require_nothing(&directory, missing)?;
                        }
                        return Ok((directory, missing > 0));
                    }
                    Err(Errno::NOENT) => {}
                    Err(error) => return Err(self.refusal(error)),
                }
            }
            return Ok((duplicate(&self.root).map_err(|error| self.refusal(error))?, true));
        };
        //= W-59
        //# A receiver that creates the destination gives it this mode, limited by its umask, plus
        //# `rwx` for the owner. An existing destination keeps its own.
        let mode = mode.map_or(0o777, |mode| u32::from(mode) & 0o777 | 0o700);
        let mut made = PathBuf::new();
        let mut is_fresh = false;
        for component in below.components() {
            made.push(component);
            if !matches!(component, Component::Normal(_)) {
                continue;
            }
            let parent =
                self.open_on_the_way(made.parent().unwrap_or(Path::new(""))).map_err(|error| self.refusal(error))?;
            let name = Path::new(made.file_name().unwrap_or_default());
            let mode = if made == below { mode } else { 0o777 };
            is_fresh = match mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
                Ok(()) => {
                    // Nothing stored below is durable before this directory is.
                    self.sync(&parent, &made).map_err(|error| self.refusal(error))?;
                    true
                }
                Err(Errno::EXIST) => false,
                Err(error) => {
                    return Err(refusal(&self.shown, self.follows_symlinks, &writing_above(&self.shown), error));
                }
            };
        }
        let directory = self.open_directory(below).map_err(|error| match error {
            // The name exists, but leads to nothing: a dangling symlink.
            Errno::NOENT if !is_fresh => self.leads_nowhere(below),
            error => self.refusal(error),
        })?;
        Ok((directory, is_fresh))
    }

    /// Makes the entry of `made` in `parent` durable.
    fn sync(&self, parent: &OwnedFd, made: &Path) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(parent, ".", flags, Mode::empty()) {
            Ok(parent) => fsync(&parent),
            // A directory without read permission cannot be opened for fsync; syncing the file
            // system of its new subdirectory includes it.
            Err(Errno::ACCESS) => syncfs(self.open_directory(made)?),
            Err(error) => Err(error),
        }
    }

    /// In a dry run: checks that nothing has the name of a directory that would be made.
    fn require_nothing(&self, parent: &OwnedFd, missing: &Path) -> Result<(), Refusal> {
        let Some(name) = missing.file_name() else { return Ok(()) };
        match statat(parent, Path::new(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(self.leads_nowhere(missing)),
            Err(_) => Ok(()),
        }
    }

    /// The refusal because a dangling symlink has the name of a directory.
    fn leads_nowhere(&self, below: &Path) -> Refusal {
        let name = below.file_name().unwrap_or_default();
        let text = format!(
            "cannot use {}: '{}' is a symlink that leads to nothing: make what it leads to, or remove it",
            self.shown.display(),
            name.display()
        );
        Refusal::new(RefusalCode::NotFound, text)
    }

    pub(super) fn refusal(&self, error: Errno) -> Refusal {
        refusal(&self.shown, self.follows_symlinks, &entering(&self.shown), error)
    }
}

/// The right that is missing on the way to a directory, in words that name the directory lacking
/// it.
fn entering(path: &Path) -> String {
    let permits = |part: &Path, access| !matches!(accessat(CWD, part, access, AtFlags::EACCESS), Err(Errno::ACCESS));
    let mut from_the_root: Vec<&Path> = path.ancestors().collect();
    from_the_root.reverse();
    if let Some(closed) = from_the_root.iter().find(|part| part.is_dir() && !permits(part, Access::EXEC_OK)) {
        return format!("enter {}", closed.display());
    }
    // A missing directory would be made in the deepest existing one.
    match path.ancestors().find(|part| part.is_dir()) {
        Some(last) if !permits(last, Access::READ_OK) => format!("read {}", last.display()),
        _ => "enter and read it".to_owned(),
    }
}
