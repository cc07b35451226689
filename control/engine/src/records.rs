//! The records of transfers, independent of what stores them: the changes that running transfers
//! make, and the list for programs that show them.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use culvert_model::progress::Progress;
use culvert_model::record::{Failure, RecordState, TransferRecord};
use culvert_model::result::TransferResult;
use culvert_protocol::control::{Refusal, TransferId};
use culvert_protocol::receipt::Receipt;
use tokio::sync::watch;

use crate::transfer::error::TransferError;
use crate::transfer::stored_names::StoredNames;

/// A boxed future.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The handles of a running transfer, for the task that carries it out.
#[derive(Debug)]
pub struct LiveTransfer {
    /// Receives progress.
    pub progress: watch::Sender<Progress>,
    /// Becomes true when the transfer is canceled.
    pub cancel: watch::Receiver<bool>,
    /// Receives the names of stored files, if anything reads them.
    pub names: Option<Arc<StoredNames>>,
}

/// How the record of a running transfer changes.
#[derive(Clone, Debug)]
pub enum Transition {
    /// An attempt begins; the first is number 1.
    Attempt(u32),
    /// An attempt has failed, and the transfer waits for the next one.
    Wait(Failure),
}

/// A record is not on disk yet. It is in force, and is written as soon as the disk permits.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotWritten(pub String);

/// The records of transfers.
///
/// Changes are compare-and-set: a transfer that is in none of the states named by a change stays as
/// it is.
pub trait TransferRecords: fmt::Debug + Send + Sync {
    /// Begins the transfer that a partner requests, or continues one of its own. The partner chose
    /// the id, so the id may belong to another partner's transfer.
    ///
    /// # Errors
    /// A refusal if it does, if the transfer is running, or if it cannot be recorded.
    fn claim(&self, id: TransferId, record: TransferRecord) -> Waiting<'_, Result<LiveTransfer, Refusal>>;

    /// Changes the record of a running transfer. It is written in the background.
    ///
    /// # Errors
    /// The transfer's actual state; `None` if there is no such transfer.
    fn transition(&self, id: TransferId, from: &[RecordState], to: Transition) -> Result<(), Option<RecordState>>;

    /// A transfer has ended with a result, and with a receipt unless it was a dry run. `recorded`
    /// runs once the record is on disk.
    ///
    /// # Errors
    /// [`NotWritten`].
    fn succeed<'a>(
        &'a self,
        id: TransferId,
        result: TransferResult,
        receipt: Option<&'a Receipt>,
        recorded: Waiting<'a, ()>,
    ) -> Waiting<'a, Result<(), NotWritten>>;

    /// A transfer has ended without a result.
    ///
    /// # Errors
    /// [`NotWritten`].
    fn fail<'a>(&'a self, id: TransferId, error: &'a TransferError) -> Waiting<'a, Result<(), NotWritten>>;

    /// The refusal that a transfer's partner gets in place of this one, if the transfer is only
    /// paused. `version` is the partner's protocol version.
    fn told(&self, id: TransferId, refusal: Refusal, version: u16) -> Refusal;

    /// A transfer, with its progress if it is running.
    fn get(&self, id: TransferId) -> Option<TransferRecord>;

    /// At most `count` transfers older than `before` (of all if `None`), newest first. The id of
    /// the last one is the next page's `before`.
    fn list(&self, before: Option<TransferId>, count: usize) -> Vec<TransferRecord>;
}
