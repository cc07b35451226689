//! Why a transaction did not come about, or could not be ended.

use std::io;

use crate::host::HostError;

/// Why a transaction did not come about, or could not be ended.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The state directory.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another one waits to be confirmed.
    #[error(
        "the changes of {id} are waiting to be confirmed: first run `culvert tune confirm` to keep \
         them or `culvert tune rollback` to undo them"
    )]
    Waiting {
        /// The other one.
        id: String,
    },
    /// A setting that is to be changed cannot be read, so nothing was changed.
    #[error("nothing was changed: {0}")]
    Unreadable(HostError),
    /// Nothing was changed because undoing it could not be prepared.
    #[error("nothing was changed: the guard that would undo it did not start: {0}")]
    Guard(String),
    /// A write failed; everything was put back.
    #[error("{reason} (rule {rule}; leave it out with --skip {rule}); {outcome}")]
    Failed {
        /// The rule that wanted it.
        rule: String,
        /// What failed.
        reason: String,
        /// What the host is like now.
        outcome: String,
    },
    /// There is nothing to confirm.
    #[error("no changes are waiting to be confirmed{0}")]
    NothingPending(String),
    /// There is nothing to roll back.
    #[error("there is nothing to roll back")]
    NothingToRollBack,
    /// No transaction of that name.
    #[error("there is no transaction '{0}'; `culvert tune status` lists them")]
    NoSuchTransaction(String),
    /// A newer one stands on it.
    #[error("{newer} was made after {id}: roll that one back first, or all with --all")]
    NotNewest {
        /// The one that was named.
        id: String,
        /// A newer one.
        newer: String,
    },
    /// It belongs to another network namespace.
    #[error(
        "{id} was made in the network namespace {namespace} and can only be undone there; if that is gone, `culvert tune rollback --forget {id}`"
    )]
    WrongPlace {
        /// The transaction.
        id: String,
        /// Where it was made.
        namespace: String,
    },
}

/// Why the state directory does not serve.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file in it could not be read or written.
    #[error("{path}: {source}{}", hint(source))]
    File {
        /// The file.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// Another process is at work.
    #[error("{path}: another culvert process is changing settings; try again when it has finished")]
    Locked {
        /// The lock.
        path: String,
    },
    /// A journal makes no sense.
    #[error(
        "{path}: line {line}: {reason}; the file was damaged or not written by culvert: its \
         settings must be restored by hand; its snapshot lists them"
    )]
    Damaged {
        /// The journal.
        path: String,
        /// The line.
        line: usize,
        /// What is wrong.
        reason: String,
    },
}

/// What to do about an error: an admin's rights help only where rights lack.
pub(super) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; run as root, or name another directory with --state",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; make room there, or name another directory with --state"
        }
        io::ErrorKind::ReadOnlyFilesystem
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::AlreadyExists => "; repair it, or name another directory with --state",
        _ => "",
    }
}
