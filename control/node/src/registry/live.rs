//! The transfers that this process is running.

use std::collections::HashMap;
use std::sync::Mutex;

use culvert_model::progress::Progress;
use culvert_protocol::control::TransferId;
use tokio::sync::watch;

use crate::registry::lock::lock;

/// A running transfer.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) cancel: watch::Sender<bool>,
    /// Why it stops, once `cancel` is set.
    pub(super) stop: Stop,
}

impl Live {
    /// Whether somebody has asked for its cancellation, which nothing takes back.
    pub(super) fn is_being_canceled(&self) -> bool {
        self.stop == Stop::Canceled && *self.cancel.borrow()
    }
}

/// Why a transfer stops before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It was canceled.
    Canceled,
    /// It is paused until this node's user resumes it.
    Paused,
    /// This node is being stopped. Transfers of its user continue when it is started again, those
    /// of partners when they are requested again.
    NodeStops,
}

/// Keeps a transfer live; removes it from the live transfers on drop, unless it is kept.
pub(super) struct Claim<'a> {
    pub(super) live: &'a Mutex<HashMap<TransferId, Live>>,
    pub(super) id: TransferId,
    pub(super) is_kept: bool,
}

impl Claim<'_> {
    /// Leaves the transfer live.
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
