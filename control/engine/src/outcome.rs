//! What a transfer comes to, and how both sides conclude it.

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

/// What a request comes to.
#[derive(Debug)]
pub struct Outcome {
    /// The result.
    pub result: TransferResult,
    /// The receipt; none for a dry run.
    pub receipt: Option<Receipt>,
    /// The record whose completion at the partner is awaited; none for a dry run.
    pub partner: Option<MessageReader>,
    /// The journal, where this end received.
    pub journal: Option<LeftJournal>,
}

impl Outcome {
    /// Waits until the partner has recorded the transfer's result: a user who is told of success
    /// finds the receipt at both ends, whatever happens to either afterwards (W-56).
    ///
    /// # Errors
    /// [`TransferError`] if it was gone before.
    pub async fn wait_for_partner(&mut self) -> Result<(), TransferError> {
        let Some(partner) = self.partner.take() else { return Ok(()) };
        if partner.wait_for_goodbye().await {
            return Ok(());
        }
        let text = "everything is stored and signed, but the partner disconnected before it had recorded that";
        Err(TransferError::here(RefusalCode::Temporary, text))
    }

    /// The outcome that both ends have written down. `signed` is that of an attempt after which the
    /// partner was gone: if it had written it down all the same, nothing was left to do this time.
    #[must_use]
    pub fn or_earlier(self, signed: Option<Self>) -> Self {
        match signed {
            Some(signed) if self.result.files.stored == 0 => Self { journal: self.journal, ..signed },
            Some(_) | None => self,
        }
    }

    /// Removes the journal, if there is one: the transfer's record is written.
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

/// Concludes a transfer at this end, whoever asked for it: its record is written, its journal
/// removed, and the observer told. `goodbye` runs once the outcome is durable here. Until then the
/// partner waits (W-56), because afterwards it may repeat the transfer or stop this node.
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

/// Tells the partner why this end ends the transfer, and returns what it was told; nothing if
/// the partner knows, or cannot be told.
pub async fn tell_partner(
    engine: &Engine,
    id: TransferId,
    error: &TransferError,
    writer: &MessageWriter,
    version: u16,
) -> Option<Refusal> {
    let refusal = engine.records.told(id, error.told()?, version);
    // If the partner is gone it does not need to know.
    let _ = writer.send(Message::Refused(refusal.clone())).await;
    Some(refusal)
}
