//! The transfers of a node: running ones with their progress, and the records of all.

mod beginning;
mod ending;
mod for_engine;
mod kept;
mod live;
mod lock;
mod looking;
mod owners;
mod receipts;
mod record_file;
mod seen;
mod stopping;

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
use crate::registry::kept::Kept;
use crate::registry::live::Live;
use crate::registry::lock::lock;
use crate::registry::owners::Owners;
use crate::registry::receipts::{Receipts, receipt_file_of};
use crate::registry::record_file::{RecordFile, VERSION, file_of};
pub use crate::registry::seen::{INTERRUPTED, recently_cut_off};

/// The transfers of a node.
///
/// Writing is done outside the caller's thread ([`StateWriter`]). A transfer starts when its record
/// is on disk. Later changes are effective at once, and written as soon as the disk accepts them:
/// after a crash, an outdated record shows a running transfer, which then finds out how far it got.
#[derive(Debug)]
pub struct Registry {
    state: StateDirectory,
    writer: Arc<StateWriter>,
    live: Mutex<HashMap<TransferId, Live>>,
    records: Mutex<Kept>,
    receipts: Receipts,
    metrics: OnceLock<Arc<Metrics>>,
    owners: Arc<Owners>,
    /// Transfers that other processes were running at the last look, and which processes.
    others: Mutex<HashMap<TransferId, String>>,
    /// Transfers that were interrupted and that nothing resumes by itself; their files do not say
    /// so.
    cut_off: Mutex<HashSet<TransferId>>,
    /// Transfers whose records are left as they are, and what to say of them.
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

    /// Changes a record. It is written in the background.
    pub fn update(&self, id: TransferId, change: impl FnOnce(&mut TransferRecord)) {
        // What is not known is not changed.
        let _ = self.update_if(id, |_| true, change);
    }

    /// Changes a record that is as `may` wants it; nothing changes it in between. It is written in
    /// the background.
    ///
    /// # Errors
    /// The state of the record that is not as `may` wants it, if there is one.
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
        change(&mut record);
        match self.bytes_of(id, &record, None) {
            Ok(bytes) => self.writer.write_later(file_of(id), bytes),
            Err(error) => say_aside!("culvert: {error}"),
        }
        let forgotten = records.insert(id, record);
        drop(records);
        self.noted(forgotten);
        Ok(())
    }

    /// Where limits that are reached are counted.
    pub fn count_in(&self, metrics: &Arc<Metrics>) {
        let _ = self.metrics.set(metrics.clone());
    }

    fn note_limit(&self, limit: Limit) {
        if let Some(metrics) = self.metrics.get() {
            metrics.note_limit(limit);
        }
    }

    /// Waits, before the process ends, for what is being written.
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

    /// Transfers that had not ended when the node was stopped and that it resumes, in the order in
    /// which they were requested.
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

    /// The transfers that this process carries out.
    #[must_use]
    pub fn under_way(&self) -> Vec<TransferId> {
        lock(&self.live).keys().copied().collect()
    }

    /// How many transfers are waiting or running.
    #[must_use]
    pub fn unfinished_count(&self) -> usize {
        lock(&self.records).values().filter(|record| !record.state.is_final()).count()
    }

    /// Changes whenever a record does.
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

    /// Makes a record what this node answers.
    fn note(&self, id: TransferId, record: TransferRecord) {
        let forgotten = lock(&self.records).insert(id, record);
        self.noted(forgotten);
    }

    fn noted(&self, forgotten: impl IntoIterator<Item = TransferId>) {
        for forgotten in forgotten {
            self.note_limit(Limit::Records);
            self.writer.remove_later(file_of(forgotten));
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
    aws_lc_rs::rand::fill(&mut random).expect("the operating system gives random bytes");
    TransferId::new(unix_ms(), u128::from_be_bytes(random))
}

#[cfg(test)]
mod tests;
