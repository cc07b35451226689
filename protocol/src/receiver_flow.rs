//! The receiving end of a flow: decrypts segments into their places and collects what to report.
//!
//! A segment is decrypted straight from the packet into its place in a chunk buffer. Three cases
//! may not do that, because a forged packet would then destroy what authentic ones brought: a
//! segment that has arrived before, one whose stride differs from its chunk's, and any segment of a
//! chunk that is whole. These are opened into a scratch buffer first (W-10). A chunk that is new
//! gets a buffer before its first segment is authenticated, and loses it again if it was forged.

mod outcome;
mod replies;

use std::collections::VecDeque;
use std::ops::Range;

use crate::arrivals::{Arrivals, Stale};
use crate::feedback::{Summary, write_report};
use crate::keys::{KeySchedule, KeyWindow};
use crate::segments::SegmentSet;
use crate::wire::{HEADER_BYTES, Header, SegmentKind, TAG_BYTES, segment_count};

pub use crate::chunk_memory::{BufferId, ChunkMemory};
pub use outcome::{ChunkStart, CompletedChunk, Received, Rejected};

/// What only the lane knows at the time of a report.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaneCondition {
    /// Parts per thousand of the time since the last report that the lane was busy.
    pub busy_permille: u32,
    /// Parts per thousand of that time in which buffers waited for the destination.
    pub disk_stall_permille: u32,
    /// Bytes waiting in the lane's socket.
    pub backlog_bytes: u32,
    /// Datagrams dropped by the lane's socket since the lane began.
    pub socket_drops: u64,
}

/// What a receiving flow is opened with.
#[derive(Debug)]
pub struct ReceiverConfig {
    /// The flow's id, unique among the lane's flows.
    pub flow_id: u32,
    /// Chunks of the whole transfer: ids are below it.
    pub chunk_count: u32,
    /// The largest chunk of the transfer.
    pub chunk_bytes_max: u32,
    /// Buffers that this flow may hold at first.
    pub allowance: u32,
    /// Chunks of this flow that may be incomplete at once; memory is allocated for them now.
    pub assemblies_max: u32,
}

/// A chunk that is being received.
#[derive(Debug)]
struct Assembly {
    chunk: u32,
    chunk_bytes: u32,
    stride: u16,
    buffer: BufferId,
    /// The highest packet number that brought a segment of this stride; an older one of another
    /// stride is stale.
    newest_packet: u64,
    segments: SegmentSet,
}

/// A segment waits this many packets before a gap behind it counts as loss, unless a whole report
/// interval has passed. One flow keeps to one path, so reordering is by a GSO super-buffer (up to
/// 44 segments at MTU 1500) or two.
const REORDERING_PACKETS: u64 = 128;

/// The receiving end of one flow.
#[derive(Debug)]
pub struct ReceiverFlow {
    flow_id: u32,
    keys: KeyWindow,
    reply_keys: KeyWindow,
    next_reply: u64,
    arrivals: Arrivals,

    chunk_count: u32,
    chunk_bytes_max: u32,
    whole: Box<[u64]>,
    active: Vec<Assembly>,
    idle: Vec<SegmentSet>,
    recent: usize,
    scratch: Box<[u8]>,

    /// Chunks begun, and how many may be.
    begun: u64,
    credit: u64,
    allowance: u32,
    /// Buffers that this flow holds, in assemblies or on their way to the destination.
    held: u32,

    completed: VecDeque<u32>,
    totals: Summary,
    last_arrival_us: u32,
    reported_us: u32,
    reported_next: u64,
    reported_credit: u64,
    has_news: bool,
}

impl ReceiverFlow {
    /// Opens the flow. The schedules are those of its two directions, at epoch 0.
    pub fn new(config: &ReceiverConfig, forward: &mut KeySchedule, reverse: &mut KeySchedule, now_us: u32) -> Self {
        let assemblies = config.assemblies_max as usize;
        Self {
            flow_id: config.flow_id,
            keys: KeyWindow::new(forward),
            reply_keys: KeyWindow::new(reverse),
            next_reply: 0,
            arrivals: Arrivals::default(),
            chunk_count: config.chunk_count,
            chunk_bytes_max: config.chunk_bytes_max,
            whole: vec![0; (config.chunk_count as usize).div_ceil(64)].into_boxed_slice(),
            active: Vec::with_capacity(assemblies),
            idle: (0..assemblies).map(|_| SegmentSet::with_room_for(config.chunk_bytes_max)).collect(),
            recent: 0,
            scratch: vec![0; usize::from(u16::MAX)].into_boxed_slice(),
            begun: 0,
            credit: config.allowance.into(),
            allowance: config.allowance,
            held: 0,
            completed: VecDeque::with_capacity(assemblies.max(1).saturating_mul(2)),
            totals: Summary { flow_id: config.flow_id, ..Summary::default() },
            last_arrival_us: now_us,
            reported_us: now_us,
            reported_next: 0,
            reported_credit: u64::MAX,
            has_news: true,
        }
    }

    /// The flow's id.
    #[must_use]
    pub const fn flow_id(&self) -> u32 {
        self.flow_id
    }

    /// Opens `datagram`, whose parsed header is `header`, and places its payload.
    #[inline]
    pub fn receive<M: ChunkMemory>(
        &mut self,
        datagram: &[u8],
        header: &Header,
        memory: &mut M,
        now_us: u32,
    ) -> Received {
        // Invariant I-flow-route: A lane hands a flow only datagrams that name it.
        debug_assert_eq!(header.flow_id, self.flow_id, "a datagram of another flow");
        //= W-9
        //# Before the tag is verified, the header is used only to find the flow; nothing else in it
        //# is trusted.
        match self.arrivals.check(header.packet_number) {
            Ok(()) => {}
            Err(Stale::TooOld | Stale::Decided) => return Received::Rejected(Rejected::Stale),
        }
        if self.keys.key(header.epoch()).is_none() {
            return Received::Rejected(Rejected::Epoch);
        }
        let outcome = match header.kind {
            SegmentKind::Data => self.receive_segment(datagram, header, memory),
            SegmentKind::Probe => self.open_to_scratch(datagram, header).map(|()| Received::Probe(*header)),
            //= W-3
            //# Data and probes travel from the data's sender to its receiver; probe replies and
            //# openings travel the other way.
            SegmentKind::ProbeReply | SegmentKind::Opening => Err(Rejected::Direction),
        };
        match outcome {
            Ok(received) => {
                self.note_arrival(header, now_us);
                received
            }
            Err(reason) => Received::Rejected(reason),
        }
    }

    #[inline]
    fn receive_segment<M: ChunkMemory>(
        &mut self,
        datagram: &[u8],
        header: &Header,
        memory: &mut M,
    ) -> Result<Received, Rejected> {
        let capacity = memory.buffer_bytes().min(self.chunk_bytes_max as usize);
        if header.chunk >= self.chunk_count || header.chunk_bytes as usize > capacity {
            return Err(Rejected::ForeignChunk);
        }
        let Some(at) = self.find(header.chunk) else {
            if self.is_whole(header.chunk) {
                self.open_to_scratch(datagram, header)?;
                self.note_duplicate(header);
                return Ok(Received::Placed { chunk: None });
            }
            return self.begin_chunk(datagram, header, memory);
        };
        let assembly = self.active.get(at).ok_or(Rejected::ForeignChunk)?;
        if assembly.chunk_bytes != header.chunk_bytes {
            return Err(Rejected::ForeignChunk);
        }
        //= W-10
        //# A segment is decrypted directly into its place in the chunk buffer only if that place is
        //# empty. If the place is taken, the segment is decrypted elsewhere or not at all. Verified
        //# bytes are never overwritten.
        if assembly.stride != header.stride || assembly.segments.contains(header.index) {
            return self.receive_unusual(at, datagram, header, memory);
        }
        let key = self.keys.key(header.epoch()).ok_or(Rejected::Epoch)?;
        open_into(key, datagram, header, assembly.buffer, memory)?;
        Ok(self.mark(at, header))
    }

    /// The first segment of a chunk: takes a buffer for it, and gives the buffer back if the
    /// segment was forged.
    #[cold]
    fn begin_chunk<M: ChunkMemory>(
        &mut self,
        datagram: &[u8],
        header: &Header,
        memory: &mut M,
    ) -> Result<Received, Rejected> {
        if self.begun >= self.credit || self.idle.is_empty() {
            return Err(Rejected::OverCredit);
        }
        let key = self.keys.key(header.epoch()).ok_or(Rejected::Epoch)?;
        let buffer = memory.take().ok_or(Rejected::OverCredit)?;
        if let Err(reason) = open_into(key, datagram, header, buffer, memory) {
            memory.give_back(buffer);
            return Err(reason);
        }
        let Some(mut segments) = self.idle.pop() else {
            memory.give_back(buffer);
            return Err(Rejected::OverCredit);
        };
        //= W-11
        //# The first segment of a chunk to arrive fixes its stride.
        segments.reset(segment_count(header.chunk_bytes, header.stride));
        self.begun = self.begun.saturating_add(1);
        self.held = self.held.saturating_add(1);
        self.active.push(Assembly {
            chunk: header.chunk,
            chunk_bytes: header.chunk_bytes,
            stride: header.stride,
            buffer,
            newest_packet: header.packet_number,
            segments,
        });
        self.recent = self.active.len().saturating_sub(1);
        let chunk_bytes = header.chunk_bytes;
        Ok(match self.mark(self.recent, header) {
            Received::Completed(done) => Received::Completed(CompletedChunk { beginning: ChunkStart::Now, ..done }),
            _ => Received::Began { chunk: header.chunk, buffer, chunk_bytes },
        })
    }

    /// A segment that may not be decrypted in place: it is already there, or the chunk is being
    /// sent again at another stride because the path's MTU changed (W-11).
    #[cold]
    fn receive_unusual<M: ChunkMemory>(
        &mut self,
        at: usize,
        datagram: &[u8],
        header: &Header,
        memory: &mut M,
    ) -> Result<Received, Rejected> {
        self.open_to_scratch(datagram, header)?;
        let assembly = self.active.get_mut(at).ok_or(Rejected::ForeignChunk)?;
        if assembly.stride == header.stride || header.packet_number < assembly.newest_packet {
            self.note_duplicate(header);
            return Ok(Received::Placed { chunk: Some(header.chunk) });
        }
        //= W-11
        //# A chunk that starts over starts completely over: segments that arrived before do not
        //# count, and their bytes are not part of any hash.
        //= W-21
        //# Duplicate bytes are those of segments that contain nothing new, and those discarded when
        //# a chunk starts over (W-11).
        let discarded = u64::from(assembly.segments.len()).saturating_mul(assembly.stride.into());
        let discarded = discarded.min(assembly.chunk_bytes.into());
        self.totals.duplicate_bytes = self.totals.duplicate_bytes.wrapping_add(discarded);
        assembly.stride = header.stride;
        assembly.segments.reset(segment_count(header.chunk_bytes, header.stride));
        let (chunk, buffer) = (assembly.chunk, assembly.buffer);
        let payload = self.scratch.get(..header.payload_bytes()).ok_or(Rejected::NotAuthentic)?;
        memory.bytes_mut(buffer, place_of(header)).copy_from_slice(payload);
        Ok(match self.mark(at, header) {
            Received::Completed(done) => Received::Completed(CompletedChunk { beginning: ChunkStart::Anew, ..done }),
            _ => Received::BeganAnew { chunk, buffer },
        })
    }

    /// Notes an authentic segment in its assembly, and takes the assembly out when it is whole.
    #[inline]
    fn mark(&mut self, at: usize, header: &Header) -> Received {
        let Some(assembly) = self.active.get_mut(at) else { return Received::Rejected(Rejected::ForeignChunk) };
        let new = assembly.segments.insert(header.index);
        // Invariant I-flow-once: A segment is placed in its chunk once.
        debug_assert!(new, "segment {} of chunk {} was there already", header.index, header.chunk);
        assembly.newest_packet = assembly.newest_packet.max(header.packet_number);
        if !assembly.segments.is_whole() {
            return Received::Placed { chunk: Some(header.chunk) };
        }
        let Assembly { chunk, chunk_bytes, buffer, segments, .. } = self.active.swap_remove(at);
        self.idle.push(segments);
        self.recent = 0;
        self.set_whole(chunk);
        self.completed.push_back(chunk);
        self.has_news = true;
        Received::Completed(CompletedChunk { chunk, buffer, chunk_bytes, beginning: ChunkStart::Earlier })
    }

    fn open_to_scratch(&mut self, datagram: &[u8], header: &Header) -> Result<(), Rejected> {
        let key = self.keys.key(header.epoch()).ok_or(Rejected::Epoch)?;
        let (clear, sealed) = split(datagram)?;
        let payload = self.scratch.get_mut(..sealed.len().wrapping_sub(TAG_BYTES)).ok_or(Rejected::NotAuthentic)?;
        key.open(header.packet_number, clear, sealed, payload).map_err(|_| Rejected::NotAuthentic)
    }

    /// Counts an authentic packet, and measures its delay if it is the newest.
    #[inline]
    fn note_arrival(&mut self, header: &Header, now_us: u32) {
        let newest = header.packet_number >= self.arrivals.next();
        self.arrivals.record(header.packet_number);
        self.keys.advance_to(header.epoch());
        self.totals.packets = self.totals.packets.wrapping_add(1);
        let bytes = if header.kind == SegmentKind::Data { header.payload_bytes() as u64 } else { 0 };
        self.totals.bytes = self.totals.bytes.wrapping_add(bytes);
        self.has_news = true;
        let delay_us = now_us.wrapping_sub(header.sent_us);
        if newest {
            self.totals.echo_us = header.sent_us;
            self.totals.delay_us = delay_us;
            self.last_arrival_us = now_us;
        }
        // The clocks' offset is unknown, so "least" means least relative to the newest delay.
        if (delay_us.wrapping_sub(self.totals.delay_min_us) as i32) < 0 || self.totals.packets == 1 {
            self.totals.delay_min_us = delay_us;
        }
    }

    #[inline]
    fn find(&mut self, chunk: u32) -> Option<usize> {
        if self.active.get(self.recent).is_some_and(|assembly| assembly.chunk == chunk) {
            return Some(self.recent);
        }
        let at = self.active.iter().position(|assembly| assembly.chunk == chunk)?;
        self.recent = at;
        Some(at)
    }

    fn note_duplicate(&mut self, header: &Header) {
        self.totals.duplicate_bytes = self.totals.duplicate_bytes.wrapping_add(header.payload_bytes() as u64);
    }

    #[inline]
    fn is_whole(&self, chunk: u32) -> bool {
        self.whole.get(chunk as usize / 64).is_some_and(|word| word & (1 << (chunk % 64)) != 0)
    }

    fn set_whole(&mut self, chunk: u32) {
        if let Some(word) = self.whole.get_mut(chunk as usize / 64) {
            *word |= 1 << (chunk % 64);
        }
    }

    /// How many bytes of an incomplete chunk are there without a gap from its beginning, and in
    /// which buffer.
    pub fn contiguous(&mut self, chunk: u32) -> Option<(BufferId, usize)> {
        let at = self.find(chunk)?;
        let assembly = self.active.get_mut(at)?;
        let bytes = (assembly.segments.contiguous() as usize).wrapping_mul(assembly.stride.into());
        Some((assembly.buffer, bytes.min(assembly.chunk_bytes as usize)))
    }

    /// Tells the flow that the buffer of a completed chunk is free again.
    pub fn release(&mut self) {
        // Invariant I-flow-held: A flow releases only buffers that it holds.
        debug_assert!(self.held > 0, "more buffers are released than the flow holds");
        self.held = self.held.saturating_sub(1);
    }

    /// Changes how many buffers the flow may hold. Credit already given stays given.
    pub fn set_allowance(&mut self, buffers: u32) {
        self.allowance = buffers;
    }

    /// Forgets that `chunk` is whole, so that it can be received once more: its bytes did not have
    /// the sender's hash.
    pub fn reopen(&mut self, chunk: u32) {
        if let Some(word) = self.whole.get_mut(chunk as usize / 64).filter(|_| chunk < self.chunk_count) {
            *word &= !(1 << (chunk % 64));
        }
    }

    /// Buffers that the flow holds in all, in assemblies or beyond.
    #[must_use]
    pub const fn held(&self) -> u32 {
        self.held
    }

    /// Chunks begun so far.
    #[must_use]
    pub const fn begun(&self) -> u64 {
        self.begun
    }

    /// Chunks that the sender may begin on credit that it has been told of.
    #[must_use]
    pub fn unused_credit(&self) -> u32 {
        u32::try_from(self.credit.saturating_sub(self.begun)).unwrap_or(u32::MAX)
    }

    /// Buffers that the flow may hold, those for credit that was given included.
    #[must_use]
    pub const fn allowance(&self) -> u32 {
        self.allowance
    }

    /// Whether the flow could take another chunk but has all the buffers that it may have.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.held >= self.allowance
    }

    /// Whether a report would say something new.
    #[must_use]
    pub fn has_news(&self) -> bool {
        self.has_news || self.current_credit() != self.reported_credit
    }

    /// Whether the sender has used up all the credit that it knows of, and there is more.
    #[must_use]
    pub fn is_credit_urgent(&self) -> bool {
        self.begun >= self.reported_credit && self.current_credit() > self.reported_credit
    }

    /// Whether so much is missing that a report should be sent early: on a path of 100 Gb/s and 200
    /// ms that loses 5 %, three thousand packets are lost between two reports, more than one report
    /// can list.
    #[must_use]
    pub const fn is_loss_urgent(&self) -> bool {
        self.arrivals.is_list_filling()
    }

    fn current_credit(&self) -> u64 {
        //= W-25
        //# It never decreases. It grows only when the receiver has a free buffer, which it reserves
        //# for the chunk started on that credit.
        let free = self.allowance.saturating_sub(self.held);
        self.credit.max(self.begun.saturating_add(free.into()))
    }

    /// Writes the next report into `out` and returns its length.
    pub fn write_report(&mut self, condition: &LaneCondition, now_us: u32, out: &mut [u8]) -> usize {
        //= W-22
        //# A number counts as lost when it has been missing for long enough after a higher one
        //# arrived.
        let horizon = self.arrivals.next().saturating_sub(REORDERING_PACKETS).max(self.reported_next);
        self.arrivals.declare_lost(horizon);
        let credit = self.current_credit();
        // Invariant I-flow-credit: The credit that a flow reports never decreases.
        assert!(credit >= self.credit, "credit falls from {} to {credit}", self.credit);
        self.credit = credit;
        let summary = Summary {
            next_packet: self.arrivals.next(),
            decided_below: self.arrivals.decided_below(),
            hold_us: now_us.wrapping_sub(self.last_arrival_us),
            interval_us: now_us.wrapping_sub(self.reported_us),
            credit: self.credit,
            busy_permille: condition.busy_permille,
            disk_stall_permille: condition.disk_stall_permille,
            backlog_bytes: condition.backlog_bytes,
            socket_drops: condition.socket_drops,
            ..self.totals
        };
        // Invariant I-flow-decided: A flow decides no packet number beyond the highest that
        // arrived.
        assert!(summary.decided_below <= summary.next_packet, "{summary:?}");
        let (len, lost, chunks) = write_report(out, &summary, self.arrivals.lost(), self.completed.iter().copied());
        self.arrivals.clear_lost(lost);
        self.completed.drain(..chunks);
        // Undecided gaps, and what did not fit, are news for the next report.
        self.has_news = summary.decided_below < summary.next_packet
            || !self.completed.is_empty()
            || !self.arrivals.lost().is_empty();
        self.totals.sequence = self.totals.sequence.wrapping_add(1);
        self.totals.delay_min_us = self.totals.delay_us;
        self.reported_us = now_us;
        self.reported_next = self.arrivals.next();
        self.reported_credit = self.credit;
        len
    }

    /// The epoch whose forward key is missing, see [`KeyWindow::wants`].
    #[must_use]
    pub fn wants_key(&self) -> Option<u64> {
        self.keys.wants()
    }

    /// Takes the key that [`ReceiverFlow::wants_key`] asked for.
    pub fn push_key(&mut self, epoch: u64, key: crate::seal::PacketKey) {
        self.keys.push(epoch, key);
    }

    /// Gives up one incomplete chunk: it is no longer wanted, and anything of it that still arrives
    /// counts as known. Returns its buffer if it had one.
    pub fn abandon_chunk(&mut self, chunk: u32) -> Option<BufferId> {
        if chunk >= self.chunk_count {
            return None;
        }
        self.set_whole(chunk);
        let at = self.find(chunk)?;
        let Assembly { buffer, segments, .. } = self.active.swap_remove(at);
        self.idle.push(segments);
        self.recent = 0;
        self.held = self.held.saturating_sub(1);
        Some(buffer)
    }

    /// Hands every buffer that an incomplete chunk holds to `each`. The flow receives nothing
    /// afterwards.
    pub fn abandon(&mut self, mut each: impl FnMut(BufferId)) {
        for Assembly { buffer, segments, .. } in self.active.drain(..) {
            each(buffer);
            self.idle.push(segments);
            self.held = self.held.saturating_sub(1);
        }
        self.chunk_count = 0;
    }

    /// The totals of the flow so far.
    #[must_use]
    pub const fn totals(&self) -> &Summary {
        &self.totals
    }
}

#[inline]
fn split(datagram: &[u8]) -> Result<(&[u8; HEADER_BYTES], &[u8]), Rejected> {
    match datagram.split_first_chunk::<HEADER_BYTES>() {
        Some((clear, sealed)) if sealed.len() >= TAG_BYTES => Ok((clear, sealed)),
        _ => Err(Rejected::NotAuthentic),
    }
}

/// Where a data segment's payload is in its chunk. The header was parsed, so that is within the
/// chunk.
#[inline]
fn place_of(header: &Header) -> Range<usize> {
    header.offset()..header.offset().wrapping_add(header.payload_bytes())
}

/// Opens a data segment into its place in the chunk's buffer.
#[inline]
fn open_into<M: ChunkMemory>(
    key: &crate::seal::PacketKey,
    datagram: &[u8],
    header: &Header,
    buffer: BufferId,
    memory: &mut M,
) -> Result<(), Rejected> {
    let (clear, sealed) = split(datagram)?;
    let place = memory.bytes_mut(buffer, place_of(header));
    key.open(header.packet_number, clear, sealed, place).map_err(|_| Rejected::NotAuthentic)
}
