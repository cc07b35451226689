//! A receiving flow within its lane: its way opened, its reports, and the account of its time. What
//! becomes of its chunks is in `lane/incoming.rs`.

use std::net::SocketAddr;

use culvert_link::clock::wire_us;
use culvert_link::commands::ReceiveSlot;
use culvert_link::counters::{LaneCounter, LaneCounters};
use culvert_protocol::openings::Openings;
use culvert_protocol::receiver_flow::{LaneCondition, ReceiverFlow};

use super::shares::Claim;
use crate::datapath::{Datapath, QueueCondition};

/// A sender that has used up its credit is told of new credit at once, and also of very many
/// losses, but not more often than this.
const URGENT_REPORT_NS: u64 = 200_000;
/// A flow on which nothing happens reports this often, so that its sender knows that it is heard.
const KEEPALIVE_NS: u64 = 100_000_000;
/// A flow is looked at this often for whether it arrives on another lane's queue …
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
    /// The number of the partner whose part of the buffers it takes.
    pub holder: u32,
    pub(super) claim: Claim,
    /// Whether chunks are hashed.
    pub checksum: bool,
    /// The transfer's chunk size.
    pub chunk_bytes: u32,
    partner: SocketAddr,
    interval_ns: u64,
    reported_ns: u64,
    /// The lane's busy time at the last report.
    reported_busy_ns: u64,
    writing_ns: u64,
    /// Buffers with whole chunks, waiting for their destination.
    pub(super) whole: u32,
    /// The chunk that a segment has come for since the hash was last brought up to date.
    pub(super) touched: Option<u32>,
    pub(super) openings: Openings,
    /// Segments by the lane's rings, and by the kernel although it has rings, since the last look.
    pub(super) arrived: [u64; 2],
    next_astray_look_ns: u64,
    pub(super) is_closing: bool,
    requested_key: Option<u64>,
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
            holder: 0,
            claim: Claim::default(),
            checksum,
            chunk_bytes,
            partner,
            interval_ns: u64::from(interval_us) * 1_000,
            reported_ns: 0,
            reported_busy_ns: 0,
            writing_ns: 0,
            whole: 0,
            touched: None,
            openings: Openings::default(),
            arrived: [0; 2],
            next_astray_look_ns: 0,
            is_closing: false,
            requested_key: None,
        }
    }

    /// The lane has taken the flow over.
    pub fn begin(&mut self, now_ns: u64, busy_ns: u64, account: usize) {
        self.claim.account = account;
        self.reported_ns = now_ns;
        self.reported_busy_ns = busy_ns;
        self.openings.begin(now_ns);
        self.next_astray_look_ns = now_ns + ASTRAY_LOOK_NS;
    }

    /// The sender will send from another port: the way from there has to be opened too.
    pub fn expect_from(&mut self, port: u16, now_ns: u64) {
        self.partner.set_port(port);
        self.openings.begin(now_ns);
    }

    /// Whether most of the flow arrived through the kernel lately. It then arrives on another
    /// lane's queue, or not through this interface.
    pub(super) fn is_astray(&mut self, now_ns: u64) -> bool {
        if now_ns < self.next_astray_look_ns {
            return false;
        }
        self.next_astray_look_ns = now_ns + ASTRAY_LOOK_NS;
        let [by_rings, by_kernel] = std::mem::take(&mut self.arrived);
        by_rings + by_kernel >= ASTRAY_SEGMENTS_MIN && by_kernel > by_rings
    }

    /// Changes how often the flow reports.
    pub fn set_interval_us(&mut self, interval_us: u32) {
        self.interval_ns = u64::from(interval_us.max(500)) * 1_000;
    }

    /// Whether a report should go now.
    pub(super) fn is_report_due(&self, now_ns: u64) -> bool {
        if self.is_closing {
            return false;
        }
        let since_ns = now_ns.saturating_sub(self.reported_ns);
        (since_ns >= self.interval_ns && self.protocol.has_news())
            || (since_ns >= URGENT_REPORT_NS && (self.protocol.is_credit_urgent() || self.protocol.is_loss_urgent()))
            || since_ns >= KEEPALIVE_NS
    }

    /// Writes a report into `out`; its length.
    pub(super) fn write_report(&mut self, queue: QueueCondition, busy_ns: u64, now_ns: u64, out: &mut [u8]) -> usize {
        let elapsed_ns = now_ns.saturating_sub(self.reported_ns).max(1);
        let permille = |ns: u64| (ns.saturating_mul(1_000) / elapsed_ns).min(1_000) as u32;
        let condition = LaneCondition {
            busy_permille: permille(busy_ns.saturating_sub(self.reported_busy_ns)),
            disk_stall_permille: permille(self.writing_ns),
            backlog_bytes: queue.backlog_bytes,
            socket_drops: queue.drops,
        };
        self.reported_ns = now_ns;
        self.reported_busy_ns = busy_ns;
        self.writing_ns = 0;
        self.protocol.write_report(&condition, wire_us(now_ns), out)
    }

    /// Sends a datagram to the sender until one of its own has come, and when none has come for
    /// long.
    pub(super) fn open_the_way<D: Datapath>(&mut self, datapath: &mut D, now_ns: u64) {
        if self.is_closing || now_ns < self.openings.due_ns() {
            return;
        }
        self.openings.on_sent(now_ns);
        let protocol = &mut self.protocol;
        datapath.send_run(self.partner.into(), 1, |room, _| Some(protocol.seal_opening(wire_us(now_ns), room)));
    }

    /// Charges time to a destination that keeps the flow's buffers.
    pub(super) fn account(&mut self, spent_ns: u64, counters: &LaneCounters) {
        if self.protocol.is_starved() && self.whole * 2 >= self.protocol.held() && self.whole > 0 {
            self.writing_ns += spent_ns;
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
        let report_ns = self.reported_ns + if self.protocol.has_news() { self.interval_ns } else { KEEPALIVE_NS };
        report_ns.min(self.openings.due_ns())
    }

    /// A whole chunk's buffer is free again.
    pub(super) fn release(&mut self) {
        self.whole = self.whole.saturating_sub(1);
        self.protocol.release();
    }

    /// Buffers with complete chunks: what happens to them is no longer up to the sender.
    pub(super) fn whole(&self) -> u32 {
        self.whole
    }

    /// Whether it was closed.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing
    }
}
