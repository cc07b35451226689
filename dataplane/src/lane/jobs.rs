//! What each buffer is busy with: pieces to be read or written, and the hash that goes with them.
//!
//! A chunk travels between file and buffer in pieces. With direct I/O all pieces are the kernel's
//! at once, for the disk's queue; through the page cache, where "reading" is a copy made on the
//! spot, a piece is taken only when it is needed, so that it is still in the cache when it is
//! hashed and sealed, and so that no turn is held up by a whole chunk.

use std::os::fd::RawFd;

use culvert_link::clock::monotonic_ns;
use culvert_link::commands::{ChunkTimes, DiskError, Event, FileRange, FileSlot, ReceiveSlot, SendSlot, Sink};
use culvert_link::counters::LaneCounter;
use culvert_protocol::receiver_flow::{BufferId, ChunkMemory as _};
use culvert_protocol::tree_hash::{ChunkHash, ChunkHasher};

use super::Body;
use crate::disk::files::DIRECT_ALIGNMENT;
use crate::disk::residency::is_resident;
use crate::disk::{COMPLETIONS_PER_TURN, Completion, Operation, Transfer};

/// A piece through the page cache: a quarter of an L2 cache, copied in some 25 µs.
pub const CACHED_PIECE_BYTES: u32 = 256 << 10;
/// A piece of direct I/O: what disks take in one request.
pub const DIRECT_PIECE_BYTES: u32 = 1 << 20;
/// A step of the hash: whole groups of BLAKE3's widest SIMD, and small enough to stay in the cache
/// until it is sealed.
pub const HASH_STEP_BYTES: u32 = 64 << 10;

/// Whose a buffer is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Not in use.
    #[default]
    Free,
    /// A sending flow's.
    Send(SendSlot),
    /// A receiving flow's.
    Receive(ReceiveSlot),
    /// A check's, with its token.
    Check(u32),
}

/// A buffer's business.
#[derive(Debug, Default)]
pub struct Job {
    /// Whose it is.
    pub role: Role,
    /// The chunk in it.
    pub chunk: u32,
    /// The chunk's bytes.
    pub bytes: u32,
    /// The hash, if the chunk is hashed here.
    pub hasher: Option<ChunkHasher>,
    /// Bytes hashed.
    pub hashed: u32,
    /// Where the chunk goes, on the receiving side, once that is known.
    pub sink: Option<Sink>,
    /// Whether all of the chunk has arrived, on the receiving side.
    pub is_whole: bool,
    /// Whether the result is no longer wanted: the buffer is freed when the kernel is done with it.
    pub is_abandoned: bool,
    /// Whether the control process has the buffer.
    pub is_lent: bool,
    io: Option<ChunkIo>,
    /// When the buffer was taken.
    begun_ns: u64,
    /// When the chunk was whole in the buffer.
    whole_ns: u64,
    hash_ns: u64,
}

/// The reading or writing of a chunk.
#[derive(Clone, Copy, Debug)]
struct ChunkIo {
    transfer: Transfer,
    /// Whose descriptor this is; given back with the buffer.
    file: FileSlot,
    fd: RawFd,
    is_direct: bool,
    file_offset: u64,
    /// Bytes handed to the disk so far.
    started: u32,
    in_flight: u32,
    /// A bit for each piece that is done.
    done: u64,
    /// Bytes done without a gap from the beginning.
    prefix: u32,
    error: Option<DiskError>,
}

impl ChunkIo {
    const fn piece_bytes(&self) -> u32 {
        if self.is_direct { DIRECT_PIECE_BYTES } else { CACHED_PIECE_BYTES }
    }
}

impl Job {
    /// The buffer is taken for a role.
    pub fn begin(&mut self, role: Role, now_ns: u64) {
        debug_assert_eq!(self.role, Role::Free, "a buffer has one job at a time");
        *self = Self { role, begun_ns: now_ns, ..Self::default() };
    }

    /// The chunk is whole in the buffer, from disk or network.
    pub fn note_whole(&mut self, now_ns: u64) {
        self.is_whole = true;
        self.whole_ns = now_ns;
    }

    /// How long the chunk took until now. Sending, it was read first and is delivered now;
    /// receiving, it came first and is written now.
    #[must_use]
    pub fn times(&self, now_ns: u64) -> ChunkTimes {
        let us = |ns: u64| (ns / 1_000).min(u32::MAX.into()) as u32;
        let first = us(self.whole_ns.saturating_sub(self.begun_ns));
        let second = us(now_ns.saturating_sub(self.whole_ns.max(self.begun_ns)));
        let (disk_us, network_us) = match self.role {
            Role::Receive(_) => (second, first),
            _ => (first, second),
        };
        ChunkTimes { disk_us, hash_us: us(self.hash_ns), network_us }
    }

    /// The buffer is given back.
    pub fn end(&mut self) {
        debug_assert!(!self.is_in_kernel(), "a buffer is given back while the kernel has it");
        *self = Self::default();
    }

    /// The file that the buffer's chunk is read from or written to.
    #[must_use]
    pub fn file(&self) -> Option<FileSlot> {
        self.io.map(|io| io.file)
    }

    /// Whether operations on the buffer are in progress.
    #[must_use]
    pub fn is_in_kernel(&self) -> bool {
        self.io.is_some_and(|io| io.in_flight > 0)
    }

    /// Bytes from the chunk's beginning that have been read.
    #[must_use]
    pub fn read_prefix(&self) -> u32 {
        self.io.map_or(0, |io| io.prefix)
    }

    /// Whether pieces have not been handed to the disk yet.
    #[must_use]
    pub fn has_pieces_left(&self) -> bool {
        self.io.is_some_and(|io| io.started < self.bytes && io.error.is_none())
    }

    /// Bytes from the chunk's beginning that can be sent and hashed.
    #[must_use]
    pub fn available(&self) -> u32 {
        if self.is_lent { 0 } else { self.io.map_or(self.bytes, |io| io.prefix) }
    }

    /// Whether the chunk is read or written through the page cache, piece by piece.
    #[must_use]
    pub fn is_cached(&self) -> bool {
        self.io.is_some_and(|io| !io.is_direct)
    }
}

impl Body {
    /// Prepares the reading of a chunk. False if the control process has closed the file: it has
    /// given the chunk up.
    pub(super) fn begin_read(&mut self, buffer: BufferId, range: &FileRange) -> bool {
        let Some(files) = self.files.acquire(range.file) else { return false };
        let job = &mut self.jobs[buffer.0 as usize];
        let direct = files.direct.filter(|_| !is_resident(files.buffered, range.offset, job.bytes.into()));
        job.io = Some(ChunkIo::new(Transfer::Read, range, files.buffered, direct));
        if direct.is_some() {
            while self.start_piece(buffer) {}
        }
        true
    }

    /// Prepares the writing of a whole chunk.
    fn begin_write(&mut self, buffer: BufferId, range: &FileRange) -> bool {
        let Some(files) = self.files.acquire(range.file) else { return false };
        let bytes = self.jobs[buffer.0 as usize].bytes;
        if files.direct.is_some() {
            // Direct writes come in whole blocks. What stands behind the chunk's end must not be
            // another chunk's data, though the file is cut to its size before anybody sees it.
            let padded = bytes.next_multiple_of(DIRECT_ALIGNMENT);
            self.buffers.bytes_mut(buffer, bytes as usize..padded as usize).fill(0);
        }
        let job = &mut self.jobs[buffer.0 as usize];
        job.io = Some(ChunkIo::new(Transfer::Write, range, files.buffered, files.direct));
        if files.direct.is_some() {
            while self.start_piece(buffer) {}
        }
        true
    }

    /// Hands the next piece to the disk; false if none is left.
    pub(super) fn start_piece(&mut self, buffer: BufferId) -> bool {
        let job = &mut self.jobs[buffer.0 as usize];
        if !job.has_pieces_left() {
            return false;
        }
        let Some(io) = job.io.as_mut() else { return false };
        let bytes = io.piece_bytes().min(job.bytes - io.started);
        self.disk.start(io.operation(buffer, io.started, bytes));
        io.started += bytes;
        io.in_flight += 1;
        true
    }

    /// Advances the disk and handles completed operations.
    pub(super) fn disk_turn(&mut self) -> bool {
        // Cached writes and checks: one piece of one buffer a turn.
        let next = self.jobs.iter().position(|job| job.has_pieces_left() && !matches!(job.role, Role::Send(_)));
        if let Some(at) = next
            && !self.jobs[at].is_in_kernel()
        {
            self.start_piece(BufferId(at as u32));
        }
        if !self.disk.is_busy() {
            return false;
        }
        let mut ended = [None; COMPLETIONS_PER_TURN];
        let progress = self.disk.turn(&self.buffers, &mut ended);
        for completion in ended.into_iter().flatten() {
            self.piece_ended(completion);
        }
        progress
    }

    fn piece_ended(&mut self, completion: Completion) {
        let buffer = completion.buffer;
        let job = &mut self.jobs[buffer.0 as usize];
        let job_bytes = job.bytes;
        let Some(io) = job.io.as_mut() else {
            debug_assert!(false, "a completion for a buffer without operations");
            return;
        };
        io.in_flight -= 1;
        let piece = completion.buffer_offset / io.piece_bytes();
        let piece_end = ((piece + 1) * io.piece_bytes()).min(job_bytes);
        let counter = match io.transfer {
            Transfer::Read => LaneCounter::DiskRead,
            Transfer::Write => LaneCounter::DiskWritten,
        };
        match u32::try_from(completion.result) {
            Err(_) => io.error = io.error.or(Some(DiskError::Os(-completion.result))),
            Ok(0) => io.error = io.error.or(Some(DiskError::Short)),
            Ok(moved) => {
                self.link.counters.add(counter, moved.into());
                let reached = completion.buffer_offset + moved;
                if reached >= piece_end {
                    io.note_done(piece, job_bytes);
                } else if io.error.is_none() {
                    // A short transfer in the middle: continue where it stopped. Direct I/O can
                    // only continue at a whole block.
                    let from = if io.is_direct { reached / DIRECT_ALIGNMENT * DIRECT_ALIGNMENT } else { reached };
                    if from > completion.buffer_offset {
                        self.disk.start(io.operation(buffer, from, piece_end - from));
                        io.in_flight += 1;
                    } else {
                        io.error = Some(DiskError::Short);
                    }
                }
            }
        }
        self.piece_settled(buffer);
    }

    /// Acts on the state of a buffer after a piece has ended.
    fn piece_settled(&mut self, buffer: BufferId) {
        let job = &self.jobs[buffer.0 as usize];
        let Some(io) = job.io else { return };
        if job.is_abandoned {
            if io.in_flight == 0 {
                self.release_abandoned(buffer);
            }
            return;
        }
        let has_ended = io.in_flight == 0 && (io.error.is_some() || io.prefix == job.bytes);
        if io.transfer == Transfer::Read && io.prefix == job.bytes {
            let now_ns = self.now_ns;
            self.jobs[buffer.0 as usize].note_whole(now_ns);
        }
        match self.jobs[buffer.0 as usize].role {
            Role::Send(slot) => self.with_send(slot, |flow, body| flow.read_on(buffer, io.error, body)),
            Role::Receive(slot) if has_ended => self.write_ended(slot, buffer, io.error),
            Role::Check(token) if has_ended => self.check_ended(token, buffer, io.error),
            Role::Receive(_) | Role::Check(_) | Role::Free => {}
        }
    }

    /// Frees a buffer that is no longer wanted, once the kernel is done with it.
    pub(super) fn release_abandoned(&mut self, buffer: BufferId) {
        let role = self.jobs[buffer.0 as usize].role;
        self.free_buffer(buffer);
        match role {
            Role::Send(slot) => self.with_send(slot, |flow, _| flow.held -= 1),
            Role::Receive(slot) => self.with_receive(slot, super::receiving::ReceiveFlow::release),
            Role::Check(_) | Role::Free => {}
        }
    }

    /// Hashes the chunk in `buffer` up to `until`, in steps.
    pub(super) fn hash_until(&mut self, buffer: BufferId, until: u32) {
        let job = &mut self.jobs[buffer.0 as usize];
        let Some(hasher) = job.hasher.as_mut().filter(|_| job.hashed < until) else { return };
        // The real clock, whatever the lane lives by: this is a measurement and decides nothing.
        let begun_ns = monotonic_ns();
        while job.hashed < until {
            let end = (job.hashed + HASH_STEP_BYTES).min(until);
            hasher.update(self.buffers.bytes(buffer, job.hashed as usize..end as usize));
            job.hashed = end;
        }
        let spent_ns = monotonic_ns().saturating_sub(begun_ns);
        job.hash_ns += spent_ns;
        self.link.counters.add(LaneCounter::HashNs, spent_ns);
    }

    /// The chunk's hash, all of whose bytes are in `buffer`; `None` if chunks are not hashed.
    pub(super) fn finish_hash(&mut self, buffer: BufferId) -> Option<ChunkHash> {
        let bytes = self.jobs[buffer.0 as usize].bytes;
        self.hash_until(buffer, bytes);
        self.jobs[buffer.0 as usize].hasher.take().map(|hasher| hasher.finish())
    }

    /// Begins to read and hash a range, for a resume. Without a free buffer the answer is "try
    /// again".
    pub(super) fn begin_check(&mut self, token: u32, range: FileRange, bytes: u32, chunk_bytes: u32) {
        let failed = |error| Event::Checked { token, result: Err(error) };
        let Some(buffer) = self.take_buffer(Role::Check(token), None) else {
            self.link.emit(&failed(DiskError::Os(libc::EAGAIN)));
            return;
        };
        let job = &mut self.jobs[buffer.0 as usize];
        job.bytes = bytes;
        job.hasher = Some(ChunkHasher::new(range.file_bytes, range.offset, chunk_bytes));
        if !self.begin_read(buffer, &range) {
            self.free_buffer(buffer);
            self.link.emit(&failed(DiskError::Os(libc::EBADF)));
        }
    }

    fn check_ended(&mut self, token: u32, buffer: BufferId, error: Option<DiskError>) {
        let result = match error {
            Some(error) => Err(error),
            None => self.finish_hash(buffer).ok_or(DiskError::Short),
        };
        self.free_buffer(buffer);
        self.link.emit(&Event::Checked { token, result });
    }

    /// The chunk's destination is known: writes, hands over or discards it as soon as it is whole.
    pub(super) fn set_sink(&mut self, slot: ReceiveSlot, buffer: BufferId, sink: Sink) {
        let bytes = self.jobs[buffer.0 as usize].bytes;
        let hasher = self.hasher_for(slot, sink, bytes);
        let job = &mut self.jobs[buffer.0 as usize];
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
            Sink::Hand => None,
        }
    }

    /// The chunk in `buffer` starts over (W-11): its bytes will change, and so will their hash. Its
    /// destination stays.
    pub(super) fn begin_anew(&mut self, slot: ReceiveSlot, buffer: BufferId) {
        let Job { role, chunk, bytes, sink, .. } = std::mem::take(&mut self.jobs[buffer.0 as usize]);
        let hasher = sink.and_then(|sink| self.hasher_for(slot, sink, bytes));
        let job = &mut self.jobs[buffer.0 as usize];
        job.begin(role, self.now_ns);
        (job.chunk, job.bytes, job.sink, job.hasher) = (chunk, bytes, sink, hasher);
    }

    /// Sends a whole chunk to its sink.
    pub(super) fn dispose(&mut self, slot: ReceiveSlot, buffer: BufferId) {
        let job = &mut self.jobs[buffer.0 as usize];
        let (chunk, chunk_bytes) = (job.chunk, job.bytes);
        match job.sink {
            None => {}
            Some(Sink::File(range)) => {
                self.hash_until(buffer, chunk_bytes);
                if !self.begin_write(buffer, &range) {
                    self.write_ended(slot, buffer, Some(DiskError::Os(libc::EBADF)));
                }
            }
            Some(Sink::Hand) => {
                job.is_lent = true;
                self.link.emit(&Event::Hand { flow: slot, chunk, buffer: buffer.0, chunk_bytes });
            }
            Some(Sink::Discard) => self.write_ended(slot, buffer, None),
        }
    }

    fn write_ended(&mut self, slot: ReceiveSlot, buffer: BufferId, error: Option<DiskError>) {
        let chunk = self.jobs[buffer.0 as usize].chunk;
        let hash = self.finish_hash(buffer);
        let times = self.jobs[buffer.0 as usize].times(self.now_ns);
        self.free_buffer(buffer);
        self.with_receive(slot, super::receiving::ReceiveFlow::release);
        self.link.emit(&match error {
            None => Event::Written { flow: slot, chunk, hash, times },
            Some(error) => Event::WriteFailed { flow: slot, chunk, error },
        });
    }

    /// The control process has emptied a buffer that was handed to it.
    pub(super) fn returned(&mut self, slot: ReceiveSlot, buffer: BufferId) {
        let Some(job) = self.jobs.get(buffer.0 as usize) else { return };
        if job.role == Role::Receive(slot) && job.is_lent {
            self.free_buffer(buffer);
            self.with_receive(slot, super::receiving::ReceiveFlow::release);
        }
    }
}

impl ChunkIo {
    const fn new(transfer: Transfer, range: &FileRange, buffered: RawFd, direct: Option<RawFd>) -> Self {
        let (fd, is_direct) = match direct {
            Some(fd) => (fd, true),
            None => (buffered, false),
        };
        Self {
            transfer,
            file: range.file,
            fd,
            is_direct,
            file_offset: range.offset,
            started: 0,
            in_flight: 0,
            done: 0,
            prefix: 0,
            error: None,
        }
    }

    /// The operation on `bytes` bytes from `begin` of the chunk.
    const fn operation(&self, buffer: BufferId, begin: u32, bytes: u32) -> Operation {
        let bytes = if self.is_direct { bytes.next_multiple_of(DIRECT_ALIGNMENT) } else { bytes };
        Operation {
            transfer: self.transfer,
            fd: self.fd,
            buffer,
            buffer_offset: begin,
            bytes,
            file_offset: self.file_offset + begin as u64,
        }
    }

    fn note_done(&mut self, piece: u32, chunk_bytes: u32) {
        self.done |= 1 << piece;
        self.prefix = (self.done.trailing_ones() * self.piece_bytes()).min(chunk_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_protocol::wire::CHUNK_BYTES_MAX;

    const RANGE: FileRange = FileRange { file: FileSlot(0), offset: 0, file_bytes: 1 << 30 };

    #[test]
    fn the_pieces_of_the_largest_chunk_have_a_bit_each() {
        assert!(CHUNK_BYTES_MAX.div_ceil(CACHED_PIECE_BYTES) <= u64::BITS);
        assert!(CHUNK_BYTES_MAX.div_ceil(DIRECT_PIECE_BYTES) <= u64::BITS);
    }

    #[test]
    fn pieces_that_end_out_of_order_count_from_the_beginning() {
        let mut io = ChunkIo::new(Transfer::Read, &RANGE, 3, None);
        let chunk_bytes = 2 * CACHED_PIECE_BYTES + 5;
        io.note_done(2, chunk_bytes);
        assert_eq!(io.prefix, 0);
        io.note_done(0, chunk_bytes);
        assert_eq!(io.prefix, CACHED_PIECE_BYTES);
        io.note_done(1, chunk_bytes);
        assert_eq!(io.prefix, chunk_bytes);
    }

    #[test]
    fn direct_operations_cover_whole_blocks() {
        let range = FileRange { offset: 4096, ..RANGE };
        let io = ChunkIo::new(Transfer::Write, &range, 3, Some(4));
        let operation = io.operation(BufferId(0), 0, 5000);
        assert_eq!((operation.fd, operation.bytes, operation.file_offset), (4, 8192, 4096));
    }
}
