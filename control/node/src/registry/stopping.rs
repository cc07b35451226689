//! How a running transfer is stopped, and what its partner is told then.

use std::time::Duration;

use culvert_model::record::RecordState;
use culvert_protocol::control::{PAUSES_ARE_TOLD_SINCE, Refusal, RefusalCode, TransferId};

use crate::registry::Registry;
use crate::registry::live::Stop;
use crate::registry::lock::lock;

/// How long connections may take to say why a transfer ends when the process does.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a partner is told, and the record of its transfer says, when this node ends in order.
const NODE_WAS_STOPPED: &str =
    "the node was stopped: the transfer resumes from what is stored when the node runs again";

impl Registry {
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
}
