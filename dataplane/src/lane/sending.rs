//! A sending flow within its lane: chunks in hand, probing, pacing, and the account of where the
//! time went.

mod probing;

use std::collections::VecDeque;

use culvert_link::clock::wire_us;
use culvert_link::commands::{ASSIGNED_MAX, DiskError, Event, IP_UDP_BYTES, SendSlot, Source};
use culvert_link::counters::{FlowBlock, FlowWord, LaneCounter, LaneCounters};
use culvert_protocol::chunk_memory::{BufferId, ChunkMemory as _};
use culvert_protocol::destination::{Answer, Destination};
use culvert_protocol::feedback::Report;
use culvert_protocol::pacer::Pacer;
use culvert_protocol::path_mtu::PathMtuSearch;
use culvert_protocol::sender_flow::{Blocked, SenderFlow};
use culvert_protocol::tree_hash::ChunkHasher;
use culvert_protocol::wire::{Header, OVERHEAD_BYTES, SegmentKind};

use super::jobs::{CACHED_PIECE_BYTES, HASH_STEP_BYTES, Role};
use super::lane_link::LaneLink;
use super::resources::Resources;
use crate::datapath::udp::SUPER_BUFFER_BYTES;
use crate::datapath::udp::source::SourceSocket;
use crate::datapath::{Arrival, Datapath, Endpoints};
use probing::Probing;

/// Super-buffers that one flow sends before the lane looks at its other work. Eight are half a
/// megabyte, 100 µs at 40 Gb/s.
const RUNS_PER_TURN: usize = 8;
/// Chunks that wait, read or being read, behind the one that is being sent. From memory and the
/// page cache two are enough, and stay in the cache; a disk wants a queue.
const READY_CHUNKS_CACHED: usize = 2;
/// See [`READY_CHUNKS_CACHED`].
const READY_CHUNKS_DIRECT: usize = 8;
/// See [`READY_CHUNKS_CACHED`]: as many as the control process has workers to fill them.
const READY_CHUNKS_FILLED: usize = 4;
/// Bytes that a read through the page cache runs ahead of sending.
const CACHED_READ_AHEAD_BYTES: u32 = 2 * CACHED_PIECE_BYTES;
/// Unanswered repetitions after which the path is probed again.
const BLACK_HOLE_TIMEOUTS: u32 = 3;
/// Timeouts with silence, and the minimum time, after which a path that is still being sent to is
/// probed again too: as long as there is new data to send, nothing is repeated. Losses on the
/// control connection itself can delay reports for that long.
const BLACK_HOLE_PATIENCES: u64 = 4;
/// See [`BLACK_HOLE_PATIENCES`].
const BLACK_HOLE_NS_MIN: u64 = 500_000_000;
/// Patience with silence until the control process has measured the round trip.
const SILENCE_NS_DEFAULT: u64 = 200_000_000;

/// A chunk that the control process wants sent.
#[derive(Clone, Copy, Debug)]
struct Assigned {
    chunk: u32,
    chunk_bytes: u32,
    source: Source,
}

/// What a flow waits for when it sends nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waiting {
    /// It has nothing to send.
    Nothing,
    /// Bytes of its source.
    Source,
    /// The pacer.
    Pacer,
    /// Credit, or the fate of packets in flight.
    Credit,
}

/// A sending flow.
#[derive(Debug)]
pub struct SendFlow {
    /// Its slot.
    pub slot: SendSlot,
    /// The protocol's part.
    pub protocol: SenderFlow,
    /// The number of the partner whose part of the buffers it takes.
    pub holder: u32,
    /// The partner's account in the lane.
    pub(super) account: usize,
    /// Buffers that it may hold.
    pub allowance: u32,
    /// Buffers that it holds.
    pub held: u32,
    /// The port that it is sent from, if not the lane's own.
    pub source: Option<SourceSocket>,
    pacer: Pacer,
    destination: Destination,
    block: FlowBlock,
    checksum: bool,
    chunk_bytes: u32,
    probing: Option<Probing>,
    /// What the path may carry beyond that.
    search: PathMtuSearch,
    /// Whether the path was open once.
    was_open: bool,
    assigned: VecDeque<Assigned>,
    reads_directly: bool,
    waiting: Waiting,
    is_closing: bool,
    requested_key: Option<u64>,
    counted: (u64, u64, u64),
}

impl SendFlow {
    /// A flow that will probe the path with `probe_datagram_bytes` and then send to `destination`.
    #[must_use]
    pub fn new(
        slot: SendSlot,
        protocol: SenderFlow,
        destination: Destination,
        block: FlowBlock,
        probe_datagram_bytes: Vec<u16>,
        checksum: bool,
        chunk_bytes: u32,
    ) -> Self {
        block.clear();
        Self {
            slot,
            protocol,
            holder: 0,
            account: 0,
            allowance: 1,
            held: 0,
            source: None,
            pacer: Pacer::new(0),
            destination,
            block,
            checksum,
            chunk_bytes,
            probing: Some(Probing::beginning(0)),
            search: PathMtuSearch::new(probe_datagram_bytes.into_boxed_slice()),
            was_open: false,
            assigned: VecDeque::with_capacity(ASSIGNED_MAX),
            reads_directly: false,
            waiting: Waiting::Nothing,
            is_closing: false,
            requested_key: None,
            counted: (0, 0, 0),
        }
    }

    /// The lane has taken the flow over.
    pub fn begin(&mut self, now_ns: u64) {
        if let Some(probing) = self.probing.as_mut() {
            probing.begin(now_ns);
        }
    }

    /// Whether it has chunks to send and no buffer at all.
    pub(super) fn wants_buffer(&self) -> bool {
        self.held == 0 && !self.assigned.is_empty() && !self.is_closing && self.probing.is_none()
    }

    /// A chunk is to be sent.
    pub fn assign(&mut self, chunk: u32, chunk_bytes: u32, source: Source) {
        debug_assert!(self.assigned.len() < ASSIGNED_MAX, "the control process assigns too much");
        if !self.is_closing {
            self.assigned.push_back(Assigned { chunk, chunk_bytes, source });
        }
    }

    /// One turn of the flow; whether it moved anything.
    pub(super) fn turn<D: Datapath>(&mut self, datapath: &mut D, resources: &mut Resources, now_ns: u64) -> bool {
        if now_ns >= self.destination.due_ns() {
            self.challenge(datapath, now_ns);
        }
        if self.probing.is_some() {
            return self.probe(datapath, resources, now_ns);
        }
        let mut progress = self.take_in_hand(resources);
        self.pacer.set_rate(self.block.get(FlowWord::RateBitsPerSecond), now_ns);
        if now_ns >= self.search.due_ns() {
            self.search_on(datapath, now_ns);
        }
        self.waiting = Waiting::Pacer;
        let datagram_bytes = usize::from(self.protocol.stride()) + OVERHEAD_BYTES;
        // No burst is longer than a millisecond of the rate, whatever a super-buffer holds.
        let burst_datagrams = self.pacer.rate_bits_per_second() as usize / 8_000 / datagram_bytes;
        let run_datagrams = burst_datagrams.clamp(1, datapath.run_datagrams_max(datagram_bytes));
        for _ in 0..RUNS_PER_TURN {
            let now_ns = datapath.now_ns();
            if self.pacer.wait_ns(now_ns) > 0 || datapath.is_blocked() {
                break;
            }
            self.prepare_front(resources);
            let (protocol, buffers) = (&mut self.protocol, &resources.buffers);
            let way = Endpoints { to: self.destination.address(), source: self.source.as_ref() };
            let now_us = wire_us(now_ns);
            let outcome = datapath.send_run(way, run_datagrams, |room, bytes_max| {
                protocol.seal_next(buffers, bytes_max, now_us, room).map(|sealed| sealed.datagram_bytes)
            });
            if outcome.datagrams == 0 {
                self.waiting = self.what_it_waits_for();
                break;
            }
            self.pacer.note_sent(outcome.bytes + outcome.datagrams * IP_UDP_BYTES, now_ns);
            self.protocol.note_sent(now_ns);
            if outcome.error.is_some() {
                resources.link.counters.add(LaneCounter::SendErrors, 1);
            }
            progress = true;
        }
        if progress {
            self.publish(&resources.link.counters);
        }
        progress
    }

    /// Gives buffers to assigned chunks and begins to read them.
    fn take_in_hand(&mut self, resources: &mut Resources) -> bool {
        let mut progress = false;
        while let Some(&Assigned { chunk, chunk_bytes, source }) = self.assigned.front() {
            let ready_max = match source {
                Source::File(_) if self.reads_directly => READY_CHUNKS_DIRECT,
                Source::File(_) | Source::Memory => READY_CHUNKS_CACHED,
                Source::Fill => READY_CHUNKS_FILLED,
            };
            let has_enough = self.held >= self.allowance || self.protocol.fresh_count() >= ready_max;
            if has_enough || self.protocol.room() == 0 || resources.link.is_backlogged() {
                break;
            }
            let Some(buffer) = resources.take_buffer(Role::Send(self.slot), Some(self.account)) else { break };
            self.assigned.pop_front();
            self.held += 1;
            self.protocol.add_chunk(chunk, chunk_bytes, buffer);
            let job = &mut resources.jobs[buffer.0 as usize];
            (job.chunk, job.bytes) = (chunk, chunk_bytes);
            progress = true;
            match source {
                Source::File(range) => {
                    job.hasher =
                        self.checksum.then(|| ChunkHasher::new(range.file_bytes, range.offset, self.chunk_bytes));
                    if resources.begin_read(buffer, &range) {
                        self.reads_directly = !resources.jobs[buffer.0 as usize].is_cached();
                    } else {
                        self.read_failed(buffer, DiskError::Os(libc::EBADF), resources);
                    }
                }
                Source::Fill => {
                    job.is_lent = true;
                    resources.link.emit(&Event::Fill { flow: self.slot, chunk, buffer: buffer.0 });
                }
                Source::Memory => {
                    job.hasher = self.checksum.then(|| ChunkHasher::new(chunk_bytes.into(), 0, self.chunk_bytes));
                    let stamp = (chunk_bytes as usize).min(4);
                    resources.buffers.bytes_mut(buffer, 0..stamp).copy_from_slice(&chunk.to_be_bytes()[..stamp]);
                    self.protocol.set_available(chunk, chunk_bytes);
                }
            }
        }
        progress
    }

    /// Before bytes are sealed: reads the next pieces through the page cache, and hashes what the
    /// next run will take.
    fn prepare_front(&mut self, resources: &mut Resources) {
        let Some((chunk, buffer, sent)) = self.protocol.fresh_front() else { return };
        let job = &resources.jobs[buffer.0 as usize];
        if job.is_cached()
            && job.has_pieces_left()
            && !job.is_in_kernel()
            && job.read_prefix() < sent + CACHED_READ_AHEAD_BYTES
        {
            resources.start_piece(buffer);
        }
        let job = &resources.jobs[buffer.0 as usize];
        let (bytes, begun) = (job.bytes, job.hashed);
        let until = job.available().min(sent + SUPER_BUFFER_BYTES as u32);
        // Whole steps keep BLAKE3 at its widest; the chunk's end is hashed as it is.
        let until = if until == bytes { until } else { until / HASH_STEP_BYTES * HASH_STEP_BYTES };
        if job.hasher.is_some() && until > begun {
            resources.hash_until(buffer, until);
            if until == bytes {
                self.emit_hash(chunk, buffer, resources);
            }
        }
    }

    fn emit_hash(&self, chunk: u32, buffer: BufferId, resources: &mut Resources) {
        if let Some(hash) = resources.finish_hash(buffer) {
            resources.link.emit(&Event::Hashed { flow: self.slot, chunk, hash });
        }
    }

    fn what_it_waits_for(&mut self) -> Waiting {
        match self.protocol.blocked_by() {
            Some(Blocked::Reading) => Waiting::Source,
            Some(Blocked::Credit | Blocked::Window) => Waiting::Credit,
            Some(Blocked::NoChunk) if self.held > 0 && !self.assigned.is_empty() => Waiting::Credit,
            Some(Blocked::NoChunk | Blocked::Key) | None => Waiting::Nothing,
        }
    }

    /// More of a chunk has been read, or its reading has failed.
    pub(super) fn read_on(&mut self, buffer: BufferId, error: Option<DiskError>, resources: &mut Resources) {
        if let Some(error) = error {
            self.read_failed(buffer, error, resources);
            return;
        }
        let job = &resources.jobs[buffer.0 as usize];
        self.protocol.set_available(job.chunk, job.read_prefix());
    }

    fn read_failed(&mut self, buffer: BufferId, error: DiskError, resources: &mut Resources) {
        let chunk = resources.jobs[buffer.0 as usize].chunk;
        self.protocol.withdraw(chunk);
        dispose(&mut self.held, buffer, resources);
        resources.link.emit(&Event::ReadFailed { flow: self.slot, chunk, error });
    }

    /// The control process has filled a buffer, or come back with it after the chunk was given up.
    pub(super) fn filled(&mut self, chunk: u32, resources: &mut Resources) {
        let Some(buffer) = resources.buffer_of(Role::Send(self.slot), chunk) else { return };
        let job = &mut resources.jobs[buffer.0 as usize];
        if !std::mem::replace(&mut job.is_lent, false) {
            return;
        }
        let bytes = job.bytes;
        job.note_whole(resources.now_ns);
        if job.is_abandoned {
            resources.free_buffer(buffer);
            self.held -= 1;
        } else {
            self.protocol.set_available(chunk, bytes);
        }
    }

    /// The control process gives a chunk up.
    pub(super) fn withdraw(&mut self, chunk: u32, resources: &mut Resources) {
        let waiting = self.assigned.len();
        self.assigned.retain(|assigned| assigned.chunk != chunk);
        let mut had_it = self.assigned.len() < waiting;
        if let Some(buffer) = self.protocol.withdraw(chunk) {
            dispose(&mut self.held, buffer, resources);
            had_it = true;
        }
        if had_it {
            resources.link.emit(&Event::Withdrawn { flow: self.slot, chunk });
        }
    }

    /// A report has come.
    pub(super) fn on_report(&mut self, report: &Report<'_>, resources: &mut Resources, now_ns: u64) {
        let (slot, held) = (self.slot, &mut self.held);
        self.protocol.on_report(report, now_ns, |chunk, buffer| {
            // Only a chunk that went out within another's run can come here unhashed.
            if let Some(hash) = resources.finish_hash(buffer) {
                resources.link.emit(&Event::Hashed { flow: slot, chunk, hash });
            }
            let times = resources.jobs[buffer.0 as usize].times(now_ns);
            resources.free_buffer(buffer);
            *held -= 1;
            resources.link.emit(&Event::Delivered { flow: slot, chunk, times });
        });
    }

    /// A datagram from the receiver; false if it is not this flow's.
    pub(super) fn reply(&mut self, datagram: &[u8], header: &Header, by: Arrival, link: &mut LaneLink) -> bool {
        let taken_us = wire_us(by.taken_ns);
        if !self.protocol.open_reply(datagram, header) {
            return false;
        }
        self.block.add(FlowWord::Heard, 1);
        // An authentic, new datagram may show where the receiver is now: behind an address
        // translator that may be another address than the control connection knows. Or somebody was
        // faster with a copy. The answer to a challenge tells (W-50).
        self.destination.on_authentic(by.from, datagram.len(), by.taken_ns);
        if header.kind != SegmentKind::ProbeReply {
            return true;
        }
        match self.destination.on_answer(header.chunk) {
            Answer::None => {}
            Answer::Late => return true,
            Answer::Moved => {
                self.moved(by.taken_ns);
                return true;
            }
        }
        let delivered = u16::try_from(header.index).unwrap_or(0);
        if let Some(probing) = self.probing.as_mut() {
            if !probing.on_answer(delivered, taken_us.wrapping_sub(header.sent_us), self.search.common()) {
                self.block.set(FlowWord::ProbesMet, libc::EMSGSIZE as u64);
            }
        } else if self.search.on_answer(delivered, by.taken_ns)
            // The search goes upwards from a size that carries data, so every answer that it takes
            // is larger.
            && let Some(stride) = PathMtuSearch::stride_of(delivered)
            && self.protocol.set_stride(stride).is_ok()
        {
            let rtt_us = taken_us.wrapping_sub(header.sent_us).max(1);
            link.emit(&Event::PathOpen { flow: self.slot, stride, rtt_us });
        }
        true
    }

    /// The flow goes to another address from now on. While nothing but probes went, they go there
    /// at once.
    #[cold]
    fn moved(&mut self, now_ns: u64) {
        if let Some(probing) = self.probing.as_mut() {
            probing.redirect(now_ns);
        }
    }

    /// Challenges an address from which the receiver seems to send now.
    #[cold]
    fn challenge<D: Datapath>(&mut self, datapath: &mut D, now_ns: u64) {
        if datapath.is_blocked() {
            return;
        }
        let Some((to, token)) = self.destination.due(OVERHEAD_BYTES, self.patience_ns(), now_ns) else { return };
        let way = Endpoints { to, source: self.source.as_ref() };
        let protocol = &mut self.protocol;
        // What the network refuses is lost like any datagram; it comes again as long as the address
        // may have more.
        datapath.send_run(way, 1, |room, _| protocol.seal_probe(token, OVERHEAD_BYTES, wire_us(now_ns), room));
    }

    /// After how much silence something is amiss: two round trips and a little.
    fn patience_ns(&self) -> u64 {
        match self.block.get(FlowWord::SilenceNs) {
            0 => SILENCE_NS_DEFAULT,
            patience_ns => patience_ns,
        }
    }

    /// Sends probes, and ends the search when it has its answer.
    fn probe<D: Datapath>(&mut self, datapath: &mut D, resources: &mut Resources, now_ns: u64) -> bool {
        let Some(probing) = self.probing.as_mut() else { return false };
        if let Some(best) = probing.found(self.search.common()[0], now_ns) {
            let stride = PathMtuSearch::stride_of(best);
            let Some(stride) = stride.filter(|&stride| self.protocol.set_stride(stride).is_ok()) else {
                return false;
            };
            self.protocol.forget_silence();
            self.was_open = true;
            self.search.opened(best, now_ns);
            let event = Event::PathOpen { flow: self.slot, stride, rtt_us: probing.rtt_us() };
            self.probing = None;
            resources.link.emit(&event);
            return true;
        }
        if !probing.is_answered() && !self.was_open && probing.is_given_up(now_ns) {
            // Reported once; the control process closes the flow, and until then it keeps trying.
            resources.link.emit(&Event::PathClosed { flow: self.slot, errno: probing.errno() });
        }
        if !probing.begin_round(self.was_open, now_ns) {
            return false;
        }
        let now_us = wire_us(now_ns);
        for (token, &bytes) in self.search.common().iter().enumerate() {
            let way = Endpoints { to: self.destination.address(), source: self.source.as_ref() };
            let protocol = &mut self.protocol;
            let outcome = datapath
                .send_run(way, 1, |room, _| protocol.seal_probe(token as u32, usize::from(bytes), now_us, room));
            // Too large for the first link: not the path's refusal of everything.
            if let Some(errno) = outcome.error.filter(|&errno| errno != libc::EMSGSIZE) {
                probing.on_refused(errno);
                self.block.set(FlowWord::ProbesMet, u64::try_from(errno).unwrap_or(0));
            }
        }
        true
    }

    /// Probes the path for more than it is known to carry, while data move.
    #[cold]
    fn search_on<D: Datapath>(&mut self, datapath: &mut D, now_ns: u64) {
        let protocol = &mut self.protocol;
        if datapath.is_blocked() {
            return;
        }
        let Some(bytes) = self.search.due(now_ns, self.block.get(FlowWord::SilenceNs)) else { return };
        let way = Endpoints { to: self.destination.address(), source: self.source.as_ref() };
        let outcome = datapath.send_run(way, 1, |room, _| {
            protocol.seal_probe(u32::from(bytes), usize::from(bytes), wire_us(now_ns), room)
        });
        self.pacer.note_sent(outcome.bytes + outcome.datagrams * IP_UDP_BYTES, now_ns);
    }

    /// Charges time to what the flow spent it on.
    pub(super) fn account(&mut self, progress: bool, spent_ns: u64, now_ns: u64, counters: &LaneCounters) {
        let held_back_ns = self.pacer.held_back_ns(spent_ns, now_ns);
        let (word, counter, ns) = match (progress, self.waiting) {
            _ if self.probing.is_some() => return,
            (true, Waiting::Nothing) if self.held == 0 => return,
            (true, _) => return self.block.add(FlowWord::BusyNs, spent_ns),
            (false, Waiting::Nothing) => return,
            (false, Waiting::Source) => (FlowWord::ReadingNs, LaneCounter::StallReadingNs, spent_ns),
            (false, Waiting::Pacer) => (FlowWord::PacingNs, LaneCounter::StallPacingNs, held_back_ns),
            (false, Waiting::Credit) => (FlowWord::CreditNs, LaneCounter::StallCreditNs, spent_ns),
        };
        self.block.add(word, ns);
        counters.add(counter, ns);
    }

    /// Writes the flow's counts where the control process reads them.
    fn publish(&mut self, counters: &LaneCounters) {
        let (sent, resent, bytes) = self.protocol.counts();
        self.block.set(FlowWord::SegmentsSent, sent);
        self.block.set(FlowWord::SegmentsResent, resent);
        self.block.set(FlowWord::PayloadSent, bytes);
        counters.add(LaneCounter::SegmentsSent, sent - self.counted.0);
        counters.add(LaneCounter::SegmentsResent, resent - self.counted.1);
        counters.add(LaneCounter::PayloadSent, bytes - self.counted.2);
        self.counted = (sent, resent, bytes);
    }

    /// Looks after silence.
    pub(super) fn housekeeping(&mut self, now_ns: u64) {
        let patience_ns = self.patience_ns();
        if self.probing.is_some() {
            return;
        }
        self.protocol.on_silence(now_ns, patience_ns);
        // The path is dark, or now drops datagrams of this size (a black hole, RFC 8899 section
        // 4.3): probes show which, and what still passes. Nothing else is sent until one is
        // answered (wire.md W-12: "after three unanswered retransmissions, the flow opens again").
        let black_hole_ns = (BLACK_HOLE_PATIENCES * patience_ns).max(BLACK_HOLE_NS_MIN);
        if self.protocol.timeouts() >= BLACK_HOLE_TIMEOUTS || self.protocol.unanswered_ns(now_ns) > black_hole_ns {
            self.probing = Some(Probing::beginning(now_ns));
            self.search.closed();
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
        let due_ns = match &self.probing {
            Some(probing) => probing.due_ns(),
            None if self.waiting == Waiting::Pacer => self.pacer.due_ns().min(self.search.due_ns()),
            None => self.search.due_ns(),
        };
        due_ns.min(self.destination.due_ns())
    }

    /// Gives everything up.
    pub(super) fn close(&mut self, resources: &mut Resources) {
        self.is_closing = true;
        self.probing = None;
        self.assigned.clear();
        self.waiting = Waiting::Nothing;
        let held = &mut self.held;
        self.protocol.abandon(|_, buffer| dispose(held, buffer, resources));
    }

    /// Whether it was closed and nothing of it is left.
    pub(super) fn is_done(&self) -> bool {
        self.is_closing && self.held == 0
    }
}

/// Frees a buffer now, or when the kernel or the control process is done with it.
fn dispose(held: &mut u32, buffer: BufferId, resources: &mut Resources) {
    let job = &mut resources.jobs[buffer.0 as usize];
    if job.is_lent || job.is_in_kernel() {
        job.is_abandoned = true;
    } else {
        resources.free_buffer(buffer);
        *held -= 1;
    }
}
