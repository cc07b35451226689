//! When a transfer moves no more although both ends live: the path is dark, or the receiver wants
//! the same again and again.

use std::time::Instant;

use culvert_connection::SILENCE_TIMEOUT;
use culvert_protocol::control::{Message, OWN_FIREWALLS_ARE_TOLD_SINCE, RefusalCode};
use rustix::io::Errno;

use crate::TransferContext;
use crate::addresses::canonical;
use crate::error::TransferError;
use crate::flows::{FlowProgress, SendingFlows, path_closed};
use crate::udp_path::{ClosedPath, OUTAGE_NOTICE, UNOPENED_NOTICE};

/// How often everything in flight may be sent before any chunk of it is delivered. A path that
/// loses nine of ten datagrams needs ten; a receiver that reports everything as lost would never
/// have enough.
const REPETITIONS_MAX: u64 = 64;

/// When the path last carried anything, and what the two users were told of it.
#[derive(Debug)]
pub(super) struct Standstill {
    /// When the flows were opened.
    began: Instant,
    /// When a report last told of packets that arrived, and what the flows had done by then.
    arrived: (Instant, FlowProgress),
    /// Bytes sent when a chunk was last delivered.
    sent_at_delivery: u64,
    /// Whether the receiver was told that this host refuses what is sent.
    has_told: bool,
}

impl Standstill {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { began: now, arrived: (now, FlowProgress::default()), sent_at_delivery: 0, has_told: false }
    }

    /// Packets arrived at the receiver.
    pub(super) fn note_arrival(&mut self, moved: FlowProgress) {
        self.arrived = (Instant::now(), moved);
    }

    /// A chunk was delivered.
    pub(super) fn note_delivery(&mut self, flows: &SendingFlows) {
        self.sent_at_delivery = flows.moved().sent_bytes;
    }

    /// Checks whether the transfer still moves. `in_flight` is the size of all chunks that flows
    /// have; none if they have none.
    ///
    /// # Errors
    /// [`TransferError`] that says why it does not.
    pub(super) fn check(
        &mut self,
        context: &TransferContext,
        flows: &SendingFlows,
        in_flight: Option<u64>,
    ) -> Result<(), TransferError> {
        let moved = flows.moved();
        let Some(in_flight) = in_flight else {
            self.note_arrival(moved);
            return Ok(());
        };
        let (since, then) = self.arrived;
        let elapsed = since.elapsed();
        //= W-45
        //# A sender also gives up if none of its datagrams have arrived for 30 s and it is not
        //# waiting for a disk.
        if moved.waited.saturating_sub(then.waited) > elapsed / 2 {
            self.note_arrival(moved);
        } else if elapsed > SILENCE_TIMEOUT {
            let address = canonical(context.connection.address.ip());
            let text = format!(
                "nothing sent to {address} has arrived for {} s, although its control connection is alive: {}",
                SILENCE_TIMEOUT.as_secs(),
                ClosedPath::closed_since(context)
            );
            return Err(TransferError::here(RefusalCode::Temporary, text));
        }
        let sent = moved.sent_bytes.saturating_sub(self.sent_at_delivery);
        if sent > REPETITIONS_MAX * (in_flight + u64::from(u16::MAX)) {
            // Whether the receiver lies, or one of the two control processes was stalled so that
            // nothing read what the flows received, cannot be seen here.
            let text = "the receiver keeps reporting everything as lost, or its reports do not get \
                through, or this node's data plane counts more than it sends";
            return Err(TransferError::here(RefusalCode::Temporary, text));
        }
        Ok(())
    }

    /// Tells the transfer's user of a path that has not opened, or on which nothing arrives any
    /// more, long before it is given up.
    pub(super) fn notice_closed_path(&self, context: &TransferContext, flows: &SendingFlows) {
        if !context.share.is_users() {
            return;
        }
        let unreached = flows.unreached_ports();
        let notice = if !unreached.is_empty() && self.began.elapsed() > UNOPENED_NOTICE {
            Some(path_closed(context, flows, flows.probes_met()).text())
        } else if unreached.is_empty() && self.arrived.0.elapsed() > OUTAGE_NOTICE {
            let address = canonical(context.connection.address.ip());
            let seconds = OUTAGE_NOTICE.as_secs();
            Some(format!(
                "nothing sent to {address} has arrived for {seconds} s, although its control \
                 connection is alive: the transfer continues when UDP gets through again"
            ))
        } else {
            None
        };
        context.notice(notice);
    }

    /// Tells the receiver, once, that this host refuses to send to it: it would blame its own
    /// firewall.
    ///
    /// # Errors
    /// [`TransferError`] if the connection is closed.
    pub(super) fn tell_what_is_refused_here(
        &mut self,
        context: &TransferContext,
        flows: &SendingFlows,
    ) -> Result<(), TransferError> {
        //= W-61
        //# Since version 8, a sender whose own host refuses to send its first datagrams (`EPERM`: a
        //# rule of the host's output chain) says so with `RefusedHere`, at most once, after
        //# `PlanEnd`.
        let connection = &context.connection;
        let is_refused = flows.probes_met() == Errno::PERM.raw_os_error();
        let understands = connection.version >= OWN_FIREWALLS_ARE_TOLD_SINCE;
        if !self.has_told && is_refused && understands && !flows.unreached_ports().is_empty() {
            connection.writer.send_urgent(Message::RefusedHere)?;
            self.has_told = true;
        }
        Ok(())
    }
}
