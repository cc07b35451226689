//! Makes the directories and symlinks of a plan, before any file.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use culvert_protocol::control::{FileError, Refusal, RefusalCode};
use culvert_protocol::manifest::{EntryKind, Manifest};
use culvert_protocol::names::printable;
use culvert_system::os_error;
use rustix::fs::{AtFlags, Mode, mkdirat, readlinkat, renameat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use crate::fs::destination::Destination;
use crate::fs::destination::action::Action;
use crate::fs::destination::file_errors::unwritable;
use crate::fs::destination::identity::{Identity, identity};
use crate::fs::destination::temporary::temporary_name;

/// What was made before any file.
#[derive(Debug, Default)]
pub struct Made {
    /// Directories that this transfer made, by entry, with their identities. One that somebody else
    /// made since the plan is not among them.
    pub directories: HashMap<u32, Identity>,
    /// Whether anything was made.
    pub has_made: bool,
    /// Symlinks whose names somebody else has taken since the plan.
    pub failed: Vec<FileError>,
}

/// Makes the directories and symlinks of the plan, and notes them in `made_all`. A directory gets
/// the source's mode, less the umask, plus all permissions for its owner, because it will be
/// filled. If modes are preserved, it gets its own at the end.
///
/// # Errors
/// [`Refusal`] with the name that failed; earlier names are made, and no file is touched.
pub fn make_directories_and_symlinks(
    destination: &Destination,
    manifest: &Manifest,
    actions: &[Action],
    made_all: &mut Made,
) -> Result<(), Refusal> {
    // Invariant I-plan-cover: a plan has exactly one action for each entry of its manifest.
    assert_eq!(actions.len(), manifest.len(), "a plan has one action for each entry");
    let mut made_here = HashSet::new();
    for (file, entry) in manifest.entries() {
        let action = actions[file as usize];
        if action == Action::Skip || matches!(entry.kind, EntryKind::File { .. }) {
            continue;
        }
        made_all.has_made = true;
        let name = destination.name(manifest, file);
        let made = destination.in_parent_of(&name, |parent, last| match entry.kind {
            EntryKind::Directory => {
                let mode = Mode::from_raw_mode(u32::from(entry.mode) & 0o777) | Mode::RWXU;
                let made = mkdirat(parent, last, mode);
                if !matches!(made, Ok(()) | Err(Errno::EXIST)) {
                    return made;
                }
                let there = identity(&statat(parent, last, AtFlags::SYMLINK_NOFOLLOW)?);
                match made {
                    // Another transfer may have made it meanwhile; if it is not a directory, its
                    // files will fail. If this transfer made it, it did so under another name,
                    // which the file system folds into this one: the two directories would become
                    // one.
                    Err(Errno::EXIST) if !made_here.contains(&there) => Ok(()),
                    Err(error) => Err(error),
                    Ok(()) => {
                        made_here.insert(there);
                        made_all.directories.insert(file, there);
                        Ok(())
                    }
                }
            }
            _ => make_symlink(destination, parent, last, entry.target, action),
        });
        if made == Err(Errno::EXIST) && entry.kind == EntryKind::Symlink {
            made_all.failed.push(unwritable(&name, file, Errno::EXIST));
            continue;
        }
        made.map_err(|error| {
            let code = if error == Errno::EXIST { RefusalCode::Collision } else { os_error::code(error) };
            let (name, path) = (printable(&name), destination.path.display());
            let reason = match error {
                Errno::EXIST => {
                    "it exists by now, or the file system takes its name and another one of the transfer for the same"
                        .to_owned()
                }
                error => os_error::words(error),
            };
            Refusal::new(code, format!("cannot make '{name}' in {path}: {reason}"))
        })?;
    }
    Ok(())
}

/// Makes a symlink; if the plan says so, replaces what exists in one step.
fn make_symlink(
    destination: &Destination,
    parent: &OwnedFd,
    last: &Path,
    target: &[u8],
    action: Action,
) -> Result<(), Errno> {
    let target = Path::new(OsStr::from_bytes(target));
    if action != Action::Replace {
        return match symlinkat(target, parent, last) {
            // Another transfer has made the same symlink meanwhile.
            Err(Errno::EXIST)
                if readlinkat(parent, last, Vec::new())
                    .is_ok_and(|there| there.as_bytes() == target.as_os_str().as_bytes()) =>
            {
                Ok(())
            }
            made => made,
        };
    }
    let temporary = temporary_name(destination.attempt.next_token());
    symlinkat(target, parent, &temporary)?;
    renameat(parent, &temporary, parent, last).inspect_err(|_| {
        let _ = unlinkat(parent, &temporary, AtFlags::empty());
    })
}
