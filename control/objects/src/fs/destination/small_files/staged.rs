//! A small file between being written and having its name: where it is meanwhile, and how it comes
//! to its place.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use culvert_protocol::control::FileError;
use rustix::fs::{AtFlags, CWD, RenameFlags, Stat, fstat, linkat, renameat_with, statat, unlinkat};
use rustix::io::Errno;

use crate::fs::destination::Destination;
use crate::fs::destination::action::Action;
use crate::fs::destination::attributes::Refused;
use crate::fs::destination::files::rename_into_place;
use crate::fs::destination::fresh_directories::FreshDirectory;
use crate::fs::destination::names::split_name;
use crate::fs::destination::small_files::descriptor_places::DescriptorPlaces;
use crate::fs::destination::temporary::temporary_name;

/// A small file that is written and does not have its name yet.
#[derive(Debug)]
pub struct StagedFile {
    /// Its entry.
    pub file: u32,
    pub(super) place: Place,
    pub(super) action: Action,
    /// What it could not get.
    pub(super) refused: Refused,
}

/// A small file that has its name.
#[derive(Clone, Copy, Debug)]
pub struct StoredFile {
    /// Its entry.
    pub file: u32,
    /// What it is now.
    pub stat: Stat,
    /// What it could not get.
    pub refused: Refused,
}

/// Where a staged file is.
#[derive(Debug)]
pub(super) enum Place {
    /// Nowhere: only this process has it.
    UnnamedFile(UnnamedFile),
    /// Under a temporary name, in this directory.
    Partial(PathBuf, Arc<OwnedFd>),
    /// In a directory that is being filled, under its own name; and what it is.
    Fresh(Arc<FreshDirectory>, Stat),
}

impl StagedFile {
    /// The directory that brings it to its place, and what it is; none for a file that is linked by
    /// itself.
    #[must_use]
    pub fn fresh(&self) -> Option<(&Arc<FreshDirectory>, StoredFile)> {
        match &self.place {
            Place::Fresh(directory, stat) => Some((directory, self.stored(*stat))),
            Place::UnnamedFile(_) | Place::Partial(..) => None,
        }
    }

    pub(super) const fn stored(&self, stat: Stat) -> StoredFile {
        StoredFile { file: self.file, stat, refused: self.refused }
    }

    /// Takes a staged file out of the directory that would bring it to its place, and from under
    /// its temporary name.
    pub(super) fn unstage(&self, destination: &Destination, name: &[u8]) {
        match &self.place {
            Place::Fresh(directory, _) => {
                let (_, last) = split_name(name);
                let _ = unlinkat(directory.opened(), Path::new(OsStr::from_bytes(last)), AtFlags::empty());
            }
            Place::Partial(partial, parent) => {
                let (directory, _) = split_name(name);
                let remove = || unlinkat(&**parent, partial, AtFlags::empty());
                let _ = destination.opening(directory, remove);
            }
            Place::UnnamedFile(_) => {}
        }
    }

    /// Gives the file its name, and says what it is then.
    pub(super) fn link_into_place(&self, destination: &Destination, name: &[u8], last: &Path) -> Result<Stat, Errno> {
        match &self.place {
            Place::UnnamedFile(UnnamedFile { file, parent, .. }) => {
                let link = |parent: &Arc<OwnedFd>, last: &Path| self.link_nameless(destination, file, parent, last);
                destination.in_directory_of(name, parent.clone(), link)?;
                fstat(file)
            }
            Place::Partial(partial, parent) => {
                // A directory with a temporary file in it is not empty: nothing takes its place.
                let ours = statat(&**parent, partial, AtFlags::SYMLINK_NOFOLLOW)?;
                rename_into_place(parent, partial, last, self.action)?;
                stat_of(parent.as_fd(), last, &ours)
            }
            Place::Fresh(fresh, ours) => {
                destination.in_parent_of(name, |parent, last| {
                    match renameat_with(fresh.opened(), last, parent, last, RenameFlags::NOREPLACE) {
                        // A file system without the flag: a second link fails if the name is taken,
                        // and the first goes with its directory.
                        Err(Errno::INVAL | Errno::NOSYS) => {
                            linkat(fresh.opened(), last, parent, last, AtFlags::empty())?;
                            unlinkat(fresh.opened(), last, AtFlags::empty())?;
                        }
                        renamed => renamed?,
                    }
                    stat_of(parent.as_fd(), last, ours)
                })
            }
        }
    }

    fn link_nameless(
        &self,
        destination: &Destination,
        nameless: &OwnedFd,
        parent: &OwnedFd,
        last: &Path,
    ) -> Result<(), Errno> {
        if self.action != Action::Replace {
            return link_nameless(nameless, parent, last);
        }
        // A link cannot replace; a rename can.
        let partial = temporary_name(destination.attempt.next_token());
        link_nameless(nameless, parent, &partial)?;
        rename_into_place(parent, &partial, last, Action::Replace).inspect_err(|_| {
            let _ = unlinkat(parent, &partial, AtFlags::empty());
        })
    }
}

/// A file without a name, and where it belongs.
#[derive(Debug)]
pub(super) struct UnnamedFile {
    pub(super) file: OwnedFd,
    pub(super) parent: Arc<OwnedFd>,
    pub(super) _places: DescriptorPlaces,
}

/// The files of a pack, written.
#[derive(Debug, Default)]
pub struct StagedPack {
    /// Those that can be linked.
    pub staged: Vec<StagedFile>,
    /// Those that could not be written.
    pub failed: Vec<FileError>,
    /// Those whose bytes do not have the sender's hash.
    pub mismatched: Vec<u32>,
    /// Directories that are being filled, and how many of their files came with this pack, whatever
    /// became of them.
    pub settled: Vec<(Arc<FreshDirectory>, u32)>,
}

/// The current state of `ours` under its name; if somebody else has replaced it since, its earlier
/// state: their file is never taken for ours.
fn stat_of(parent: BorrowedFd<'_>, last: &Path, ours: &Stat) -> Result<Stat, Errno> {
    let there = statat(parent, last, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) { there } else { *ours })
}

fn link_nameless(file: &OwnedFd, parent: &OwnedFd, name: &Path) -> Result<(), Errno> {
    // From Linux 6.10 on the owner of a file may link it by its descriptor; before, it takes a
    // capability or the way through /proc.
    match linkat(file, "", parent, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT) => {
            let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            linkat(CWD, &path, parent, name, AtFlags::SYMLINK_FOLLOW)
        }
        linked => linked,
    }
}
