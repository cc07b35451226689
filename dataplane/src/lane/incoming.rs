//! The chunks of a receiving flow: from their first segment to their destination.

use culvert_link::clock::wire_us;
use culvert_link::commands::{DiskError, Event, Sink};
use culvert_link::counters::LaneCounter;
use culvert_link::invariant;
use culvert_protocol::chunk_memory::{BufferId, ChunkMemory as _};
use culvert_protocol::receiver_flow::{ChunkStart, Received, Rejected};
use culvert_protocol::tree_hash::ChunkHasher;
use culvert_protocol::wire::{Header, SegmentKind};

use super::jobs::{HASH_STEP_BYTES, Job, Role};
use super::receiving::ReceiveFlow;
use super::resources::Resources;
use super::shares::FlowMemory;
use crate::datapath::Arrival;

impl ReceiveFlow {
    /// A datagram of the flow. Returns whether it is a probe to be answered.
    #[inline]
    pub(super) fn segment(&mut self, datagram: &[u8], header: &Header, by: Arrival, resources: &mut Resources) -> bool {
        if self.is_closing() {
            return false;
        }
        let (account, is_awake) = (self.claim.account, self.claim.is_awake(resources.now_ns));
        let mut memory =
            FlowMemory { buffers: &mut resources.buffers, shares: &mut resources.shares, account, is_awake };
        let received = self.protocol.receive(datagram, header, &mut memory, wire_us(by.taken_ns));
        if let Received::Rejected(reason) = received {
            resources.link.counters.add(rejection(reason), 1);
            return false;
        }
        self.note_arrival(by);
        if header.kind == SegmentKind::Data {
            resources.link.counters.add(LaneCounter::SegmentsReceived, 1);
            resources.link.counters.add(LaneCounter::PayloadReceived, header.payload_bytes() as u64);
        }
        match received {
            Received::Placed { chunk } => self.touched = chunk.or(self.touched),
            Received::Began { chunk, buffer, chunk_bytes } => self.began(chunk, buffer, chunk_bytes, resources),
            Received::BeganAnew { buffer, .. } => self.begin_anew(buffer, resources),
            Received::Completed(done) => {
                self.whole += 1;
                match done.beginning {
                    ChunkStart::Earlier => {}
                    ChunkStart::Now => self.began(done.chunk, done.buffer, done.chunk_bytes, resources),
                    ChunkStart::Anew => self.begin_anew(done.buffer, resources),
                }
                resources.jobs[done.buffer.0 as usize].note_whole(resources.now_ns);
                self.dispose(done.buffer, resources);
            }
            Received::Probe(_) => return true,
            Received::Rejected(_) => {}
        }
        false
    }

    fn began(&self, chunk: u32, buffer: BufferId, chunk_bytes: u32, resources: &mut Resources) {
        let job = &mut resources.jobs[buffer.0 as usize];
        job.begin(Role::Receive(self.slot), resources.now_ns);
        (job.chunk, job.bytes) = (chunk, chunk_bytes);
        resources.link.emit(&Event::PlacementNeeded { flow: self.slot, chunk, chunk_bytes });
    }

    /// The chunk in `buffer` starts over: its bytes will change, and so will their hash. Its
    /// destination stays.
    fn begin_anew(&self, buffer: BufferId, resources: &mut Resources) {
        //= W-11
        //# A chunk that starts over starts completely over: segments that arrived before do not
        //# count, and their bytes are not part of any hash.
        let job = &mut resources.jobs[buffer.0 as usize];
        let Job { role, chunk, bytes, sink, .. } = std::mem::take(job);
        job.begin(role, resources.now_ns);
        let hasher = sink.and_then(|sink| self.hasher_for(sink, bytes));
        (job.chunk, job.bytes, job.sink, job.hasher) = (chunk, bytes, sink, hasher);
    }

    /// Hashes what has arrived without a gap, while it is in the cache.
    pub(super) fn hash_arrived(&mut self, resources: &mut Resources) {
        let Some(chunk) = self.touched.take() else { return };
        if !self.hashing.is_wanted() {
            return;
        }
        let Some((buffer, bytes)) = self.protocol.contiguous(chunk) else { return };
        resources.hash_until(buffer, bytes as u32 / HASH_STEP_BYTES * HASH_STEP_BYTES);
    }

    /// The destination of a chunk is known: writes, hands over or discards it as soon as it is
    /// whole.
    pub(super) fn place(&mut self, chunk: u32, sink: Sink, resources: &mut Resources) {
        let Some(buffer) = resources.buffer_of(Role::Receive(self.slot), chunk) else { return };
        let job = &mut resources.jobs[buffer.0 as usize];
        if job.sink.is_some() {
            return;
        }
        let hasher = self.hasher_for(sink, job.bytes);
        (job.sink, job.hasher, job.hashed) = (Some(sink), hasher, 0);
        if job.is_whole {
            self.dispose(buffer, resources);
        }
    }

    /// The hasher of a chunk of `bytes` that goes to `sink`, if it is hashed here.
    fn hasher_for(&self, sink: Sink, bytes: u32) -> Option<ChunkHasher> {
        match sink {
            Sink::File(range) => self.hashing.hasher(range.file_bytes, range.offset),
            Sink::Discard => self.hashing.hasher(bytes.into(), 0),
            Sink::Lend => None,
        }
    }

    /// Sends a whole chunk to its destination, if that is known.
    fn dispose(&mut self, buffer: BufferId, resources: &mut Resources) {
        let job = &mut resources.jobs[buffer.0 as usize];
        let (chunk, chunk_bytes) = (job.chunk, job.bytes);
        // Invariant I-lane-sink-whole: only a chunk whose segments have all arrived goes to its
        // destination.
        invariant!(job.is_whole, "only a whole chunk goes to its destination");
        match job.sink {
            None => {}
            Some(Sink::File(range)) => {
                resources.hash_until(buffer, chunk_bytes);
                if !resources.begin_write(buffer, &range) {
                    self.write_ended(buffer, Some(DiskError::Os(libc::EBADF)), resources);
                }
            }
            Some(Sink::Lend) => {
                job.is_lent = true;
                resources.link.emit(&Event::Lend { flow: self.slot, chunk, buffer: buffer.0, chunk_bytes });
            }
            Some(Sink::Discard) => self.write_ended(buffer, None, resources),
        }
    }

    /// A chunk is at its destination, or could not be written.
    pub(super) fn write_ended(&mut self, buffer: BufferId, error: Option<DiskError>, resources: &mut Resources) {
        let job = &resources.jobs[buffer.0 as usize];
        let chunk = job.chunk;
        // Invariant I-lane-written-once: a chunk is reported as written once, by the flow that
        // received it, and its buffer is free from then on.
        invariant!(job.role == Role::Receive(self.slot), "a chunk is reported as written once, by its flow");
        let hash = resources.finish_hash(buffer);
        let times = resources.jobs[buffer.0 as usize].times(resources.now_ns);
        resources.free_buffer(buffer);
        self.release();
        resources.link.emit(&match error {
            None => Event::Written { flow: self.slot, chunk, hash, times },
            Some(error) => Event::WriteFailed { flow: self.slot, chunk, error },
        });
    }

    /// The control process has emptied a buffer that was lent to it.
    pub(super) fn returned(&mut self, buffer: BufferId, resources: &mut Resources) {
        let Some(job) = resources.jobs.get_mut(buffer.0 as usize) else { return };
        if job.role == Role::Receive(self.slot) && std::mem::take(&mut job.is_lent) {
            resources.free_buffer(buffer);
            self.release();
        }
    }

    /// Gives up a chunk that its sender gave up.
    pub(super) fn abandon_chunk(&mut self, chunk: u32, resources: &mut Resources) {
        if let Some(buffer) = self.protocol.abandon_chunk(chunk) {
            resources.free_buffer(buffer);
        } else {
            self.place(chunk, Sink::Discard, resources);
        }
    }

    /// Receives a chunk once more, unless the earlier bytes are still being written: both would be
    /// written to one range, and the hash of one would be reported for the other.
    pub(super) fn reopen_chunk(&mut self, chunk: u32, resources: &Resources) {
        if resources.buffer_of(Role::Receive(self.slot), chunk).is_none() {
            self.protocol.reopen(chunk);
        }
    }

    /// Closes the flow: incomplete chunks are dropped, and so are complete ones whose destination
    /// is not known; writes in progress are completed.
    pub(super) fn close(&mut self, resources: &mut Resources) {
        self.begin_closing();
        let (jobs, buffers) = (&mut resources.jobs, &mut resources.buffers);
        self.protocol.abandon(|buffer| {
            jobs[buffer.0 as usize].end();
            buffers.give_back(buffer);
        });
        for at in 0..resources.jobs.len() {
            let job = &resources.jobs[at];
            if job.role == Role::Receive(self.slot) && job.sink.is_none() && !job.is_lent {
                resources.free_buffer(BufferId(at as u32));
                self.release();
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
