//! The transfers of a node: those under way with their progress, and the records of all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use culvert_protocol::control::{Refusal, RefusalCode, TransferId};
use culvert_protocol::receipt::Receipt;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::request::TransferRequest;
use crate::state::{StateDirectory, StateError};
use crate::transfer::result::{State, TransferResult};
use crate::transfer::{Progress, TransferError};

/// Which way this node's part of a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It sends.
    Send,
    /// It receives.
    Receive,
}

/// Where a transfer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// Waiting for its turn or for the next try.
    Queued,
    /// Under way.
    Active,
    /// Stopped by this node's user until they let it go on; also after a restart of the node.
    Paused,
    /// See [`State`].
    Succeeded,
    /// See [`State`].
    SucceededWithErrors,
    /// See [`State`].
    Failed,
    /// See [`State`].
    Canceled,
}

impl RecordState {
    /// Whether nothing more will happen.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Active | Self::Paused)
    }

    /// All of them, for metrics.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Active,
        Self::Paused,
        Self::Succeeded,
        Self::SucceededWithErrors,
        Self::Failed,
        Self::Canceled,
    ];

    /// The contract's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::SucceededWithErrors => "succeeded_with_errors",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

impl From<State> for RecordState {
    fn from(state: State) -> Self {
        match state {
            State::Succeeded => Self::Succeeded,
            State::SucceededWithErrors => Self::SucceededWithErrors,
            State::Failed => Self::Failed,
            State::Canceled => Self::Canceled,
        }
    }
}

/// Why a transfer failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub text: String,
    /// What `culvert send` exits with.
    pub exit_code: u8,
}

/// What is kept of a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferRecord {
    /// Its id.
    pub transfer: String,
    /// This node's part.
    pub role: Role,
    /// The partner, by profile name, address or fingerprint.
    pub partner: String,
    /// From where to where.
    pub description: String,
    /// Where it stands.
    pub state: RecordState,
    /// When it was asked for, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When it ended.
    pub ended_unix_ms: Option<u64>,
    /// Tries so far.
    pub attempts: u32,
    /// Its result, if it has one.
    pub result: Option<TransferResult>,
    /// Why it failed, or waits for the next try.
    pub error: Option<Failure>,
    /// What this node's user asked for; none if the partner did.
    pub request: Option<TransferRequest>,
    /// How far it is; only in answers of a running node.
    #[serde(default)]
    pub progress: Option<Progress>,
}

#[derive(Debug)]
struct Live {
    progress: watch::Receiver<Progress>,
    cancel: watch::Sender<bool>,
    /// Whether it is stopped to go on later.
    is_pausing: bool,
}

/// A live transfer's handles for whoever carries it out.
#[derive(Debug)]
pub struct LiveTransfer {
    /// Where progress goes.
    pub progress: watch::Sender<Progress>,
    /// Becomes true when somebody cancels.
    pub cancel: watch::Receiver<bool>,
}

/// Records of transfers that have ended; beyond them the oldest are forgotten. Receipts are kept for ever.
const ENDED_MAX: usize = 20_000;
/// How many are forgotten at once, so that it is seldom done.
const ENDED_EXCESS: usize = 1_000;

/// The transfers of a node.
#[derive(Debug)]
pub struct Registry {
    state: StateDirectory,
    live: Mutex<HashMap<TransferId, Live>>,
    records: Mutex<HashMap<TransferId, TransferRecord>>,
    changed: watch::Sender<u64>,
}

/// The time, in milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registry {
    /// Reads the records of a state directory. One that is damaged is left alone.
    ///
    /// # Errors
    /// [`StateError`] if they cannot be listed.
    pub fn open(state: StateDirectory) -> Result<Self, StateError> {
        let mut records = HashMap::new();
        for name in state.list("transfers", ".json")? {
            let bytes = state.read(format!("transfers/{name}.json"))?.unwrap_or_default();
            if let (Ok(id), Ok(record)) = (name.parse(), serde_json::from_slice(&bytes)) {
                records.insert(id, record);
            }
        }
        Ok(Self { state, live: Mutex::default(), records: Mutex::new(records), changed: watch::channel(0).0 })
    }

    /// A partner's request begins a transfer, or goes on with one of its own. The partner chose the id, so it may be anybody's.
    ///
    /// # Errors
    /// A refusal if the id is another's or the transfer is under way.
    pub fn begin_for_partner(&self, id: TransferId, record: TransferRecord) -> Result<LiveTransfer, Refusal> {
        let refuse = |code, text: &str| Err(Refusal::new(code, format!("transfer {id} {text}")));
        let is_others = lock(&self.records).get(&id).is_some_and(|known| {
            known.request.is_some() || known.partner != record.partner || known.role != record.role
        });
        if is_others {
            return refuse(RefusalCode::Protocol, "is another one at this node: use a new id");
        }
        if lock(&self.live).contains_key(&id) {
            return refuse(RefusalCode::Temporary, "is still under way at this node: try again");
        }
        self.begin(id, record)
            .map_err(|error| Refusal::new(RefusalCode::Failed, format!("this node cannot note the transfer: {error}")))
    }

    /// A new transfer begins, or one goes on after a restart.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written down.
    pub fn begin(&self, id: TransferId, record: TransferRecord) -> Result<LiveTransfer, StateError> {
        let (progress, progress_receiver) = watch::channel(Progress::default());
        let (cancel, cancel_receiver) = watch::channel(false);
        lock(&self.live).insert(id, Live { progress: progress_receiver, cancel, is_pausing: false });
        self.put(id, record)?;
        Ok(LiveTransfer { progress, cancel: cancel_receiver })
    }

    /// Changes a record and writes it down.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn update(&self, id: TransferId, change: impl FnOnce(&mut TransferRecord)) -> Result<(), StateError> {
        let Some(mut record) = lock(&self.records).get(&id).cloned() else { return Ok(()) };
        change(&mut record);
        self.put(id, record)
    }

    /// A transfer has ended with a result, and with a receipt unless it was a dry run.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn succeed(&self, id: TransferId, result: TransferResult, receipt: Option<&Receipt>) -> Result<(), StateError> {
        if let Some(receipt) = receipt {
            self.state.write(format!("receipts/{id}.receipt"), receipt.to_text().as_bytes())?;
        }
        self.update(id, |record| {
            record.state = result.state.into();
            record.ended_unix_ms = Some(unix_ms());
            record.result = Some(result);
            record.error = None;
        })?;
        lock(&self.live).remove(&id);
        Ok(())
    }

    /// A transfer has ended without a result.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn fail(&self, id: TransferId, error: &TransferError) -> Result<(), StateError> {
        let is_canceled = error.code() == RefusalCode::Canceled;
        let is_pausing = lock(&self.live).get(&id).is_some_and(|live| live.is_pausing);
        self.update(id, |record| {
            if is_canceled && is_pausing {
                (record.state, record.error) = (RecordState::Paused, None);
                return;
            }
            record.state = if is_canceled { RecordState::Canceled } else { RecordState::Failed };
            record.ended_unix_ms = Some(unix_ms());
            record.error = Some(failure(error));
        })?;
        lock(&self.live).remove(&id);
        Ok(())
    }

    /// Asks a transfer to stop; false if it is neither under way nor paused.
    pub fn cancel(&self, id: TransferId) -> bool {
        if let Some(live) = lock(&self.live).get_mut(&id) {
            live.is_pausing = false;
            live.cancel.send_replace(true);
            return true;
        }
        let is_paused = lock(&self.records).get(&id).is_some_and(|record| record.state == RecordState::Paused);
        // A record that cannot be written is paused as before.
        is_paused && self.fail(id, &crate::transfer::manifest_exchange::canceled()).is_ok()
    }

    /// Asks a transfer of this node's user to stop until they want it to go on; false if there is none under way.
    pub fn pause(&self, id: TransferId) -> bool {
        let is_ours = lock(&self.records).get(&id).is_some_and(|record| record.request.is_some());
        let mut live = lock(&self.live);
        let Some(live) = live.get_mut(&id).filter(|_| is_ours) else { return false };
        live.is_pausing = true;
        live.cancel.send_replace(true);
        true
    }

    /// A transfer, with its progress if it is under way.
    #[must_use]
    pub fn get(&self, id: TransferId) -> Option<TransferRecord> {
        let mut record = lock(&self.records).get(&id).cloned()?;
        record.progress = lock(&self.live).get(&id).map(|live| *live.progress.borrow());
        Some(record)
    }

    /// All transfers, the newest first.
    #[must_use]
    pub fn list(&self) -> Vec<TransferRecord> {
        let mut ids: Vec<TransferId> = lock(&self.records).keys().copied().collect();
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

    /// Transfers that had not ended when the node was stopped, in the order in which they were asked for.
    #[must_use]
    pub fn interrupted(&self) -> Vec<(TransferId, TransferRecord)> {
        let records = lock(&self.records);
        let mut interrupted: Vec<_> = records
            .iter()
            .filter(|(_, record)| matches!(record.state, RecordState::Queued | RecordState::Active))
            .map(|(&id, record)| (id, record.clone()))
            .collect();
        interrupted.sort_unstable_by_key(|&(id, _)| id);
        interrupted
    }

    /// How many transfers wait or are under way.
    #[must_use]
    pub fn unfinished_count(&self) -> usize {
        lock(&self.records).values().filter(|record| !record.state.is_final()).count()
    }

    /// Changes whenever a record does.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn put(&self, id: TransferId, mut record: TransferRecord) -> Result<(), StateError> {
        record.progress = None;
        let json = serde_json::to_vec_pretty(&record).map_err(|error| StateError::Damaged {
            path: self.state.path(format!("transfers/{id}.json")),
            reason: error.to_string(),
        })?;
        for forgotten in insert(&mut lock(&self.records), id, record) {
            // One that stays on the disk is forgotten at the next start.
            let _ = self.state.remove(format!("transfers/{forgotten}.json"));
        }
        self.changed.send_modify(|count| *count += 1);
        self.state.write(format!("transfers/{id}.json"), &json)
    }

    /// The text of a transfer's receipt.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn receipt(&self, id: TransferId) -> Result<Option<String>, StateError> {
        let bytes = self.state.read(format!("receipts/{id}.receipt"))?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

/// Notes a record; returns those that are forgotten for it.
fn insert(
    records: &mut HashMap<TransferId, TransferRecord>,
    id: TransferId,
    record: TransferRecord,
) -> Vec<TransferId> {
    records.insert(id, record);
    if records.len() <= ENDED_MAX + ENDED_EXCESS {
        return Vec::new();
    }
    let mut ended: Vec<(u64, TransferId)> = records
        .iter()
        .filter(|&(&of, record)| of != id && record.state.is_final())
        .map(|(&of, record)| (record.ended_unix_ms.unwrap_or(0), of))
        .collect();
    if ended.len() <= ENDED_MAX {
        return Vec::new();
    }
    ended.sort_unstable();
    ended.truncate(ended.len() - ENDED_MAX);
    for (_, forgotten) in &ended {
        records.remove(forgotten);
    }
    ended.into_iter().map(|(_, id)| id).collect()
}

/// A transfer's error, as it is kept and shown.
#[must_use]
pub fn failure(error: &TransferError) -> Failure {
    let code = serde_json::to_value(error.code()).ok().and_then(|value| value.as_str().map(str::to_owned));
    let code = if matches!(error, TransferError::KeyChanged(_)) { Some("key_changed".to_owned()) } else { code };
    Failure { code: code.unwrap_or_default(), text: error.to_string(), exit_code: error.exit_code() }
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

/// A registry shared by the node's tasks.
pub type SharedRegistry = Arc<Registry>;

#[cfg(test)]
mod tests {
    use super::*;

    fn record(state: RecordState, partner: &str, ended: u64) -> TransferRecord {
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

    #[test]
    fn records_beyond_the_limit_are_forgotten_oldest_first_and_none_that_is_under_way() {
        let mut records = HashMap::new();
        let id = |number: u64| TransferId::new(1, number.into());
        insert(&mut records, id(0), record(RecordState::Active, "a", 0));
        let limit = (ENDED_MAX + ENDED_EXCESS) as u64;
        for number in 1..limit {
            assert!(insert(&mut records, id(number), record(RecordState::Failed, "a", number)).is_empty());
        }
        let forgotten = insert(&mut records, id(limit), record(RecordState::Active, "a", limit));
        assert_eq!(forgotten.len(), ENDED_EXCESS - 1);
        assert_eq!(forgotten[0], id(1));
        assert!(records.contains_key(&id(0)) && records.contains_key(&id(limit)));
    }

    #[test]
    fn a_partner_cannot_take_over_the_id_of_anothers_transfer() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path().join("state")).unwrap();
        let registry = Registry::open(state).unwrap();
        let id = TransferId::new(1, 7);
        let live = registry.begin_for_partner(id, record(RecordState::Active, "a", 0)).unwrap();
        let code = |partner| {
            registry.begin_for_partner(id, record(RecordState::Active, partner, 0)).map(drop).unwrap_err().code
        };
        assert_eq!(code("b"), RefusalCode::Protocol);
        assert_eq!(code("a"), RefusalCode::Temporary);
        drop(live);
        registry.fail(id, &TransferError::protocol("a test")).unwrap();
        assert!(registry.begin_for_partner(id, record(RecordState::Active, "a", 0)).is_ok());
    }
}
