//! The errors of files that could not be stored.

use culvert_protocol::control::FileError;
use culvert_protocol::names::printable;
use culvert_system::os_error::{SHORTAGE, is_shortage, words};
use rustix::io::Errno;

/// The error of a file that could not be stored; `name` is its name at the destination.
#[must_use]
pub fn unwritable(name: &[u8], file: u32, error: Errno) -> FileError {
    let name = printable(name);
    let (code, text) = match error {
        Errno::EXIST => ("collision", format!("'{name}' was created by somebody else and was not overwritten")),
        Errno::NOSPC | Errno::DQUOT => ("no_space", format!("'{name}' could not be stored: {error}")),
        Errno::LOOP => ("symlink", format!("'{name}' could not be stored: a symlink appeared in its path")),
        error if is_shortage(error) => (SHORTAGE, format!("'{name}' could not be stored: {}", words(error))),
        error => ("unwritable", format!("'{name}' could not be stored: {}", words(error))),
    };
    FileError { file, code: code.to_owned(), text }
}
