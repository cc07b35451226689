//! A lane: one thread's loop over everything it owns.
//!
//! An iteration of the loop takes commands, receives, advances the disk, sends, and reports, each
//! within a bound, and never blocks. After iterations that moved nothing, the runner ([`runner`])
//! lets the thread sleep until something happens. Idle time is charged to its cause, flow by flow;
//! the verdict on a transfer is computed from these times.
//!
//! ```text
//!            assigned ── buffer, reads ──> hash ──> seal ──> datapath
//! sending    `commands` `resources`   [`sending`]
//! receiving  datapath ──> open ──> hash ──> writes ──> events
//!            `routing`  `incoming`      `resources`
//! ```
//!
//! Its files, from the ground up: what a buffer is busy with ([`jobs`]) and whose part it is of
//! ([`shares`]); what all flows have in common (`resources`); a flow ([`sending`],
//! [`receiving`]); all flows of the lane (`body`), and what is done with them, a file each.

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
mod routing;
pub mod runner;
pub mod sending;
pub mod shares;

use std::sync::Arc;

use culvert_link::commands::Event;
use culvert_link::counters::LaneCounter;
use culvert_link::layout::FLOWS_PER_LANE;

use crate::buffers::Buffers;
use crate::datapath::Datapath;
use crate::disk::Disk;
use crate::disk::files::FileTable;
use flow_table::FlowTable;
use handoff::{FromLane, Handoff};
use jobs::Job;
use lane_link::LaneLink;
use resources::Resources;
use routing::{PROBE_REPLIES_PER_TURN, Reply};
use shares::Shares;

/// What needs no better than a millisecond (timeouts, keys, counters) is looked at this often.
const HOUSEKEEPING_NS: u64 = 1_000_000;
/// Events for which there must be room before a turn begins. Few turns emit more; what there is no
/// room for waits ([`LaneLink::emit`]).
const EVENTS_PER_TURN: usize = 1_024;
/// Reports written in one turn. The flows behind the last one come first in the next.
const REPORTS_PER_TURN: usize = 32;
/// Sources of flows besides the lane's own port are looked at every so many turns: only answers to
/// probes come there.
const TURNS_PER_SOURCE_LOOK: u32 = 4;

/// A lane over the datapath `D`.
#[derive(Debug)]
pub struct Lane<D: Datapath> {
    datapath: D,
    body: FlowTable,
    replies: Vec<Reply>,
    /// Which of the receiving flows is the first to report in the next turn.
    next_report: usize,
    next_housekeeping_ns: u64,
    accounted_ns: u64,
    turns: u32,
}

/// What a turn came to.
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
            body: FlowTable {
                resources: Resources { disk, buffers, shares, jobs, files, link, now_ns },
                handoff,
                sends: (0..FLOWS_PER_LANE).map(|_| None).collect(),
                receives: (0..FLOWS_PER_LANE).map(|_| None).collect(),
                active_sends: Vec::with_capacity(FLOWS_PER_LANE.into()),
                active_receives: Vec::with_capacity(FLOWS_PER_LANE.into()),
                busy_ns: 0,
            },
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
        // The lane slept since its last turn, or looked around in vain.
        self.account(false, now_ns);
        self.body.resources.now_ns = now_ns;
        let mut progress = false;
        if self.body.resources.link.is_ready_for(EVENTS_PER_TURN) {
            progress |= self.body.take_deliveries(&mut self.datapath, now_ns);
            progress |= self.body.take_commands(&mut self.datapath, now_ns);
            progress |= self.receive();
            progress |= self.body.disk_turn();
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
        let (body, replies) = (&mut self.body, &mut self.replies);
        let mut datagrams = self.datapath.receive(|datagram, by| body.datagram(datagram, by, replies));
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(TURNS_PER_SOURCE_LOOK) {
            datagrams += self.receive_at_sources();
        }
        self.body.resources.link.counters.add(LaneCounter::DatagramsReceived, datagrams as u64);
        for Reply { to, slot, probe, datagram_bytes } in self.replies.drain(..) {
            let Some(flow) = self.body.receives[usize::from(slot.0)].as_mut() else { continue };
            let mut seal = |room: &mut [u8], _| Some(flow.protocol.seal_probe_reply(&probe, datagram_bytes, room));
            self.datapath.send_run(to.into(), 1, &mut seal);
        }
        for at in 0..self.body.active_receives.len() {
            self.body.hash_arrived(self.body.active_receives[at]);
        }
        datagrams > 0
    }

    /// Takes what came to the ports that flows have for themselves.
    fn receive_at_sources(&mut self) -> usize {
        let mut datagrams = 0;
        for at in 0..self.body.active_sends.len() {
            let slot = usize::from(self.body.active_sends[at].0);
            let Some(source) = self.body.sends[slot].as_mut().and_then(|flow| flow.source.take()) else { continue };
            let (body, replies) = (&mut self.body, &mut self.replies);
            datagrams += self.datapath.receive_at(&source, |datagram, by| body.datagram(datagram, by, replies));
            if let Some(flow) = body.sends[slot].as_mut() {
                flow.source = Some(source);
            }
        }
        datagrams
    }

    fn send(&mut self, now_ns: u64) -> bool {
        let mut progress = false;
        for at in 0..self.body.active_sends.len() {
            let body = &mut self.body;
            let slot = body.active_sends[at];
            let Some(flow) = body.sends[usize::from(slot.0)].as_mut() else { continue };
            progress |= flow.turn(&mut self.datapath, &mut body.resources, now_ns);
        }
        for at in 0..self.body.active_receives.len() {
            let slot = self.body.active_receives[at];
            if let Some(flow) = self.body.receives[usize::from(slot.0)].as_mut() {
                flow.open_the_way(&mut self.datapath, now_ns);
            }
        }
        progress
    }

    /// Writes the reports that are due, as far as they fit; the others keep waiting, and come first
    /// in the next turn.
    fn report(&mut self) {
        self.body.share_out();
        let now_ns = self.datapath.now_ns();
        let flows = self.body.active_receives.len();
        let first = if self.next_report < flows { self.next_report } else { 0 };
        let mut reports = 0;
        for at in (first..flows).chain(0..first) {
            let slot = self.body.active_receives[at];
            let Some(flow) = self.body.receives[usize::from(slot.0)].as_mut() else { continue };
            if flow.is_report_due(now_ns) {
                if reports == REPORTS_PER_TURN || !self.body.resources.link.has_room_for_report() {
                    self.next_report = at;
                    return;
                }
                reports += 1;
                let queue = self.datapath.queue_condition();
                self.body.resources.link.counters.set(LaneCounter::SocketDrops, queue.drops);
                let busy_ns = self.body.busy_ns;
                let bytes = flow.write_report(queue, busy_ns, now_ns, self.body.resources.link.report_scratch());
                self.body.resources.link.emit_report(slot, bytes);
            }
        }
    }

    /// What needs looking at only now and then.
    fn housekeeping(&mut self, now_ns: u64) {
        let body = &mut self.body;
        for &slot in &body.active_sends {
            let Some(flow) = body.sends[usize::from(slot.0)].as_mut() else { continue };
            flow.housekeeping(now_ns);
            if let Some(epoch) = flow.missing_key() {
                body.handoff.depart(FromLane::WantsSendKey { slot, epoch });
            }
        }
        for &slot in &body.active_receives {
            let Some(flow) = body.receives[usize::from(slot.0)].as_mut() else { continue };
            if let Some(epoch) = flow.missing_key() {
                body.handoff.depart(FromLane::WantsReceiveKey { slot, epoch });
            }
            if flow.is_astray(now_ns) {
                body.resources.link.emit(&Event::Astray { flow: slot });
            }
        }
        let in_use = body.resources.buffers.count() - body.resources.buffers.free_count();
        body.resources.link.counters.set(LaneCounter::BuffersInUse, in_use as u64);
        body.resources.link.counters.set(LaneCounter::GsoEnabled, u64::from(self.datapath.segments_runs()));
        let ways = self.datapath.ways();
        body.resources.link.counters.set(LaneCounter::RingReceived, ways.ring_received);
        body.resources.link.counters.set(LaneCounter::KernelReceived, ways.kernel_received);
        body.resources.link.counters.set(LaneCounter::RingSent, ways.ring_sent);
        body.resources.link.counters.set(LaneCounter::KernelSent, ways.kernel_sent);
        body.tell_who_holds_too_much();
        body.close_what_is_done();
        if !self.body.has_flows() {
            self.count_frames();
        }
    }

    /// Counts where the frames of packet memory are while no flow uses any: frames missing then are
    /// lost.
    fn count_frames(&mut self) {
        let Some(census) = self.datapath.ring_census() else { return };
        let counters = &self.body.resources.link.counters;
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
        let body = &mut self.body;
        if progress {
            body.busy_ns += spent_ns;
        }
        body.resources.link.counters.add(if progress { LaneCounter::BusyNs } else { LaneCounter::IdleNs }, spent_ns);
        for &slot in &body.active_sends {
            if let Some(flow) = body.sends[usize::from(slot.0)].as_mut() {
                flow.account(progress, spent_ns, now_ns, &body.resources.link.counters);
            }
        }
        for &slot in &body.active_receives {
            if let Some(flow) = body.receives[usize::from(slot.0)].as_mut() {
                flow.account(spent_ns, &body.resources.link.counters);
            }
        }
    }

    fn deadline_ns(&self) -> u64 {
        let body = &self.body;
        let sends = body.active_sends.iter().filter_map(|slot| body.sends[usize::from(slot.0)].as_ref());
        let receives = body.active_receives.iter().filter_map(|slot| body.receives[usize::from(slot.0)].as_ref());
        let flows = sends.map(|flow| flow.deadline_ns()).chain(receives.map(|flow| flow.deadline_ns()));
        let is_due = body.has_flows() || self.datapath.awaits_frames();
        let housekeeping = if is_due { self.next_housekeeping_ns } else { u64::MAX };
        flows.fold(housekeeping, u64::min)
    }

    /// The lane's datapath, for waiting on its descriptor.
    pub(crate) fn datapath(&self) -> &D {
        &self.datapath
    }

    /// The lane's link, for sleeping on its doorbell.
    pub(crate) fn link(&self) -> &LaneLink {
        &self.body.resources.link
    }

    /// Whether the coordinator has left something.
    pub(crate) fn has_deliveries(&self) -> bool {
        self.body.handoff.has_deliveries()
    }

    /// How many buffers are free and how many there are: equal when no flow is open, or one has
    /// leaked.
    #[must_use]
    pub fn buffer_counts(&self) -> (usize, usize) {
        (self.body.resources.buffers.free_count(), self.body.resources.buffers.count())
    }
}
