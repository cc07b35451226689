//! Errors of the state directory, each with its remedy.

use std::io;
use std::path::{Path, PathBuf};

use culvert_protocol::control::RefusalCode;
use culvert_system::regular_file::ReadError;
use culvert_system::{accounts, os_error};
use rustix::io::Errno;

/// The subdirectories that every command makes.
pub(crate) const DIRECTORIES: [&str; 4] = ["profiles", "transfers", "receipts", "journals"];
/// The extensions of files directly in the state directory.
const ENDINGS: [&str; 4] = ["pk8", "json", "sock", "lock"];

/// A file or directory of the state that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// An operation failed.
    #[error("cannot {what} {path}: {error}; {}", remedy(.path, .error))]
    Os {
        /// The operation: a verb.
        what: &'static str,
        /// Its object.
        path: PathBuf,
        /// Its error.
        error: io::Error,
    },
    /// A file has been damaged or edited wrongly.
    #[error("{path} is damaged: {reason}; restore it from a backup, or move it away")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The damage.
        reason: String,
    },
    /// A name refers to something that is not a file or not a directory, or to a file longer than
    /// any of its kind.
    #[error("{path} cannot be used: {reason}; replace it with what belongs there, or move it away")]
    Unusable {
        /// The path.
        path: PathBuf,
        /// Why it cannot be used.
        reason: String,
    },
    /// A newer program has written the file.
    #[error(
        "{path} has version {found}, but this program reads version {known} and older: it was left \
         as it is. A newer Culvert wrote it: use that version, or move the file away"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version that this program reads.
        known: u64,
    },
    /// The transfer has begun already.
    #[error("the transfer of {path} is already running")]
    UnderWay {
        /// Its record.
        path: PathBuf,
    },
    /// A file cannot be written before another one that could not be written yet.
    #[error("{path} could not be written yet, and later writes are waiting for it")]
    Waits {
        /// The file that must be written first.
        path: PathBuf,
    },
    /// A defect of this program ended the thread that writes a file.
    #[error(
        "{path} was not written: the thread that writes it has ended, which is a defect of Culvert; \
         restart this program, and report its messages"
    )]
    NotWritten {
        /// The file.
        path: PathBuf,
    },
    /// The private key is missing, and partners know this node by it.
    #[error(
        "{path} is missing, but there are profiles: partners know this node by the key in that \
         file. Restore it from a backup, or create a new key with 'culvert identity init', after \
         which each partner must confirm it with 'culvert profile edit NAME --key KEY'"
    )]
    LostKey {
        /// The key file.
        path: PathBuf,
    },
    /// Other accounts may read the private key.
    #[error(
        "{path} can be read by others (mode {mode:o}): run 'chmod 600 {path}', and create a new key \
         if somebody may have read it"
    )]
    ExposedKey {
        /// The key file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

impl StateError {
    /// Whether the account of this process lacks a permission.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        let errno = if let Self::Os { error, .. } = self { os_error::errno_of(error) } else { None };
        matches!(errno, Some(Errno::ACCESS | Errno::PERM))
    }

    /// Whether the process merely lacked descriptors or memory: nothing is wrong with the files.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Os { error, .. } if os_error::errno_of(error).is_some_and(os_error::is_shortage))
    }

    /// The code with which the error ends a transfer. The directory is this node's own, so a
    /// partner must not read "not found" or "not permitted" as being about its path.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::Os { error, .. } => match os_error::code_of(error) {
                RefusalCode::NotFound | RefusalCode::NotPermitted => RefusalCode::Failed,
                code => code,
            },
            _ => RefusalCode::Failed,
        }
    }
}

/// The error of a file that could not be read.
pub(crate) fn unreadable(path: PathBuf, error: ReadError) -> StateError {
    match error {
        ReadError::Os(error) => StateError::Os { what: "read", path, error },
        error => StateError::Unusable { path, reason: error.to_string() },
    }
}

/// The remedy for an error of the operating system.
fn remedy(path: &Path, error: &io::Error) -> String {
    let errno = os_error::errno_of(error);
    let own = || match errno.map_or(RefusalCode::Failed, os_error::code) {
        RefusalCode::NoSpace => "make room there, or name another directory with --state".to_owned(),
        RefusalCode::NotPermitted if let Some(remedy) = accounts::remedy(path, root_of(path)) => remedy,
        _ => "check its owner and permissions, or name another directory with --state".to_owned(),
    };
    errno.and_then(os_error::remedy).unwrap_or_else(own)
}

/// The state directory that contains a path, or is it.
fn root_of(path: &Path) -> &Path {
    let parent = path.parent().unwrap_or(path);
    let is_one_of = |path: &Path, names: &[&str]| path.file_name().is_some_and(|name| names.iter().any(|n| name == *n));
    match parent.parent() {
        Some(root) if is_one_of(parent, &DIRECTORIES) => root,
        _ if is_one_of(path, &DIRECTORIES) || path.extension().is_some_and(|end| ENDINGS.iter().any(|e| end == *e)) => {
            parent
        }
        _ => path,
    }
}
