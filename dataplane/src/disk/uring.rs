//! The ring itself: the only place that hands addresses to the kernel.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use culvert_protocol::chunk_memory::BufferId;
use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, types};

use super::operation::{Completion, Operation, Transfer};
use crate::buffers::Buffers;

/// `IORING_REGISTER_BUFFERS_UPDATE` (include/uapi/linux/io_uring.h), the one registration that is
/// made later.
const REGISTER_BUFFERS_UPDATE: u8 = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Registration {
    NotYet,
    Registered,
    /// The memory-lock limit is reached: the buffer is used by address.
    Refused,
}

pub(super) struct Uring {
    ring: IoUring,
    registrations: Box<[Registration]>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Uring({})", self.ring.as_raw_fd())
    }
}

impl Uring {
    pub(super) fn new(entries: u32, buffers: u32, bell: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        // TASKRUN_FLAG: without it completions of a ring with DEFER_TASKRUN never show to a thread
        // that only polls (measured on 6.18: a hundred enters, no completion).
        let ring = IoUring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(4 * entries)
            .build(entries)?;
        let submitter = ring.submitter();
        if let Some(bell) = bell {
            submitter.register_eventfd(bell.as_raw_fd())?;
        }
        let sparse = submitter.register_buffers_sparse(buffers).is_ok();
        submitter.register_restrictions(&mut [
            Restriction::sqe_op(opcode::Read::CODE),
            Restriction::sqe_op(opcode::Write::CODE),
            Restriction::sqe_op(opcode::ReadFixed::CODE),
            Restriction::sqe_op(opcode::WriteFixed::CODE),
            Restriction::register_op(REGISTER_BUFFERS_UPDATE),
        ])?;
        submitter.register_enable_rings()?;
        let initial = if sparse { Registration::NotYet } else { Registration::Refused };
        Ok(Self { ring, registrations: vec![initial; buffers as usize].into_boxed_slice() })
    }

    fn is_registered(&mut self, buffer: BufferId, buffers: &Buffers) -> bool {
        let registration = &mut self.registrations[buffer.0 as usize];
        if *registration == Registration::NotYet {
            use culvert_protocol::chunk_memory::ChunkMemory as _;
            let bytes = buffers.buffer_bytes();
            let vector = libc::iovec { iov_base: buffers.address(buffer, 0..bytes).cast(), iov_len: bytes };
            // SAFETY: the buffer lies in memory that stays mapped as long as the lane, and so its
            // ring, lives.
            let done = unsafe { self.ring.submitter().register_buffers_update(buffer.0, &[vector], None) };
            *registration = if done.is_ok() { Registration::Registered } else { Registration::Refused };
        }
        *registration == Registration::Registered
    }

    /// Puts an operation into the submission queue; false if the queue is full.
    pub(super) fn push(&mut self, operation: &Operation, buffers: &Buffers) -> bool {
        let begin = operation.buffer_offset as usize;
        let address = buffers.address(operation.buffer, begin..begin + operation.bytes as usize);
        let fd = types::Fd(operation.fd);
        let fixed = self.is_registered(operation.buffer, buffers);
        let (bytes, index, offset) = (operation.bytes, operation.buffer.0 as u16, operation.file_offset);
        let entry = match (operation.transfer, fixed) {
            (Transfer::Read, true) => opcode::ReadFixed::new(fd, address, bytes, index).offset(offset).build(),
            (Transfer::Read, false) => opcode::Read::new(fd, address, bytes).offset(offset).build(),
            (Transfer::Write, true) => opcode::WriteFixed::new(fd, address, bytes, index).offset(offset).build(),
            (Transfer::Write, false) => opcode::Write::new(fd, address, bytes).offset(offset).build(),
        };
        let entry = entry.user_data(u64::from(operation.buffer.0) << 32 | u64::from(operation.buffer_offset));
        // SAFETY: the address range lies within a buffer in use, which the lane does not give back
        // before the completion; the memory stays mapped until the ring is closed.
        unsafe { self.ring.submission().push(&entry).is_ok() }
    }

    /// Enters the kernel if there is something to submit or to run.
    pub(super) fn enter(&mut self, has_submissions: bool) {
        let mut submission = self.ring.submission();
        submission.sync();
        // What the kernel did not take last time still waits in the queue, and nothing else would
        // submit it.
        if has_submissions || !submission.is_empty() || submission.taskrun() || submission.cq_overflow() {
            drop(submission);
            // EBUSY and EAGAIN leave the entries in the queue for the next turn; no other error is
            // possible for a valid ring.
            let _ = self.ring.submit();
        }
    }

    /// Takes ended operations off the ring, as many as there is room for; returns how many.
    pub(super) fn completions(&mut self, ended: &mut [Option<Completion>]) -> u32 {
        let mut count = 0;
        // The places first: `zip` takes from its first iterator before it finds the second empty,
        // and an entry that is taken off the ring and dropped would be an operation that never
        // ends.
        for (place, entry) in ended.iter_mut().zip(self.ring.completion()) {
            let user = entry.user_data();
            *place = Some(Completion {
                buffer: BufferId((user >> 32) as u32),
                buffer_offset: user as u32,
                result: entry.result(),
            });
            count += 1;
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;
    use std::sync::Arc;

    use culvert_protocol::chunk_memory::ChunkMemory as _;

    use super::*;
    use crate::disk::COMPLETIONS_PER_TURN;
    use culvert_link::shared_memory::SharedMemory;

    /// A ring, a buffer, and a file that holds `content`; none where io_uring cannot be used.
    fn fixture(entries: u32, content: &[u8]) -> Option<(Uring, Buffers, BufferId, std::fs::File)> {
        let memory = SharedMemory::create("buffers", 1 << 20, false).unwrap();
        let mut buffers = Buffers::new(Arc::new(memory), 1 << 20);
        let buffer = buffers.take().unwrap();
        let Ok(ring) = Uring::new(entries, 1, None) else {
            eprintln!("skipped: io_uring cannot be used here");
            return None;
        };
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(content, 0).unwrap();
        Some((ring, buffers, buffer, file))
    }

    fn reading(file: &std::fs::File, buffer: BufferId, at: u32, bytes: u32) -> Operation {
        let (fd, file_offset) = (file.as_raw_fd(), u64::from(at));
        Operation { transfer: Transfer::Read, fd, buffer, buffer_offset: at, bytes, file_offset }
    }

    /// The 33rd was lost, and its chunk was never finished: a transfer hung when more operations
    /// ended at once than a turn handles, as with a sparse file whose holes were read back for a
    /// resume.
    #[test]
    fn completions_beyond_those_of_one_turn_wait_for_the_next() {
        let Some((mut ring, buffers, buffer, file)) = fixture(64, &[7; 40]) else { return };
        for at in 0..40 {
            assert!(ring.push(&reading(&file, buffer, at, 1), &buffers));
        }
        let mut ended = Vec::new();
        let began = std::time::Instant::now();
        while ended.len() < 40 {
            ring.enter(true);
            let mut places = [None; COMPLETIONS_PER_TURN];
            let count = ring.completions(&mut places) as usize;
            let found: Vec<Completion> = places.into_iter().flatten().collect();
            assert_eq!(found.len(), count);
            ended.extend(found.into_iter().map(|completion| completion.buffer_offset));
            assert!(began.elapsed() < std::time::Duration::from_secs(20), "only {} operations ended", ended.len());
        }
        ended.sort_unstable();
        assert_eq!(ended, (0..40).collect::<Vec<_>>());
    }

    /// The kernel refuses entries when it is short of memory (`EAGAIN`): they stayed in the queue
    /// until another operation came, and with the last chunk of a transfer none does.
    #[test]
    fn operations_that_the_kernel_did_not_take_are_handed_over_again() {
        let Some((mut ring, buffers, buffer, file)) = fixture(8, b"content") else { return };
        assert!(ring.push(&reading(&file, buffer, 0, 7), &buffers));
        // This turn has started nothing itself.
        let mut ended: [Option<Completion>; 4] = [None; 4];
        let began = std::time::Instant::now();
        while ring.completions(&mut ended) == 0 {
            ring.enter(false);
            assert!(began.elapsed() < std::time::Duration::from_secs(20), "the operation never ends");
        }
        assert_eq!(ended[0].map(|completion| completion.result), Some(7));
        assert_eq!(buffers.bytes(buffer, 0..7), b"content");
    }
}
