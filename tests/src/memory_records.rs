//! Records of transfers in memory: everything that the engine needs from records, without a file.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use culvert_engine::records::{LiveTransfer, NotWritten, TransferRecords, Transition, Waiting};
use culvert_engine::transfer::error::{TransferError, failure};
use culvert_model::progress::Progress;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::result::TransferResult;
use culvert_protocol::control::{Refusal, RefusalCode, TransferId};
use culvert_protocol::receipt::Receipt;
use tokio::sync::watch;

/// A transfer that nobody watches and nobody cancels.
#[must_use]
pub fn unwatched() -> (LiveTransfer, watch::Sender<bool>) {
    let (cancels, cancel) = watch::channel(false);
    (LiveTransfer { progress: watch::channel(Progress::default()).0, cancel, names: None }, cancels)
}

/// The records.
#[derive(Debug, Default)]
pub struct MemoryRecords {
    records: Mutex<BTreeMap<TransferId, TransferRecord>>,
    /// Keeps transfers from being canceled.
    cancels: Mutex<Vec<watch::Sender<bool>>>,
}

impl MemoryRecords {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TransferId, TransferRecord>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a transfer of this end's user.
    pub fn insert(&self, id: TransferId, record: TransferRecord) {
        self.lock().insert(id, record);
    }

    fn end(&self, id: TransferId, change: impl FnOnce(&mut TransferRecord)) {
        if let Some(record) = self.lock().get_mut(&id) {
            change(record);
        }
    }
}

impl TransferRecords for MemoryRecords {
    fn claim(&self, id: TransferId, record: TransferRecord) -> Waiting<'_, Result<LiveTransfer, Refusal>> {
        let is_running = self.lock().get(&id).is_some_and(|known| !known.state.is_final());
        if is_running {
            let refusal = Refusal::new(RefusalCode::Temporary, "the transfer is still running: try again");
            return Box::pin(std::future::ready(Err(refusal)));
        }
        self.lock().insert(id, record);
        let (live, cancels) = unwatched();
        self.cancels.lock().unwrap_or_else(PoisonError::into_inner).push(cancels);
        Box::pin(std::future::ready(Ok(live)))
    }

    fn transition(&self, id: TransferId, from: &[RecordState], to: Transition) -> Result<(), Option<RecordState>> {
        let mut records = self.lock();
        let record = records.get_mut(&id).ok_or(None)?;
        if !from.contains(&record.state) {
            return Err(Some(record.state));
        }
        match to {
            Transition::Attempt(attempt) => (record.state, record.attempts) = (RecordState::Active, attempt),
            Transition::Wait(failure) => (record.state, record.error) = (RecordState::Queued, Some(failure)),
        }
        Ok(())
    }

    fn succeed<'a>(
        &'a self,
        id: TransferId,
        result: TransferResult,
        _receipt: Option<&'a Receipt>,
        recorded: Waiting<'a, ()>,
    ) -> Waiting<'a, Result<(), NotWritten>> {
        self.end(id, |record| (record.state, record.result) = (result.state.into(), Some(result)));
        Box::pin(async move {
            recorded.await;
            Ok(())
        })
    }

    fn fail<'a>(&'a self, id: TransferId, error: &'a TransferError) -> Waiting<'a, Result<(), NotWritten>> {
        self.end(id, |record| (record.state, record.error) = (RecordState::Failed, Some(failure(error))));
        Box::pin(std::future::ready(Ok(())))
    }

    fn told(&self, _id: TransferId, refusal: Refusal, _version: u16) -> Refusal {
        refusal
    }

    fn get(&self, id: TransferId) -> Option<TransferRecord> {
        self.lock().get(&id).cloned()
    }

    fn list(&self, before: Option<TransferId>, count: usize) -> Vec<TransferRecord> {
        let records = self.lock();
        let older = records.iter().rev().filter(|(id, _)| before.is_none_or(|before| **id < before));
        older.take(count).map(|(_, record)| record.clone()).collect()
    }
}
