//! The ring itself: the only place that hands addresses to the kernel.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use culvert_protocol::receiver_flow::BufferId;
use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, types};

use super::{Completion, Operation, Transfer};
use crate::buffers::Buffers;

/// `IORING_REGISTER_BUFFERS_UPDATE` (include/uapi/linux/io_uring.h), the one registration that is made later.
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
        // TASKRUN_FLAG: without it completions of a ring with DEFER_TASKRUN never show to a thread that only polls
        // (measured on 6.18: a hundred enters, no completion).
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
            use culvert_protocol::receiver_flow::ChunkMemory as _;
            let bytes = buffers.buffer_bytes();
            let vector = libc::iovec { iov_base: buffers.address(buffer, 0..bytes).cast(), iov_len: bytes };
            // SAFETY: the buffer lies in memory that stays mapped as long as the lane, and so its ring, lives.
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
        // SAFETY: the address range lies within a buffer in use, which the lane does not give back before the completion; the memory
        // stays mapped until the ring is closed.
        unsafe { self.ring.submission().push(&entry).is_ok() }
    }

    /// Enters the kernel if there is something to submit or to run.
    pub(super) fn enter(&mut self, has_submissions: bool) {
        let mut submission = self.ring.submission();
        submission.sync();
        if has_submissions || submission.taskrun() || submission.cq_overflow() {
            drop(submission);
            // EBUSY and EAGAIN leave the entries in the queue for the next turn; no other error is possible for a valid ring.
            let _ = self.ring.submit();
        }
    }

    /// Takes ended operations off the ring, as many as there is room for; returns how many.
    pub(super) fn completions(&mut self, ended: &mut [Option<Completion>]) -> u32 {
        let mut count = 0;
        for (entry, place) in self.ring.completion().zip(ended) {
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
