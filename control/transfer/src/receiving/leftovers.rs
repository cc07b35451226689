//! Removes what earlier attempts left under temporary names, before this one starts: partial files
//! that the sources no longer contain or contain in another version, directories that were being
//! filled, files that were about to get their names. What the attempt continues with stays.
//!
//! The search covers the directories that this attempt names and those below them, and those below
//! the top-level names of earlier attempts that it no longer names. Only names of these attempts,
//! which are unpredictable, are touched.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use culvert_journal::EarlierAttempts;
use culvert_objects::fs::destination::temporary::{Attempt, temporary_name};
use culvert_objects::fs::destination::{Destination, fresh_directories};
use culvert_objects::fs::sources::hash_of;
use culvert_protocol::manifest::EntryKind;
use culvert_protocol::names::{TEMPORARY_PREFIX, check_relative};
use rustix::fs::{AtFlags, Dir, FileType, unlinkat};
use rustix::io::Errno;

use crate::receiving::intake::Intake;

/// Directories that are looked into although this attempt does not name them. In those beyond it
/// what was left stays, under names that no result shows as stored.
const UNNAMED_MAX: usize = 100_000;

/// Removes what is left.
pub(super) fn remove(intake: &Intake, past: &EarlierAttempts) {
    let Some(destination) = intake.destination.as_ref().filter(|_| !past.is_empty()) else { return };
    let leftovers = Leftovers::of(intake, past);
    let listed = intake.manifest.entries().filter(|(_, entry)| entry.kind == EntryKind::Directory);
    let listed: Vec<&[u8]> = listed.map(|(_, entry)| entry.name).chain([b"".as_slice()]).collect();
    let mut seen: HashSet<u128> = listed.iter().map(|name| hash_of(name)).collect();
    // In these a journal says that there is something.
    let begun = past.begun_files().map(|(_, begun)| &begun.directory).filter(|name| check_relative(name).is_ok());
    let mut unnamed: Vec<Vec<u8>> = begun.cloned().collect();
    let look = |directory: &[u8], unnamed: &mut Vec<Vec<u8>>| {
        if let Some((inode, mode)) = past.opened(directory).filter(|_| !directory.is_empty()) {
            destination.adopt_opened(directory, inode, mode);
        }
        let mut note = |name: Vec<u8>| {
            if unnamed.len() < UNNAMED_MAX {
                unnamed.push(name);
            }
        };
        leftovers.remove_from(destination, directory, |name| {
            if !directory.is_empty() {
                note([directory, b"/", name].concat());
            } else if past.may_have_top_name(name) {
                note(name.to_vec());
            }
        });
    };
    for directory in listed {
        look(directory, &mut unnamed);
    }
    for _ in 0..UNNAMED_MAX {
        let Some(directory) = unnamed.pop() else { break };
        if seen.insert(hash_of(&directory)) {
            look(&directory, &mut unnamed);
        }
    }
}

/// The names of what is to be removed.
struct Leftovers {
    named: HashSet<PathBuf>,
    kept: HashSet<PathBuf>,
    attempts: Vec<Attempt>,
}

impl Leftovers {
    fn of(intake: &Intake, past: &EarlierAttempts) -> Self {
        let kept: HashSet<u128> = intake.begun.iter().map(|begun| begun.left.token).collect();
        let begun = past.begun_files().map(|(_, begun)| begun.token).filter(|token| !kept.contains(token));
        let named = begun.chain(past.filling().iter().copied()).map(temporary_name).collect();
        let attempts = past.attempts().iter().map(|&number| Attempt::from_number(number)).collect();
        Self { named, kept: kept.into_iter().map(temporary_name).collect(), attempts }
    }

    fn has(&self, name: &Path) -> bool {
        self.named.contains(name)
            || (!self.kept.contains(name) && self.attempts.iter().any(|attempt| attempt.has(name)))
    }

    /// Removes leftovers in a directory, and returns the names of the directories in it.
    fn remove_from(&self, destination: &Destination, directory_name: &[u8], mut found: impl FnMut(&[u8])) {
        let Ok(directory) = destination.open_directory(directory_name) else { return };
        let Ok(entries) = Dir::read_from(&directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_bytes();
            if name.starts_with(TEMPORARY_PREFIX) {
                let left = Path::new(OsStr::from_bytes(name));
                if self.has(left) {
                    // What cannot be removed stays under its temporary name, which no result shows
                    // as stored.
                    let _ = destination.opening(directory_name, || remove_one(directory.as_fd(), left));
                }
            } else if matches!(entry.file_type(), FileType::Directory | FileType::Unknown) && !is_dots(name) {
                found(name);
            }
        }
    }
}

fn is_dots(name: &[u8]) -> bool {
    matches!(name, b"." | b"..")
}

/// Removes a file, or a directory that was being filled.
fn remove_one(directory: BorrowedFd<'_>, name: &Path) -> Result<(), Errno> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => fresh_directories::remove(directory, name),
        removed => removed,
    }
}
