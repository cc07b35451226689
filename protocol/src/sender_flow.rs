//! The sending end of a flow: which segment goes next, what is in flight, and what must be
//! retransmitted.
//!
//! The flow does not hold data. It knows which bytes of which buffers are to be sent, encrypts
//! segment after segment from there into the packet that the lane offers, and remembers for each
//! packet number which segment it carried until the receiver has decided that packet's fate. A lost
//! segment is sent again under a new packet number, before new data.

mod outgoing;
mod packet_record;
mod probes;
mod silence;

use std::collections::VecDeque;

use crate::chunk_memory::{BufferId, ChunkMemory};
use crate::feedback::Report;
use crate::keys::{KeySchedule, KeyWindow};

use crate::segments::SegmentSet;
use crate::wire::{HEADER_BYTES, Header, OVERHEAD_BYTES, STRIDE_MIN, SegmentKind, segment_count};
use outgoing::{Outgoing, Slot};
use packet_record::PacketRecord;

/// What a sending flow is opened with.
#[derive(Debug)]
pub struct SenderConfig {
    /// The flow's id, as the receiver chose it.
    pub flow_id: u32,
    /// Payload bytes of a full segment, from the path's MTU.
    pub stride: u16,
    /// The largest chunk of the transfer.
    pub chunk_bytes_max: u32,
    /// Chunks that may be in this flow's hands at once; memory is allocated for them now.
    pub chunks_max: u32,
}

/// Why a flow sends nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Every chunk that it was given is sent; some may wait for the receiver's report.
    NoChunk,
    /// The next bytes are still being read.
    Reading,
    /// The receiver has no buffer for another chunk.
    Credit,
    /// Too many packets are in flight whose fate the receiver has not reported.
    Window,
    /// The next epoch's key has not been made yet.
    Key,
}

/// The most packets that one flow may have in flight; 8 MiB of records. At 1428-byte segments it is
/// 1.5 GB, 120 Gb/s over 100 ms.
const WINDOW_PACKETS_MAX: usize = 1 << 20;

/// The sending end of one flow.
#[derive(Debug)]
pub struct SenderFlow {
    flow_id: u32,
    stride: u16,
    keys: KeyWindow,
    reply_keys: KeyWindow,
    /// The lowest packet number of the reverse direction that is still accepted.
    next_reply: u64,

    next_packet: u64,
    decided_below: u64,
    /// The fate of `packet_number` is recorded at `packet_number % len`; len is a power of two.
    records: Box<[PacketRecord]>,

    /// Reports name lost packets in order: below this, they have.
    named_below: u64,

    slots: Box<[Slot]>,
    /// The chunks in hand and their slots, ascending: a report that names many chunks costs little
    /// for each.
    chunks: Vec<(u32, u16)>,
    free_slots: Vec<u16>,
    idle_sets: Vec<SegmentSet>,
    /// Slots with segments never sent, in the order of their chunks.
    fresh: VecDeque<u16>,
    /// Slots with lost segments.
    resend: VecDeque<u16>,

    credit: u64,
    begun: u64,
    segments_sent: u64,
    segments_resent: u64,
    bytes_sent: u64,
    /// Whether the segment that was sent last is to be sent once more.
    owes_twin: bool,
    last_sent_ns: u64,
    last_report_ns: u64,
    /// When the first packet went that the receiver has not answered with any decision since.
    unanswered_since_ns: Option<u64>,
    /// One past the newest packet that carried data. The loss of an idle flow's probe, which no
    /// later packet reveals, does not count as silence.
    data_end: u64,
    timeouts: u32,
}

/// A path that carries no segments: a full one would be of fewer bytes than the least
/// ([`STRIDE_MIN`], W-4). It counts as closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the path carries only segments of {0} bytes, but the minimum is {STRIDE_MIN}")]
pub struct PathTooNarrow(pub u16);

/// A segment that [`SenderFlow::seal_next`] sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedSegment {
    /// Bytes of the whole datagram.
    pub datagram_bytes: usize,
}

impl SenderFlow {
    /// Opens the flow. The schedules are those of its two directions, at epoch 0.
    ///
    /// # Panics
    /// If the stride is below [`STRIDE_MIN`] or the flow has no room for a chunk.
    pub fn new(config: &SenderConfig, forward: &mut KeySchedule, reverse: &mut KeySchedule, now_ns: u64) -> Self {
        // Invariant I-sender-stride: A flow is opened only over a path that carries full segments.
        assert!(config.stride >= STRIDE_MIN, "a stride of {} is below the minimum", config.stride);
        assert!(config.chunks_max > 0 && config.chunks_max < u32::from(u16::MAX), "{} chunks", config.chunks_max);
        let chunks = config.chunks_max as usize;
        let slots = u16::try_from(config.chunks_max).unwrap_or(u16::MAX);
        let segments = chunks.saturating_mul(segment_count(config.chunk_bytes_max, config.stride) as usize);
        // Twice the segments in flight leaves room for each to be sent again before its first fate
        // is known.
        let window = segments.saturating_mul(2).clamp(1 << 12, WINDOW_PACKETS_MAX).next_power_of_two();
        Self {
            flow_id: config.flow_id,
            stride: config.stride,
            keys: KeyWindow::new(forward),
            reply_keys: KeyWindow::new(reverse),
            next_reply: 0,
            next_packet: 0,
            decided_below: 0,
            records: vec![PacketRecord::NONE; window].into_boxed_slice(),
            named_below: 0,
            slots: (0..chunks).map(|_| Slot { generation: 0, outgoing: None }).collect(),
            chunks: Vec::with_capacity(chunks),
            free_slots: (0..slots).rev().collect(),
            idle_sets: (0..chunks).map(|_| SegmentSet::with_room_for(config.chunk_bytes_max)).collect(),
            fresh: VecDeque::with_capacity(chunks),
            resend: VecDeque::with_capacity(chunks),
            credit: 0,
            begun: 0,
            segments_sent: 0,
            segments_resent: 0,
            bytes_sent: 0,
            owes_twin: false,
            last_sent_ns: now_ns,
            last_report_ns: now_ns,
            unanswered_since_ns: None,
            data_end: 0,
            timeouts: 0,
        }
    }

    /// The flow's id.
    #[must_use]
    pub const fn flow_id(&self) -> u32 {
        self.flow_id
    }

    /// Payload bytes of a full segment.
    #[must_use]
    pub const fn stride(&self) -> u16 {
        self.stride
    }

    /// How many more chunks the flow can take in.
    #[must_use]
    pub fn room(&self) -> usize {
        self.free_slots.len()
    }

    /// Takes over a chunk whose bytes are, or will be, in `buffer`. Nothing is sent before
    /// [`SenderFlow::set_available`].
    ///
    /// # Panics
    /// If there is no [`SenderFlow::room`].
    #[expect(clippy::expect_used, reason = "the lane's duty; chunks are assigned by this node's control process")]
    pub fn add_chunk(&mut self, chunk: u32, chunk_bytes: u32, buffer: BufferId) {
        let slot = self.free_slots.pop().expect("the lane asks for room before it adds a chunk");
        let mut lost = self.idle_sets.pop().expect("there are as many sets as slots");
        lost.reset(segment_count(chunk_bytes, self.stride));
        let outgoing = Outgoing {
            chunk,
            chunk_bytes,
            buffer,
            stride: self.stride,
            available: 0,
            next_index: 0,
            lost,
            in_resend_queue: false,
            begun: false,
            sent_whole: false,
        };
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            place.outgoing = Some(outgoing);
        }
        let at = self.chunks.partition_point(|&(other, _)| other < chunk);
        self.chunks.insert(at, (chunk, slot));
        self.fresh.push_back(slot);
        self.assert_slots();
    }

    /// Says that the first `bytes` bytes of the chunk have been read. False if the flow no longer
    /// has the chunk.
    pub fn set_available(&mut self, chunk: u32, bytes: u32) -> bool {
        match self.outgoing_mut(chunk) {
            Some(outgoing) => {
                outgoing.available = outgoing.available.max(bytes.min(outgoing.chunk_bytes));
                true
            }
            None => false,
        }
    }

    /// Takes a chunk back whose bytes could not be read; its buffer is the caller's.
    pub fn withdraw(&mut self, chunk: u32) -> Option<BufferId> {
        let slot = self.slot_of(chunk)?;
        Some(self.free(slot)?.buffer)
    }

    /// Seals the next segment into `out` and returns its length; lost segments go first. `None` if
    /// nothing may be sent ([`SenderFlow::blocked_by`] says why), or if the next datagram is longer
    /// than `bytes_max`.
    #[inline]
    pub fn seal_next<M: ChunkMemory>(
        &mut self,
        memory: &M,
        bytes_max: usize,
        now_us: u32,
        out: &mut [u8],
    ) -> Option<SealedSegment> {
        if self.is_window_full() {
            return None;
        }
        let epoch = self.next_packet >> crate::wire::EPOCH_BITS;
        self.keys.key(epoch)?;
        let (slot, index, again) = self.choose()?;
        let place = self.slots.get_mut(usize::from(slot))?;
        let generation = place.generation;
        let outgoing = place.outgoing.as_mut()?;
        let header = Header {
            kind: SegmentKind::Data,
            stride: outgoing.stride,
            flow_id: self.flow_id,
            packet_number: self.next_packet,
            chunk: outgoing.chunk,
            chunk_bytes: outgoing.chunk_bytes,
            index,
            sent_us: now_us,
        };
        let payload_bytes = header.payload_bytes();
        // Assigned data lies within a chunk of at most 16 MiB, and a stride beyond that does not
        // overflow either.
        let datagram_bytes = OVERHEAD_BYTES.wrapping_add(payload_bytes);
        if datagram_bytes > bytes_max {
            return None;
        }
        let end = header.offset().wrapping_add(payload_bytes);

        let (clear, sealed) = out.get_mut(..datagram_bytes)?.split_first_chunk_mut::<HEADER_BYTES>()?;
        header.write(clear);
        let payload = memory.bytes(outgoing.buffer, header.offset()..end);
        let key = self.keys.key(epoch)?;
        key.seal(header.packet_number, clear, payload, sealed);

        // At the end of a transfer nothing follows that would show the receiver a gap, so a lost
        // segment is sent twice.
        self.owes_twin = again && self.fresh.is_empty() && !self.owes_twin;
        if again {
            if !self.owes_twin {
                let popped = outgoing.lost.pop_first();
                // Invariant I-sender-resend: The segment that is sent again is the first of the
                // lost ones.
                debug_assert_eq!(popped, Some(index), "another segment was sent than the first lost one");
            }
            if outgoing.lost.is_empty() {
                outgoing.in_resend_queue = false;
                self.resend.pop_front();
            }
            self.segments_resent = self.segments_resent.wrapping_add(1);
        } else {
            outgoing.next_index = outgoing.next_index.wrapping_add(1);
            if !outgoing.begun {
                outgoing.begun = true;
                self.begun = self.begun.saturating_add(1);
            }
            if end == outgoing.chunk_bytes as usize {
                outgoing.sent_whole = true;
                self.fresh.pop_front();
            }
        }
        if let Some(record) = self.record_mut(self.next_packet) {
            *record = PacketRecord::new(slot, generation, index);
        }
        //= W-6
        //# A packet number is never used twice under a direction's secret; a retransmission gets a
        //# new one.
        self.next_packet = self.next_packet.wrapping_add(1);
        self.data_end = self.next_packet;
        self.keys.advance_to(epoch);
        self.segments_sent = self.segments_sent.wrapping_add(1);
        self.bytes_sent = self.bytes_sent.wrapping_add(payload_bytes as u64);
        Some(SealedSegment { datagram_bytes })
    }

    /// An eighth of the window is kept for probes, which find out whether a path that has gone dark
    /// is open again.
    const fn is_window_full(&self) -> bool {
        // The window is a power of two of at least 4,096.
        self.under_way() >= (self.records.len() as u64 / 8).wrapping_mul(7)
    }

    /// Packets whose fate is not known. Decided packets are below those sent.
    const fn under_way(&self) -> u64 {
        self.next_packet.wrapping_sub(self.decided_below)
    }

    /// The next segment: slot, index, and whether it was sent before.
    #[inline]
    fn choose(&mut self) -> Option<(u16, u32, bool)> {
        if let Some(&slot) = self.resend.front() {
            // Queued slots hold a chunk and have lost segments.
            let index = self.slots.get(usize::from(slot))?.outgoing.as_ref()?.lost.first()?;
            return Some((slot, index, true));
        }
        let &slot = self.fresh.front()?;
        let outgoing = self.slots.get(usize::from(slot))?.outgoing.as_ref()?;
        if !outgoing.begun && self.begun >= self.credit {
            return None;
        }
        let end = (outgoing.next_index.wrapping_add(1) as usize).wrapping_mul(outgoing.stride.into());
        let readable = end.min(outgoing.chunk_bytes as usize) <= outgoing.available as usize;
        readable.then_some((slot, outgoing.next_index, false))
    }

    /// The chunk whose bytes go next for the first time: chunk, buffer, and how many of its bytes
    /// have been sent.
    #[inline]
    #[must_use]
    pub fn fresh_front(&self) -> Option<(u32, BufferId, u32)> {
        let &slot = self.fresh.front()?;
        let outgoing = self.slots.get(usize::from(slot))?.outgoing.as_ref()?;
        Some((outgoing.chunk, outgoing.buffer, outgoing.next_index.wrapping_mul(outgoing.stride.into())))
    }

    /// How many chunks have segments that were never sent.
    #[must_use]
    pub fn fresh_count(&self) -> usize {
        self.fresh.len()
    }

    /// Why [`SenderFlow::seal_next`] has nothing to send; `None` if it has.
    #[must_use]
    pub fn blocked_by(&mut self) -> Option<Blocked> {
        if self.is_window_full() {
            return Some(Blocked::Window);
        }
        if self.keys.key(self.next_packet >> crate::wire::EPOCH_BITS).is_none() {
            return Some(Blocked::Key);
        }
        if self.choose().is_some() {
            return None;
        }
        let &slot = self.fresh.front().or(self.resend.front()).unwrap_or(&u16::MAX);
        match self.slots.get(usize::from(slot)).and_then(|slot| slot.outgoing.as_ref()) {
            None => Some(Blocked::NoChunk),
            Some(outgoing) if !outgoing.begun && self.begun >= self.credit => Some(Blocked::Credit),
            Some(_) => Some(Blocked::Reading),
        }
    }

    /// Acts on a report: records losses, and hands each delivered chunk and its buffer to
    /// `delivered`. Returns how many packets it looked up: over a flow's life at most as many as it
    /// has sent, even if its reports are false.
    ///
    /// A report can only make the flow send again what is in flight, each packet once. Receivers
    /// report lost packets in order, within one report (W-23) and from one to the next (W-24), so
    /// repeated ones are not looked up.
    pub fn on_report(&mut self, report: &Report<'_>, now_ns: u64, mut delivered: impl FnMut(u32, BufferId)) -> u64 {
        let mut looked_up = 0;
        for range in report.lost() {
            //= W-24
            //# a sender ignores losses below the end of those already reported.
            let first = range.first.max(self.decided_below).max(self.named_below);
            let end = range.end().min(self.next_packet);
            for packet_number in first..end {
                self.mark_lost(packet_number);
            }
            looked_up = end.saturating_sub(first).saturating_add(looked_up);
            self.named_below = self.named_below.max(end);
        }
        for chunk in report.completed() {
            // A receiver that lies must not free a buffer which a disk read still fills.
            if let Some(slot) = self.slot_of(chunk)
                && self.outgoing_mut(chunk).is_some_and(|outgoing| outgoing.sent_whole)
                && let Some(outgoing) = self.free(slot)
            {
                delivered(chunk, outgoing.buffer);
            }
        }
        //= W-25
        //# Credit is the total number of chunks that the sender may have started on this flow. It
        //# never decreases.
        self.credit = self.credit.max(report.summary.credit);
        let decided = report.summary.decided_below.min(self.next_packet);
        if decided > self.decided_below {
            self.decided_below = decided;
            self.timeouts = 0;
            self.unanswered_since_ns = (decided < self.data_end).then_some(now_ns);
            // A report that decides nothing is a sign of life of the control connection, not of the
            // path.
            self.last_report_ns = now_ns;
        }
        looked_up
    }

    /// Queues the segment that `packet_number` carried, unless that was dealt with before.
    fn mark_lost(&mut self, packet_number: u64) {
        let Some(record) = self.record_mut(packet_number) else { return };
        let (slot, generation, index) = std::mem::take(record).parts();
        let Some(place) = self.slots.get_mut(usize::from(slot)) else { return };
        if place.generation != generation {
            return;
        }
        let Some(outgoing) = place.outgoing.as_mut() else { return };
        outgoing.lost.insert(index);
        if !outgoing.in_resend_queue {
            outgoing.in_resend_queue = true;
            self.resend.push_back(slot);
        }
    }

    /// Records that encrypted packets were handed to the network.
    #[inline]
    pub fn note_sent(&mut self, now_ns: u64) {
        self.last_sent_ns = now_ns;
        self.unanswered_since_ns.get_or_insert(now_ns);
    }

    /// Changes the segment size because the path's MTU changed. Chunks of which nothing was sent
    /// yet, and future chunks, have the new size. Chunks in flight keep theirs if it is smaller,
    /// and start over if it is larger than what the path now carries (W-11).
    ///
    /// # Errors
    /// [`PathTooNarrow`] if the stride is below [`STRIDE_MIN`]; nothing is changed then.
    pub fn set_stride(&mut self, stride: u16) -> Result<(), PathTooNarrow> {
        if stride < STRIDE_MIN {
            return Err(PathTooNarrow(stride));
        }
        //= W-11
        //# If the path turns out to carry more, chunks started later use a larger stride. If it
        //# carries less than a chunk's stride needs, the chunk starts over with a smaller one.
        self.stride = stride;
        for (at, slot) in (0u16..).zip(&mut self.slots) {
            let Some(outgoing) = slot.outgoing.as_mut() else { continue };
            if outgoing.stride == stride || (outgoing.stride < stride && outgoing.begun) {
                continue;
            }
            outgoing.stride = stride;
            self.resend.retain(|&other| other != at);
            slot.generation = slot.generation.wrapping_add(1);
            outgoing.lost.reset(segment_count(outgoing.chunk_bytes, stride));
            outgoing.next_index = 0;
            outgoing.in_resend_queue = false;
            if !self.fresh.contains(&at) {
                self.fresh.push_back(at);
            }
        }
        Ok(())
    }

    /// Whether chunks are in the flow's hands, sent or not.
    #[must_use]
    pub fn has_chunks(&self) -> bool {
        self.free_slots.len() < self.slots.len()
    }

    /// Whether packets are in flight whose fate is not known.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        self.decided_below < self.next_packet
    }

    /// Whether the flow is idle in the sense of [`SenderFlow::on_silence`]: data in flight but
    /// nothing to send.
    #[must_use]
    pub const fn last_activity_ns(&self) -> u64 {
        if self.last_sent_ns > self.last_report_ns { self.last_sent_ns } else { self.last_report_ns }
    }

    /// Takes all chunks back; their buffers go to `each`.
    pub fn abandon(&mut self, mut each: impl FnMut(u32, BufferId)) {
        while let Some(&(_, slot)) = self.chunks.first() {
            let Some(Outgoing { chunk, buffer, .. }) = self.free(slot) else { return };
            each(chunk, buffer);
        }
    }

    /// Segments sealed so far, those among them sent again, and payload bytes sealed.
    #[must_use]
    pub const fn counts(&self) -> (u64, u64, u64) {
        (self.segments_sent, self.segments_resent, self.bytes_sent)
    }

    /// The epoch whose forward key is missing, see [`KeyWindow::wants`].
    #[must_use]
    pub fn wants_key(&self) -> Option<u64> {
        self.keys.wants()
    }

    /// Takes the key that [`SenderFlow::wants_key`] asked for.
    pub fn push_key(&mut self, epoch: u64, key: crate::seal::PacketKey) {
        self.keys.push(epoch, key);
    }

    fn is_record_in_use(&self, packet_number: u64) -> bool {
        let record = self.records.get(self.record_slot(packet_number));
        record.is_some_and(|record| usize::from(record.parts().0) < self.slots.len())
    }

    fn slot_of(&self, chunk: u32) -> Option<u16> {
        let at = self.chunks.binary_search_by_key(&chunk, |&(chunk, _)| chunk).ok()?;
        self.chunks.get(at).map(|&(_, slot)| slot)
    }

    fn outgoing_mut(&mut self, chunk: u32) -> Option<&mut Outgoing> {
        let slot = self.slot_of(chunk)?;
        self.slots.get_mut(usize::from(slot))?.outgoing.as_mut()
    }

    /// Empties a slot; records that still name it become void.
    fn free(&mut self, slot: u16) -> Option<Outgoing> {
        let place = self.slots.get_mut(usize::from(slot))?;
        let mut outgoing = place.outgoing.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.chunks.retain(|&(_, other)| other != slot);
        self.free_slots.push(slot);
        let empty = SegmentSet::with_room_for(0);
        self.idle_sets.push(std::mem::replace(&mut outgoing.lost, empty));
        self.fresh.retain(|&other| other != slot);
        self.resend.retain(|&other| other != slot);
        self.assert_slots();
        Some(outgoing)
    }

    fn assert_slots(&self) {
        let (used, free) = (self.chunks.len(), self.free_slots.len());
        // Invariant I-sender-slots: Every slot of a sending flow either holds a chunk or is free
        // and has a set of segments in reserve.
        assert!(
            used.saturating_add(free) == self.slots.len() && self.idle_sets.len() == free,
            "{used} slots in use, {free} free"
        );
    }

    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
    const fn record_slot(&self, packet_number: u64) -> usize {
        packet_number as usize & self.records.len().wrapping_sub(1)
    }

    #[inline]
    fn record_mut(&mut self, packet_number: u64) -> Option<&mut PacketRecord> {
        let at = self.record_slot(packet_number);
        self.records.get_mut(at)
    }
}
