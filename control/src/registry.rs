//! The transfers of a node: those under way with their progress, and the records of all.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use culvert_protocol::control::{RefusalCode, TransferId};
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
        !matches!(self, Self::Queued | Self::Active)
    }

    /// All of them, for metrics.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Active, Self::Succeeded, Self::SucceededWithErrors, Self::Failed, Self::Canceled];

    /// The contract's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Active => "active",
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
}

/// A live transfer's handles for whoever carries it out.
#[derive(Debug)]
pub struct LiveTransfer {
    /// Where progress goes.
    pub progress: watch::Sender<Progress>,
    /// Becomes true when somebody cancels.
    pub cancel: watch::Receiver<bool>,
}

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

    /// A new transfer begins, or one goes on after a restart.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be written down.
    pub fn begin(&self, id: TransferId, record: TransferRecord) -> Result<LiveTransfer, StateError> {
        let (progress, progress_receiver) = watch::channel(Progress::default());
        let (cancel, cancel_receiver) = watch::channel(false);
        lock(&self.live).insert(id, Live { progress: progress_receiver, cancel });
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
        self.update(id, |record| {
            record.state = if is_canceled { RecordState::Canceled } else { RecordState::Failed };
            record.ended_unix_ms = Some(unix_ms());
            record.error = Some(failure(error));
        })?;
        lock(&self.live).remove(&id);
        Ok(())
    }

    /// Asks a transfer to stop; false if it is not under way.
    pub fn cancel(&self, id: TransferId) -> bool {
        lock(&self.live).get(&id).is_some_and(|live| {
            live.cancel.send_replace(true);
            true
        })
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

    /// Requests of this node's user that had not ended when it was stopped.
    #[must_use]
    pub fn interrupted(&self) -> Vec<(TransferId, TransferRecord)> {
        let records = lock(&self.records);
        records
            .iter()
            .filter(|(_, record)| !record.state.is_final())
            .map(|(&id, record)| (id, record.clone()))
            .collect()
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
        lock(&self.records).insert(id, record);
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
