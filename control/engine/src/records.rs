//! Where transfers are written down, whatever keeps it: what running transfers ask of it, and the
//! list for whoever shows them.

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

/// Something that is waited for.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A live transfer's handles for whoever carries it out.
#[derive(Debug)]
pub struct LiveTransfer {
    /// Where progress goes.
    pub progress: watch::Sender<Progress>,
    /// Becomes true when somebody cancels.
    pub cancel: watch::Receiver<bool>,
    /// Where the names of stored files go, if somebody reads them.
    pub names: Option<Arc<StoredNames>>,
}

/// How the record of a running transfer changes.
#[derive(Clone, Debug)]
pub enum Transition {
    /// An attempt begins: this one's first, second, …
    Attempt(u32),
    /// An attempt has failed, and the transfer waits for the next.
    Wait(Failure),
}

/// A record that is not written down yet: it is in force, and will be written when the disk takes
/// it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotWritten(pub String);

/// The records of transfers.
///
/// Changes are compare-and-set: a transfer that is in none of the states that a change begins with
/// stays as it is.
pub trait TransferRecords: fmt::Debug + Send + Sync {
    /// A partner's request begins a transfer, or continues one of its own. The partner chose the
    /// id, so it may be anybody's.
    ///
    /// # Errors
    /// A refusal if the id is another's, the transfer is running, or it cannot be recorded.
    fn claim(&self, id: TransferId, record: TransferRecord) -> Waiting<'_, Result<LiveTransfer, Refusal>>;

    /// Changes the record of a running transfer. It is written in the background.
    ///
    /// # Errors
    /// The state in which the transfer is instead, if it is known at all.
    fn transition(&self, id: TransferId, from: &[RecordState], to: Transition) -> Result<(), Option<RecordState>>;

    /// A transfer has ended with a result, and with a receipt unless it was a dry run. `recorded`
    /// is done when this node will not forget it.
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

    /// What a transfer's partner is told instead of this refusal, if the transfer stops to go on
    /// later. `version` is what the partner speaks.
    fn told(&self, id: TransferId, refusal: Refusal, version: u16) -> Refusal;

    /// A transfer, with its progress if it is running.
    fn get(&self, id: TransferId) -> Option<TransferRecord>;

    /// At most `count` transfers, the newest first, of those that are older than `before` if it is
    /// given: the last one's id is where the next page begins.
    fn list(&self, before: Option<TransferId>, count: usize) -> Vec<TransferRecord>;
}
