//! A lane: one thread's loop over everything it owns.
//!
//! A turn of the loop takes commands, receives, advances the disk, sends, and reports, each within
//! a bound, and never blocks. After turns that moved nothing, the runner ([`runner`]) lets the
//! thread sleep until something happens. Idle time is charged to its cause, flow by flow; the
//! verdict on a transfer is computed from these times.
//!
//! ```text
//!            assigned ── buffer, reads ──> hash ──> seal ──> datapath
//! sending    `commands` `resources`   [`sending`]
//! receiving  datapath ────> open ──> hash ──> writes ──> events
//!            `flow_table`  `incoming`      `resources`
//! ```
//!
//! Its files, from the ground up: what a buffer is in use for ([`jobs`]) and which partner's part
//! it is of ([`shares`], `credit`); what all flows share (`resources`); a flow ([`sending`],
//! [`receiving`] and `incoming`); the flows of a lane (`slots`, `flow_table`), and what they get
//! from the control process (`commands`) and the disk (`completions`).

mod commands;
mod completions;
mod credit;
mod flow_table;
pub mod handoff;
mod incoming;
pub mod jobs;
pub mod lane_link;
pub mod receiving;
mod resources;
pub mod runner;
pub mod sending;
pub mod shares;
mod slots;

use std::sync::Arc;

use culvert_link::commands::Event;
use culvert_link::counters::LaneCounter;
use culvert_link::invariant;
use culvert_link::layout::FLOWS_PER_LANE;

use crate::buffers::Buffers;
use crate::datapath::Datapath;
use crate::disk::Disk;
use crate::disk::files::FileTable;
use flow_table::{FlowTable, PROBE_REPLIES_PER_TURN, Reply};
use handoff::{FromLane, Handoff};
use jobs::Job;
use lane_link::LaneLink;
use receiving::ReceiveFlow;
use resources::Resources;
use sending::SendFlow;
use shares::Shares;

/// How often timeouts are checked, keys requested and counters published.
const HOUSEKEEPING_NS: u64 = 1_000_000;
/// Events for which there must be room before a turn begins. Few turns emit more; those wait
/// ([`LaneLink::emit`]).
const EVENTS_PER_TURN: usize = 1_024;
/// Reports written in one turn; the next turn begins with the flow after the last.
const REPORTS_PER_TURN: usize = 32;
/// Ports that flows have for themselves are read every so many turns: only answers to probes arrive
/// there.
const TURNS_PER_SOURCE_LOOK: u32 = 4;

/// A lane over the datapath `D`.
#[derive(Debug)]
pub struct Lane<D: Datapath> {
    datapath: D,
    table: FlowTable,
    replies: Vec<Reply>,
    /// Position of the receiving flow that reports first in the next turn.
    next_report: usize,
    next_housekeeping_ns: u64,
    accounted_ns: u64,
    turns: u32,
}

/// The result of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// Whether anything moved.
    pub progress: bool,
    /// When the lane next has something to do by itself, if nothing arrives before.
    pub deadline_ns: u64,
}

impl<D: Datapath> Lane<D> {
    /// Puts a lane together; call it on the lane's thread.
    #[must_use]
    pub fn new(
        datapath: D,
        disk: Disk,
        buffers: Buffers,
        files: Arc<FileTable>,
        link: LaneLink,
        handoff: Arc<Handoff>,
    ) -> Self {
        let jobs = (0..buffers.count()).map(|_| Job::default()).collect();
        let shares = Shares::new(buffers.count(), 2 * usize::from(FLOWS_PER_LANE));
        let now_ns = datapath.now_ns();
        Self {
            datapath,
            table: FlowTable::new(Resources { disk, buffers, shares, jobs, files, link, now_ns }, handoff),
            replies: Vec::with_capacity(PROBE_REPLIES_PER_TURN),
            next_report: 0,
            next_housekeeping_ns: 0,
            accounted_ns: now_ns,
            turns: 0,
        }
    }

    /// One turn: a bounded amount of everything that can be done now.
    pub fn turn(&mut self) -> Turn {
        let now_ns = self.datapath.now_ns();
        // Since its last turn the lane slept, or found nothing to do.
        self.account(false, now_ns);
        self.table.resources.now_ns = now_ns;
        let mut progress = false;
        if self.table.resources.link.is_ready_for(EVENTS_PER_TURN) {
            progress |= self.table.take_deliveries(&mut self.datapath, now_ns);
            progress |= self.table.take_commands(&mut self.datapath, now_ns);
            progress |= self.receive();
            progress |= self.table.disk_turn();
            progress |= self.send(now_ns);
            self.report();
            if now_ns >= self.next_housekeeping_ns {
                self.next_housekeeping_ns = now_ns + HOUSEKEEPING_NS;
                self.housekeeping(now_ns);
            }
        }
        self.account(progress, self.datapath.now_ns());
        Turn { progress, deadline_ns: self.deadline_ns() }
    }

    fn receive(&mut self) -> bool {
        let (table, replies) = (&mut self.table, &mut self.replies);
        let mut datagrams = self.datapath.receive(|datagram, by| table.datagram(datagram, by, replies));
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(TURNS_PER_SOURCE_LOOK) {
            datagrams += self.receive_at_sources();
        }
        self.table.resources.link.counters.add(LaneCounter::DatagramsReceived, datagrams as u64);
        for Reply { to, slot, probe, datagram_bytes } in self.replies.drain(..) {
            let Some(flow) = self.table.receives.get_mut(slot.0) else { continue };
            //= W-54
            //# A probe is answered with one datagram, no longer than the probe, sent to the address
            //# the probe came from.
            let mut seal = |room: &mut [u8], _| {
                let bytes = flow.protocol.seal_probe_reply(&probe, datagram_bytes, room);
                (bytes > 0).then_some(bytes)
            };
            self.datapath.send_run(to.into(), 1, &mut seal);
        }
        for flow in self.table.receives.iter_mut() {
            flow.hash_arrived(&mut self.table.resources);
        }
        datagrams > 0
    }

    /// Takes what arrived at the ports that flows have for themselves.
    fn receive_at_sources(&mut self) -> usize {
        let mut datagrams = 0;
        for at in 0..self.table.sends.len() {
            // Lent by the flow meanwhile: its datagrams go to the table that the flow is in.
            let Some(source) = self.table.sends.at_mut(at).and_then(SendFlow::take_source) else { continue };
            let (table, replies) = (&mut self.table, &mut self.replies);
            datagrams += self.datapath.receive_at(&source, |datagram, by| table.datagram(datagram, by, replies));
            if let Some(flow) = table.sends.at_mut(at) {
                flow.set_source(source);
            }
        }
        datagrams
    }

    fn send(&mut self, now_ns: u64) -> bool {
        let mut progress = false;
        for flow in self.table.sends.iter_mut() {
            progress |= flow.turn(&mut self.datapath, &mut self.table.resources, now_ns);
        }
        for flow in self.table.receives.iter_mut() {
            flow.send_opening(&mut self.datapath, now_ns);
        }
        progress
    }

    /// Writes the reports that are due, as far as they fit; the others wait, and come first in the
    /// next turn.
    fn report(&mut self) {
        let FlowTable { resources, sends, receives, busy_ns, .. } = &mut self.table;
        let free = resources.buffers.free_count();
        resources.shares.share_out(sends, receives, free, resources.now_ns);
        let now_ns = self.datapath.now_ns();
        let flows = receives.len();
        let first = if self.next_report < flows { self.next_report } else { 0 };
        let mut reports = 0;
        for at in (first..flows).chain(0..first) {
            let Some(flow) = receives.at_mut(at).filter(|flow| flow.is_report_due(now_ns)) else { continue };
            if reports == REPORTS_PER_TURN || !resources.link.has_room_for_report() {
                self.next_report = at;
                return;
            }
            reports += 1;
            let queue = self.datapath.queue_condition();
            resources.link.counters.set(LaneCounter::SocketDrops, queue.drops);
            let bytes = flow.write_report(queue, *busy_ns, now_ns, resources.link.report_scratch());
            resources.link.emit_report(flow.slot, bytes);
        }
    }

    /// What is due only now and then.
    fn housekeeping(&mut self, now_ns: u64) {
        let FlowTable { resources, sends, receives, handoff, .. } = &mut self.table;
        for flow in sends.iter_mut() {
            flow.housekeeping(now_ns);
            if let Some(epoch) = flow.missing_key() {
                handoff.depart(FromLane::WantsSendKey { slot: flow.slot, epoch });
            }
        }
        for flow in receives.iter_mut() {
            if let Some(epoch) = flow.missing_key() {
                handoff.depart(FromLane::WantsReceiveKey { slot: flow.slot, epoch });
            }
            if flow.is_astray(now_ns) {
                resources.link.emit(&Event::Astray { flow: flow.slot });
            }
        }
        resources.shares.tell_who_holds_too_much(sends, receives, &mut resources.link, now_ns);
        self.table.close_what_is_done();
        self.table.check();
        if !self.table.has_flows() {
            self.count_frames();
        }
        // Last: the checks above may break an invariant.
        self.publish_counts();
    }

    /// Writes the counters that are states, or that the datapath or the thread keeps.
    fn publish_counts(&self) {
        let (counters, buffers) = (&self.table.resources.link.counters, &self.table.resources.buffers);
        counters.set(LaneCounter::BuffersInUse, (buffers.count() - buffers.free_count()) as u64);
        counters.set(LaneCounter::BrokenInvariants, invariant::count());
        counters.set(LaneCounter::GsoEnabled, u64::from(self.datapath.segments_runs()));
        let counts = self.datapath.counts();
        counters.set(LaneCounter::RingReceived, counts.ring_received);
        counters.set(LaneCounter::KernelReceived, counts.kernel_received);
        counters.set(LaneCounter::RingSent, counts.ring_sent);
        counters.set(LaneCounter::KernelSent, counts.kernel_sent);
    }

    /// Counts where the frames of packet memory are while no flow uses any: frames missing then are
    /// lost.
    fn count_frames(&mut self) {
        let Some(census) = self.datapath.ring_census() else { return };
        // Invariant I-lane-frames: between turns, no frame of packet memory is in use within the
        // lane.
        invariant!(census.receive.held + census.transmit.held == 0, "between turns the lane holds no frame");
        let counters = &self.table.resources.link.counters;
        counters.set(LaneCounter::ReceiveFramesFree, census.receive.pool as u64);
        counters.set(LaneCounter::ReceiveFramesHeld, census.receive.held as u64);
        counters.set(LaneCounter::ReceiveFramesLent, census.receive.kernel as u64);
        counters.set(LaneCounter::ReceiveFramesInRings, census.receive_in_rings as u64);
        counters.set(LaneCounter::TransmitFramesFree, census.transmit.pool as u64);
        counters.set(LaneCounter::TransmitFramesHeld, census.transmit.held as u64);
        counters.set(LaneCounter::TransmitFramesLent, census.transmit.kernel as u64);
        counters.set(LaneCounter::RingMalformed, census.malformed);
        counters.set(LaneCounter::RingWakeups, census.wakeups);
    }

    /// Charges the time since the last accounting to its cause.
    fn account(&mut self, progress: bool, now_ns: u64) {
        let spent_ns = now_ns.saturating_sub(self.accounted_ns);
        self.accounted_ns = now_ns;
        let FlowTable { resources, sends, receives, busy_ns, .. } = &mut self.table;
        if progress {
            *busy_ns += spent_ns;
        }
        let counters = &resources.link.counters;
        counters.add(if progress { LaneCounter::BusyNs } else { LaneCounter::IdleNs }, spent_ns);
        for flow in sends.iter_mut() {
            flow.account_time(progress, spent_ns, now_ns, counters);
        }
        for flow in receives.iter_mut() {
            flow.account_time(spent_ns, counters);
        }
    }

    fn deadline_ns(&self) -> u64 {
        let sends = self.table.sends.iter().map(SendFlow::deadline_ns);
        let receives = self.table.receives.iter().map(ReceiveFlow::deadline_ns);
        let is_due = self.table.has_flows() || self.datapath.awaits_frames();
        let housekeeping = if is_due { self.next_housekeeping_ns } else { u64::MAX };
        sends.chain(receives).fold(housekeeping, u64::min)
    }

    /// The lane's datapath, for waiting on its descriptor.
    pub(crate) fn datapath(&self) -> &D {
        &self.datapath
    }

    /// The lane's link, for sleeping on its doorbell.
    pub(crate) fn link(&self) -> &LaneLink {
        &self.table.resources.link
    }

    /// Whether the coordinator has left something.
    pub(crate) fn has_deliveries(&self) -> bool {
        self.table.handoff.has_deliveries()
    }

    /// How many buffers are free, and how many there are. If they differ while no flow is open, a
    /// buffer has leaked.
    #[must_use]
    pub fn buffer_counts(&self) -> (usize, usize) {
        (self.table.resources.buffers.free_count(), self.table.resources.buffers.count())
    }
}
