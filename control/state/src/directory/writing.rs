//! Files that are being written, whose names say by which process.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// What files are called until they are whole; the number of the process that writes them follows.
pub(super) const WRITING_PREFIX: &str = ".culvert-writing-";

/// A file that has no other name than that it is being written, of mode 0600.
pub(super) fn begin_writing(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    let prefix = format!("{WRITING_PREFIX}{}-", std::process::id());
    let file = tempfile::Builder::new().prefix(&prefix).tempfile_in(directory)?;
    // A cleanup sees that it is written. Without locks, the number has to do.
    let _ = flock(file.as_file(), FlockOperation::NonBlockingLockExclusive);
    Ok(file)
}

/// Whether the process of a half written file's name is there, by what follows [`WRITING_PREFIX`].
/// What is no number is no process's: taken for a path below `/proc`, '..' would always be there.
pub(super) fn writer_may_live(name: &str) -> bool {
    let number = name.split('-').next().and_then(|number| number.parse::<u32>().ok());
    number.is_some_and(|number| Path::new("/proc").join(number.to_string()).exists())
}

/// Gives a file that root has made to the owner of its directory.
///
/// # Errors
/// The operating system's.
pub fn give_to_owner_of(directory: &Path, file: &fs::File) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(directory)?;
    std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))
}
