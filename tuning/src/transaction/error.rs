//! Errors of transactions and of their state directory.

use std::io;

use culvert_host::HostError;

/// Why a transaction could not be made, confirmed or rolled back.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// The state directory cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Another transaction waits for confirmation.
    #[error(
        "the changes of {id} are waiting to be confirmed: first run `culvert tune confirm` to keep \
         them or `culvert tune rollback` to undo them"
    )]
    Waiting {
        /// The waiting transaction.
        id: String,
    },
    /// A setting to be changed cannot be read, so nothing was changed.
    #[error("nothing was changed: {0}")]
    Unreadable(HostError),
    /// The guard did not start, so nothing was changed.
    #[error("nothing was changed: the guard that would undo it did not start: {0}")]
    Guard(String),
    /// A write failed; everything was restored.
    #[error("{reason} (rule {rule}; leave it out with --skip {rule}); {outcome}")]
    Failed {
        /// The rule that required it.
        rule: String,
        /// What failed.
        reason: String,
        /// The state of the host now.
        outcome: String,
    },
    /// No transaction waits for confirmation.
    #[error("no changes are waiting to be confirmed{0}")]
    NothingPending(String),
    /// No transaction can be rolled back.
    #[error("there is nothing to roll back")]
    NothingToRollBack,
    /// No transaction has that name.
    #[error("there is no transaction '{0}'; `culvert tune status` lists them")]
    NoSuchTransaction(String),
    /// A newer transaction was made on top of it.
    #[error("{newer} was made after {id}: roll that one back first, or all with --all")]
    NotNewest {
        /// The named transaction.
        id: String,
        /// The newer transaction.
        newer: String,
    },
    /// It belongs to another network namespace.
    #[error(
        "{id} was made in the network namespace {namespace} and can only be undone there; if that is gone, `culvert tune rollback --forget {id}`"
    )]
    WrongPlace {
        /// The transaction.
        id: String,
        /// The namespace in which it was made.
        namespace: String,
    },
}

/// Why the state directory cannot be used.
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
    /// Another process holds the lock.
    #[error("{path}: another culvert process is changing settings; try again when it has finished")]
    Locked {
        /// The lock.
        path: String,
    },
    /// A journal is malformed.
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

/// The remedy for an error; root is suggested only if permission is lacking.
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
