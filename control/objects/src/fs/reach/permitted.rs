//! Whether this account can use the directories that it permits to partners.

use culvert_model::profile::{Permission, PermissionSummary, PermittedRoot};
use culvert_protocol::control::PermissionAnswer;
use rustix::fs::{Access, AtFlags, Mode, OFlags, accessat};
use rustix::io::Errno;

/// The reason why this account cannot use a directory that it permits to partners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It cannot be opened or used: it does not exist, is not a directory, or is mounted read-only.
    Opening(Errno),
    /// The account may not enter it.
    Entering,
    /// The account may not write to it.
    Writing,
}

/// The reason why this account cannot store in a directory, or cannot enter it, if there is one. A
/// directory that cannot be listed can still be fetched from, by name.
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
        // Any other error does not mean that using it fails.
        _ => None,
    }
}

/// The permissions that these directories give. May wait for a disk.
#[must_use]
pub fn leaves_of(roots: &[PermittedRoot]) -> PermissionSummary {
    //= W-60
    //# It says whether the asking end may store files with it and whether it may fetch any: `no`,
    //# `yes`, or `unusable` if it may but the node's account cannot use any of the directories.
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
