//! A small file that is written but does not have its name yet: where it is meanwhile, and how it
//! gets its name.

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

/// A small file that is written but does not have its name yet.
#[derive(Debug)]
pub struct StagedFile {
    /// Its entry.
    pub file: u32,
    pub(super) place: Place,
    pub(super) action: Action,
    /// The attributes that were refused.
    pub(super) refused: Refused,
}

/// A small file that has its name.
#[derive(Clone, Copy, Debug)]
pub struct StoredFile {
    /// Its entry.
    pub file: u32,
    /// What it is now.
    pub stat: Stat,
    /// The attributes that were refused.
    pub refused: Refused,
}

/// The place of a staged file.
#[derive(Debug)]
pub(super) enum Place {
    /// No name: it exists only through its descriptor.
    UnnamedFile(UnnamedFile),
    /// A temporary name in this directory.
    Partial(PathBuf, Arc<OwnedFd>),
    /// Its own name in a directory that is being filled, and its status.
    Fresh(Arc<FreshDirectory>, Stat),
}

impl StagedFile {
    /// The directory with which it is put in place, and the file as stored; `None` for a file that
    /// is linked by itself.
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

    /// Removes a staged file from its directory or from under its temporary name.
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

    /// Gives the file its name, and returns its status then.
    pub(super) fn link_into_place(&self, destination: &Destination, name: &[u8], last: &Path) -> Result<Stat, Errno> {
        match &self.place {
            Place::UnnamedFile(UnnamedFile { file, parent, .. }) => {
                let link = |parent: &Arc<OwnedFd>, last: &Path| self.link_nameless(destination, file, parent, last);
                destination.in_directory_of(name, parent.clone(), link)?;
                fstat(file)
            }
            Place::Partial(partial, parent) => {
                // The temporary file keeps the directory from being empty, so that no other
                // transfer can replace the directory.
                let ours = statat(&**parent, partial, AtFlags::SYMLINK_NOFOLLOW)?;
                rename_into_place(parent, partial, last, self.action)?;
                stat_of(parent.as_fd(), last, &ours)
            }
            Place::Fresh(fresh, ours) => {
                destination.in_parent_of(name, |parent, last| {
                    match renameat_with(fresh.opened(), last, parent, last, RenameFlags::NOREPLACE) {
                        // A file system without the flag: a second link also fails if the name is
                        // taken.
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
        // Only a rename can replace a file.
        let partial = temporary_name(destination.attempt.next_token());
        link_nameless(nameless, parent, &partial)?;
        rename_into_place(parent, &partial, last, Action::Replace).inspect_err(|_| {
            let _ = unlinkat(parent, &partial, AtFlags::empty());
        })
    }
}

/// A file without a name, and its directory.
#[derive(Debug)]
pub(super) struct UnnamedFile {
    pub(super) file: OwnedFd,
    pub(super) parent: Arc<OwnedFd>,
    pub(super) _places: DescriptorPlaces,
}

/// The written files of a pack.
#[derive(Debug, Default)]
pub struct StagedPack {
    /// Files that can be linked.
    pub staged: Vec<StagedFile>,
    /// Files that could not be written.
    pub failed: Vec<FileError>,
    /// Files whose bytes do not have the sender's hash.
    pub mismatched: Vec<u32>,
    /// Directories that are being filled, with the number of their files in this pack, stored or
    /// not.
    pub settled: Vec<(Arc<FreshDirectory>, u32)>,
}

/// The current status of `ours` under its name, or its earlier one if somebody else has replaced
/// the file since: another's file is never taken for ours.
fn stat_of(parent: BorrowedFd<'_>, last: &Path, ours: &Stat) -> Result<Stat, Errno> {
    let there = statat(parent, last, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) { there } else { *ours })
}

fn link_nameless(file: &OwnedFd, parent: &OwnedFd, name: &Path) -> Result<(), Errno> {
    // Since Linux 6.10, the owner of a file may link it by its descriptor. Before, that takes a
    // capability, or the path below /proc.
    match linkat(file, "", parent, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT) => {
            let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            linkat(CWD, &path, parent, name, AtFlags::SYMLINK_FOLLOW)
        }
        linked => linked,
    }
}
