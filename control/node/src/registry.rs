//! The transfers of a node: running ones with their progress, and the records of all.

mod for_engine;
mod kept;
mod looking;
mod owners;
mod receipts;
mod record_file;
mod seen;

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use culvert_engine::clock::unix_ms;
use culvert_engine::limits::Limit;
use culvert_engine::records::LiveTransfer;
use culvert_engine::transfer::blocking;
use culvert_engine::transfer::error::{TransferError, failure};
use culvert_model::progress::Progress;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::result::TransferResult;
use culvert_protocol::control::{PAUSES_ARE_TOLD_SINCE, Refusal, RefusalCode, TransferId};
use culvert_protocol::receipt::Receipt;
use culvert_system::log_limit::{self, About};
use culvert_system::os_error;
use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::registry::kept::Kept;
use crate::registry::owners::Owners;
use crate::registry::receipts::Receipts;
use crate::registry::record_file::{RecordFile, VERSION};
pub use crate::registry::seen::{INTERRUPTED, recently_cut_off};
use crate::state::{StateDirectory, StateError, StateWriter};

/// How long connections may take to say why a transfer ends when the process does.
const LAST_WORDS: Duration = Duration::from_millis(200);

#[derive(Debug)]
struct Live {
    progress: watch::Receiver<Progress>,
    cancel: watch::Sender<bool>,
    /// Why it is to stop, once it is.
    stop: Stop,
}

/// Why a transfer is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// For good.
    Canceled,
    /// Until this node's user resumes it.
    Paused,
    /// This node ends in order: its user's transfer goes on when it is started again, a partner's
    /// when it asks again.
    NodeStops,
}

/// What a partner is told, and the record of its transfer says, when this node ends in order.
const NODE_WAS_STOPPED: &str =
    "the node was stopped: the transfer resumes from what is stored when the node runs again";

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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// A partner's request starts a transfer, or continues one of its own. The partner chose the
    /// id, so it may be anybody's.
    ///
    /// # Errors
    /// A refusal if the id is another's, the transfer is running, or it cannot be recorded.
    pub async fn begin_for_partner(&self, id: TransferId, record: TransferRecord) -> Result<LiveTransfer, Refusal> {
        let refuse = |code, text: &str| Err(Refusal::new(code, format!("transfer {id} {text}")));
        self.look_before(id).await.map_err(|error| not_noted(&error))?;
        let is_others = lock(&self.records).get(&id).is_some_and(|known| {
            known.request.is_some() || known.partner != record.partner || known.role != record.role
        });
        if is_others || self.is_left_alone(id) {
            return refuse(RefusalCode::Protocol, "is a different one at this node: use a new id");
        }
        let Some(live) = self.claim(id) else {
            return refuse(RefusalCode::Temporary, "is still running at this node: try again");
        };
        self.note_begin(id, record, live).await.map_err(|error| {
            // Paths of this host are none of the partner's business.
            log_limit::say(About::Transfers, || format!("transfer {id} was refused: {error}"));
            not_noted(&error)
        })
    }

    /// A new transfer starts, or one continues after a restart.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be recorded: then it has not started, and may be started again.
    pub async fn begin(&self, id: TransferId, record: TransferRecord) -> Result<LiveTransfer, StateError> {
        self.look_before(id).await?;
        let live = if self.is_left_alone(id) { None } else { self.claim(id) };
        let live = live.ok_or(StateError::UnderWay { path: self.state.path(file_of(id)) })?;
        self.note_begin(id, record, live).await
    }

    /// Makes a transfer live, so that nothing else starts it; `None` if it is live already.
    fn claim(&self, id: TransferId) -> Option<LiveTransfer> {
        let (progress, progress_receiver) = watch::channel(Progress::default());
        let (cancel, cancel_receiver) = watch::channel(false);
        match lock(&self.live).entry(id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(_) if lock(&self.others).contains_key(&id) => None,
            Entry::Vacant(place) => {
                place.insert(Live { progress: progress_receiver, cancel, stop: Stop::Canceled });
                Some(LiveTransfer { progress, cancel: cancel_receiver, names: None })
            }
        }
    }

    /// Writes the record of a transfer that was claimed. The claim goes if that fails, or if the
    /// caller does not wait for it.
    async fn note_begin(
        &self,
        id: TransferId,
        record: TransferRecord,
        live: LiveTransfer,
    ) -> Result<LiveTransfer, StateError> {
        let claim = Claim { live: &self.live, id, is_kept: false };
        if self.owners.own().is_none() {
            let owners = self.owners.clone();
            blocking(move || owners.introduce()).await?;
        }
        if let Err(error) = self.writer.write(file_of(id), self.bytes_of(id, &record, None)?).await {
            // The name may be there, and only its flush has failed.
            match lock(&self.records).get(&id).cloned() {
                Some(before) => self.writer.write_later(file_of(id), self.bytes_of(id, &before, None)?),
                None => self.writer.remove_later(file_of(id)),
            }
            return Err(error);
        }
        claim.keep();
        lock(&self.cut_off).remove(&id);
        self.note(id, record);
        Ok(live)
    }

    /// A transfer that was running when the node was stopped continues; `None` if it does already.
    /// Its file says that it is running, so a full disk does not prevent it.
    #[must_use]
    pub fn go_on(&self, id: TransferId) -> Option<LiveTransfer> {
        let live = self.claim(id)?;
        self.update(id, |record| {
            record.state = RecordState::Queued;
            record.error.take_if(|error| error.code == INTERRUPTED);
        });
        Some(live)
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

    /// Where limits that are reached are counted.
    pub fn count_in(&self, metrics: &Arc<Metrics>) {
        let _ = self.metrics.set(metrics.clone());
    }

    fn note_limit(&self, limit: Limit) {
        if let Some(metrics) = self.metrics.get() {
            metrics.note_limit(limit);
        }
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

    /// Waits, before the process ends, for what is being written.
    pub async fn settle(&self) {
        self.writer.settle().await;
    }

    /// Asks a transfer to stop; false if it is neither running nor paused.
    pub async fn cancel(&self, id: TransferId) -> bool {
        if let Some(live) = lock(&self.live).get_mut(&id) {
            live.stop = Stop::Canceled;
            live.cancel.send_replace(true);
            return true;
        }
        // Nothing may resume it meanwhile.
        let is_paused = || lock(&self.records).get(&id).is_some_and(|record| record.state == RecordState::Paused);
        if !is_paused() || self.claim(id).is_none() {
            return false;
        }
        if let Err(error) = self.fail(id, &culvert_engine::transfer::manifest_exchange::canceled()).await {
            say_aside!("culvert: the record of transfer {id} has not been written yet: {error}; retrying");
        }
        true
    }

    /// Asks a transfer of this node's user to stop until they resume it; false if it is not
    /// running.
    pub fn pause(&self, id: TransferId) -> bool {
        let is_ours = lock(&self.records).get(&id).is_some_and(|record| record.request.is_some());
        let mut live = lock(&self.live);
        let Some(live) = live.get_mut(&id).filter(|_| is_ours) else { return false };
        live.stop = Stop::Paused;
        live.cancel.send_replace(true);
        true
    }

    /// Stops all transfers because this node ends in order, and waits for them, but not for
    /// `patience`.
    pub async fn stop_all(&self, patience: Duration) {
        if lock(&self.live).is_empty() {
            return;
        }
        for live in lock(&self.live).values_mut() {
            // What is being canceled or paused stays so.
            if !live.cancel.send_replace(true) {
                live.stop = Stop::NodeStops;
            }
        }
        let ended = async {
            while !lock(&self.live).is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        // What hangs is cut off with this process.
        let _ = tokio::time::timeout(patience, ended).await;
        // For the last words to partners, which connections' tasks write.
        tokio::time::sleep(LAST_WORDS).await;
    }

    /// What a transfer's partner is told instead of this refusal, if the transfer stops to go on
    /// later. `version` is what the partner speaks.
    #[must_use]
    pub fn told(&self, id: TransferId, refusal: Refusal, version: u16) -> Refusal {
        let stop = lock(&self.live).get(&id).map_or(Stop::Canceled, |live| live.stop);
        match stop {
            _ if refusal.code != RefusalCode::Canceled => refusal,
            Stop::Paused if version >= PAUSES_ARE_TOLD_SINCE => {
                let text = "the partner has paused the transfer: it continues when it is resumed there";
                Refusal::new(RefusalCode::Interrupted, text)
            }
            Stop::NodeStops => Refusal::new(RefusalCode::Temporary, NODE_WAS_STOPPED),
            Stop::Canceled | Stop::Paused => refusal,
        }
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

/// A transfer's place among the running ones, which it loses when this is dropped.
struct Claim<'a> {
    live: &'a Mutex<HashMap<TransferId, Live>>,
    id: TransferId,
    is_kept: bool,
}

impl Claim<'_> {
    fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.is_kept {
            lock(self.live).remove(&self.id);
        }
    }
}

/// The message to a partner whose transfer this node cannot record.
fn not_noted(error: &StateError) -> Refusal {
    let text = match (error.code(), error) {
        (RefusalCode::NoSpace, _) => {
            "this node cannot record the transfer: the disk of its state directory is full; try \
             again when there is room"
                .to_owned()
        }
        (RefusalCode::Temporary, StateError::Os { error, .. }) => {
            let errno = os_error::errno_or_io(error);
            format!("this node cannot record the transfer: {}", os_error::words(errno))
        }
        _ => "this node cannot record the transfer; its log says why".to_owned(),
    };
    Refusal::new(error.code(), text)
}

fn file_of(id: TransferId) -> String {
    format!("transfers/{id}.json")
}

fn receipt_file_of(id: TransferId) -> String {
    format!("receipts/{id}.receipt")
}

/// A new transfer's id.
#[must_use]
pub fn new_transfer_id() -> TransferId {
    let mut random = [0; 16];
    aws_lc_rs::rand::fill(&mut random).expect("the operating system gives random bytes");
    TransferId::new(unix_ms(), u128::from_be_bytes(random))
}

/// Where a state directory's receipts lie.
#[must_use]
pub fn receipt_path(state: &StateDirectory, id: &str) -> std::path::PathBuf {
    state.path(format!("receipts/{id}.receipt"))
}

#[cfg(test)]
mod tests {
    use culvert_model::record::Role;

    use super::*;

    pub(super) fn record(state: RecordState, partner: &str, ended: u64) -> TransferRecord {
        TransferRecord {
            transfer: String::new(),
            role: Role::Receive,
            partner: partner.to_owned(),
            description: String::new(),
            state,
            created_unix_ms: 0,
            ended_unix_ms: Some(ended),
            attempts: 1,
            result: None,
            error: None,
            request: None,
            progress: None,
        }
    }

    pub(super) fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    fn registry() -> (tempfile::TempDir, StateDirectory, Registry) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path().join("state")).unwrap();
        let registry = Registry::open(state.clone()).unwrap();
        (directory, state, registry)
    }

    #[test]
    fn a_partner_cannot_take_over_the_id_of_anothers_transfer() {
        let (_directory, _, registry) = registry();
        run(async {
            let id = TransferId::new(1, 7);
            let begin = async |partner| registry.begin_for_partner(id, record(RecordState::Active, partner, 0)).await;
            let live = begin("a").await.unwrap();
            assert_eq!(begin("b").await.unwrap_err().code, RefusalCode::Protocol);
            assert_eq!(begin("a").await.unwrap_err().code, RefusalCode::Temporary);
            drop(live);
            registry.fail(id, &TransferError::protocol("a test")).await.unwrap();
            assert!(begin("a").await.is_ok());
        });
    }

    /// Its record was in memory before it was on the disk, and its id counted as running until the
    /// node was restarted.
    #[test]
    fn a_transfer_that_cannot_be_noted_has_not_begun_and_may_begin_later() {
        let (_directory, state, registry) = registry();
        let id = TransferId::new(1, 7);
        let begin = || registry.begin_for_partner(id, record(RecordState::Active, "a", 0));
        let take_disk_away = || std::fs::rename(state.path("transfers"), state.path("away")).unwrap();
        let bring_disk_back = || std::fs::rename(state.path("away"), state.path("transfers")).unwrap();
        run(async {
            take_disk_away();
            assert_eq!(begin().await.map(drop).unwrap_err().code, RefusalCode::Failed);
            assert!(registry.get(id).is_none() && registry.list().is_empty());
            assert!(registry.begin(id, record(RecordState::Queued, "a", 0)).await.is_err());
            bring_disk_back();
            let live = begin().await.unwrap();
            drop(live);
            // One that was there before is what it was.
            registry.fail(id, &TransferError::protocol("a test")).await.unwrap();
            let before = registry.get(id).unwrap();
            take_disk_away();
            assert!(begin().await.is_err());
            bring_disk_back();
            assert_eq!(registry.get(id).unwrap(), before);
        });
    }

    /// The end of a transfer that could not be written left it running forever.
    #[test]
    fn a_transfer_whose_end_cannot_be_written_has_ended_and_is_written_later() {
        let (_directory, state, registry) = registry();
        let id = TransferId::new(1, 7);
        run(async {
            let begin = || registry.begin_for_partner(id, record(RecordState::Active, "a", 0));
            drop(begin().await.unwrap());
            std::fs::rename(state.path("transfers"), state.path("away")).unwrap();
            assert!(registry.fail(id, &TransferError::protocol("a test")).await.is_err());
            let ended = registry.get(id).unwrap();
            assert_eq!((ended.state, ended.progress), (RecordState::Failed, None));
            std::fs::rename(state.path("away"), state.path("transfers")).unwrap();
            let is_written =
                || Registry::open(state.clone()).unwrap().get(id).is_some_and(|now| now.state == ended.state);
            while !is_written() {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            assert!(begin().await.is_ok());
        });
    }

    #[test]
    fn a_record_of_a_newer_program_is_left_as_it_is_and_its_id_is_not_used() {
        let (_directory, state, _) = registry();
        let id = TransferId::new(1, 7);
        let newer = br#"{"version": 2, "what": "is not known yet"}"#;
        state.write(file_of(id), newer).unwrap();
        let registry = Registry::open(state.clone()).unwrap();
        let sentences = registry.left_alone();
        assert!(
            matches!(&*sentences, [one] if one.contains("version 2") && one.contains("left as it is")),
            "{sentences:?}"
        );
        run(async {
            assert!(registry.begin_for_partner(id, record(RecordState::Active, "a", 0)).await.is_err());
            assert!(registry.begin(id, record(RecordState::Queued, "a", 0)).await.is_err());
            assert!(!registry.cancel(id).await);
        });
        assert_eq!(state.read(file_of(id)).unwrap().unwrap(), newer);
    }

    /// A node that died between a receipt and its record had one without the other.
    #[test]
    fn a_receipt_that_a_crash_kept_from_its_file_comes_at_the_next_start() {
        let (_directory, state, registry) = registry();
        let id = TransferId::new(1, 7);
        let bytes = registry.bytes_of(id, &record(RecordState::Succeeded, "a", 5), Some("the receipt")).unwrap();
        state.write(file_of(id), &bytes).unwrap();
        let registry = Registry::open(state.clone()).unwrap();
        let transfer = id.to_string();
        assert_eq!(registry.get(id).unwrap(), TransferRecord { transfer, ..record(RecordState::Succeeded, "a", 5) });
        // The writer ends with what it has been given.
        drop(registry);
        while state.read(receipt_file_of(id)).unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert_eq!(state.read(receipt_file_of(id)).unwrap().unwrap(), b"the receipt");
    }

    #[test]
    fn a_record_without_a_version_is_of_the_first() {
        let (_directory, state, _) = registry();
        let id = TransferId::new(1, 7);
        let old = serde_json::to_vec(&record(RecordState::Failed, "a", 5)).unwrap();
        state.write(file_of(id), &old).unwrap();
        let registry = Registry::open(state.clone()).unwrap();
        let transfer = id.to_string();
        assert_eq!(registry.get(id).unwrap(), TransferRecord { transfer, ..record(RecordState::Failed, "a", 5) });
        drop(
            run(registry
                .begin_for_partner(id, TransferRecord { ended_unix_ms: None, ..record(RecordState::Active, "a", 0) }))
            .unwrap(),
        );
        let written: serde_json::Value = serde_json::from_slice(&state.read(file_of(id)).unwrap().unwrap()).unwrap();
        assert_eq!((&written["version"], &written["state"]), (&1.into(), &"active".into()));
    }
}
