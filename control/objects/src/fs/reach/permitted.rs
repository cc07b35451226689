//! Whether the directories that a partner may use can be used.

use culvert_model::profile::{Permission, PermissionSummary, PermittedRoot};
use culvert_protocol::control::PermissionAnswer;
use rustix::fs::{Access, AtFlags, Mode, OFlags, accessat};
use rustix::io::Errno;

/// What keeps an account from using a directory that it permits others to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It cannot be opened: it is not there, is no directory, or is mounted so.
    Opening(Errno),
    /// The account may not enter it.
    Entering,
    /// The account may not write to it.
    Writing,
}

/// What keeps the account of this process from storing in it, or from entering it, if anything
/// does. A name in a directory that cannot be listed can be fetched.
#[must_use]
pub fn obstacle(root: &PermittedRoot, writes: bool) -> Option<Obstacle> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = match rustix::fs::open(&root.path, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::ACCESS) => return Some(Obstacle::Entering),
        Err(error) => return Some(Obstacle::Opening(error)),
    };
    let may = |access| accessat(&directory, ".", access, AtFlags::EACCESS);
    match may(Access::EXEC_OK) {
        Err(Errno::ACCESS) => Some(Obstacle::Entering),
        Ok(()) if writes => may(Access::WRITE_OK).err().map(|error| match error {
            Errno::ACCESS => Obstacle::Writing,
            error => Obstacle::Opening(error),
        }),
        // What cannot be asked is not in the way.
        _ => None,
    }
}

/// What these directories come to. May wait for a disk.
#[must_use]
pub fn leaves_of(roots: &[PermittedRoot]) -> PermissionSummary {
    let leave = |may: fn(Permission) -> bool, writes: bool| {
        let permitted = || roots.iter().filter(|root| may(root.permission));
        match permitted().next() {
            None => PermissionAnswer::No,
            Some(_) if permitted().any(|root| obstacle(root, writes).is_none()) => PermissionAnswer::Yes,
            Some(_) => PermissionAnswer::Unusable,
        }
    };
    PermissionSummary { store: leave(Permission::writes, true), fetch: leave(Permission::reads, false) }
}
