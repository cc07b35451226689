//! When a receiving transfer stalls: whether it makes any progress, and whose turn it is.
//!
//! Progress is what was verified or newly arrived, and files whose outcome is known. The sender's
//! claims are not progress, nor is anything it sends twice: otherwise it could hold this node's
//! buffers and files as long as it likes by claiming to be alive.

use std::time::Instant;

use culvert_protocol::control::RefusalCode;
use culvert_protocol::counted::{counted, noun};

use crate::events::Event;
use crate::limits::{HOLDING_PATIENCE, Limit};
use crate::transfer::error::TransferError;
use crate::transfer::receiving::state::Receiving;

impl Receiving {
    /// Grows with everything that brings the transfer further, and is bounded by what it moves.
    fn progress(&self) -> u64 {
        // What has come is the lanes' word.
        self.inbound.new_bytes.iter().fold(self.tally.steps, |sum, &bytes| sum.saturating_add(bytes))
    }

    /// Looks whether the transfer gets anywhere.
    pub(super) fn check_patience(&mut self) -> Result<(), TransferError> {
        let mut patience = self.tally.patience;
        let checked = patience.check(self.progress(), Instant::now(), || self.outstanding());
        self.tally.patience = patience;
        checked
    }

    fn outstanding(&self) -> String {
        let (files, under_way) = (self.tally.files_left, self.arriving.came_by.len());
        {
            let (files, chunks) = (counted(files, "file"), counted(under_way, "chunk"));
            format!("{files} and {chunks} are outstanding; {}", self.who_owes())
        }
    }

    /// Whose turn it is, and for what.
    fn who_owes(&self) -> String {
        if self.tally.partials_in_motion > 0
            || self.committing.syncing
            || (self.ending.is_concluding && self.ending.finish_sent.is_none())
        {
            return "waiting for this host's disks".to_owned();
        }
        if self.ending.finish_sent.is_some() {
            return "waiting for the sender's signature".to_owned();
        }
        let mut owed = Vec::new();
        let (without_hash, incomplete) = (
            self.arriving.ours.len() + self.arriving.packs.len(),
            self.arriving.came_by.len().saturating_sub(self.arriving.ours.len() + self.arriving.packs.len()),
        );
        if incomplete > 0 {
            owed.push(format!("the rest of {} that it started", counted(incomplete, "chunk")));
        }
        if without_hash > 0 {
            owed.push(format!("the {} of {}", noun(without_hash, "hash"), counted(without_hash, "chunk")));
        }
        let whole = self.files.without_word();
        if whole > 0 {
            owed.push(format!("confirmation that {} did not change", counted(whole, "whole file")));
        }
        if self.ending.sender.is_none() {
            owed.push("confirmation that it sent everything".to_owned());
        }
        if owed.is_empty() {
            owed.push("the chunks that it has credit for".to_owned());
        }
        format!("waiting for the sender to send {}", owed.join(", "))
    }

    /// The flows hold more buffers than the partner's share, and others wait: the transfer is ended
    /// if it has made no progress with them for a while, and the sender is the reason.
    ///
    /// # Errors
    /// [`TransferError`] that says what the transfer waits for.
    pub(super) fn others_wait(&mut self, incomplete: u32, whole: u32) -> Result<(), TransferError> {
        self.check_patience()?;
        let still = self.tally.patience.still_for(Instant::now());
        // Whole chunks wait for a disk, but for packs whose hashes have not come.
        let is_senders = incomplete > 0 || whole as usize <= self.arriving.packs.len();
        if still < HOLDING_PATIENCE || !is_senders || self.tally.partials_in_motion > 0 {
            return Ok(());
        }
        self.context.observer.note(Event::LimitReached(Limit::Buffers));
        let text = format!(
            "the transfer holds buffers that other partners' transfers are waiting for, and made no \
             progress for {} s ({}): it was ended, and resumes from what is stored when it is requested again",
            still.as_secs(),
            self.outstanding()
        );
        Err(TransferError::here(RefusalCode::Temporary, text))
    }
}
