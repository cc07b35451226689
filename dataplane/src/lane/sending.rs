//! A sending flow within its lane: its chunks from their assignment to their delivery, its pacing,
//! and where its time went.

mod path;
mod probing;

use std::collections::VecDeque;

use culvert_link::clock::wire_us;
use culvert_link::commands::{ASSIGNED_MAX, DiskError, Event, IP_UDP_BYTES, SendSlot, Source};
use culvert_link::counters::{FlowBlock, FlowWord, LaneCounter, LaneCounters};
use culvert_link::invariant;
use culvert_protocol::chunk_memory::{BufferId, ChunkMemory as _};
use culvert_protocol::destination::Destination;
use culvert_protocol::feedback::Report;
use culvert_protocol::pacer::Pacer;
use culvert_protocol::sender_flow::{Blocked, SenderFlow};
use culvert_protocol::wire::{Header, OVERHEAD_BYTES};

use super::jobs::{CACHED_PIECE_BYTES, HASH_STEP_BYTES, Hashing, Role};
use super::lane_link::LaneLink;
use super::resources::Resources;
use crate::datapath::udp::SUPER_BUFFER_BYTES;
use crate::datapath::udp::source::SourceSocket;
use crate::datapath::{Arrival, Datapath};
use path::{FlowPart, Path};

/// Super-buffers that one flow sends before the lane looks at its other work. Eight are half a
/// megabyte, 100 µs at 40 Gb/s.
const RUNS_PER_TURN: usize = 8;
/// Chunks that wait, read or being read, behind the one that is being sent. From memory and the
/// page cache two are enough, and stay in the cache.
const READY_CHUNKS_CACHED: usize = 2;
/// See [`READY_CHUNKS_CACHED`]; a disk is fast only with a queue of requests.
const READY_CHUNKS_DIRECT: usize = 8;
/// See [`READY_CHUNKS_CACHED`]: as many as the control process has workers to fill them.
const READY_CHUNKS_FILLED: usize = 4;
/// Bytes that a read through the page cache runs ahead of sending.
const CACHED_READ_AHEAD_BYTES: u32 = 2 * CACHED_PIECE_BYTES;
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
    claim: Claim,
    path: Path,
    pacer: Pacer,
    block: FlowBlock,
    hashing: Hashing,
    assigned: Assignments,
    waiting: Waiting,
    is_closing: bool,
    requested_key: Option<u64>,
    /// Segments, retransmitted segments and payload bytes that are in the lane's counters.
    counted: (u64, u64, u64),
}

/// The buffers of a sending flow.
#[derive(Clone, Copy, Debug, Default)]
struct Claim {
    /// The control process's number of the partner whose part it takes.
    holder: u32,
    /// That partner's account in this lane.
    account: usize,
    /// Buffers that the flow may hold.
    allowance: u32,
    /// Buffers that it holds.
    held: u32,
}

impl Claim {
    fn release(&mut self) {
        // Invariant I-lane-held: a sending flow gives back no more buffers than it holds.
        invariant!(self.held > 0, "a flow gives back no more buffers than it holds");
        self.held = self.held.saturating_sub(1);
    }
}

/// Chunks that a flow will send when it has buffers for them.
#[derive(Debug)]
struct Assignments {
    queue: VecDeque<Assigned>,
    /// Whether the last chunk from a file was read with direct I/O.
    reads_directly: bool,
}

impl Assignments {
    /// How many chunks from `source` may be ready behind the one that is being sent.
    const fn ready_max(&self, source: Source) -> usize {
        match source {
            Source::File(_) if self.reads_directly => READY_CHUNKS_DIRECT,
            Source::File(_) | Source::Memory => READY_CHUNKS_CACHED,
            Source::Fill => READY_CHUNKS_FILLED,
        }
    }
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
            claim: Claim { allowance: 1, ..Claim::default() },
            path: Path::new(destination, probe_datagram_bytes),
            pacer: Pacer::new(0),
            block,
            hashing: Hashing::new(checksum, chunk_bytes),
            assigned: Assignments { queue: VecDeque::with_capacity(ASSIGNED_MAX), reads_directly: false },
            waiting: Waiting::Nothing,
            is_closing: false,
            requested_key: None,
            counted: (0, 0, 0),
        }
    }

    /// Names the partner whose part of the buffers the flow takes by the control process's number.
    #[must_use]
    pub fn of_holder(mut self, holder: u32) -> Self {
        self.claim.holder = holder;
        self
    }

    pub(super) const fn holder(&self) -> u32 {
        self.claim.holder
    }

    /// The account of the partner whose part of the buffers it takes.
    pub(super) const fn account(&self) -> usize {
        self.claim.account
    }

    /// Buffers that it holds.
    pub(super) const fn held(&self) -> u32 {
        self.claim.held
    }

    /// Sets how many buffers it may hold.
    pub(super) const fn set_allowance(&mut self, buffers: u32) {
        self.claim.allowance = buffers;
    }

    /// A buffer that was given up earlier is free again.
    pub(super) fn release(&mut self) {
        self.claim.release();
    }

    /// Sends from another port from now on.
    pub(super) fn set_source(&mut self, source: SourceSocket) {
        self.path.source = Some(source);
    }

    /// Lends the port that the flow is sent from, if it has one of its own.
    pub(super) const fn take_source(&mut self) -> Option<SourceSocket> {
        self.path.source.take()
    }

    /// The lane has taken the flow over, and counts its buffers under `account`.
    pub(super) const fn begin(&mut self, now_ns: u64, account: usize) {
        self.claim.account = account;
        self.path.begin(now_ns);
    }

    /// Whether it has chunks to send and no buffer at all.
    pub(super) fn wants_buffer(&self) -> bool {
        self.claim.held == 0 && !self.assigned.queue.is_empty() && !self.is_closing && self.path.is_open()
    }

    /// A chunk is to be sent. False if there are too many already.
    pub(super) fn assign(&mut self, chunk: u32, chunk_bytes: u32, source: Source) -> bool {
        if self.assigned.queue.len() >= ASSIGNED_MAX {
            return false;
        }
        if !self.is_closing {
            self.assigned.queue.push_back(Assigned { chunk, chunk_bytes, source });
        }
        true
    }

    /// One turn of the flow; whether it moved anything.
    pub(super) fn turn<D: Datapath>(&mut self, datapath: &mut D, resources: &mut Resources, now_ns: u64) -> bool {
        let flow = &mut FlowPart { slot: self.slot, protocol: &mut self.protocol, block: &self.block };
        if self.path.owes_challenge(now_ns) {
            self.path.challenge(datapath, flow, now_ns);
        }
        if !self.path.is_open() {
            return self.path.probe(datapath, flow, &mut resources.link, now_ns);
        }
        let mut progress = self.take_in_hand(resources);
        self.pacer.set_rate(self.block.get(FlowWord::RateBitsPerSecond), now_ns);
        if now_ns >= self.path.search_due_ns() {
            let flow = &mut FlowPart { slot: self.slot, protocol: &mut self.protocol, block: &self.block };
            let outcome = self.path.search_on(datapath, flow, now_ns);
            if outcome.datagrams > 0 {
                self.pacer.note_sent(outcome.bytes + outcome.datagrams * IP_UDP_BYTES, now_ns);
            }
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
            let now_us = wire_us(now_ns);
            let outcome = datapath.send_run(self.path.endpoints(), run_datagrams, |room, bytes_max| {
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
        while let Some(&Assigned { chunk, chunk_bytes, source }) = self.assigned.queue.front() {
            let has_enough = self.claim.held >= self.claim.allowance
                || self.protocol.fresh_count() >= self.assigned.ready_max(source);
            if has_enough || self.protocol.room() == 0 || resources.link.is_backlogged() {
                break;
            }
            let Some(buffer) = resources.take_buffer(Role::Send(self.slot), Some(self.claim.account)) else { break };
            self.assigned.queue.pop_front();
            self.claim.held += 1;
            self.protocol.add_chunk(chunk, chunk_bytes, buffer);
            let job = &mut resources.jobs[buffer.0 as usize];
            (job.chunk, job.bytes) = (chunk, chunk_bytes);
            self.begin_source(chunk, buffer, source, resources);
            progress = true;
        }
        progress
    }

    /// Begins to fill a buffer with its chunk.
    fn begin_source(&mut self, chunk: u32, buffer: BufferId, source: Source, resources: &mut Resources) {
        let job = &mut resources.jobs[buffer.0 as usize];
        let chunk_bytes = job.bytes;
        match source {
            Source::File(range) => {
                job.hasher = self.hashing.hasher(range.file_bytes, range.offset);
                if resources.begin_read(buffer, &range) {
                    self.assigned.reads_directly = !resources.jobs[buffer.0 as usize].is_cached();
                } else {
                    self.read_failed(buffer, DiskError::Os(libc::EBADF), resources);
                }
            }
            Source::Fill => {
                job.is_lent = true;
                resources.link.emit(&Event::Fill { flow: self.slot, chunk, buffer: buffer.0 });
            }
            Source::Memory => {
                job.hasher = self.hashing.hasher(chunk_bytes.into(), 0);
                let stamp = (chunk_bytes as usize).min(4);
                resources.buffers.bytes_mut(buffer, 0..stamp).copy_from_slice(&chunk.to_be_bytes()[..stamp]);
                self.protocol.set_available(chunk, chunk_bytes);
            }
        }
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
            Some(Blocked::NoChunk) if self.claim.held > 0 && !self.assigned.queue.is_empty() => Waiting::Credit,
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
        dispose(&mut self.claim, buffer, resources);
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
            self.claim.release();
        } else {
            self.protocol.set_available(chunk, bytes);
        }
    }

    /// The control process gives a chunk up.
    pub(super) fn withdraw(&mut self, chunk: u32, resources: &mut Resources) {
        let waiting = self.assigned.queue.len();
        self.assigned.queue.retain(|assigned| assigned.chunk != chunk);
        let mut had_it = self.assigned.queue.len() < waiting;
        if let Some(buffer) = self.protocol.withdraw(chunk) {
            dispose(&mut self.claim, buffer, resources);
            had_it = true;
        }
        if had_it {
            resources.link.emit(&Event::Withdrawn { flow: self.slot, chunk });
        }
    }

    /// A report has come.
    pub(super) fn on_report(&mut self, report: &Report<'_>, resources: &mut Resources, now_ns: u64) {
        let (slot, claim) = (self.slot, &mut self.claim);
        self.protocol.on_report(report, now_ns, |chunk, buffer| {
            // Only a chunk that went out within another's run can come here unhashed.
            if let Some(hash) = resources.finish_hash(buffer) {
                resources.link.emit(&Event::Hashed { flow: slot, chunk, hash });
            }
            let times = resources.jobs[buffer.0 as usize].times(now_ns);
            resources.free_buffer(buffer);
            claim.release();
            resources.link.emit(&Event::Delivered { flow: slot, chunk, times });
        });
    }

    /// A datagram from the receiver; false if it is not this flow's.
    pub(super) fn reply(&mut self, datagram: &[u8], header: &Header, by: Arrival, link: &mut LaneLink) -> bool {
        let flow = &mut FlowPart { slot: self.slot, protocol: &mut self.protocol, block: &self.block };
        self.path.reply(datagram, header, by, flow, link)
    }

    /// Charges time to what the flow spent it on.
    pub(super) fn account_time(&mut self, progress: bool, spent_ns: u64, now_ns: u64, counters: &LaneCounters) {
        let held_back_ns = self.pacer.held_back_ns(spent_ns, now_ns);
        let (word, counter, ns) = match (progress, self.waiting) {
            _ if !self.path.is_open() => return,
            (true, Waiting::Nothing) if self.claim.held == 0 => return,
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

    /// What is due only now and then: looks for silence of the receiver.
    pub(super) fn housekeeping(&mut self, now_ns: u64) {
        let flow = &mut FlowPart { slot: self.slot, protocol: &mut self.protocol, block: &self.block };
        self.path.housekeeping(flow, now_ns);
    }

    /// The epoch whose key must be asked for, once.
    pub(super) fn missing_key(&mut self) -> Option<u64> {
        let wanted = self.protocol.wants_key();
        (wanted != self.requested_key).then(|| self.requested_key = wanted)?;
        wanted
    }

    /// When the flow next has something to do by itself.
    pub(super) fn deadline_ns(&self) -> u64 {
        let path_ns = self.path.due_ns();
        let is_paced = self.path.is_open() && self.waiting == Waiting::Pacer;
        if is_paced { path_ns.min(self.pacer.due_ns()) } else { path_ns }
    }

    /// Gives everything up.
    pub(super) fn close(&mut self, resources: &mut Resources) {
        self.is_closing = true;
        self.path.close();
        self.assigned.queue.clear();
        self.waiting = Waiting::Nothing;
        let claim = &mut self.claim;
        self.protocol.abandon(|_, buffer| dispose(claim, buffer, resources));
    }

    /// Whether it was closed and holds no buffer any more.
    pub(super) const fn is_done(&self) -> bool {
        self.is_closing && self.claim.held == 0
    }
}

/// Frees a buffer now, or when the kernel or the control process is done with it.
fn dispose(claim: &mut Claim, buffer: BufferId, resources: &mut Resources) {
    let job = &mut resources.jobs[buffer.0 as usize];
    if job.is_lent || job.is_in_kernel() {
        job.is_abandoned = true;
    } else {
        resources.free_buffer(buffer);
        claim.release();
    }
}
