//! The directories and symlinks of a plan, made before any file.

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

/// What was made of a plan before any file.
#[derive(Debug, Default)]
pub struct Made {
    /// The entries of directories that did not exist, and that nobody else has created since the
    /// plan; and which they are.
    pub directories: HashMap<u32, Identity>,
    /// Whether anything was made.
    pub has_made: bool,
    /// Symlinks whose names somebody else has taken since the plan.
    pub failed: Vec<FileError>,
}

/// Makes the directories and symlinks of the plan, and notes in `made_all` what it has made. A
/// directory gets the source's mode, as far as the kernel gives it to new ones; its owner has all
/// rights, because it is filled. If modes are preserved it gets its own at the end.
///
/// # Errors
/// [`Refusal`] with the name in question; files have not been touched, and what came before that
/// name is made.
pub fn make_directories_and_symlinks(
    destination: &Destination,
    manifest: &Manifest,
    actions: &[Action],
    made_all: &mut Made,
) -> Result<(), Refusal> {
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
                    // Another transfer may have made it meanwhile; if it is no directory, its files
                    // will say so. But if this one has made it, it was under another name, and the
                    // two directories would become one.
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

/// Makes a symlink; replaces what is there at once, if it may.
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
            // Another transfer was faster with the same.
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
