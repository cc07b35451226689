//! The identity of a file or directory, independent of its name.

use rustix::fs::Stat;

/// Device and inode.
pub type Identity = (u64, u64);

/// The identity in a status.
#[must_use]
pub const fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}
