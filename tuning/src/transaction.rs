//! Transactions: change many settings of a host so that either all of them hold and are confirmed,
//! or all are as they were.
//!
//! ```text
//! begin, snapshot ──> guard starts ──> write, read back, compare ──> applied ──> confirmed ──> held by the watcher
//!     (fsync)             |                    |                        |
//!                         └──── dies, fails, is not confirmed in time ──┴──> rolling back ──> rolled back
//! ```
//!
//! The snapshot holds everything that is written and everything that a write may disturb
//! ([`Setting::disturbs`]). It is on disk before the first write, so that restoring needs nothing
//! else, whatever happens afterwards. Restoring is idempotent: after a crash midway, it starts
//! over.
//!
//! [`Setting::disturbs`]: crate::setting::Setting::disturbs

use std::collections::BTreeMap;

use crate::host::{HostError, Place};
use crate::setting::{Setting, Value};

mod apply;
mod journal;
mod recovery;
mod restore;
mod store;

pub use apply::{ApplyOptions, apply, confirm, refuse_if_waiting};
pub use journal::{Intent, Left, Record, SnapshotEntry};
pub use recovery::{Recovered, forget, recover, roll_back, roll_back_all};
pub(crate) use restore::write_and_compare;
pub use store::{Disk, FolderDisk, Lock, Store, StoreError};

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing was written yet, or not all; the process that applies it holds the lock, or has died.
    Applying,
    /// Everything is written and waits to be confirmed.
    Pending,
    /// Confirmed: the watcher keeps it.
    Held,
    /// Being put back, or interrupted while it was.
    RollingBack,
    /// Everything is as it was.
    RolledBack,
    /// The host restarted and forgot it; nothing of it was to stay.
    Ended,
}

/// A transaction, as recorded in its journal.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Its name: a number that rises, and the time at which it began.
    pub id: String,
    /// When it began, in seconds since 1970.
    pub began_unix_s: u64,
    /// Where its settings live.
    pub place: Place,
    /// The profile.
    pub profile: String,
    /// Whether it is to be there again after a restart of the host.
    pub persistent: bool,
    /// Whether the process that applied it stays until it is rolled back.
    pub attended: bool,
    /// What it wants.
    pub intents: Vec<Intent>,
    /// What was there; empty until the snapshot is on disk.
    pub snapshot: Vec<SnapshotEntry>,
    /// Where it stands.
    pub state: State,
    /// When it is rolled back unless confirmed, in milliseconds since the boot.
    pub deadline_boot_ms: Option<u64>,
    /// Why it was rolled back.
    pub reason: Option<String>,
    /// What could not be put back.
    pub left: Vec<Left>,
    /// Bytes of its journal that are whole.
    journal_bytes: u64,
}

impl Transaction {
    /// What it wrote, by setting.
    #[must_use]
    pub fn wanted(&self) -> BTreeMap<Setting, Value> {
        self.intents.iter().map(|intent| (intent.setting.clone(), intent.to.clone())).collect()
    }

    /// Whether it is over: nothing of it is on the host.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::RolledBack | State::Ended)
    }
}

/// What all held transactions together want, the newest last.
#[must_use]
pub fn held_settings(transactions: &[Transaction]) -> BTreeMap<Setting, Value> {
    let held = transactions.iter().filter(|transaction| transaction.state == State::Held);
    held.flat_map(Transaction::wanted).collect()
}

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
