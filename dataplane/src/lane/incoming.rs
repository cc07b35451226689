//! The chunks that a lane receives: from their first segment to their sink.

use culvert_link::clock::wire_us;
use culvert_link::commands::{DiskError, Event, ReceiveSlot, Sink};
use culvert_link::counters::LaneCounter;
use culvert_protocol::chunk_memory::{BufferId, ChunkMemory as _};
use culvert_protocol::receiver_flow::{ChunkStart, Received, Rejected};
use culvert_protocol::tree_hash::ChunkHasher;
use culvert_protocol::wire::{Header, SegmentKind};

use super::flow_table::FlowTable;
use super::jobs::{HASH_STEP_BYTES, Job, Role};
use super::receiving::ReceiveFlow;
use super::shares::FlowMemory;
use crate::datapath::Arrival;

impl FlowTable {
    /// A datagram of a receiving flow. Returns whether it is a probe to be answered.
    #[inline]
    pub(super) fn segment(&mut self, slot: ReceiveSlot, datagram: &[u8], header: &Header, by: Arrival) -> bool {
        let Some(flow) = self.receives[usize::from(slot.0)].as_mut() else { return false };
        if flow.is_closing {
            return false;
        }
        let (account, is_awake) = (flow.claim.account, flow.claim.is_awake(self.resources.now_ns));
        let mut memory =
            FlowMemory { buffers: &mut self.resources.buffers, shares: &mut self.resources.shares, account, is_awake };
        let received = flow.protocol.receive(datagram, header, &mut memory, wire_us(by.taken_ns));
        if let Received::Rejected(reason) = received {
            self.resources.link.counters.add(rejection(reason), 1);
            return false;
        }
        flow.openings.on_heard(by.taken_ns);
        flow.arrived[usize::from(by.is_astray)] += 1;
        if header.kind == SegmentKind::Data {
            self.resources.link.counters.add(LaneCounter::SegmentsReceived, 1);
            self.resources.link.counters.add(LaneCounter::PayloadReceived, header.payload_bytes() as u64);
        }
        match received {
            Received::Placed { chunk } => flow.touched = chunk.or(flow.touched),
            Received::Began { chunk, buffer, chunk_bytes } => self.began(slot, chunk, buffer, chunk_bytes),
            Received::BeganAnew { buffer, .. } => self.begin_anew(slot, buffer),
            Received::Completed(done) => {
                flow.whole += 1;
                match done.beginning {
                    ChunkStart::Earlier => {}
                    ChunkStart::Now => self.began(slot, done.chunk, done.buffer, done.chunk_bytes),
                    ChunkStart::Anew => self.begin_anew(slot, done.buffer),
                }
                self.resources.jobs[done.buffer.0 as usize].note_whole(self.resources.now_ns);
                self.dispose(slot, done.buffer);
            }
            Received::Probe(_) => return true,
            Received::Rejected(_) => {}
        }
        false
    }

    fn began(&mut self, slot: ReceiveSlot, chunk: u32, buffer: BufferId, chunk_bytes: u32) {
        let job = &mut self.resources.jobs[buffer.0 as usize];
        job.begin(Role::Receive(slot), self.resources.now_ns);
        (job.chunk, job.bytes) = (chunk, chunk_bytes);
        self.resources.link.emit(&Event::PlacementNeeded { flow: slot, chunk, chunk_bytes });
    }

    /// The chunk in `buffer` starts over (W-11): its bytes will change, and so will their hash. Its
    /// destination stays.
    fn begin_anew(&mut self, slot: ReceiveSlot, buffer: BufferId) {
        let Job { role, chunk, bytes, sink, .. } = std::mem::take(&mut self.resources.jobs[buffer.0 as usize]);
        let hasher = sink.and_then(|sink| self.hasher_for(slot, sink, bytes));
        let job = &mut self.resources.jobs[buffer.0 as usize];
        job.begin(role, self.resources.now_ns);
        (job.chunk, job.bytes, job.sink, job.hasher) = (chunk, bytes, sink, hasher);
    }

    /// Hashes what has arrived without a gap, while it is in the cache.
    pub(super) fn hash_arrived(&mut self, slot: ReceiveSlot) {
        let Some(flow) = self.receives[usize::from(slot.0)].as_mut() else { return };
        let Some(chunk) = flow.touched.take() else { return };
        if !flow.checksum {
            return;
        }
        let Some((buffer, bytes)) = flow.protocol.contiguous(chunk) else { return };
        self.resources.hash_until(buffer, bytes as u32 / HASH_STEP_BYTES * HASH_STEP_BYTES);
    }

    /// The destination of a chunk is known.
    pub(super) fn place(&mut self, slot: ReceiveSlot, chunk: u32, sink: Sink) {
        let Some(buffer) = self.resources.buffer_of(Role::Receive(slot), chunk) else { return };
        if self.resources.jobs[buffer.0 as usize].sink.is_none() {
            self.set_sink(slot, buffer, sink);
        }
    }

    /// The chunk's destination is known: writes, hands over or discards it as soon as it is whole.
    fn set_sink(&mut self, slot: ReceiveSlot, buffer: BufferId, sink: Sink) {
        let bytes = self.resources.jobs[buffer.0 as usize].bytes;
        let hasher = self.hasher_for(slot, sink, bytes);
        let job = &mut self.resources.jobs[buffer.0 as usize];
        (job.sink, job.hasher, job.hashed) = (Some(sink), hasher, 0);
        if job.is_whole {
            self.dispose(slot, buffer);
        }
    }

    /// The hasher of a chunk of `bytes` that goes to `sink`, if it is hashed here.
    fn hasher_for(&self, slot: ReceiveSlot, sink: Sink, bytes: u32) -> Option<ChunkHasher> {
        let flow = self.receives[usize::from(slot.0)].as_ref().filter(|flow| flow.checksum)?;
        match sink {
            Sink::File(range) => Some(ChunkHasher::new(range.file_bytes, range.offset, flow.chunk_bytes)),
            Sink::Discard => Some(ChunkHasher::new(bytes.into(), 0, flow.chunk_bytes)),
            Sink::Lend => None,
        }
    }

    /// Sends a whole chunk to its sink.
    fn dispose(&mut self, slot: ReceiveSlot, buffer: BufferId) {
        let job = &mut self.resources.jobs[buffer.0 as usize];
        let (chunk, chunk_bytes) = (job.chunk, job.bytes);
        match job.sink {
            None => {}
            Some(Sink::File(range)) => {
                self.resources.hash_until(buffer, chunk_bytes);
                if !self.resources.begin_write(buffer, &range) {
                    self.write_ended(slot, buffer, Some(DiskError::Os(libc::EBADF)));
                }
            }
            Some(Sink::Lend) => {
                job.is_lent = true;
                self.resources.link.emit(&Event::Lend { flow: slot, chunk, buffer: buffer.0, chunk_bytes });
            }
            Some(Sink::Discard) => self.write_ended(slot, buffer, None),
        }
    }

    /// A chunk is at its sink, or could not be written.
    pub(super) fn write_ended(&mut self, slot: ReceiveSlot, buffer: BufferId, error: Option<DiskError>) {
        let chunk = self.resources.jobs[buffer.0 as usize].chunk;
        let hash = self.resources.finish_hash(buffer);
        let times = self.resources.jobs[buffer.0 as usize].times(self.resources.now_ns);
        self.resources.free_buffer(buffer);
        self.with_receive(slot, ReceiveFlow::release);
        self.resources.link.emit(&match error {
            None => Event::Written { flow: slot, chunk, hash, times },
            Some(error) => Event::WriteFailed { flow: slot, chunk, error },
        });
    }

    /// The control process has emptied a buffer that was handed to it.
    pub(super) fn returned(&mut self, slot: ReceiveSlot, buffer: BufferId) {
        let Some(job) = self.resources.jobs.get(buffer.0 as usize) else { return };
        if job.role == Role::Receive(slot) && job.is_lent {
            self.resources.free_buffer(buffer);
            self.with_receive(slot, ReceiveFlow::release);
        }
    }

    /// Gives up a chunk that its sender gave up.
    pub(super) fn abandon_chunk(&mut self, slot: ReceiveSlot, chunk: u32) {
        let Some(flow) = self.receives.get_mut(usize::from(slot.0)).and_then(Option::as_mut) else { return };
        if let Some(buffer) = flow.protocol.abandon_chunk(chunk) {
            self.resources.free_buffer(buffer);
        } else {
            self.place(slot, chunk, Sink::Discard);
        }
    }

    /// Receives a chunk once more, unless its bytes still are on their way to its destination: two
    /// would write one range, and the hash of one would be said of the other.
    pub(super) fn reopen_chunk(&mut self, slot: ReceiveSlot, chunk: u32) {
        if self.resources.buffer_of(Role::Receive(slot), chunk).is_none() {
            self.with_receive(slot, |flow| flow.protocol.reopen(chunk));
        }
    }

    /// Closes a receiving flow: incomplete chunks are dropped, and so are complete ones whose
    /// destination is not known; writes in progress are completed.
    pub(super) fn close_receive(&mut self, slot: ReceiveSlot) {
        let Some(flow) = self.receives.get_mut(usize::from(slot.0)).and_then(Option::as_mut) else { return };
        flow.is_closing = true;
        let (jobs, buffers) = (&mut self.resources.jobs, &mut self.resources.buffers);
        flow.protocol.abandon(|buffer| {
            jobs[buffer.0 as usize].end();
            buffers.give_back(buffer);
        });
        for at in 0..jobs.len() {
            let job = &mut jobs[at];
            if job.role == Role::Receive(slot) && job.sink.is_none() && !job.is_lent {
                job.end();
                buffers.give_back(BufferId(at as u32));
                flow.release();
            }
        }
    }
}

const fn rejection(reason: Rejected) -> LaneCounter {
    match reason {
        Rejected::Stale => LaneCounter::RejectedStale,
        Rejected::Epoch => LaneCounter::RejectedEpoch,
        Rejected::NotAuthentic => LaneCounter::RejectedNotAuthentic,
        Rejected::ForeignChunk => LaneCounter::RejectedForeignChunk,
        Rejected::OverCredit => LaneCounter::RejectedOverCredit,
        Rejected::Direction => LaneCounter::RejectedDirection,
    }
}
