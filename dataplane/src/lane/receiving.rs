//! A receiving flow within its lane: its openings, its reports, and where its time went. What
//! happens to its chunks is in `lane/incoming.rs`.

use std::net::SocketAddr;

use culvert_link::clock::wire_us;
use culvert_link::commands::ReceiveSlot;
use culvert_link::counters::{LaneCounter, LaneCounters};
use culvert_link::invariant;
use culvert_protocol::openings::Openings;
use culvert_protocol::receiver_flow::{LaneCondition, ReceiverFlow};

use super::jobs::Hashing;
use super::shares::Claim;
use crate::datapath::{Arrival, Datapath, QueueCondition};

/// New credit for a sender that has used up its own, and very many losses, are reported at once,
/// but no more often than this.
const URGENT_REPORT_NS: u64 = 200_000;
/// A flow on which nothing happens reports this often, so that its sender knows that its datagrams
/// arrive.
const KEEPALIVE_NS: u64 = 100_000_000;
/// How often a flow is checked for arriving on another lane's queue …
const ASTRAY_LOOK_NS: u64 = 100_000_000;
/// … if it brought this many segments in between: fewer do not cost the lane enough to justify a
/// change.
const ASTRAY_SEGMENTS_MIN: u64 = 64;

/// A receiving flow.
#[derive(Debug)]
pub struct ReceiveFlow {
    /// Its slot.
    pub slot: ReceiveSlot,
    /// The protocol's part.
    pub protocol: ReceiverFlow,
    pub(super) claim: Claim,
    pub(super) hashing: Hashing,
    partner: SocketAddr,
    openings: Openings,
    reporting: Reporting,
    astray: AstrayLook,
    /// Buffers with whole chunks, waiting for their destination or being written.
    pub(super) whole: u32,
    /// The chunk that a segment has come for since the hash was last brought up to date.
    pub(super) touched: Option<u32>,
    is_closing: bool,
    requested_key: Option<u64>,
}

/// When a flow reports, and what has to be said about the time since its last report.
#[derive(Clone, Copy, Debug, Default)]
struct Reporting {
    interval_ns: u64,
    reported_ns: u64,
    /// The lane's busy time at the last report.
    reported_busy_ns: u64,
    /// Time in which the destination kept the flow waiting.
    writing_ns: u64,
}

/// Whether a flow arrives on another lane's queue.
#[derive(Clone, Copy, Debug, Default)]
struct AstrayLook {
    /// Segments through the lane's rings, and through the kernel although it has rings, since the
    /// last look.
    arrived: [u64; 2],
    next_ns: u64,
}

impl ReceiveFlow {
    /// A flow whose sender is expected at `partner`.
    #[must_use]
    pub fn new(
        slot: ReceiveSlot,
        protocol: ReceiverFlow,
        partner: SocketAddr,
        interval_us: u32,
        checksum: bool,
        chunk_bytes: u32,
    ) -> Self {
        Self {
            slot,
            protocol,
            claim: Claim::default(),
            hashing: Hashing::new(checksum, chunk_bytes),
            partner,
            openings: Openings::default(),
            reporting: Reporting { interval_ns: u64::from(interval_us) * 1_000, ..Reporting::default() },
            astray: AstrayLook::default(),
            whole: 0,
            touched: None,
            is_closing: false,
            requested_key: None,
        }
    }

    /// Names the partner whose part of the buffers the flow takes by the control process's number.
    #[must_use]
    pub fn of_holder(mut self, holder: u32) -> Self {
        self.claim.holder = holder;
        self
    }

    /// The lane has taken the flow over, and counts its buffers under `account`.
    pub(super) fn begin(&mut self, now_ns: u64, busy_ns: u64, account: usize) {
        self.claim.account = account;
        self.reporting.reported_ns = now_ns;
        self.reporting.reported_busy_ns = busy_ns;
        self.openings.begin(now_ns);
        self.astray.next_ns = now_ns + ASTRAY_LOOK_NS;
    }

    /// The sender will send from another port: firewalls and address translators have to let it in
    /// from there too.
    pub(super) fn expect_from(&mut self, port: u16, now_ns: u64) {
        self.partner.set_port(port);
        self.openings.begin(now_ns);
    }

    /// Notes an authentic datagram of the sender.
    #[inline]
    pub(super) fn note_arrival(&mut self, by: Arrival) {
        self.openings.on_heard(by.taken_ns);
        self.astray.arrived[usize::from(by.is_astray)] += 1;
    }

    /// Whether most of the flow arrived through the kernel lately. It then arrives on another
    /// lane's queue, or not through this interface.
    pub(super) fn is_astray(&mut self, now_ns: u64) -> bool {
        if now_ns < self.astray.next_ns {
            return false;
        }
        self.astray.next_ns = now_ns + ASTRAY_LOOK_NS;
        let [by_rings, by_kernel] = std::mem::take(&mut self.astray.arrived);
        by_rings + by_kernel >= ASTRAY_SEGMENTS_MIN && by_kernel > by_rings
    }

    /// Changes how often the flow reports.
    pub(super) fn set_interval_us(&mut self, interval_us: u32) {
        self.reporting.interval_ns = u64::from(interval_us.max(500)) * 1_000;
    }

    /// Whether a report should go now.
    pub(super) fn is_report_due(&self, now_ns: u64) -> bool {
        if self.is_closing {
            return false;
        }
        let since_ns = now_ns.saturating_sub(self.reporting.reported_ns);
        (since_ns >= self.reporting.interval_ns && self.protocol.has_news())
            || (since_ns >= URGENT_REPORT_NS && (self.protocol.is_credit_urgent() || self.protocol.is_loss_urgent()))
            || since_ns >= KEEPALIVE_NS
    }

    /// Writes a report into `out`; its length.
    pub(super) fn write_report(&mut self, queue: QueueCondition, busy_ns: u64, now_ns: u64, out: &mut [u8]) -> usize {
        let since = self.reporting;
        let elapsed_ns = now_ns.saturating_sub(since.reported_ns).max(1);
        let permille = |ns: u64| (ns.saturating_mul(1_000) / elapsed_ns).min(1_000) as u32;
        let condition = LaneCondition {
            busy_permille: permille(busy_ns.saturating_sub(since.reported_busy_ns)),
            disk_stall_permille: permille(since.writing_ns),
            backlog_bytes: queue.backlog_bytes,
            socket_drops: queue.drops,
        };
        self.reporting = Reporting { reported_ns: now_ns, reported_busy_ns: busy_ns, writing_ns: 0, ..since };
        self.protocol.write_report(&condition, wire_us(now_ns), out)
    }

    /// Sends an opening to the sender if one is due.
    pub(super) fn send_opening<D: Datapath>(&mut self, datapath: &mut D, now_ns: u64) {
        if self.is_closing || now_ns < self.openings.due_ns() {
            return;
        }
        //= W-3
        //# An opening is empty; it opens NATs and stateful firewalls on the receiver's side.
        self.openings.on_sent(now_ns);
        let protocol = &mut self.protocol;
        datapath.send_run(self.partner.into(), 1, |room, _| {
            let bytes = protocol.seal_opening(wire_us(now_ns), room);
            (bytes > 0).then_some(bytes)
        });
    }

    /// Charges time to a destination that keeps the flow's buffers.
    pub(super) fn account_time(&mut self, spent_ns: u64, counters: &LaneCounters) {
        if self.protocol.is_starved() && self.whole * 2 >= self.protocol.held() && self.whole > 0 {
            self.reporting.writing_ns += spent_ns;
            counters.add(LaneCounter::StallWritingNs, spent_ns);
        }
    }

    /// The epoch whose key must be asked for, once.
    pub(super) fn missing_key(&mut self) -> Option<u64> {
        let wanted = self.protocol.wants_key();
        (wanted != self.requested_key).then(|| self.requested_key = wanted)?;
        wanted
    }

    /// When the flow next has something to do by itself.
    pub(super) fn deadline_ns(&self) -> u64 {
        // It waits for the disk or the control process, which wake the lane.
        if self.is_closing {
            return u64::MAX;
        }
        let wait_ns = if self.protocol.has_news() { self.reporting.interval_ns } else { KEEPALIVE_NS };
        (self.reporting.reported_ns + wait_ns).min(self.openings.due_ns())
    }

    /// A whole chunk's buffer is free again.
    pub(super) fn release(&mut self) {
        // Invariant I-lane-whole: a receiving flow frees no more whole chunks than it has.
        invariant!(self.whole > 0, "a flow frees no more whole chunks than it has");
        self.whole = self.whole.saturating_sub(1);
        self.protocol.release();
    }

    /// Buffers with complete chunks: what happens to them is no longer up to the sender.
    pub(super) const fn whole(&self) -> u32 {
        self.whole
    }

    /// The account of the partner whose part of the buffers it takes.
    pub(super) const fn account(&self) -> usize {
        self.claim.account
    }

    /// Takes nothing more from its sender.
    pub(super) const fn begin_closing(&mut self) {
        self.is_closing = true;
    }

    /// Whether it was closed.
    pub(super) const fn is_closing(&self) -> bool {
        self.is_closing
    }
}
