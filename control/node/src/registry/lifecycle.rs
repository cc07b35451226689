//! The life of a transfer: it is claimed and recorded, runs, may be stopped, and ends.
//!
//! ```text
//! begin, begin_for_partner ──> claim ──> record on disk ──> live ──> succeed, fail ──> record and receipt on disk
//! go_on (after a restart)  ──> claim ───────────────────────> │
//!                                        cancel, pause, stop_all
//! ```
//!
//! The engine reaches these through [`TransferRecords`].

use std::collections::hash_map::Entry;
use std::time::Duration;

use culvert_engine::clock::unix_ms;
use culvert_engine::limits::Limit;
use culvert_engine::records::{LiveTransfer, NotWritten, TransferRecords, Transition, Waiting};
use culvert_engine::transfer::blocking;
use culvert_engine::transfer::error::{TransferError, failure};
use culvert_engine::transfer::manifest_exchange::canceled;
use culvert_model::progress::Progress;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::result::TransferResult;
use culvert_protocol::control::{PAUSES_ARE_TOLD_SINCE, Refusal, RefusalCode, TransferId};
use culvert_protocol::receipt::Receipt;
use culvert_state::StateError;
use culvert_system::log_limit::{self, About};
use culvert_system::os_error;
use tokio::sync::watch;

use crate::registry::Registry;
use crate::registry::live::{Claim, Live, Stop};
use crate::registry::lock::lock;
use crate::registry::observation::INTERRUPTED;
use crate::registry::receipts::receipt_file_of;
use crate::registry::record_file::file_of;

/// How long connections may take to send the reason why a transfer ends when the process does.
const LAST_MESSAGES: Duration = Duration::from_millis(200);

/// The message to a partner, and the error in its record, when this node is stopped.
const NODE_WAS_STOPPED: &str =
    "the node was stopped: the transfer resumes from what is stored when the node runs again";

/// Starting.
impl Registry {
    /// Starts a transfer that a partner requested, or continues one of its own. The partner chose
    /// the id, which may be that of any transfer.
    ///
    /// # Errors
    /// A refusal if the id is another's, the transfer is running, or it cannot be recorded.
    pub async fn begin_for_partner(&self, id: TransferId, record: TransferRecord) -> Result<LiveTransfer, Refusal> {
        let refuse = |code, text: &str| Err(Refusal::new(code, format!("transfer {id} {text}")));
        self.look_before(id).await.map_err(|error| not_recorded(&error))?;
        //= W-44
        //# The id in a `Request` must not be that of another partner's transfer or of a running
        //# one.
        let is_others = lock(&self.records).get(&id).is_some_and(|known| {
            known.request.is_some() || known.partner != record.partner || known.role != record.role
        });
        if is_others || self.is_left_alone(id) {
            return refuse(RefusalCode::Protocol, "is a different one at this node: use a new id");
        }
        let Some(live) = self.claim(id) else {
            return refuse(RefusalCode::Temporary, "is still running at this node: try again");
        };
        // The partner retries under the same id: each request is an attempt of one transfer.
        let earlier = lock(&self.records).get(&id).map_or(0, |known| known.attempts);
        let record = TransferRecord { attempts: earlier.saturating_add(record.attempts), ..record };
        self.record_start(id, record, live).await.map_err(|error| {
            // The partner is not told paths of this host.
            log_limit::say(About::Transfers, || format!("transfer {id} was refused: {error}"));
            not_recorded(&error)
        })
    }

    /// Starts a new transfer of this node's user, or one that was requested again.
    ///
    /// # Errors
    /// [`StateError`] if it cannot be recorded. It has not started then, and may be started again.
    pub async fn begin(&self, id: TransferId, record: TransferRecord) -> Result<LiveTransfer, StateError> {
        self.look_before(id).await?;
        let live = if self.is_left_alone(id) { None } else { self.claim(id) };
        let live = live.ok_or(StateError::UnderWay { path: self.state.path(file_of(id)) })?;
        self.record_start(id, record, live).await
    }

    /// Continues a transfer that was running when the node was stopped; `None` if it runs already
    /// or has ended meanwhile. Its file says that it is running, so nothing has to be written
    /// first, even to a full disk.
    #[must_use]
    pub fn go_on(&self, id: TransferId) -> Option<LiveTransfer> {
        let live = self.claim(id)?;
        let claim = Claim { live: &self.live, id, is_kept: false };
        let queued = self.update_if(
            id,
            |record| record.state.is_under_way(),
            |record| {
                record.state = RecordState::Queued;
                record.error.take_if(|error| error.code == INTERRUPTED);
            },
        );
        queued.ok()?;
        claim.keep();
        Some(live)
    }

    /// Makes a transfer live, so that nothing else starts it; `None` if it is live already, here or
    /// in another process.
    fn claim(&self, id: TransferId) -> Option<LiveTransfer> {
        let (progress, progress_receiver) = watch::channel(Progress::default());
        let (cancel, cancel_receiver) = watch::channel(false);
        match lock(&self.live).entry(id) {
            Entry::Occupied(_) => None,
            Entry::Vacant(_) if lock(&self.others).contains_key(&id) => None,
            Entry::Vacant(entry) => {
                entry.insert(Live { progress: progress_receiver, cancel, stop: Stop::Canceled });
                Some(LiveTransfer { progress, cancel: cancel_receiver, names: None })
            }
        }
    }

    /// Writes the record of a claimed transfer. The claim is released if that fails, or if the
    /// caller stops waiting.
    async fn record_start(
        &self,
        id: TransferId,
        record: TransferRecord,
        live: LiveTransfer,
    ) -> Result<LiveTransfer, StateError> {
        let claim = Claim { live: &self.live, id, is_kept: false };
        if self.owners.own().is_none() {
            let owners = self.owners.clone();
            blocking(move || owners.register()).await?;
        }
        if let Err(error) = self.writer.write(file_of(id), self.bytes_of(id, &record, None)?).await {
            // The file may have been renamed, and only the flush may have failed.
            match lock(&self.records).get(&id).cloned() {
                Some(before) => self.writer.write_later(file_of(id), self.bytes_of(id, &before, None)?),
                None => self.writer.remove_later(file_of(id)),
            }
            return Err(error);
        }
        claim.keep();
        lock(&self.cut_off).remove(&id);
        self.insert(id, record);
        Ok(live)
    }
}

/// Ending.
impl Registry {
    /// Ends a transfer with a result, and with a receipt unless it was a dry run. `recorded`
    /// completes when the engine need not keep its journal any longer.
    ///
    /// # Errors
    /// [`StateError`] if the end is not on disk yet. It will be when the disk accepts it.
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

    /// Ends a transfer without a result, or pauses it if that is why it stopped.
    ///
    /// # Errors
    /// [`StateError`] if the end is not on disk yet. It will be when the disk accepts it.
    pub async fn fail(&self, id: TransferId, error: &TransferError) -> Result<(), StateError> {
        let is_canceled = error.code() == RefusalCode::Canceled;
        let stop = self.stop_of(id);
        self.end(id, None, std::future::ready(()), |record| {
            match stop {
                Stop::Paused if is_canceled => {
                    (record.state, record.error) = (RecordState::Paused, None);
                    return;
                }
                // The record stays as it is, so that the transfer continues when the node is
                // started again.
                Stop::NodeStops if is_canceled && record.request.is_some() => return,
                Stop::Canceled | Stop::Paused | Stop::NodeStops => {}
            }
            record.state = if is_canceled { RecordState::Canceled } else { RecordState::Failed };
            record.ended_unix_ms = Some(unix_ms());
            record.error = Some(failure(error));
        })
        .await
    }

    /// Changes the record of a transfer that has ended, writes it and its receipt, and releases the
    /// transfer whatever the outcome. `recorded` runs between the two: the record contains the
    /// receipt too.
    async fn end(
        &self,
        id: TransferId,
        receipt: Option<String>,
        recorded: impl Future<Output = ()>,
        change: impl FnOnce(&mut TransferRecord),
    ) -> Result<(), StateError> {
        // Invariant I-registry-end: Only a live transfer ends, and it ends once.
        assert!(lock(&self.live).contains_key(&id), "transfer {id} ends without being live");
        let claim = Claim { live: &self.live, id, is_kept: false };
        let Some(record) = self.changed_record(id, change) else { return Ok(()) };
        // Invariant I-registry-ended: A record in a final state says when the transfer ended.
        assert!(!record.state.is_final() || record.ended_unix_ms.is_some(), "transfer {id} ended at no time");
        let written = match self.bytes_of(id, &record, receipt.as_deref()) {
            Ok(bytes) => self.writer.write_surely(file_of(id), bytes).await,
            Err(error) => Err(error),
        };
        //= W-56
        //# the answering end closes the connection with TLS `close_notify` once its record of the
        //# transfer, with the receipt, is on disk; it keeps its journal until then.
        recorded.await;
        //= W-43
        //# Both keep the receipt.
        let kept = match receipt {
            Some(receipt) => self.keep_receipt(id, receipt).await,
            None => Ok(()),
        };
        self.insert(id, record);
        drop(claim);
        written.and(kept)
    }

    fn changed_record(&self, id: TransferId, change: impl FnOnce(&mut TransferRecord)) -> Option<TransferRecord> {
        let mut record = lock(&self.records).get(&id).cloned()?;
        change(&mut record);
        Some(record)
    }

    /// The receipt that stays with a transfer. A transfer that is run again, or whose end only one
    /// of the two nodes has recorded, finds all files in place and ends with a receipt over none.
    async fn receipt_to_keep(&self, id: TransferId, result: &TransferResult, receipt: String) -> Option<String> {
        //= W-56
        //# A receipt over no files replaces no other receipt of the same transfer.
        if result.files.stored > 0 || result.files.total == 0 {
            return Some(receipt);
        }
        let state = self.state.clone();
        let earlier = blocking(move || state.read(receipt_file_of(id))).await;
        let earlier = earlier.ok().flatten().and_then(|bytes| String::from_utf8(bytes).ok());
        Some(earlier.unwrap_or(receipt))
    }

    /// Writes a receipt. If a partner requested the transfer, its oldest receipt may be removed
    /// instead.
    async fn keep_receipt(&self, id: TransferId, receipt: String) -> Result<(), StateError> {
        let own = || {
            let records = lock(&self.records);
            records.iter().filter(|(_, record)| record.request.is_some()).map(|(&id, _)| id).collect()
        };
        let is_own = lock(&self.records).get(&id).is_some_and(|record| record.request.is_some());
        if !is_own {
            let (writer, metrics) = (self.writer.clone(), self.metrics.get().cloned());
            self.receipts.note(id, &receipt, unix_ms(), own, move |removed| {
                if let Some(metrics) = &metrics {
                    metrics.note_limit(Limit::Receipts);
                }
                writer.remove_later(receipt_file_of(removed));
            });
        }
        self.writer.write_surely(receipt_file_of(id), receipt.into_bytes()).await
    }
}

/// Stopping.
impl Registry {
    /// Asks a transfer to stop; false if it is neither running nor paused. A running transfer is
    /// canceled when its record says so.
    pub async fn cancel(&self, id: TransferId) -> bool {
        if let Some(live) = lock(&self.live).get_mut(&id) {
            live.stop = Stop::Canceled;
            live.cancel.send_replace(true);
            return true;
        }
        // Claimed, so that nothing resumes it meanwhile.
        let is_paused = || lock(&self.records).get(&id).is_some_and(|record| record.state == RecordState::Paused);
        if !is_paused() || self.claim(id).is_none() {
            return false;
        }
        if let Err(error) = self.fail(id, &canceled()).await {
            say_aside!("culvert: the record of transfer {id} has not been written yet: {error}; retrying");
        }
        true
    }

    /// Asks a transfer of this node's user to stop until they resume it; false if it is not running
    /// or is being canceled.
    pub fn pause(&self, id: TransferId) -> bool {
        let is_own = lock(&self.records).get(&id).is_some_and(|record| record.request.is_some());
        let mut live = lock(&self.live);
        let Some(live) = live.get_mut(&id).filter(|live| is_own && !live.is_being_canceled()) else { return false };
        live.stop = Stop::Paused;
        live.cancel.send_replace(true);
        true
    }

    /// Stops all transfers because this node is stopped, and waits for them for at most
    /// `patience`. Transfers that hang are cut off with the process.
    pub async fn stop_all(&self, patience: Duration) {
        if lock(&self.live).is_empty() {
            return;
        }
        for live in lock(&self.live).values_mut() {
            // A transfer that is being canceled or paused stays so.
            if !live.cancel.send_replace(true) {
                live.stop = Stop::NodeStops;
            }
        }
        let ended = async {
            while !lock(&self.live).is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let _ = tokio::time::timeout(patience, ended).await;
        // The connections' tasks send the reasons to partners.
        tokio::time::sleep(LAST_MESSAGES).await;
    }

    /// What a transfer's partner is told instead of `refusal` if the transfer stops to continue
    /// later. `version` is the protocol version of the connection.
    #[must_use]
    pub fn told(&self, id: TransferId, refusal: Refusal, version: u16) -> Refusal {
        match self.stop_of(id) {
            _ if refusal.code != RefusalCode::Canceled => refusal,
            //= W-58
            //# The refusal code `interrupted` is also new in version 7 and means that the requester
            //# has paused the transfer; partners of older versions get `canceled`.
            Stop::Paused if version >= PAUSES_ARE_TOLD_SINCE => {
                let text = "the partner has paused the transfer: it continues when it is resumed there";
                Refusal::new(RefusalCode::Interrupted, text)
            }
            Stop::NodeStops => Refusal::new(RefusalCode::Temporary, NODE_WAS_STOPPED),
            Stop::Canceled | Stop::Paused => refusal,
        }
    }

    fn stop_of(&self, id: TransferId) -> Stop {
        lock(&self.live).get(&id).map_or(Stop::Canceled, |live| live.stop)
    }
}

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

/// The message to a partner whose transfer this node cannot record.
fn not_recorded(error: &StateError) -> Refusal {
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

fn not_written(error: &StateError) -> NotWritten {
    NotWritten(error.to_string())
}
