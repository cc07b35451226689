//! When nothing comes of a receiving transfer: whether it gets anywhere at all, and who owes the next step.
//!
//! Progress is what was verified or has newly come, and what became of files. What the sender says
//! is none, nor is what it sends twice: else it could hold this node's buffers and files for as long
//! as it likes by saying that it lives.

use std::time::Instant;

use culvert_link::counters::LaneCounter;
use culvert_protocol::control::RefusalCode;

use super::Receiving;
use crate::limits::{HOLDING_PATIENCE, Limit};
use crate::transfer::TransferError;
use crate::transfer::udp_path::{ClosedPath, UNOPENED_NOTICE};
use culvert_tuning::counted::{counted, noun};

impl Receiving {
    /// Grows with everything that brings the transfer further, and is bounded by what it moves.
    fn progress(&self) -> u64 {
        // What has come is the lanes' word.
        self.new_bytes.iter().fold(self.steps, |sum, &bytes| sum.saturating_add(bytes))
    }

    /// Looks whether the transfer gets anywhere.
    pub(super) fn check_patience(&mut self) -> Result<(), TransferError> {
        let mut patience = self.patience;
        let checked = patience.check(self.progress(), Instant::now(), || self.outstanding());
        self.patience = patience;
        checked
    }

    /// Datagrams of any kind that the flows' lanes have received.
    pub(super) fn datagrams_received(&self) -> u64 {
        let mut lanes: Vec<u16> = self.flows.iter().map(|flow| flow.lane).collect();
        lanes.dedup();
        let received = |&lane: &u16| self.context.plane.counters(usize::from(lane)).get(LaneCounter::DatagramsReceived);
        lanes.iter().map(received).fold(0, u64::saturating_add)
    }

    /// Tells the transfer's user of a way that has not opened, long before the sender gives it up. The sender's first
    /// datagrams are probes, which wait for nothing: if the lanes have received none of any kind, none comes through.
    pub(super) fn notice_closed_path(&self) {
        let Some((at, then)) = self.offered_at.filter(|_| self.context.share.is_users()) else { return };
        let ports = || self.flows.iter().map(|flow| self.context.plane.lanes()[usize::from(flow.lane)].port).collect();
        let is_closed = !self.flows.is_empty() && at.elapsed() > UNOPENED_NOTICE && self.datagrams_received() == then;
        self.context.notice(is_closed.then(|| ClosedPath::from_partner(&self.context, ports()).to_string()));
    }

    fn outstanding(&self) -> String {
        let (files, under_way) = (self.files_left, self.came_by.len());
        {
            let (files, chunks) = (counted(files, "file"), counted(under_way, "chunk"));
            format!("{files} and {chunks} are outstanding; {}", self.who_owes())
        }
    }

    /// Who owes the next step, and which.
    fn who_owes(&self) -> String {
        if self.partials_in_motion > 0 || self.syncing || (self.is_concluding && self.finish_sent.is_none()) {
            return "this host's disks owe the next step".to_owned();
        }
        if self.finish_sent.is_some() {
            return "the sender owes its signature".to_owned();
        }
        let mut owed = Vec::new();
        let (without_hash, incomplete) =
            (self.ours.len() + self.packs.len(), self.came_by.len().saturating_sub(self.ours.len() + self.packs.len()));
        if incomplete > 0 {
            owed.push(format!("the rest of {} that it began", counted(incomplete, "chunk")));
        }
        if without_hash > 0 {
            owed.push(format!("the {} of {}", noun(without_hash, "hash"), counted(without_hash, "chunk")));
        }
        let whole = self.files.without_word();
        if whole > 0 {
            owed.push(format!("the word that {} did not change", counted(whole, "whole file")));
        }
        if self.sender.is_none() {
            owed.push("the word that it sent everything".to_owned());
        }
        if owed.is_empty() {
            owed.push("the chunks that it has credit for".to_owned());
        }
        format!("the sender owes {}", owed.join(", "))
    }

    /// The flows hold more buffers than the partner's part, and others wait: they are let go if
    /// nothing has come of what they hold for a while, and the sender is the reason.
    ///
    /// # Errors
    /// [`TransferError`] that says what the sender owes.
    pub(super) fn others_wait(&mut self, incomplete: u32, whole: u32) -> Result<(), TransferError> {
        self.check_patience()?;
        let still = self.patience.still_for(Instant::now());
        // Whole chunks wait for a disk, but for packs whose hashes have not come.
        let is_senders = incomplete > 0 || whole as usize <= self.packs.len();
        if still < HOLDING_PATIENCE || !is_senders || self.partials_in_motion > 0 {
            return Ok(());
        }
        self.context.metrics.note_limit(Limit::Buffers);
        let text = format!(
            "the transfer holds buffers that transfers of other partners wait for, and nothing new has come of it for {} s ({}): \
             it is ended, and goes on from what is stored when it is asked for again",
            still.as_secs(),
            self.outstanding()
        );
        Err(TransferError::here(RefusalCode::Temporary, text))
    }
}
