//! The outcome of a transfer, and how both ends conclude it: record, journal, event, close.

use culvert_model::record::RecordState;
use culvert_model::result::TransferResult;
use culvert_protocol::control::{Message, Refusal, RefusalCode, TransferId};
use culvert_protocol::receipt::Receipt;

use crate::connection::{MessageReader, MessageWriter};
use crate::engine::Engine;
use crate::events::Event;
use crate::records::NotWritten;
use crate::transfer::blocking;
use crate::transfer::error::TransferError;
use crate::transfer::receiving::{LeftJournal, Received};
use crate::transfer::sending::Sent;

/// The outcome of a transfer that succeeded.
#[derive(Debug)]
pub struct Outcome {
    /// The result.
    pub result: TransferResult,
    /// The receipt; `None` for a dry run.
    pub receipt: Option<Receipt>,
    /// The connection on which the partner's record is awaited; `None` for a dry run.
    pub partner: Option<MessageReader>,
    /// The journal, if this end received.
    pub journal: Option<LeftJournal>,
}

impl Outcome {
    /// Waits until the partner has recorded the transfer's result.
    ///
    /// # Errors
    /// [`TransferError`] if the connection was cut before that.
    pub async fn wait_for_partner(&mut self) -> Result<(), TransferError> {
        //= W-56
        //# If the connection is cut without the close, the other end may have lost everything
        //# except its journal, and the transfer is retried, as after any cut. Whoever is told of
        //# success therefore finds the receipt at both ends.
        let Some(partner) = self.partner.take() else { return Ok(()) };
        if partner.wait_for_goodbye().await {
            return Ok(());
        }
        let text = "everything is stored and signed, but the partner disconnected before it had recorded that";
        Err(TransferError::here(RefusalCode::Temporary, text))
    }

    /// The outcome that both ends have recorded. `signed` is the outcome of an earlier attempt
    /// after which the connection was cut. If the partner had recorded it nevertheless, this
    /// attempt had nothing to store, and the earlier outcome stands.
    #[must_use]
    pub fn or_earlier(self, signed: Option<Self>) -> Self {
        match signed {
            Some(signed) if self.result.files.stored == 0 => Self { journal: self.journal, ..signed },
            Some(_) | None => self,
        }
    }

    /// Removes the journal, if there is one, once the transfer's record is written.
    pub async fn forget_journal(journal: Option<LeftJournal>) {
        if let Some(journal) = journal {
            blocking(move || journal.forget()).await;
        }
    }
}

impl From<Sent> for Outcome {
    fn from(sent: Sent) -> Self {
        Self { result: sent.result, receipt: sent.receipt, partner: Some(sent.partner), journal: None }
    }
}

impl From<Received> for Outcome {
    fn from(received: Received) -> Self {
        let partner = received.receipt.is_some().then_some(received.partner);
        Self { result: received.result, receipt: received.receipt, partner, journal: Some(received.journal) }
    }
}

/// A transfer that has ended.
#[derive(Debug)]
pub struct EndedTransfer<'a> {
    /// The transfer.
    pub id: TransferId,
    /// The partner's name.
    pub partner: &'a str,
    /// Whether this end sent.
    pub is_sender: bool,
}

/// Concludes a transfer at either end: writes its record, removes its journal, and notifies the
/// observer. `goodbye` runs once the outcome is durable here; until then the partner waits.
///
/// # Errors
/// [`NotWritten`].
pub async fn conclude(
    engine: &Engine,
    ended: &EndedTransfer<'_>,
    outcome: &mut Result<Outcome, TransferError>,
    goodbye: impl FnOnce() + Send,
) -> Result<(), NotWritten> {
    let &EndedTransfer { id, partner, is_sender } = ended;
    match outcome {
        Ok(outcome) => {
            engine.supervisor.note_datapath(&mut outcome.result).await;
            let journal = outcome.journal.take();
            //= W-56
            //# the answering end closes the connection with TLS `close_notify` once its record of
            //# the transfer, with the receipt, is on disk; it keeps its journal until then.
            let recorded = Box::pin(async {
                Outcome::forget_journal(journal).await;
                goodbye();
            });
            let (kept, receipt) = (outcome.result.kept(), outcome.receipt.as_ref());
            let written = engine.records.succeed(id, kept, receipt, recorded).await;
            engine.observer.note(Event::Succeeded { result: &outcome.result, partner, is_sender });
            written
        }
        Err(error) => {
            let written = engine.records.fail(id, error).await;
            goodbye();
            let is_paused = engine.records.get(id).is_some_and(|record| record.state == RecordState::Paused);
            if !is_paused {
                engine.observer.note(Event::Failed);
            }
            written
        }
    }
}

/// Sends the partner the reason why this end ends the transfer, and returns it; `None` if the
/// partner gave that reason itself.
pub async fn tell_partner(
    engine: &Engine,
    id: TransferId,
    error: &TransferError,
    writer: &MessageWriter,
    version: u16,
) -> Option<Refusal> {
    //= W-44
    //# `Refused` may be sent at any time and ends the transfer with a code and an explanation.
    let refusal = engine.records.told(id, error.told()?, version);
    // A partner that is gone does not need the reason.
    let _ = writer.send(Message::Refused(refusal.clone())).await;
    Some(refusal)
}
