//! The router's two threads. Each reads one device, keeps packets until they are due, and writes
//! them to the other device.
//!
//! Packets wait in slots of one arena, which is allocated at the start and touched only as far as
//! it is used.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::config::WanConfig;
use super::link::{Counters, Fate, Link, LinkConfig};

/// How many packets are read before due packets are looked at again.
const READ_BATCH: usize = 64;
/// Slots beyond what the path itself can hold.
const SPARE_SLOTS: usize = 8_192;
/// The arena of one direction is never larger than this.
const ARENA_BYTES_MAX: usize = 2 << 30;
/// The longest that a thread sleeps, so that it notices the end.
const NAP_NS: u64 = 50_000_000;
/// The emulator stands for the network, which does not wait for the hosts' processes.
const PRIORITY: i32 = -15;

/// A router that runs until it is dropped.
#[derive(Debug)]
pub struct Router {
    directions: [Arc<Shared>; 2],
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    ends: AtomicBool,
    new_config: Mutex<Option<LinkConfig>>,
    counters: Mutex<Counters>,
}

impl Router {
    /// Starts the router between two devices.
    ///
    /// # Errors
    /// The operating system's.
    pub fn start(first: OwnedFd, second: OwnedFd, config: &WanConfig) -> io::Result<Self> {
        let (first, second) = (Arc::new(first), Arc::new(second));
        let began = Instant::now();
        let mut router = Self { directions: [Shared::new(), Shared::new()], threads: Vec::new() };
        let links = [config.forward, config.reverse];
        let ends = [(first.clone(), second.clone()), (second, first)];
        for (at, ((from, to), link)) in ends.into_iter().zip(links).enumerate() {
            let shared = router.directions[at].clone();
            let slot_bytes = config.mtu as usize;
            let seed = config.seed.wrapping_mul(2).wrapping_add(at as u64);
            let thread = std::thread::Builder::new().name(format!("wan {at}")).spawn(move || {
                let _ = rustix::process::setpriority_process(None, PRIORITY);
                let mut direction =
                    Direction { link: Link::new(link, seed), store: Store::new(&link, slot_bytes), began, shared };
                direction.run(&from, &to);
            })?;
            router.threads.push(thread);
        }
        Ok(router)
    }

    /// What happened in a direction, up to a few milliseconds ago.
    #[must_use]
    pub fn counters(&self, direction: usize) -> Counters {
        *self.directions[direction].counters.lock().expect("a router's thread does not panic")
    }

    /// Changes the links from now on.
    pub fn set_links(&self, forward: LinkConfig, reverse: LinkConfig) {
        for (shared, link) in self.directions.iter().zip([forward, reverse]) {
            *shared.new_config.lock().expect("a router's thread does not panic") = Some(link);
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        for shared in &self.directions {
            shared.ends.store(true, Ordering::Relaxed);
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ends: AtomicBool::new(false),
            new_config: Mutex::new(None),
            counters: Mutex::new(Counters::default()),
        })
    }
}

/// A packet in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    due_ns: u64,
    slot: u32,
    bytes: u32,
}

/// Packets that are waiting.
#[derive(Debug)]
struct Store {
    arena: Vec<u8>,
    slot_bytes: usize,
    free: Vec<u32>,
    in_order: VecDeque<Waiting>,
    late: BinaryHeap<Reverse<Waiting>>,
}

impl Store {
    fn new(link: &LinkConfig, slot_bytes: usize) -> Self {
        let on_the_way = link.rate_bits_per_second as u128 * u128::from(link.delay_ns) / 8_000_000_000;
        // Packets are sometimes smaller than the MTU; acknowledgements are, but then there are few
        // of them.
        let slots = 2 * (on_the_way as usize + link.buffer_bytes as usize) / slot_bytes + SPARE_SLOTS;
        let slots = slots.min(ARENA_BYTES_MAX / slot_bytes);
        Self {
            arena: vec![0; slots * slot_bytes],
            slot_bytes,
            free: (0..slots as u32).rev().collect(),
            in_order: VecDeque::with_capacity(slots),
            late: BinaryHeap::with_capacity(1_024),
        }
    }

    fn bytes(&mut self, slot: u32, bytes: usize) -> &mut [u8] {
        let begin = slot as usize * self.slot_bytes;
        &mut self.arena[begin..begin + bytes]
    }

    /// The packet that is due first.
    fn first(&self) -> Option<Waiting> {
        let late = self.late.peek().map(|&Reverse(waiting)| waiting);
        match (self.in_order.front().copied(), late) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    fn remove_first(&mut self, first: Waiting) {
        if self.in_order.front() == Some(&first) {
            self.in_order.pop_front();
        } else {
            self.late.pop();
        }
        self.free.push(first.slot);
    }
}

#[derive(Debug)]
struct Direction {
    link: Link,
    store: Store,
    began: Instant,
    shared: Arc<Shared>,
}

impl Direction {
    fn now_ns(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    fn run(&mut self, from: &OwnedFd, to: &OwnedFd) {
        while !self.shared.ends.load(Ordering::Relaxed) {
            if let Some(config) = self.shared.new_config.lock().ok().and_then(|mut new| new.take()) {
                self.link.set_config(config);
            }
            let read = self.read(from);
            self.write_due(to);
            if let Ok(mut counters) = self.shared.counters.lock() {
                *counters = self.link.counters;
            }
            if read < READ_BATCH {
                let now_ns = self.now_ns();
                let nap_ns = self.store.first().map_or(NAP_NS, |first| first.due_ns.saturating_sub(now_ns)).min(NAP_NS);
                if nap_ns > 0 {
                    let timeout = Timespec { tv_sec: 0, tv_nsec: nap_ns as i64 };
                    let _ = poll(&mut [PollFd::from_borrowed_fd(from.as_fd(), PollFlags::IN)], Some(&timeout));
                }
            }
        }
    }

    /// Reads a batch; returns how many packets there were.
    fn read(&mut self, from: &OwnedFd) -> usize {
        let mut read = 0;
        let mut overflow = [0u8; 2_048];
        while read < READ_BATCH {
            let slot = self.store.free.last().copied();
            let slot_bytes = self.store.slot_bytes;
            let outcome = match slot {
                Some(slot) => rustix::io::read(from, self.store.bytes(slot, slot_bytes)),
                None => rustix::io::read(from, &mut overflow),
            };
            let Ok(bytes) = outcome else { break };
            read += 1;
            let now_ns = self.now_ns();
            let Some(slot) = slot else {
                self.link.counters.emulator_full += 1;
                continue;
            };
            self.keep(slot, bytes, now_ns);
        }
        read
    }

    fn keep(&mut self, slot: u32, bytes: usize, now_ns: u64) {
        match self.link.offer(bytes, now_ns) {
            Fate::Gone => {}
            Fate::InOrder { due_ns, twice, flip } => {
                if let Some(bit) = flip {
                    self.store.bytes(slot, bytes)[bit / 8] ^= 1 << (bit % 8);
                }
                self.store.free.pop();
                self.store.in_order.push_back(Waiting { due_ns, slot, bytes: bytes as u32 });
                if let Some(copy) = twice.then(|| self.store.free.pop()).flatten() {
                    let original = self.store.bytes(slot, bytes).to_vec();
                    self.store.bytes(copy, bytes).copy_from_slice(&original);
                    self.store.in_order.push_back(Waiting { due_ns, slot: copy, bytes: bytes as u32 });
                }
            }
            Fate::Late { due_ns } => {
                self.store.free.pop();
                self.store.late.push(Reverse(Waiting { due_ns, slot, bytes: bytes as u32 }));
            }
        }
    }

    fn write_due(&mut self, to: &OwnedFd) {
        let mut now_ns = self.now_ns();
        let mut written = 0;
        while let Some(first) = self.store.first() {
            if first.due_ns > now_ns || written == 4 * READ_BATCH {
                break;
            }
            written += 1;
            if written % 16 == 0 {
                now_ns = self.now_ns();
            }
            let outcome = rustix::io::write(to, self.store.bytes(first.slot, first.bytes as usize));
            self.store.remove_first(first);
            let counters = &mut self.link.counters;
            match outcome {
                Ok(_) => {
                    counters.packets_out += 1;
                    counters.bytes_out += u64::from(first.bytes);
                    counters.late_us_max = counters.late_us_max.max((now_ns - first.due_ns) / 1_000);
                }
                // A flipped bit in the IP header makes a packet that the kernel rejects: it is
                // lost, as it would be on a real path.
                Err(Errno::INVAL) => counters.lost += 1,
                Err(_) => counters.refused += 1,
            }
        }
    }
}
