//! Which file or directory a thing is, whatever it is called.

use rustix::fs::Stat;

/// Device and inode.
pub type Identity = (u64, u64);

/// What a name leads to, whatever it is called.
#[must_use]
pub const fn identity(stat: &Stat) -> Identity {
    (stat.st_dev, stat.st_ino)
}
