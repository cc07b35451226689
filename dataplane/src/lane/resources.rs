//! What the flows of a lane share: buffers and what each is in use for, the disk, files, and the
//! link to the control process. Nothing here knows of flows.

use std::sync::Arc;

use culvert_link::clock::monotonic_ns;
use culvert_link::commands::{DiskError, Event, FileRange};
use culvert_link::counters::LaneCounter;
use culvert_link::invariant;
use culvert_protocol::chunk_memory::{BufferId, ChunkMemory as _};
use culvert_protocol::tree_hash::{ChunkHash, ChunkHasher};

use super::jobs::{ChunkIo, HASH_STEP_BYTES, Job, Role};
use super::lane_link::LaneLink;
use super::shares::Shares;
use crate::buffers::Buffers;
use crate::disk::files::{DIRECT_ALIGNMENT, FileTable};
use crate::disk::residency::is_resident;
use crate::disk::{Completion, Disk, Transfer};

/// What the flows of a lane share.
#[derive(Debug)]
pub(super) struct Resources {
    pub(super) disk: Disk,
    pub(super) buffers: Buffers,
    pub(super) shares: Shares,
    pub(super) jobs: Box<[Job]>,
    pub(super) files: Arc<FileTable>,
    pub(super) link: LaneLink,
    /// When the turn began.
    pub(super) now_ns: u64,
}

impl Resources {
    /// Takes a buffer for a job that is not a receiving flow's, of the part of `account`.
    pub(super) fn take_buffer(&mut self, role: Role, account: Option<usize>) -> Option<BufferId> {
        if !self.may_take_buffer(account) {
            return None;
        }
        let buffer = self.buffers.take()?;
        self.jobs[buffer.0 as usize].begin(role, self.now_ns);
        Some(buffer)
    }

    /// Whether a buffer that is not promised is free for something other than a receiving flow, and
    /// `account` may have it.
    fn may_take_buffer(&mut self, account: Option<usize>) -> bool {
        let free = self.buffers.free_count();
        match account {
            Some(account) => self.shares.may_take(account, free),
            None => free > self.shares.promised as usize,
        }
    }

    /// Gives a buffer back, and releases the file of its chunk.
    pub(super) fn free_buffer(&mut self, buffer: BufferId) {
        if let Some(file) = self.jobs[buffer.0 as usize].file() {
            self.files.release(file);
        }
        self.jobs[buffer.0 as usize].end();
        self.buffers.give_back(buffer);
    }

    /// The buffer in which `role` has `chunk`.
    pub(super) fn buffer_of(&self, role: Role, chunk: u32) -> Option<BufferId> {
        let at = self.jobs.iter().position(|job| job.role == role && job.chunk == chunk)?;
        Some(BufferId(at as u32))
    }

    /// Whether any buffer is in use for `role`.
    pub(super) fn has_buffers(&self, role: Role) -> bool {
        self.jobs.iter().any(|job| job.role == role)
    }

    /// Checks that every buffer is either in the pool or has a job; looks at all of them.
    pub(super) fn check_buffers(&self, has_flows: bool) {
        let in_use = self.buffers.count() - self.buffers.free_count();
        let with_job = self.jobs.iter().filter(|job| job.role != Role::Free).count();
        // Invariant I-lane-buffers: between turns, every chunk buffer is either in the pool or has
        // a job.
        invariant!(in_use == with_job, "every buffer is in the pool or has a job");
        let is_check = |job: &Job| matches!(job.role, Role::Free | Role::Check(_));
        // Invariant I-lane-idle: a lane without flows uses buffers only for checks.
        invariant!(has_flows || self.jobs.iter().all(is_check), "without flows, only checks have buffers");
    }

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
    pub(super) fn begin_write(&mut self, buffer: BufferId, range: &FileRange) -> bool {
        let Some(files) = self.files.acquire(range.file) else { return false };
        let bytes = self.jobs[buffer.0 as usize].bytes;
        if files.direct.is_some() {
            // Direct writes are whole blocks. The rest of the last block must not be another
            // chunk's data, although the file is cut to its size before anybody sees it.
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

    /// Notes the result of an operation, and continues a piece of which only a part was moved.
    pub(super) fn piece_ended(&mut self, completion: Completion) {
        let buffer = completion.buffer;
        let job = &mut self.jobs[buffer.0 as usize];
        let job_bytes = job.bytes;
        let io = job.io.as_mut().filter(|io| io.in_flight > 0);
        // Invariant I-lane-completion: a completion belongs to an operation on its buffer that was
        // started and has not ended.
        invariant!(io.is_some(), "a completion belongs to an operation that was started and has not ended");
        let Some(io) = io else { return };
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
    }

    /// Hands the disk what goes through the page cache: one piece of one write or check a turn.
    /// Chunks to be sent are read when they are needed.
    pub(super) fn start_cached_piece(&mut self) {
        let next = self.jobs.iter().position(|job| job.has_pieces_left() && !matches!(job.role, Role::Send(_)));
        if let Some(at) = next
            && !self.jobs[at].is_in_kernel()
        {
            self.start_piece(BufferId(at as u32));
        }
    }

    /// Hashes the chunk in `buffer` up to `until`, in steps.
    pub(super) fn hash_until(&mut self, buffer: BufferId, until: u32) {
        let job = &mut self.jobs[buffer.0 as usize];
        let Some(hasher) = job.hasher.as_mut().filter(|_| job.hashed < until) else { return };
        // The real clock, not the datapath's: this is a measurement and decides nothing.
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

    /// The hash of the chunk in `buffer`, all bytes of which are there; `None` if it is not hashed.
    pub(super) fn finish_hash(&mut self, buffer: BufferId) -> Option<ChunkHash> {
        let bytes = self.jobs[buffer.0 as usize].bytes;
        self.hash_until(buffer, bytes);
        let job = &mut self.jobs[buffer.0 as usize];
        let hasher = job.hasher.take()?;
        // Invariant I-lane-hash: a chunk's hash covers every byte of the chunk.
        invariant!(job.hashed == bytes, "a chunk's hash covers the whole chunk");
        Some(hasher.finish())
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

    /// A range has been read, or could not be: reports its hash.
    pub(super) fn check_ended(&mut self, token: u32, buffer: BufferId, error: Option<DiskError>) {
        let result = match error {
            Some(error) => Err(error),
            None => self.finish_hash(buffer).ok_or(DiskError::Short),
        };
        self.free_buffer(buffer);
        self.link.emit(&Event::Checked { token, result });
    }
}
