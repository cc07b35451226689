//! The transfers that this process carries out now.

use std::collections::HashMap;
use std::sync::Mutex;

use culvert_model::progress::Progress;
use culvert_protocol::control::TransferId;
use tokio::sync::watch;

use crate::registry::lock::lock;

/// A transfer that is carried out.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) cancel: watch::Sender<bool>,
    /// Why it is to stop, once it is.
    pub(super) stop: Stop,
}

/// Why a transfer is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// For good.
    Canceled,
    /// Until this node's user resumes it.
    Paused,
    /// This node ends in order: its user's transfer goes on when it is started again, a partner's
    /// when it asks again.
    NodeStops,
}

/// A transfer's place among the running ones, which it loses when this is dropped.
pub(super) struct Claim<'a> {
    pub(super) live: &'a Mutex<HashMap<TransferId, Live>>,
    pub(super) id: TransferId,
    pub(super) is_kept: bool,
}

impl Claim<'_> {
    pub(super) fn keep(mut self) {
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
