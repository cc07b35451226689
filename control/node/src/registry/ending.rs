//! How a transfer ends: its record and its receipt are written, and it runs no more.

use culvert_engine::clock::unix_ms;
use culvert_engine::limits::Limit;
use culvert_engine::transfer::blocking;
use culvert_engine::transfer::error::{TransferError, failure};
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::result::TransferResult;
use culvert_protocol::control::{RefusalCode, TransferId};
use culvert_protocol::receipt::Receipt;
use culvert_state::StateError;

use crate::registry::Registry;
use crate::registry::live::{Claim, Stop};
use crate::registry::lock::lock;
use crate::registry::receipts::receipt_file_of;
use crate::registry::record_file::file_of;

impl Registry {
    fn changed_record(&self, id: TransferId, change: impl FnOnce(&mut TransferRecord)) -> Option<TransferRecord> {
        let mut record = lock(&self.records).get(&id).cloned()?;
        change(&mut record);
        Some(record)
    }

    /// Changes the record of a transfer that has ended, writes it and its receipt, and releases the
    /// transfer whatever the result. `recorded` runs between the two: the record contains the
    /// receipt too.
    async fn end(
        &self,
        id: TransferId,
        receipt: Option<String>,
        recorded: impl Future<Output = ()>,
        change: impl FnOnce(&mut TransferRecord),
    ) -> Result<(), StateError> {
        let claim = Claim { live: &self.live, id, is_kept: false };
        let Some(record) = self.changed_record(id, change) else { return Ok(()) };
        let written = match self.bytes_of(id, &record, receipt.as_deref()) {
            Ok(bytes) => self.writer.write_surely(file_of(id), bytes).await,
            Err(error) => Err(error),
        };
        recorded.await;
        let kept = match receipt {
            Some(receipt) => self.keep_receipt(id, receipt).await,
            None => Ok(()),
        };
        self.note(id, record);
        drop(claim);
        written.and(kept)
    }

    /// A transfer has ended with a result, and with a receipt unless it was a dry run. `recorded`
    /// is done when this node will not forget it.
    ///
    /// # Errors
    /// [`StateError`] if that is not written down yet; it will be when the disk takes it.
    pub async fn succeed(
        &self,
        id: TransferId,
        result: TransferResult,
        receipt: Option<&Receipt>,
        recorded: impl Future<Output = ()>,
    ) -> Result<(), StateError> {
        let receipt = match receipt {
            Some(receipt) => self.receipt_to_keep(id, &result, receipt.to_text()).await,
            None => None,
        };
        let ended = self.end(id, receipt, recorded, |record| {
            record.state = result.state.into();
            record.ended_unix_ms = Some(unix_ms());
            record.result = Some(result);
            record.error = None;
        });
        ended.await
    }

    /// The receipt that stays with a transfer: one over nothing replaces none. A transfer that is
    /// carried out once more, or whose end one of the two has not written down, finds everything in
    /// its place.
    async fn receipt_to_keep(&self, id: TransferId, result: &TransferResult, receipt: String) -> Option<String> {
        if result.files.stored > 0 || result.files.total == 0 {
            return Some(receipt);
        }
        let state = self.state.clone();
        let earlier = blocking(move || state.read(receipt_file_of(id))).await;
        let earlier = earlier.ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok());
        Some(earlier.unwrap_or(receipt))
    }

    /// Writes a receipt down. One of a partner's transfers may be the last of so many that the
    /// oldest goes.
    async fn keep_receipt(&self, id: TransferId, receipt: String) -> Result<(), StateError> {
        let own = || {
            let records = lock(&self.records);
            records.iter().filter(|(_, record)| record.request.is_some()).map(|(&id, _)| id).collect()
        };
        let is_own = lock(&self.records).get(&id).is_some_and(|record| record.request.is_some());
        if !is_own {
            let (writer, metrics) = (self.writer.clone(), self.metrics.get().cloned());
            self.receipts.note(id, &receipt, unix_ms(), own, move |gone| {
                if let Some(metrics) = &metrics {
                    metrics.note_limit(Limit::Receipts);
                }
                writer.remove_later(receipt_file_of(gone));
            });
        }
        self.writer.write_surely(receipt_file_of(id), receipt.into_bytes()).await
    }

    /// A transfer has ended without a result.
    ///
    /// # Errors
    /// [`StateError`] if that is not written down yet; it will be when the disk takes it.
    pub async fn fail(&self, id: TransferId, error: &TransferError) -> Result<(), StateError> {
        let is_canceled = error.code() == RefusalCode::Canceled;
        let stop = lock(&self.live).get(&id).map_or(Stop::Canceled, |live| live.stop);
        self.end(id, None, std::future::ready(()), |record| {
            match stop {
                Stop::Paused if is_canceled => {
                    (record.state, record.error) = (RecordState::Paused, None);
                    return;
                }
                // It stays noted as it is, and goes on when the node is started again.
                Stop::NodeStops if is_canceled && record.request.is_some() => return,
                Stop::Canceled | Stop::Paused | Stop::NodeStops => {}
            }
            record.state = if is_canceled { RecordState::Canceled } else { RecordState::Failed };
            record.ended_unix_ms = Some(unix_ms());
            record.error = Some(failure(error));
        })
        .await
    }
}
