//! Holds the lanes to their promise: while data move, a lane asks nobody for memory.
//!
//! An allocator that counts, for the thread and only while a lane's own code runs: the simulated
//! network below it allocates freely and is left out.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;

use culvert_dataplane::datapath::sim::SimDatapath;
use culvert_dataplane::datapath::{Arrival, Datapath, Endpoints, QueueCondition, SendOutcome};
use culvert_link::capture::{Direction, Tap};

thread_local! {
    static IN_LANE: Cell<bool> = const { Cell::new(false) };
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: everything is passed on to the system's allocator as it came.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller keeps to the trait's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note();
        // SAFETY: the caller keeps to the trait's contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller keeps to the trait's contract.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

/// Runs a lane's code; returns its result and how often it allocated or freed.
pub fn in_lane<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = COUNT.get();
    let result = switched(true, work);
    (result, COUNT.get() - before)
}

/// A simulated datapath whose own allocations do not count, and which shows its datagrams, as the
/// real ones do, in what counts.
#[derive(Debug)]
pub struct Uncounted {
    datapath: SimDatapath,
    tap: Option<Box<Tap>>,
}

impl Uncounted {
    /// Around a datapath.
    pub fn new(datapath: SimDatapath) -> Self {
        Self { datapath, tap: None }
    }
}

fn note() {
    // A thread that ends has no such variables any more, and runs no lane.
    let _ = IN_LANE.try_with(|in_lane| {
        if in_lane.get() {
            let _ = COUNT.try_with(|count| count.set(count.get() + 1));
        }
    });
}

fn switched<T>(in_lane: bool, work: impl FnOnce() -> T) -> T {
    let before = IN_LANE.replace(in_lane);
    let result = work();
    IN_LANE.set(before);
    result
}

/// The lane's port in its captures.
const PORT: u16 = 1;

fn show(tap: &mut Option<Box<Tap>>, direction: Direction, partner: SocketAddr, datagram: &[u8]) {
    if let Some(tap) = tap {
        tap.stamp();
        tap.datagrams(direction, PORT, partner, datagram, datagram.len());
        tap.flush();
    }
}

impl Datapath for Uncounted {
    fn now_ns(&self) -> u64 {
        self.datapath.now_ns()
    }

    fn receive(&mut self, mut each: impl FnMut(&[u8], Arrival)) -> usize {
        let counted = IN_LANE.get();
        let Self { datapath, tap } = self;
        let mut each = |datagram: &[u8], arrival: Arrival| {
            switched(counted, || {
                show(tap, Direction::Received, arrival.from, datagram);
                each(datagram, arrival);
            });
        };
        switched(false, || datapath.receive(&mut each))
    }

    fn send_run(
        &mut self,
        way: Endpoints<'_>,
        datagrams_max: usize,
        mut seal: impl FnMut(&mut [u8], usize) -> Option<usize>,
    ) -> SendOutcome {
        let counted = IN_LANE.get();
        let Self { datapath, tap } = self;
        let mut seal = |out: &mut [u8], room| {
            switched(counted, || {
                let bytes = seal(out, room)?;
                show(tap, Direction::Sent, way.to, &out[..bytes]);
                Some(bytes)
            })
        };
        switched(false, || datapath.send_run(way, datagrams_max, &mut seal))
    }

    fn run_datagrams_max(&self, datagram_bytes: usize) -> usize {
        self.datapath.run_datagrams_max(datagram_bytes)
    }

    fn is_blocked(&mut self) -> bool {
        switched(false, || self.datapath.is_blocked())
    }

    fn queue_condition(&mut self) -> QueueCondition {
        switched(false, || self.datapath.queue_condition())
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.datapath.poll_fd()
    }

    fn segments_runs(&self) -> bool {
        self.datapath.segments_runs()
    }

    fn set_tap(&mut self, tap: Option<Box<Tap>>) -> Option<Box<Tap>> {
        std::mem::replace(&mut self.tap, tap)
    }
}
