//! The way to a destination: opened, and made where it is not there.

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
    /// The owner's own symlinks are followed on the way to the destination, a partner's never.
    pub(super) follows_symlinks: bool,
    pub(super) making: MissingDestination,
}

impl Opener {
    /// Opens a directory that something is stored in: it is read, and made durable.
    pub(super) fn open_directory(&self, below: &Path) -> Result<OwnedFd, Errno> {
        self.open(below, OFlags::RDONLY)
    }

    /// Opens a directory on the way, which need not be readable: mkdir(2) asks for no more.
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

    /// Makes what is missing of `below`; the second value says whether the last directory was made.
    pub(super) fn make_directories(&self, below: &Path) -> Result<(OwnedFd, bool), Refusal> {
        let MissingDestination::WithMode(mode) = self.making else {
            // The deepest of those that are there: it says how much room there is.
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
        // Its owner fills it.
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
                    // What will be stored below is not durable before its directory is.
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
            // It was made just now, or something has its name that leads to nothing.
            Errno::NOENT if !is_fresh => self.leads_nowhere(below),
            error => self.refusal(error),
        })?;
        Ok((directory, is_fresh))
    }

    /// Makes durable that `parent` has the directory `made`.
    fn sync(&self, parent: &OwnedFd, made: &Path) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match openat(parent, ".", flags, Mode::empty()) {
            Ok(parent) => fsync(&parent),
            // One that may not be read cannot be synced by itself; what it has got is on the same
            // file system.
            Err(Errno::ACCESS) => syncfs(self.open_directory(made)?),
            Err(error) => Err(error),
        }
    }

    /// In a dry run: makes sure that the name of a directory that is to be made is free for it.
    fn require_nothing(&self, parent: &OwnedFd, missing: &Path) -> Result<(), Refusal> {
        let Some(name) = missing.file_name() else { return Ok(()) };
        match statat(parent, Path::new(name), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Err(self.leads_nowhere(missing)),
            Err(_) => Ok(()),
        }
    }

    /// A symlink takes the name of a directory, and leads to nothing.
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

/// What it takes to come to a directory and to store in it: names the one that does not permit it.
fn entering(path: &Path) -> String {
    let permits = |part: &Path, access| !matches!(accessat(CWD, part, access, AtFlags::EACCESS), Err(Errno::ACCESS));
    let mut from_the_root: Vec<&Path> = path.ancestors().collect();
    from_the_root.reverse();
    if let Some(closed) = from_the_root.iter().find(|part| part.is_dir() && !permits(part, Access::EXEC_OK)) {
        return format!("enter {}", closed.display());
    }
    // What is not there yet is stored in the last one that is.
    match path.ancestors().find(|part| part.is_dir()) {
        Some(last) if !permits(last, Access::READ_OK) => format!("read {}", last.display()),
        _ => "enter and read it".to_owned(),
    }
}
