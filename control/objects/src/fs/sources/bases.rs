//! The base directories of sources: each is opened once, however many sources it has, and only a
//! bounded number stays open.
//!
//! Listed files are later opened beneath the directory that was open when they were listed. The
//! descriptors of the first [`HELD_MAX`] directories are held. The others are opened again by their
//! paths, and count as the same if device and inode are. Otherwise somebody has put another
//! directory there, and nothing in it is sent.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use culvert_system::descriptors::leaves_half;
use rustix::fs::{Mode, OFlags, ResolveFlags, fstat, open, openat2};
use rustix::io::Errno;

/// The most directories of a transfer's sources that stay open.
pub const HELD_MAX: usize = 64;
const FLAGS: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Opens `name` beneath `base`, through no symlink.
///
/// # Errors
/// Those of the operating system; `LOOP` for a symlink on the way.
pub fn open_beneath(base: BorrowedFd<'_>, name: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    // EAGAIN: a rename raced with the resolution (openat2(2)), so try again.
    for _ in 0..8 {
        match openat2(base, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            opened => return opened,
        }
    }
    Err(Errno::AGAIN)
}

/// The start of a path.
#[derive(Clone, Debug)]
enum Start {
    /// This process's working directory and root; symlinks are followed.
    Anywhere,
    /// A permitted directory, which the path must not leave; no symlink is followed.
    Beneath(Arc<OwnedFd>),
}

impl Start {
    fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        match self {
            Self::Anywhere => open(path, FLAGS, Mode::empty()),
            Self::Beneath(root) => open_beneath(root.as_fd(), path, FLAGS),
        }
    }
}

/// A base directory of sources.
#[derive(Debug)]
pub struct Base {
    start: Start,
    path: PathBuf,
    identity: (u64, u64),
    held: Option<OwnedFd>,
}

/// A base in use.
#[derive(Debug)]
pub enum Opened<'a> {
    /// Its descriptor is held.
    Held(BorrowedFd<'a>),
    /// It was opened again for this use.
    Again(OwnedFd),
}

impl AsFd for Opened<'_> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Held(directory) => *directory,
            Self::Again(directory) => directory.as_fd(),
        }
    }
}

impl Base {
    /// The open directory.
    ///
    /// # Errors
    /// Those of the operating system; `NOENT` also if its path leads to another directory by now.
    pub fn open(&self) -> Result<Opened<'_>, Errno> {
        if let Some(held) = &self.held {
            return Ok(Opened::Held(held.as_fd()));
        }
        let directory = self.start.open(&self.path)?;
        if identity_of(&directory)? == self.identity { Ok(Opened::Again(directory)) } else { Err(Errno::NOENT) }
    }
}

/// Opens bases, each only once.
#[derive(Debug, Default)]
pub struct Bases {
    /// By full path.
    by_path: HashMap<PathBuf, Arc<Base>>,
    by_identity: HashMap<(u64, u64), Arc<Base>>,
    roots: HashMap<PathBuf, Arc<OwnedFd>>,
}

impl Bases {
    /// The directory at any path of this user.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn anywhere(&mut self, path: &Path) -> Result<Arc<Base>, Errno> {
        self.get(Start::Anywhere, path, path.to_owned())
    }

    /// The directory at `below`, beneath a permitted directory.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn beneath(&mut self, root: &PermittedRoot, below: &Path) -> Result<Arc<Base>, Errno> {
        self.get(Start::Beneath(root.opened.clone()), below, root.path.join(below))
    }

    /// A permitted directory; `open` opens it on the first use.
    ///
    /// # Errors
    /// Those of `open`.
    pub fn root<E>(&mut self, path: &Path, open: impl FnOnce(&Path) -> Result<OwnedFd, E>) -> Result<PermittedRoot, E> {
        let opened = match self.roots.get(path) {
            Some(known) => known.clone(),
            None => {
                let opened = Arc::new(open(path)?);
                self.roots.insert(path.to_owned(), opened.clone());
                opened
            }
        };
        Ok(PermittedRoot { path: path.to_owned(), opened })
    }

    fn get(&mut self, start: Start, path: &Path, full: PathBuf) -> Result<Arc<Base>, Errno> {
        if let Some(known) = self.by_path.get(&full) {
            return Ok(known.clone());
        }
        let directory = start.open(path)?;
        let identity = identity_of(&directory)?;
        let base = match self.by_identity.get(&identity) {
            Some(known) => known.clone(),
            None => {
                let held = (self.by_identity.len() < HELD_MAX && leaves_half(&directory)).then_some(directory);
                let base = Arc::new(Base { start, path: path.to_owned(), identity, held });
                self.by_identity.insert(identity, base.clone());
                base
            }
        };
        self.by_path.insert(full, base.clone());
        Ok(base)
    }
}

/// A directory that a partner may fetch from.
#[derive(Clone, Debug)]
pub struct PermittedRoot {
    path: PathBuf,
    /// The directory.
    pub opened: Arc<OwnedFd>,
}

fn identity_of(directory: &OwnedFd) -> Result<(u64, u64), Errno> {
    fstat(directory).map(|stat| (stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn sources_of_one_directory_share_it_whatever_it_is_called() {
        let room = tempfile::tempdir().unwrap();
        fs::create_dir(room.path().join("d")).unwrap();
        let mut bases = Bases::default();
        let [plain, again, dotted] =
            ["d", "d", "./d/../d"].map(|name| bases.anywhere(&room.path().join(name)).unwrap());
        assert!(Arc::ptr_eq(&plain, &again) && Arc::ptr_eq(&plain, &dotted));
        let root = bases.root(room.path(), |path| open(path, FLAGS, Mode::empty())).unwrap();
        assert!(Arc::ptr_eq(&plain, &bases.beneath(&root, Path::new("d")).unwrap()));
        assert!(!Arc::ptr_eq(&plain, &bases.beneath(&root, Path::new("")).unwrap()));
    }

    #[test]
    fn only_so_many_stay_open_and_the_others_are_the_same_or_gone() {
        let room = tempfile::tempdir().unwrap();
        let names: Vec<PathBuf> = (0..HELD_MAX + 2).map(|number| room.path().join(number.to_string())).collect();
        let mut bases = Bases::default();
        let opened: Vec<_> = names
            .iter()
            .map(|name| {
                fs::create_dir(name).unwrap();
                bases.anywhere(name).unwrap()
            })
            .collect();
        assert_eq!(opened.iter().filter(|base| base.held.is_some()).count(), HELD_MAX);
        let (held, known) = (&opened[0], &opened[HELD_MAX]);
        assert!(matches!(held.open(), Ok(Opened::Held(_))) && matches!(known.open(), Ok(Opened::Again(_))));
        for name in [&names[0], &names[HELD_MAX]] {
            fs::rename(name, room.path().join("elsewhere")).unwrap();
            fs::create_dir(name).unwrap();
            fs::rename(room.path().join("elsewhere"), name.with_extension("moved")).unwrap();
        }
        assert!(held.open().is_ok(), "it is in the hand");
        assert_eq!(known.open().unwrap_err(), Errno::NOENT, "another directory has its name");
    }
}
