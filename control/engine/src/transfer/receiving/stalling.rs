//! When a receiving transfer stalls: whether it makes any progress, and whose turn it is.
//!
//! Progress is what was verified or newly arrived, and files whose outcome is known. The sender's
//! claims are not progress, nor is anything it sends twice: otherwise it could hold this node's
//! buffers and files as long as it likes by claiming to be alive.

use std::time::Instant;

use culvert_protocol::control::{Refusal, RefusalCode};
use culvert_protocol::counted::{counted, noun};
use culvert_protocol::feedback::Summary;
use rustix::io::Errno;

use crate::events::Event;
use crate::limits::{HOLDING_PATIENCE, Limit};
use crate::transfer::error::TransferError;
use crate::transfer::receiving::Receiving;
use crate::transfer::udp_path::{ClosedPath, REMEDY, UNOPENED_NOTICE};

/// A sender that hears no answer probes fifty times in a second; one that was answered soon stops,
/// and waits for its disk perhaps. Half of them may be lost.
const PROBES_PER_SECOND_MIN: f64 = 25.0;

/// What has come by a flow before its first data.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opening {
    /// Authentic datagrams.
    packets: u64,
    /// Whether there were data among them.
    has_data: bool,
    /// When the newest second began and when the one before, and how many datagrams had come by
    /// then.
    seconds: [Option<(Instant, u64)>; 2],
}

impl Opening {
    /// A report of the lane's.
    pub(super) fn note(&mut self, summary: &Summary, now: Instant) {
        (self.packets, self.has_data) = (summary.packets, summary.bytes > 0);
        let [newest, _] = self.seconds;
        if newest.is_none_or(|(at, _)| now.saturating_duration_since(at).as_secs() >= 1) {
            self.seconds = [Some((now, self.packets)), newest];
        }
    }

    /// Whether the sender still probes and sends nothing else.
    fn is_probed(&self, now: Instant) -> bool {
        let [_, Some((at, packets))] = self.seconds else { return false };
        let elapsed = now.saturating_duration_since(at).as_secs_f64();
        !self.has_data && self.packets.saturating_sub(packets) as f64 >= PROBES_PER_SECOND_MIN * elapsed
    }
}

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

    /// The way that has not opened, if it is one, long before the sender gives it up. The sender's
    /// first datagrams are probes, which wait for nothing: if none has come by a flow, none comes
    /// through; if they go on coming and nothing else does, the answers to them do not.
    pub(super) fn closed_path(&self) -> Option<ClosedPath> {
        self.inbound.offered_at.filter(|at| at.elapsed() > UNOPENED_NOTICE)?;
        let ports: Vec<u16> = self
            .inbound
            .flows
            .iter()
            .zip(&self.inbound.opening)
            .filter(|(_, opening)| opening.packets == 0)
            .filter_map(|(flow, _)| Some(self.context.plane.lanes().get(usize::from(flow.lane))?.port))
            .collect();
        if !ports.is_empty() {
            let closed = ClosedPath::from_partner(&self.context, ports);
            // The sender knows, and what is open here is not to be opened.
            let met = if self.inbound.is_refused_there { Errno::PERM.raw_os_error() } else { 0 };
            return Some(closed.because(met));
        }
        let is_probed = self.inbound.opening.iter().any(|opening| opening.is_probed(Instant::now()));
        is_probed.then(|| ClosedPath::of_answers(&self.context))
    }

    /// What a refusal of the sender's ends the transfer with. One that gives a closed way up cannot
    /// tell which of the two it is; this end can.
    pub(super) fn refused(&self, refusal: Refusal) -> TransferError {
        let is_way = self.context.share.is_users() && refusal.text.contains(REMEDY);
        match self.closed_path().filter(|_| is_way) {
            Some(closed) => TransferError::Closed(closed.to_string()),
            None => TransferError::Partner(refusal),
        }
    }

    /// Tells the transfer's user of a way that has not opened.
    pub(super) fn notice_closed_path(&self) {
        if self.context.share.is_users() {
            self.context.notice(self.closed_path().map(|closed| closed.to_string()));
        }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whether the sender probes after so many milliseconds, of which each had what `arrived` says
    /// by then.
    fn is_probed(milliseconds: u64, arrived: impl Fn(u64) -> (u64, u64)) -> bool {
        let (began, mut opening) = (Instant::now(), Opening::default());
        let at = |after| began + Duration::from_millis(after);
        for after in (0..milliseconds).step_by(100) {
            let (packets, bytes) = arrived(after);
            opening.note(&Summary { packets, bytes, ..Summary::default() }, at(after));
        }
        opening.is_probed(at(milliseconds))
    }

    #[test]
    fn a_sender_that_probes_on_and_on_hears_no_answers() {
        assert!(is_probed(3_100, |after| (after / 20, 0)));
        assert!(is_probed(9_900, |after| (6 * after / 20, 0)));
        assert!(!is_probed(3_100, |after| (after / 20, u64::from(after > 2_900))), "data have come");
        assert!(!is_probed(3_100, |after| (after.min(500) / 20, 0)), "it waits for its disk");
        assert!(!is_probed(3_100, |_| (0, 0)), "nothing comes");
        assert!(!is_probed(900, |after| (after / 20, 0)), "too early to tell");
    }
}
