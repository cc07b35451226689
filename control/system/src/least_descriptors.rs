//! The descriptors that every command needs to start.

use std::io;

use rustix::io::Errno;

use crate::os_error::explained;

/// Descriptors for a runtime, and for one or two files: with fewer, a command cannot even report
/// the shortage.
const LEAST: usize = 8;

/// Checks that a runtime can be made, which would panic without descriptors for its signals.
///
/// # Errors
/// A sentence for users.
pub fn require_least() -> Result<(), String> {
    let taken: Result<Vec<_>, Errno> = (0..LEAST).map(|_| rustix::io::dup(rustix::stdio::stderr())).collect();
    match taken {
        // Without standard error, there is nowhere to report a shortage.
        Ok(_) | Err(Errno::BADF) => Ok(()),
        Err(error) => Err(explained(format!("cannot start: {}", io::Error::from(error)))),
    }
}
