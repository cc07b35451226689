//! The registry as the engine knows it.

use culvert_engine::records::{LiveTransfer, NotWritten, TransferRecords, Transition, Waiting};
use culvert_engine::transfer::error::TransferError;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::result::TransferResult;
use culvert_protocol::control::{Refusal, TransferId};
use culvert_protocol::receipt::Receipt;
use culvert_state::StateError;

use crate::registry::Registry;
use crate::registry::lock::lock;

impl TransferRecords for Registry {
    fn claim(&self, id: TransferId, record: TransferRecord) -> Waiting<'_, Result<LiveTransfer, Refusal>> {
        Box::pin(self.begin_for_partner(id, record))
    }

    fn transition(&self, id: TransferId, from: &[RecordState], to: Transition) -> Result<(), Option<RecordState>> {
        self.update_if(
            id,
            |record| from.contains(&record.state),
            |record| match to {
                Transition::Attempt(attempt) => {
                    record.state = RecordState::Active;
                    // Attempts before a restart of the node count too.
                    record.attempts = record.attempts.max(attempt.saturating_sub(1)).saturating_add(1);
                }
                Transition::Wait(failure) => {
                    record.state = RecordState::Queued;
                    record.error = Some(failure);
                }
            },
        )
    }

    fn succeed<'a>(
        &'a self,
        id: TransferId,
        result: TransferResult,
        receipt: Option<&'a Receipt>,
        recorded: Waiting<'a, ()>,
    ) -> Waiting<'a, Result<(), NotWritten>> {
        Box::pin(async move {
            Self::succeed(self, id, result, receipt, recorded).await.map_err(|error| not_written(&error))
        })
    }

    fn fail<'a>(&'a self, id: TransferId, error: &'a TransferError) -> Waiting<'a, Result<(), NotWritten>> {
        Box::pin(async move { Self::fail(self, id, error).await.map_err(|error| not_written(&error)) })
    }

    fn told(&self, id: TransferId, refusal: Refusal, version: u16) -> Refusal {
        Self::told(self, id, refusal, version)
    }

    fn get(&self, id: TransferId) -> Option<TransferRecord> {
        Self::get(self, id)
    }

    fn list(&self, before: Option<TransferId>, count: usize) -> Vec<TransferRecord> {
        let is_older = |id: &TransferId| before.is_none_or(|before| *id < before);
        let mut ids: Vec<TransferId> = lock(&self.records).keys().copied().filter(is_older).collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.into_iter().take(count).filter_map(|id| Self::get(self, id)).collect()
    }
}

fn not_written(error: &StateError) -> NotWritten {
    NotWritten(error.to_string())
}
