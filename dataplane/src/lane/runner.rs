//! The thread around a lane: turn after turn, and sleep when there is nothing to do.

use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Lane;
use crate::counters::LaneCounter;
use crate::datapath::Datapath;

/// A lane that found nothing to do looks again for this long before it sleeps: falling asleep and being woken costs about
/// 5 µs of its core, and at 40 Gb/s the next super-buffer is 12 µs away.
const SPIN_NS: u64 = 15_000;

/// Runs `lane` until `stop` is set.
pub fn run<D: Datapath>(lane: &mut Lane<D>, stop: &AtomicBool) {
    let mut idle_since_ns = None;
    while !stop.load(Ordering::Relaxed) {
        let turn = lane.turn();
        if turn.progress {
            idle_since_ns = None;
            continue;
        }
        let now_ns = lane.datapath().now_ns();
        let idle_ns = now_ns - *idle_since_ns.get_or_insert(now_ns);
        let wait_ns = turn.deadline_ns.saturating_sub(now_ns);
        if wait_ns <= SPIN_NS || idle_ns < SPIN_NS {
            std::hint::spin_loop();
            continue;
        }
        sleep(lane, wait_ns);
        idle_since_ns = None;
    }
}

/// Sleeps until a datagram comes, or `wait_ns` are over, or the bell rings: for a command, a delivery, the end of a disk operation.
fn sleep<D: Datapath>(lane: &Lane<D>, wait_ns: u64) {
    let link = lane.link();
    if lane.has_deliveries() || !link.prepare_to_sleep() {
        return;
    }
    link.counters.add(LaneCounter::Sleeps, 1);
    let bell = link.bell();
    let socket = lane.datapath().poll_fd();
    let timeout = (wait_ns < u64::MAX / 2)
        .then_some(Timespec { tv_sec: (wait_ns / 1_000_000_000) as i64, tv_nsec: (wait_ns % 1_000_000_000) as i64 });
    let waiting_for = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
    let mut fds = [waiting_for(bell), waiting_for(socket.unwrap_or(bell))];
    // An interrupted poll is a turn too early, nothing worse.
    let _ = poll(&mut fds, timeout.as_ref());
    link.awake();
}
