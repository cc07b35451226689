//! Unfinished files, whose names contain the number of the process that writes them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// The prefix of an unfinished file's name; the number of the writing process follows.
pub(super) const WRITING_PREFIX: &str = ".culvert-writing-";

/// Creates an unfinished file, with mode 0600.
pub(super) fn begin_writing(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    let prefix = format!("{WRITING_PREFIX}{}-", std::process::id());
    let file = tempfile::Builder::new().prefix(&prefix).tempfile_in(directory)?;
    // The lock shows a sweep that the file is being written. Without locks, the process number must
    // suffice.
    let _ = flock(file.as_file(), FlockOperation::NonBlockingLockExclusive);
    Ok(file)
}

/// Whether the process in an unfinished file's name lives; `name` is what follows
/// [`WRITING_PREFIX`]. Only numbers name processes: below `/proc`, `..` would always exist.
pub(super) fn writer_may_live(name: &str) -> bool {
    let number = name.split('-').next().and_then(|number| number.parse::<u32>().ok());
    number.is_some_and(|number| Path::new("/proc").join(number.to_string()).exists())
}

/// Gives a file that root has made to the owner of its directory.
///
/// # Errors
/// Those of the operating system.
pub fn give_to_owner_of(directory: &Path, file: &fs::File) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(directory)?;
    std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))
}
