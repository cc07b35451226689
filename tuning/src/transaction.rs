//! Transactions: change many settings of a host so that either all of them hold and are confirmed,
//! or all are restored.
//!
//! ```text
//! begin, snapshot ──> guard starts ──> write, read back, compare ──> applied ──> confirmed ──> held by the watcher
//!     (fsync)             |                    |                        |
//!                         └──── dies, fails, is not confirmed in time ──┴──> rolling back ──> rolled back
//! ```
//!
//! The snapshot holds everything that is written and everything that a write may disturb
//! ([`Setting::disturbs`]). It is on disk before the first write, so restoring needs nothing else
//! after a crash. Restoring is idempotent: after a crash midway, it starts again.
//!
//! [`Setting::disturbs`]: culvert_host::setting::Setting::disturbs

mod apply;
mod error;
mod journal;
mod recovery;
mod restore;
mod state;
mod store;

pub use apply::{apply, confirm, refuse_if_waiting};
pub use error::{StoreError, TransactionError};
pub use journal::Record;
pub use recovery::{Recovered, forget, recover, roll_back, roll_back_all};
pub(crate) use restore::write_and_compare;
pub use state::{ApplyOptions, Intent, Left, SnapshotEntry, State, Transaction, held_settings};
pub use store::{Disk, FolderDisk, Lock, Store};
