//! Why there is no data plane, or none any more.

use std::path::PathBuf;

use culvert_link::plane_handle::PrepareError;
use culvert_system::os_error;

use crate::ports::PortsInUse;

/// Why there is no data plane.
#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// Its memory could not be made.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// Its process could not be started.
    #[error("cannot start the data plane process ({program}): {error}")]
    Spawn {
        /// What was started.
        program: String,
        /// Why it failed.
        error: std::io::Error,
    },
    /// The socket of the listener that starts data planes cannot be reached.
    #[error(
        "cannot reach the data plane at {path}: {}",
        os_error::words_or_hint(
            error,
            "start the listener (systemctl start culvert-dataplane.socket), or leave \
             dataplane_socket out so that the node starts its own"
        )
    )]
    Attach {
        /// The listener's socket.
        path: PathBuf,
        /// Why it cannot be reached.
        error: std::io::Error,
    },
    /// It reported why it cannot start.
    #[error("the data plane cannot start: {0}")]
    CannotStart(String),
    /// Too few of the UDP ports that were named for its lanes are free.
    #[error("{0}")]
    PortsInUse(PortsInUse),
    /// It ended.
    #[error("the data plane process ended unexpectedly ({0}); transfers continue when it has been restarted")]
    Died(String),
    /// All slots of a kind are taken.
    #[error("the data plane has no room for another {0}; try again when a transfer has ended")]
    NoRoom(&'static str),
    /// Its process has reached its limit of open files.
    #[error("the data plane cannot open another file: {}", culvert_system::descriptors::limit_of_process(*process))]
    NoDescriptor {
        /// The process.
        process: u32,
    },
    /// A transfer did not take the lanes' events as they came.
    #[error(
        "too many events of the data plane are waiting for the transfer: its partner does not read \
         what it is sent, or the data plane sends far too many"
    )]
    Overrun,
    /// It sent an impossible message.
    #[error("the data plane sent an impossible message ({0}): it was terminated and is restarted when it is needed")]
    Nonsense(&'static str),
}
