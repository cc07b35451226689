//! A lane: one thread's loop over everything it owns.
//!
//! An iteration of the loop takes commands, receives, advances the disk, sends, and reports, each
//! within a bound, and never blocks. After iterations that moved nothing, the runner ([`runner`])
//! lets the thread sleep until something happens. Idle time is charged to its cause, flow by flow;
//! the verdict on a transfer is computed from these times.
//!
//! ```text
//!            assigned ── buffer, reads ──> hash ──> seal ──> datapath
//! sending    (commands)     [`jobs`]     [`sending`]
//! receiving  datapath ──> open ──> hash ──> writes ──> events
//!                        [`receiving`]      [`jobs`]
//! ```

pub mod flows;
pub mod jobs;
pub mod lane_link;
pub mod receiving;
pub mod runner;
pub mod sending;
pub mod shares;

use std::net::SocketAddr;
use std::sync::Arc;

use culvert_link::commands::{Command, Event, ReceiveSlot, SendSlot, Sink};
use culvert_link::counters::LaneCounter;
use culvert_link::layout::FLOWS_PER_LANE;
use culvert_protocol::feedback::Report;
use culvert_protocol::receiver_flow::{BufferId, ChunkMemory as _};
use culvert_protocol::wire::{Header, SegmentKind};

use crate::buffers::Buffers;
use crate::datapath::{Arrival, Datapath};
use crate::disk::Disk;
use crate::disk::files::FileTable;
use flows::{Attendance, Delivery, Departure};
use jobs::{Job, Role};
use lane_link::LaneLink;
use receiving::ReceiveFlow;
use sending::SendFlow;
use shares::Shares;

/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 64;
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
/// Probes answered in one turn; the rest are dropped, and probed again.
const PROBE_REPLIES_PER_TURN: usize = 16;

/// A lane over the datapath `D`.
#[derive(Debug)]
pub struct Lane<D: Datapath> {
    datapath: D,
    body: Body,
    replies: Vec<Reply>,
    /// Which of the receiving flows is the first to report in the next turn.
    next_report: usize,
    next_housekeeping_ns: u64,
    accounted_ns: u64,
    turns: u32,
}

/// All of a lane but its datapath, so that the datapath can call back into it.
#[derive(Debug)]
struct Body {
    disk: Disk,
    buffers: Buffers,
    shares: Shares,
    jobs: Box<[Job]>,
    files: Arc<FileTable>,
    link: LaneLink,
    attendance: Arc<Attendance>,
    sends: Box<[Option<Box<SendFlow>>]>,
    receives: Box<[Option<Box<ReceiveFlow>>]>,
    /// Slots in use, so that a turn looks at no empty one.
    active_sends: Vec<SendSlot>,
    active_receives: Vec<ReceiveSlot>,
    /// Nanoseconds in turns that moved something, since the lane began.
    busy_ns: u64,
    /// When the turn began.
    now_ns: u64,
}

/// A probe to be answered once the datapath is free.
#[derive(Clone, Copy, Debug)]
struct Reply {
    to: SocketAddr,
    slot: ReceiveSlot,
    probe: Header,
    datagram_bytes: usize,
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
        attendance: Arc<Attendance>,
    ) -> Self {
        let jobs = (0..buffers.count()).map(|_| Job::default()).collect();
        let shares = Shares::new(buffers.count(), 2 * usize::from(FLOWS_PER_LANE));
        let now_ns = datapath.now_ns();
        Self {
            datapath,
            body: Body {
                disk,
                buffers,
                shares,
                jobs,
                files,
                link,
                attendance,
                sends: (0..FLOWS_PER_LANE).map(|_| None).collect(),
                receives: (0..FLOWS_PER_LANE).map(|_| None).collect(),
                active_sends: Vec::with_capacity(FLOWS_PER_LANE.into()),
                active_receives: Vec::with_capacity(FLOWS_PER_LANE.into()),
                busy_ns: 0,
                now_ns,
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
        self.body.now_ns = now_ns;
        let mut progress = false;
        if self.body.link.is_ready_for(EVENTS_PER_TURN) {
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
        self.body.link.counters.add(LaneCounter::DatagramsReceived, datagrams as u64);
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
            let slot = self.body.active_sends[at];
            // The flow is taken out of its place so that it and the rest of the lane can be
            // borrowed at once.
            let Some(mut flow) = self.body.sends[usize::from(slot.0)].take() else { continue };
            progress |= flow.turn(&mut self.datapath, &mut self.body, now_ns);
            self.body.sends[usize::from(slot.0)] = Some(flow);
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
                if reports == REPORTS_PER_TURN || !self.body.link.has_room_for_report() {
                    self.next_report = at;
                    return;
                }
                reports += 1;
                let queue = self.datapath.queue_condition();
                self.body.link.counters.set(LaneCounter::SocketDrops, queue.drops);
                let busy_ns = self.body.busy_ns;
                let bytes = flow.write_report(queue, busy_ns, now_ns, self.body.link.report_scratch());
                self.body.link.emit_report(slot, bytes);
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
                body.attendance.depart(Departure::WantsSendKey { slot, epoch });
            }
        }
        for &slot in &body.active_receives {
            let Some(flow) = body.receives[usize::from(slot.0)].as_mut() else { continue };
            if let Some(epoch) = flow.missing_key() {
                body.attendance.depart(Departure::WantsReceiveKey { slot, epoch });
            }
            if flow.is_astray(now_ns) {
                body.link.emit(&Event::Astray { flow: slot });
            }
        }
        let in_use = body.buffers.count() - body.buffers.free_count();
        body.link.counters.set(LaneCounter::BuffersInUse, in_use as u64);
        body.link.counters.set(LaneCounter::GsoEnabled, u64::from(self.datapath.segments_runs()));
        let ways = self.datapath.ways();
        body.link.counters.set(LaneCounter::RingReceived, ways.ring_received);
        body.link.counters.set(LaneCounter::KernelReceived, ways.kernel_received);
        body.link.counters.set(LaneCounter::RingSent, ways.ring_sent);
        body.link.counters.set(LaneCounter::KernelSent, ways.kernel_sent);
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
        let counters = &self.body.link.counters;
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
        body.link.counters.add(if progress { LaneCounter::BusyNs } else { LaneCounter::IdleNs }, spent_ns);
        for &slot in &body.active_sends {
            if let Some(flow) = body.sends[usize::from(slot.0)].as_mut() {
                flow.account(progress, spent_ns, now_ns, &body.link.counters);
            }
        }
        for &slot in &body.active_receives {
            if let Some(flow) = body.receives[usize::from(slot.0)].as_mut() {
                flow.account(spent_ns, &body.link.counters);
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
        &self.body.link
    }

    /// Whether the attendant has left something.
    pub(crate) fn has_deliveries(&self) -> bool {
        self.body.attendance.has_deliveries()
    }

    /// How many buffers are free and how many there are: equal when no flow is open, or one has
    /// leaked.
    #[must_use]
    pub fn buffer_counts(&self) -> (usize, usize) {
        (self.body.buffers.free_count(), self.body.buffers.count())
    }
}

impl Body {
    const fn has_flows(&self) -> bool {
        !(self.active_sends.is_empty() && self.active_receives.is_empty())
    }

    /// Routes a datagram to its flow.
    #[inline]
    fn datagram(&mut self, datagram: &[u8], by: Arrival, replies: &mut Vec<Reply>) {
        let Ok(header) = Header::parse_datagram(datagram) else {
            self.link.counters.add(LaneCounter::RejectedMalformed, 1);
            return;
        };
        match header.kind {
            SegmentKind::Data | SegmentKind::Probe => {
                let slot = ReceiveSlot((header.flow_id & 0xff) as u16);
                let known = self.receives[usize::from(slot.0)]
                    .as_ref()
                    .is_some_and(|flow| flow.protocol.flow_id() == header.flow_id);
                if !known {
                    self.link.counters.add(LaneCounter::RejectedUnknownFlow, 1);
                    return;
                }
                let reply = self.segment(slot, datagram, &header, by);
                if reply && replies.len() < PROBE_REPLIES_PER_TURN {
                    replies.push(Reply { to: by.from, slot, probe: header, datagram_bytes: datagram.len() });
                }
            }
            SegmentKind::ProbeReply | SegmentKind::Opening => self.reply_from_receiver(datagram, &header, by),
        }
    }

    /// A datagram of the reverse direction. The partner chose the id, so several flows may have the
    /// same one; the key shows which is meant.
    fn reply_from_receiver(&mut self, datagram: &[u8], header: &Header, by: Arrival) {
        let mut is_known = false;
        for &slot in &self.active_sends {
            let Some(flow) = self.sends[usize::from(slot.0)].as_mut() else { continue };
            if flow.protocol.flow_id() == header.flow_id {
                is_known = true;
                if flow.reply(datagram, header, by, &mut self.link) {
                    return;
                }
            }
        }
        let reason = if is_known { LaneCounter::RejectedNotAuthentic } else { LaneCounter::RejectedUnknownFlow };
        self.link.counters.add(reason, 1);
    }

    fn take_commands(&mut self, datapath: &mut impl Datapath, now_ns: u64) -> bool {
        let mut taken = 0;
        while taken < COMMANDS_PER_TURN && !self.link.is_backlogged() {
            let mut scratch = self.link.lend_command_scratch();
            let record = self.link.next_command(&mut scratch);
            if let Some(record) = record {
                // Its flow was delivered before it was sent, but perhaps after this turn looked for
                // deliveries.
                self.take_deliveries(datapath, now_ns);
                match postcard::from_bytes::<Command<'_>>(record) {
                    Ok(command) => self.command(&command, now_ns),
                    Err(_) => debug_assert!(false, "the control process sent a malformed command"),
                }
                taken += 1;
                self.link.return_command_scratch(scratch);
            } else {
                self.link.return_command_scratch(scratch);
                break;
            }
        }
        taken > 0
    }

    /// Commands for flows that are gone are ignored: they crossed with the event that said so.
    fn command(&mut self, command: &Command<'_>, now_ns: u64) {
        match *command {
            Command::Send { flow, chunk, chunk_bytes, source } => {
                if let Some(flow) = self.sends.get_mut(usize::from(flow.0)).and_then(Option::as_mut) {
                    flow.assign(chunk, chunk_bytes, source);
                }
            }
            Command::Filled { flow, chunk } => self.with_send(flow, |flow, body| flow.filled(chunk, body)),
            Command::Withdraw { flow, chunk } => self.with_send(flow, |flow, body| flow.withdraw(chunk, body)),
            Command::Report { flow, bytes } => {
                let Ok(report) = Report::parse(bytes) else {
                    debug_assert!(false, "the control process passes proved reports only");
                    return;
                };
                self.with_send(flow, |flow, body| flow.on_report(&report, body, now_ns));
            }
            Command::Place { flow, chunk, sink } => self.place(flow, chunk, sink),
            Command::Return { flow, buffer } => self.returned(flow, BufferId(buffer)),
            Command::Abandon { flow, chunk } => self.abandon_chunk(flow, chunk),
            Command::Reopen { flow, chunk } => self.reopen_chunk(flow, chunk),
            Command::Interval { flow, interval_us } => {
                self.with_receive(flow, |flow| flow.set_interval_us(interval_us));
            }
            Command::ExpectFrom { flow, port } => self.with_receive(flow, |flow| flow.expect_from(port, now_ns)),
            Command::Check { token, range, bytes, chunk_bytes } => self.begin_check(token, range, bytes, chunk_bytes),
            Command::CloseSend { flow } => self.with_send(flow, SendFlow::close),
            Command::CloseReceive { flow } => self.close_receive(flow),
        }
    }

    fn with_send(&mut self, slot: SendSlot, act: impl FnOnce(&mut SendFlow, &mut Self)) {
        let Some(mut flow) = self.sends.get_mut(usize::from(slot.0)).and_then(Option::take) else { return };
        act(&mut flow, self);
        self.sends[usize::from(slot.0)] = Some(flow);
    }

    fn with_receive(&mut self, slot: ReceiveSlot, act: impl FnOnce(&mut ReceiveFlow)) {
        if let Some(flow) = self.receives.get_mut(usize::from(slot.0)).and_then(Option::as_mut) {
            act(flow);
        }
    }

    /// Takes over flows and keys from the attendant.
    fn take_deliveries(&mut self, datapath: &mut impl Datapath, now_ns: u64) -> bool {
        let mut taken = false;
        while let Some(delivery) = self.attendance.next_delivery() {
            taken = true;
            match delivery {
                Delivery::Send(mut flow) => {
                    let slot = flow.slot;
                    flow.begin(now_ns);
                    flow.account = self.shares.join(flow.holder);
                    self.sends[usize::from(slot.0)] = Some(flow);
                    self.active_sends.push(slot);
                }
                Delivery::Receive(mut flow) => {
                    let slot = flow.slot;
                    flow.begin(now_ns, self.busy_ns, self.shares.join(flow.holder));
                    self.receives[usize::from(slot.0)] = Some(flow);
                    self.active_receives.push(slot);
                }
                Delivery::Source { slot, source } => {
                    datapath.watch(&source);
                    self.with_send(slot, |flow, _| flow.source = Some(source));
                }
                Delivery::NextHop { to, hop } => datapath.set_next_hop(to, hop.as_ref()),
                Delivery::Tap(mut tap) => {
                    if let Some(tap) = &mut tap {
                        tap.begin();
                    }
                    if let Some(mut before) = datapath.set_tap(tap) {
                        before.end();
                        self.attendance.depart(Departure::Tap(before));
                    }
                }
                Delivery::SendKey { slot, epoch, key } => {
                    self.with_send(slot, |flow, _| flow.protocol.push_key(epoch, key));
                }
                Delivery::ReceiveKey { slot, epoch, key } => {
                    self.with_receive(slot, |flow| flow.protocol.push_key(epoch, key));
                }
            }
        }
        taken
    }

    /// Lets go of flows that were closed and of which nothing is left.
    fn close_what_is_done(&mut self) {
        let (sends, receives) = (&mut self.sends, &mut self.receives);
        let (link, attendance, jobs, shares) = (&mut self.link, &self.attendance, &self.jobs, &mut self.shares);
        self.active_sends.retain(|&slot| {
            let place = &mut sends[usize::from(slot.0)];
            if !place.as_ref().is_some_and(|flow| flow.is_done()) {
                return true;
            }
            debug_assert!(!jobs.iter().any(|job| job.role == Role::Send(slot)), "a closed flow has buffers");
            if let Some(flow) = place.take() {
                shares.leave(flow.account);
                attendance.depart(Departure::Send(flow));
            }
            link.emit(&Event::SendClosed { flow: slot });
            false
        });
        self.active_receives.retain(|&slot| {
            let place = &mut receives[usize::from(slot.0)];
            let is_closing = place.as_ref().is_some_and(|flow| flow.is_closing());
            if !is_closing || jobs.iter().any(|job| job.role == Role::Receive(slot)) {
                return true;
            }
            if let Some(flow) = place.take() {
                debug_assert_eq!(flow.protocol.held(), 0, "a closed flow holds buffers");
                shares.leave(flow.claim.account);
                attendance.depart(Departure::Receive(flow));
            }
            link.emit(&Event::ReceiveClosed { flow: slot });
            false
        });
    }

    /// Takes a buffer for a job that is not a receiving flow's, of the part of `account`.
    fn take_buffer(&mut self, role: Role, account: Option<usize>) -> Option<BufferId> {
        if !self.may_take_buffer(account) {
            return None;
        }
        let buffer = self.buffers.take()?;
        self.jobs[buffer.0 as usize].begin(role, self.now_ns);
        Some(buffer)
    }

    fn free_buffer(&mut self, buffer: BufferId) {
        if let Some(file) = self.jobs[buffer.0 as usize].file() {
            self.files.release(file);
        }
        self.jobs[buffer.0 as usize].end();
        self.buffers.give_back(buffer);
    }

    /// The buffer in which `role` has `chunk`.
    fn buffer_of(&self, role: Role, chunk: u32) -> Option<BufferId> {
        let at = self.jobs.iter().position(|job| job.role == role && job.chunk == chunk)?;
        Some(BufferId(at as u32))
    }

    /// The destination of a chunk is known.
    fn place(&mut self, slot: ReceiveSlot, chunk: u32, sink: Sink) {
        let Some(buffer) = self.buffer_of(Role::Receive(slot), chunk) else { return };
        if self.jobs[buffer.0 as usize].sink.is_none() {
            self.set_sink(slot, buffer, sink);
        }
    }
}
