//! Why a journal cannot be used, and the refusal that the transfer gets.

use std::io;
use std::path::PathBuf;

use culvert_protocol::control::{Refusal, RefusalCode};
use culvert_system::os_error;
use rustix::io::Errno;

use crate::reading::Unknown;

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another transfer writes it.
    #[error(
        "another transfer of the same files from the same partner to the same destination is \
         running: wait for it, or cancel it"
    )]
    InUse,
    /// A newer version wrote it.
    #[error(
        "the journal of this transfer, {path}, was left as it is: {unknown}. A newer Culvert wrote \
         it: use that version, or remove the file; incomplete files are then sent from the beginning"
    )]
    Unknown {
        /// Which.
        path: PathBuf,
        /// The version or record that this program does not know.
        unknown: Unknown,
    },
    /// An operation on it failed.
    #[error("cannot use the journal {path}: {error}{}", remedy(.error))]
    Os {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

impl JournalError {
    /// The code with which the transfer is refused.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::InUse => RefusalCode::Temporary,
            Self::Unknown { .. } => RefusalCode::Failed,
            Self::Os { error, .. } => code_of(error),
        }
    }
}

/// The refusal that ends a transfer whose journal cannot be written.
#[must_use]
pub fn not_journaled(error: &io::Error) -> Refusal {
    Refusal::new(code_of(error), format!("the journal of the transfer cannot be written: {error}{}", remedy(error)))
}

/// The remedy for an error of the operating system, if there is one. It suggests removing the
/// journal only if the journal is at fault.
fn remedy(error: &io::Error) -> String {
    let errno = os_error::errno_of(error);
    match errno.map_or(RefusalCode::Failed, os_error::code) {
        RefusalCode::NoSpace => {
            "; make room in the state directory and start the transfer again: it resumes where it stopped".to_owned()
        }
        _ if errno.is_none_or(is_of_the_journal) => {
            "; remove it, or make it writable for Culvert's account: without it, incomplete files \
             are sent from the beginning"
                .to_owned()
        }
        _ => errno.and_then(os_error::remedy).map_or_else(String::new, |remedy| format!("; {remedy}")),
    }
}

/// Whether an error means that whatever has the journal's name cannot be used as one.
const fn is_of_the_journal(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::ISDIR | Errno::NXIO)
}

/// The code for a journal that cannot be used. The journal is this node's own, so the partner must
/// not read "not found" or "not permitted" as being about its path.
fn code_of(error: &io::Error) -> RefusalCode {
    match os_error::code_of(error) {
        RefusalCode::NotFound | RefusalCode::NotPermitted => RefusalCode::Failed,
        code => code,
    }
}
