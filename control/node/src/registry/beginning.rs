//! How a transfer begins: it is claimed, its record is written, and then it runs.

use std::collections::hash_map::Entry;

use culvert_engine::records::LiveTransfer;
use culvert_engine::transfer::blocking;
use culvert_model::progress::Progress;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_protocol::control::{Refusal, RefusalCode, TransferId};
use culvert_state::StateError;
use culvert_system::log_limit::{self, About};
use culvert_system::os_error;
use tokio::sync::watch;

use crate::registry::Registry;
use crate::registry::live::{Claim, Live, Stop};
use crate::registry::lock::lock;
use crate::registry::record_file::file_of;
use crate::registry::seen::INTERRUPTED;

impl Registry {
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
    pub(super) fn claim(&self, id: TransferId) -> Option<LiveTransfer> {
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
