//! Whether the account may create what a plan says: the kernel is asked before the first byte
//! moves.
//!
//! It is asked once about each existing directory that gets something new. If the destination
//! itself is not writable, or a directory or symlink cannot be made, the transfer is refused. A
//! file in another directory fails by name later, and a dry run predicts that. A directory whose
//! mode the transfer may widen ([`super::opened`]) is no obstacle.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd};

use culvert_protocol::control::Refusal;
use culvert_protocol::dry_run::Fate;
use culvert_protocol::manifest::{EntryKind, Manifest};
use culvert_protocol::names::printable;
use culvert_system::accounts::may_not;
use culvert_system::os_error;
use rustix::fs::{Access, AtFlags, accessat, fstat};
use rustix::io::Errno;

use crate::fs::destination::Destination;
use crate::fs::destination::action::Action;
use crate::fs::destination::names::split_name;
use crate::fs::destination::opened::is_openable;
use crate::fs::destination::refusals::{refusal, writing_above};
use crate::fs::sources::hash_of;

/// Checks whether this account may carry out `actions`, and notes in `fates` the files that would
/// fail. `opens` says that the transfer may widen the modes of this account's directories.
///
/// # Errors
/// [`Refusal`] with the entry that cannot be made, and why.
pub fn check(
    destination: &Destination,
    manifest: &Manifest,
    actions: &[Action],
    opens: bool,
    mut fates: Option<&mut [Fate]>,
) -> Result<(), Refusal> {
    // In a dry run, the base of a missing destination is its deepest existing parent.
    if destination.is_fresh {
        let path = &destination.path;
        return may_store(destination.base()).map_err(|error| refusal(path, true, &writing_above(path), error));
    }
    // By the hash of the directory's name.
    let mut obstacles: HashMap<u128, Option<Obstacle>> = HashMap::new();
    for (file, entry) in manifest.entries() {
        if matches!(actions[file as usize], Action::Skip | Action::Resumed) {
            continue;
        }
        let name = destination.name(manifest, file);
        let (parent, _) = split_name(&name);
        let obstacle = *obstacles.entry(hash_of(parent)).or_insert_with(|| Obstacle::find(destination, parent, opens));
        if entry.kind == EntryKind::Directory {
            // This account will own it.
            obstacles.insert(hash_of(&name), None);
        }
        let Some(obstacle) = obstacle else { continue };
        if matches!(entry.kind, EntryKind::File { .. }) && !parent.is_empty() {
            if let Some(fate) = fates.as_deref_mut().and_then(|fates| fates.get_mut(file as usize)) {
                *fate = Fate::NotPermitted;
            }
            continue;
        }
        return Err(obstacle.refusal(destination, &name, parent));
    }
    Ok(())
}

/// The reason why this account cannot create something in a directory.
#[derive(Clone, Copy, Debug)]
struct Obstacle {
    error: Errno,
    /// What the account may not do, in words.
    action: &'static str,
}

impl Obstacle {
    fn find(destination: &Destination, directory: &[u8], opens: bool) -> Option<Self> {
        // A directory that cannot be opened shows its error when something is stored in it.
        let opened = destination.open_directory(directory).ok()?;
        let error = may_store(opened.as_fd()).err()?;
        let is_modes = error == Errno::ACCESS && opens && !directory.is_empty();
        if is_modes && fstat(&opened).is_ok_and(|stat| is_openable(&stat)) {
            return None;
        }
        let may_enter = may(opened.as_fd(), Access::EXEC_OK).is_ok();
        Some(Self { error, action: if may_enter { "write to it" } else { "enter it" } })
    }

    fn refusal(self, destination: &Destination, name: &[u8], parent: &[u8]) -> Refusal {
        let path = match parent {
            [] => destination.path.display().to_string(),
            parent => format!("{}/{}", destination.path.display(), printable(parent)),
        };
        let (_, last) = split_name(name);
        let reason = match self.error {
            Errno::ACCESS | Errno::PERM => may_not(self.action),
            error => error.to_string(),
        };
        os_error::refusal(self.error, format!("cannot make '{}' in {path}: {reason}", printable(last)))
    }
}

/// Whether this account may create entries in a directory.
fn may_store(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    match may(directory, Access::WRITE_OK | Access::EXEC_OK) {
        Err(error @ (Errno::ACCESS | Errno::PERM | Errno::ROFS)) => Err(error),
        // Any other error does not mean that storing fails.
        _ => Ok(()),
    }
}

fn may(directory: BorrowedFd<'_>, access: Access) -> Result<(), Errno> {
    accessat(directory, ".", access, AtFlags::EACCESS)
}
