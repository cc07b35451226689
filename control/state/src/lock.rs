//! Whether a process holds the lock of a file.

use std::io;
use std::path::Path;

use culvert_system::regular_file::{self, Links, ReadError};
use culvert_system::{file_lock, os_error};
use rustix::io::Errno;

/// Whether a process holds the lock of a file. Where that cannot be told, it does.
#[must_use]
pub fn is_locked(path: &Path) -> bool {
    match regular_file::open(path, Links::Refused) {
        Ok(file) => file_lock::is_held(&file).unwrap_or(true),
        // Nothing holds the lock of a non-file, or of a name that cannot be a file's.
        Err(ReadError::Os(error)) => !can_be_no_file(&error),
        Err(ReadError::NotAFile(_) | ReadError::NotADirectory(_) | ReadError::TooLarge { .. }) => false,
    }
}

/// Whether an error of opening a path says that no file can be there.
fn can_be_no_file(error: &io::Error) -> bool {
    match error.raw_os_error().map(os_error::errno_of_number) {
        Some(errno) => matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL),
        // A NUL byte, which is not even asked for.
        None => error.kind() == io::ErrorKind::InvalidInput,
    }
}
