//! The loop of a lane's thread: turn after turn, and sleep when there is nothing to do.

use std::sync::atomic::{AtomicBool, Ordering};

use culvert_link::counters::LaneCounter;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Lane;
use crate::datapath::Datapath;

/// A lane that found nothing to do looks again for this long before it sleeps: falling asleep and
/// being woken costs about 5 µs of its core, and at 40 Gb/s the next super-buffer is 12 µs away.
const SPIN_NS: u64 = 15_000;

/// How long to spin before the next sleep. Spinning pays only if the wait is short: each longer
/// sleep halves the time, a short one restores it. With a slow stream the lane thus leaves its core
/// to others.
#[derive(Clone, Copy, Debug)]
struct Spin {
    ns: u64,
}

impl Spin {
    const fn new() -> Self {
        Self { ns: SPIN_NS }
    }

    const fn note_sleep(&mut self, slept_ns: u64) {
        self.ns = if slept_ns <= SPIN_NS { SPIN_NS } else { self.ns / 2 };
    }
}

/// Runs `lane` until `stop` is set.
pub fn run<D: Datapath>(lane: &mut Lane<D>, stop: &AtomicBool) {
    let mut idle_since_ns = None;
    let mut spin = Spin::new();
    while !stop.load(Ordering::Relaxed) {
        let turn = lane.turn();
        if turn.progress {
            idle_since_ns = None;
            continue;
        }
        let now_ns = lane.datapath().now_ns();
        let idle_ns = now_ns - *idle_since_ns.get_or_insert(now_ns);
        let wait_ns = turn.deadline_ns.saturating_sub(now_ns);
        if wait_ns <= SPIN_NS || idle_ns < spin.ns {
            std::hint::spin_loop();
            continue;
        }
        sleep(lane, wait_ns);
        spin.note_sleep(lane.datapath().now_ns().saturating_sub(now_ns));
        idle_since_ns = None;
    }
}

/// Sleeps until a datagram arrives, `wait_ns` have passed, or the bell rings for a command, a
/// delivery or the end of a disk operation.
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
    // If the poll is interrupted, the next turn merely comes early.
    let _ = poll(&mut fds, timeout.as_ref());
    link.awake();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_stops_spinning_when_waits_are_long_and_begins_again_when_they_are_short() {
        let mut spin = Spin::new();
        for _ in 0..20 {
            spin.note_sleep(10 * SPIN_NS);
        }
        assert_eq!(spin.ns, 0);
        spin.note_sleep(SPIN_NS);
        assert_eq!(spin.ns, SPIN_NS);
        spin.note_sleep(SPIN_NS + 1);
        assert_eq!(spin.ns, SPIN_NS / 2, "one long wait among short ones is forgiven");
    }
}
