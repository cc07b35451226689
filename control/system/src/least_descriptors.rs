//! The descriptors without which no command starts.

use std::io;

use rustix::io::Errno;

use crate::os_error::explained;

/// Descriptors without which no command can say what it lacks: those of a runtime, and one or two
/// for what it is about.
const LEAST: usize = 8;

/// Looks whether a runtime can be made: where there are no descriptors for its signals it panics.
///
/// # Errors
/// A sentence.
pub fn require_least() -> Result<(), String> {
    let taken: Result<Vec<_>, Errno> = (0..LEAST).map(|_| rustix::io::dup(rustix::stdio::stderr())).collect();
    match taken {
        // Without standard error there is nowhere to report anything.
        Ok(_) | Err(Errno::BADF) => Ok(()),
        Err(error) => Err(explained(format!("cannot start: {}", io::Error::from(error)))),
    }
}
