//! The transfers of a node: the records of all, and the progress of those that run.
//!
//! `lifecycle` starts, stops and ends transfers. `rescan` reads records that other processes write.
//! `retention` and `receipts` bound what is kept.

mod lifecycle;
mod live;
mod lock;
mod observation;
mod owners;
mod receipts;
mod record_file;
mod rescan;
mod retention;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, OnceLock};

use culvert_engine::clock::unix_ms;
use culvert_engine::limits::Limit;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_protocol::control::TransferId;
use culvert_state::writer::StateWriter;
use culvert_state::{StateDirectory, StateError};
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::registry::live::Live;
use crate::registry::lock::lock;
pub use crate::registry::observation::{INTERRUPTED, recently_cut_off};
use crate::registry::owners::Owners;
use crate::registry::receipts::{Receipts, receipt_file_of};
use crate::registry::record_file::{RecordFile, VERSION, file_of};
use crate::registry::retention::RetainedRecords;

/// The transfers of a node.
///
/// Records are written by a separate thread ([`StateWriter`]). A transfer starts when its record is
/// on disk. Later changes take effect at once and are written when the disk accepts them. After a
/// crash, an outdated record shows a transfer as running; when it continues, its journal says how
/// far it got.
#[derive(Debug)]
pub struct Registry {
    state: StateDirectory,
    writer: Arc<StateWriter>,
    live: Mutex<HashMap<TransferId, Live>>,
    records: Mutex<RetainedRecords>,
    receipts: Receipts,
    metrics: OnceLock<Arc<Metrics>>,
    owners: Arc<Owners>,
    /// Transfers that other processes were running at the last look, with their owners' names.
    others: Mutex<HashMap<TransferId, String>>,
    /// Transfers that were interrupted and that nobody resumes. Their files do not say so yet.
    cut_off: Mutex<HashSet<TransferId>>,
    /// Transfers whose record files are not touched, and a message about each.
    left_alone: Mutex<HashMap<TransferId, String>>,
    changed: watch::Sender<u64>,
}

impl Registry {
    /// Reads the records of a state directory. An invalid record is set aside, and one that cannot
    /// be read or was written by a newer program is left alone; neither affects the others.
    ///
    /// # Errors
    /// [`StateError`] if they cannot be listed.
    pub fn open(state: StateDirectory) -> Result<Self, StateError> {
        let receipts: HashSet<String> = state.list("receipts", ".receipt")?.into_iter().collect();
        let names = state.list("transfers", ".json")?;
        let registry = Self {
            writer: Arc::new(StateWriter::new(&state)),
            live: Mutex::default(),
            records: Mutex::default(),
            receipts: Receipts::new(&state),
            metrics: OnceLock::new(),
            owners: Arc::new(Owners::new(&state)),
            others: Mutex::default(),
            cut_off: Mutex::default(),
            left_alone: Mutex::default(),
            changed: watch::channel(0).0,
            state,
        };
        for name in names {
            let Ok(id) = name.parse() else { continue };
            if let Some(receipt) = registry.look_at(id)?.filter(|_| !receipts.contains(&name)) {
                registry.writer.write_later(receipt_file_of(id), receipt.into_bytes());
            }
        }
        Ok(registry)
    }

    /// Changes a record, if there is one. It is written in the background.
    pub fn update(&self, id: TransferId, change: impl FnOnce(&mut TransferRecord)) {
        let _ = self.update_if(id, |_| true, change);
    }

    /// Changes a record if `may` permits it, atomically. It is written in the background.
    ///
    /// # Errors
    /// The state of the record, if there is one.
    fn update_if(
        &self,
        id: TransferId,
        may: impl FnOnce(&TransferRecord) -> bool,
        change: impl FnOnce(&mut TransferRecord),
    ) -> Result<(), Option<RecordState>> {
        let mut records = lock(&self.records);
        let mut record = records.get(&id).cloned().ok_or(None)?;
        if !may(&record) {
            return Err(Some(record.state));
        }
        let before = record.state;
        change(&mut record);
        // Invariant I-registry-final: A transfer that has ended leaves its final state only by
        // being started again.
        assert!(!before.is_final() || record.state == before, "transfer {id} went on after it had ended");
        match self.bytes_of(id, &record, None) {
            Ok(bytes) => self.writer.write_later(file_of(id), bytes),
            Err(error) => say_aside!("culvert: {error}"),
        }
        let evicted = records.insert(id, record);
        drop(records);
        self.note_change(evicted);
        Ok(())
    }

    /// Sets the metrics in which reached limits are counted.
    pub fn count_in(&self, metrics: &Arc<Metrics>) {
        let _ = self.metrics.set(metrics.clone());
    }

    fn note_limit(&self, limit: Limit) {
        if let Some(metrics) = self.metrics.get() {
            metrics.note_limit(limit);
        }
    }

    /// Waits until everything is written, before the process ends.
    pub async fn settle(&self) {
        self.writer.settle().await;
    }

    /// A transfer, with its progress if it is running.
    #[must_use]
    pub fn get(&self, id: TransferId) -> Option<TransferRecord> {
        let mut record = lock(&self.records).get(&id).cloned()?;
        record.progress = lock(&self.live).get(&id).map(|live| live.progress.borrow().clone());
        Some(record)
    }

    /// All transfers, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<TransferRecord> {
        let mut ids: Vec<TransferId> = lock(&self.records).keys().copied().collect();
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.into_iter().filter_map(|id| self.get(id)).collect()
    }

    /// The transfers that have not ended, the newest first.
    #[must_use]
    pub fn unfinished(&self) -> Vec<TransferRecord> {
        let records = lock(&self.records);
        let mut ids: Vec<TransferId> =
            records.iter().filter(|(_, record)| !record.state.is_final()).map(|(&id, _)| id).collect();
        drop(records);
        ids.sort_unstable_by(|a, b| b.cmp(a));
        ids.into_iter().filter_map(|id| self.get(id)).collect()
    }

    /// How many transfers are in each state.
    #[must_use]
    pub fn counts(&self) -> HashMap<RecordState, u64> {
        let mut counts = HashMap::new();
        for record in lock(&self.records).values() {
            *counts.entry(record.state).or_insert(0) += 1;
        }
        counts
    }

    /// Transfers that had not ended when the node was stopped and that it resumes, in the order of
    /// their requests.
    #[must_use]
    pub fn interrupted(&self) -> Vec<(TransferId, TransferRecord)> {
        let (live, others, records) = (lock(&self.live), lock(&self.others), lock(&self.records));
        let is_interrupted = |&(id, record): &(&TransferId, &TransferRecord)| {
            record.state.is_under_way() && !live.contains_key(id) && !others.contains_key(id)
        };
        let mut interrupted: Vec<_> =
            records.iter().filter(is_interrupted).map(|(&id, record)| (id, record.clone())).collect();
        interrupted.sort_unstable_by_key(|&(id, _)| id);
        interrupted
    }

    /// The transfers that this process runs.
    #[must_use]
    pub fn under_way(&self) -> Vec<TransferId> {
        lock(&self.live).keys().copied().collect()
    }

    /// How many transfers have not ended.
    #[must_use]
    pub fn unfinished_count(&self) -> usize {
        lock(&self.records).values().filter(|record| !record.state.is_final()).count()
    }

    /// A counter of the changes to records.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn bytes_of(&self, id: TransferId, record: &TransferRecord, receipt: Option<&str>) -> Result<Vec<u8>, StateError> {
        let record = &TransferRecord { progress: None, ..record.clone() };
        let owner = self.owners.own().filter(|_| record.state.is_under_way());
        serde_json::to_vec_pretty(&RecordFile { version: VERSION, record, receipt, owner })
            .map_err(|error| StateError::Damaged { path: self.state.path(file_of(id)), reason: error.to_string() })
    }

    /// Replaces or adds a record in memory.
    fn insert(&self, id: TransferId, record: TransferRecord) {
        // Invariant I-registry-id: A record is stored under the id that it names.
        assert_eq!(record.transfer, id.to_string(), "a record under another transfer's id");
        let evicted = lock(&self.records).insert(id, record);
        self.note_change(evicted);
    }

    fn note_change(&self, evicted: impl IntoIterator<Item = TransferId>) {
        for evicted in evicted {
            self.note_limit(Limit::Records);
            self.writer.remove_later(file_of(evicted));
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// The text of a transfer's receipt.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn receipt(&self, id: TransferId) -> Result<Option<String>, StateError> {
        let bytes = self.state.read(receipt_file_of(id))?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// A new transfer's id.
#[must_use]
pub fn new_transfer_id() -> TransferId {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).expect("the operating system provides random bytes");
    TransferId::new(unix_ms(), u128::from_be_bytes(random))
}

#[cfg(test)]
mod tests;
