//! A lane's disk: one io_uring, made on the lane's thread, polled once a turn, never waited for.
//!
//! The ring is restricted before its first use: the kernel accepts reads and writes on it and
//! nothing else, so it does not circumvent the seccomp filter, which does not see a ring's
//! operations. Chunk buffers are registered with the ring as they are first used, as far as the
//! host's memory-lock limit allows; a buffer that could not be registered is used nevertheless, a
//! little slower.
//!
//! Which descriptor an operation uses, the one for direct or the one for buffered access, is
//! decided per chunk ([`files`]); what a chunk's pieces are, in [`crate::lane`].

pub mod files;
mod operation;
pub mod residency;
mod uring;

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use culvert_link::invariant;

use crate::buffers::Buffers;
pub use operation::{Completion, Operation, Transfer};
use uring::Uring;

/// Operations in the kernel's hands at once, a lane. Pieces are up to a megabyte, so this is more
/// than any disk queue is deep.
const IN_FLIGHT_MAX: u32 = 128;

/// Completions handled in one turn; the ring keeps the rest for the next.
pub const COMPLETIONS_PER_TURN: usize = 32;

/// Tries to make a lane's ring and throws it away, for `culvert doctor`.
///
/// # Errors
/// As [`Disk::new`].
pub fn probe() -> io::Result<()> {
    Uring::new(1, 1, None).map(drop)
}

/// A lane's disk.
#[derive(Debug)]
pub struct Disk {
    ring: Uring,
    in_flight: u32,
    backlog: VecDeque<Operation>,
}

impl Disk {
    /// Makes the ring; call it on the lane's thread. `backlog_max` operations may wait for the
    /// kernel.
    ///
    /// `bell`, an eventfd, rings when an operation ends. A lane sleeps on that and not on the
    /// ring's own descriptor: with `IORING_SETUP_DEFER_TASKRUN` the end of an operation does not
    /// always wake a thread that polls the ring (seen on 6.18: a check of stored chunks slept for
    /// good), while it always rings a registered eventfd.
    ///
    /// # Errors
    /// The operating system's: io_uring is switched off (`kernel.io_uring_disabled`), or forbidden
    /// by a container's filter.
    pub fn new(buffers: &Buffers, backlog_max: usize, bell: Option<BorrowedFd<'_>>) -> io::Result<Self> {
        let ring = Uring::new(IN_FLIGHT_MAX, buffers.count() as u32, bell)?;
        Ok(Self { ring, in_flight: 0, backlog: VecDeque::with_capacity(backlog_max) })
    }

    /// Takes an operation on. It is the kernel's after the next [`Disk::turn`].
    pub fn start(&mut self, operation: Operation) {
        // Invariant I-disk-backlog: there are never more operations than pieces of all buffers, so
        // the backlog never grows.
        invariant!(self.backlog.len() < self.backlog.capacity(), "no more operations than pieces of all buffers");
        self.backlog.push_back(operation);
    }

    /// Hands waiting operations to the kernel and collects what has ended. Returns whether anything
    /// happened.
    pub fn turn(&mut self, buffers: &Buffers, ended: &mut [Option<Completion>; COMPLETIONS_PER_TURN]) -> bool {
        let mut started = 0;
        while self.in_flight + started < IN_FLIGHT_MAX
            && let Some(operation) = self.backlog.front()
            && self.ring.push(operation, buffers)
        {
            self.backlog.pop_front();
            started += 1;
        }
        self.in_flight += started;
        if self.in_flight == 0 {
            return false;
        }
        self.ring.enter(started > 0);
        let completed = self.ring.completions(ended);
        // Invariant I-disk-completions: no more operations end than the kernel was given.
        invariant!(completed <= self.in_flight, "no more operations end than were started");
        self.in_flight = self.in_flight.saturating_sub(completed);
        started > 0 || completed > 0
    }

    /// Whether operations are waiting or in the kernel's hands.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.in_flight > 0 || !self.backlog.is_empty()
    }
}
