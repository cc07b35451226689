//! When a transfer moves no more although both ends live: the path is dark, or the receiver wants
//! the same again and again.

use std::time::Instant;

use culvert_protocol::control::{Message, OWN_FIREWALLS_ARE_TOLD_SINCE, RefusalCode, Run};
use culvert_protocol::counted::{agree, counted};
use rustix::io::Errno;

use crate::connection::SILENCE_TIMEOUT;
use crate::events::Event;
use crate::limits::{HOLDING_PATIENCE, Limit};
use crate::transfer::addresses::canonical;
use crate::transfer::error::TransferError;
use crate::transfer::flows::path_closed;
use crate::transfer::sending::state::Sending;
use crate::transfer::udp_path::{ClosedPath, OUTAGE_NOTICE, UNOPENED_NOTICE};

/// How often everything in flight may be sent before any chunk of it is delivered. A path that
/// loses nine of ten datagrams needs ten; a receiver that reports everything as lost would never
/// have enough.
const REPETITIONS_MAX: u64 = 64;

impl Sending {
    /// A chunk was delivered.
    pub(super) fn note_delivery(&mut self) {
        self.pace.standstill.sent_at_delivery = self.flows.moved().sent_bytes;
    }

    /// The receiver says that chunks are stored. Said again they are no news.
    pub(super) fn note_stored(&mut self, stored: &[Run]) {
        for run in stored {
            let end = run.first.saturating_add(run.count).min(self.queue.chunk_count);
            for chunk in run.first..end {
                if self.queue.stored.insert(chunk) {
                    self.pace.steps += 1;
                    self.tell_chunk(chunk);
                }
            }
        }
    }

    /// The flows hold more buffers than the partner's share, and others wait: the transfer is ended
    /// if the receiver accepts nothing of what they hold.
    ///
    /// # Errors
    /// [`TransferError`] that says so.
    pub(super) fn others_wait(&self, held: u32) -> Result<(), TransferError> {
        // What waits for this host's disks is not the receiver's matter.
        let is_ours = self.queue.preparing > 0 || self.queue.checking > 0;
        let still = self.pace.patience.still_for(Instant::now());
        if is_ours || held == 0 || still < HOLDING_PATIENCE {
            return Ok(());
        }
        self.context.observer.note(Event::LimitReached(Limit::Buffers));
        let text = format!(
            "the transfer holds buffers that transfers with other partners wait for, and the receiver has taken nothing for {} s              ({} under way): it is ended, and goes on from what is stored when it is asked for again",
            still.as_secs(),
            counted(self.queue.assigned.len(), "chunk")
        );
        Err(TransferError::here(RefusalCode::Temporary, text))
    }

    /// Looks whether the transfer gets anywhere.
    ///
    /// # Errors
    /// [`TransferError`] that says what is outstanding.
    pub(super) fn check_patience(&mut self) -> Result<(), TransferError> {
        // No more can have arrived than was sent, whatever the reports say.
        let arrived = self.flows.arrived_bytes().min(self.flows.moved().sent_bytes);
        let (assigned, preparing, checking) = (self.queue.assigned.len(), self.queue.preparing, self.queue.checking);
        let owes = match (preparing + checking, assigned) {
            (0, 0) => "waiting for the receiver's statement of what is stored",
            (0, _) => "waiting for the receiver to give credit for them or to confirm their arrival",
            _ => "waiting for this host's disks",
        };
        let outstanding = || {
            format!(
                "{} {} in flight, {preparing} {} being prepared, {} {} being rechecked, and the \
                 receiver has not finished; {owes}",
                counted(assigned, "chunk"),
                agree(assigned, "is", "are"),
                agree(preparing, "is", "are"),
                counted(checking, "file"),
                agree(checking, "is", "are")
            )
        };
        self.pace.patience.check(self.pace.steps.saturating_add(arrived), Instant::now(), outstanding)
    }

    /// Tells the transfer's user of a way that has not opened, or that nothing takes any more, long
    /// before it is given up.
    pub(super) fn notice_closed_path(&self) {
        if !self.context.share.is_users() {
            return;
        }
        let unreached = self.flows.unreached_ports();
        let notice = if !unreached.is_empty() && self.pace.standstill.began.elapsed() > UNOPENED_NOTICE {
            Some(path_closed(&self.context, &self.flows, self.flows.probes_met()).text())
        } else if unreached.is_empty() && self.pace.standstill.arrived.0.elapsed() > OUTAGE_NOTICE {
            let address = canonical(self.context.connection.address.ip());
            let seconds = OUTAGE_NOTICE.as_secs();
            Some(format!(
                "nothing sent to {address} has arrived for {seconds} s, although its control \
                 connection is alive: the transfer continues when UDP gets through again"
            ))
        } else {
            None
        };
        self.context.notice(notice);
    }

    /// Tells the receiver, once, that this host refuses to send to it: it would blame its own.
    pub(super) fn tell_what_is_refused_here(&mut self) -> Result<(), TransferError> {
        let connection = &self.context.connection;
        let is_refused = self.flows.probes_met() == Errno::PERM.raw_os_error();
        let understands = connection.version >= OWN_FIREWALLS_ARE_TOLD_SINCE;
        if !self.pace.standstill.has_told && is_refused && understands && !self.flows.unreached_ports().is_empty() {
            connection.writer.send_urgent(Message::RefusedHere)?;
            self.pace.standstill.has_told = true;
        }
        Ok(())
    }

    /// Looks whether the transfer still moves.
    ///
    /// # Errors
    /// [`TransferError`] that says why it does not.
    pub(super) fn check_standstill(&mut self) -> Result<(), TransferError> {
        let moved = self.flows.moved();
        if self.queue.assigned.is_empty() {
            self.pace.standstill.note_arrival(moved);
            return Ok(());
        }
        let (since, then) = self.pace.standstill.arrived;
        let elapsed = since.elapsed();
        // A disk that is slow on either side is waited for.
        if moved.waited.saturating_sub(then.waited) > elapsed / 2 {
            self.pace.standstill.note_arrival(moved);
        } else if elapsed > SILENCE_TIMEOUT {
            let address = canonical(self.context.connection.address.ip());
            let text = format!(
                "nothing sent to {address} has arrived for {} s, although its control connection is alive: {}",
                SILENCE_TIMEOUT.as_secs(),
                ClosedPath::closed_since(&self.context)
            );
            return Err(TransferError::here(RefusalCode::Temporary, text));
        }
        let under_way: u64 = self.queue.assigned.keys().map(|&chunk| u64::from(self.chunk_bytes(chunk))).sum();
        let sent = moved.sent_bytes.saturating_sub(self.pace.standstill.sent_at_delivery);
        if sent > REPETITIONS_MAX * (under_way + u64::from(u16::MAX)) {
            // Whether it lies, or one of the two control processes was stalled so that nothing read
            // what the flows received, cannot be seen here.
            let text = "the receiver keeps reporting everything as lost, or its reports do not get \
                through, or this node's data plane counts more than it sends";
            return Err(TransferError::here(RefusalCode::Temporary, text));
        }
        Ok(())
    }
}
