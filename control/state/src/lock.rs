//! Looks for the holders of locks.

use std::io;
use std::path::Path;

use culvert_system::regular_file::{self, Links, ReadError};
use culvert_system::{file_lock, os_error};
use rustix::io::Errno;

/// Whether a process holds the lock of a file; true if that cannot be determined.
#[must_use]
pub fn is_locked(path: &Path) -> bool {
    match regular_file::open(path, Links::Refused) {
        Ok(file) => file_lock::is_held(&file).unwrap_or(true),
        // Nothing can hold the lock of a name that is not a file's.
        Err(ReadError::Os(error)) => !can_be_no_file(&error),
        Err(ReadError::NotAFile(_) | ReadError::NotADirectory(_) | ReadError::TooLarge { .. }) => false,
    }
}

/// Whether an error of opening a path means that no file has that name.
fn can_be_no_file(error: &io::Error) -> bool {
    match error.raw_os_error().map(os_error::errno_of_number) {
        Some(errno) => matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL),
        // A NUL byte in the name, which the standard library rejects before the system call.
        None => error.kind() == io::ErrorKind::InvalidInput,
    }
}
