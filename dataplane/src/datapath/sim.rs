//! A network in memory, on a virtual clock: for tests that need loss, reordering and damage, and
//! need them again.
//!
//! All lanes of a simulation share one [`SimNetwork`] and live in one thread; a random number
//! generator with a given seed decides every datagram's fate, so a seed repeats a run exactly.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use culvert_protocol::wire::{Header, SegmentKind};

use super::interface::{Arrival, Datapath, Endpoints, SendOutcome};
use super::udp::socket::QueueCondition;

/// What the network does to a datagram.
#[derive(Clone, Copy, Debug)]
pub struct SimPath {
    /// One-way delay in nanoseconds.
    pub delay_ns: u64,
    /// Bits per second of each direction of each pair.
    pub rate_bits_per_second: u64,
    /// Bytes that may wait for the link; more are dropped.
    pub buffer_bytes: u64,
    /// The largest datagram that passes.
    pub datagram_bytes_max: usize,
    /// Part that is lost.
    pub loss: f64,
    /// Part that arrives twice.
    pub duplication: f64,
    /// Part that is delayed by up to one more delay.
    pub reordering: f64,
    /// Part that arrives with a flipped bit.
    pub corruption: f64,
}

impl Default for SimPath {
    fn default() -> Self {
        Self {
            delay_ns: 100_000,
            rate_bits_per_second: 10_000_000_000,
            buffer_bytes: 4 << 20,
            datagram_bytes_max: 8_972,
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            corruption: 0.0,
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same everywhere.
#[derive(Debug)]
pub struct SimRandom(u64);

impl SimRandom {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    /// A number below `limit` (which is not 0).
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next_u64() % limit
    }

    /// True in `part` of the cases.
    pub fn chance(&mut self, part: f64) -> bool {
        ((self.next_u64() >> 11) as f64) < part * (1u64 << 53) as f64
    }
}

/// When, and a number that keeps keys apart.
type ArrivalKey = (u64, u64);

/// An observer who sees datagrams in flight to an address and sends copies of them from
/// elsewhere, which arrive first.
#[derive(Clone, Debug)]
pub struct SimForger {
    /// Whose datagrams are copied.
    pub to: SocketAddr,
    /// The addresses that the copies come from, in turn.
    pub sources: Vec<SocketAddr>,
    /// Copies of each datagram.
    pub copies: usize,
}

/// What went from one address to another, as the network between them sees the two.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimTraffic {
    /// Datagrams.
    pub datagrams: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those among the datagrams that carry data.
    pub data: u64,
}

/// What is in flight to one address: the source, and the bytes.
type Wire = BTreeMap<ArrivalKey, (SocketAddr, Vec<u8>)>;

/// The network: a clock, and the datagrams in flight.
#[derive(Debug)]
pub struct SimNetwork {
    now_ns: Cell<u64>,
    path: Cell<SimPath>,
    random: RefCell<SimRandom>,
    /// By destination, then by arrival time and a number that keeps keys apart.
    wires: RefCell<BTreeMap<SocketAddr, Wire>>,
    /// When each direction of each pair is free again.
    links: RefCell<BTreeMap<(SocketAddr, SocketAddr), u64>>,
    sequence: Cell<u64>,
    /// The addresses by which the network knows some of the lanes: what a translator, or a move,
    /// makes of their own.
    apparent: RefCell<BTreeMap<SocketAddr, SocketAddr>>,
    forger: RefCell<Option<SimForger>>,
    traffic: RefCell<BTreeMap<(SocketAddr, SocketAddr), SimTraffic>>,
}

impl SimNetwork {
    /// A network whose randomness comes from `seed`.
    #[must_use]
    pub fn new(seed: u64, path: SimPath) -> Rc<Self> {
        Rc::new(Self {
            now_ns: Cell::new(1_000_000_000),
            path: Cell::new(path),
            random: RefCell::new(SimRandom::new(seed)),
            wires: RefCell::default(),
            links: RefCell::default(),
            sequence: Cell::new(0),
            apparent: RefCell::default(),
            forger: RefCell::default(),
            traffic: RefCell::default(),
        })
    }

    /// From now on, the lane at `address` appears at `apparent`, and datagrams sent to any of its
    /// earlier addresses are lost.
    pub fn rebind(&self, address: SocketAddr, apparent: SocketAddr) {
        self.apparent.borrow_mut().insert(address, apparent);
    }

    /// Sets an observer who copies datagrams from now on, or none.
    pub fn set_forger(&self, forger: Option<SimForger>) {
        *self.forger.borrow_mut() = forger;
    }

    /// All that went from one address to another so far.
    #[must_use]
    pub fn traffic(&self) -> BTreeMap<(SocketAddr, SocketAddr), SimTraffic> {
        self.traffic.borrow().clone()
    }

    /// A lane's datapath into the network.
    #[must_use]
    pub fn datapath(self: &Rc<Self>, address: SocketAddr) -> SimDatapath {
        SimDatapath { network: self.clone(), address }
    }

    /// The virtual time.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }

    /// Lets time pass.
    pub fn advance(&self, ns: u64) {
        self.now_ns.set(self.now_ns.get() + ns);
    }

    /// Changes the path from now on.
    pub fn set_path(&self, path: SimPath) {
        self.path.set(path);
    }

    /// When the next datagram arrives anywhere.
    #[must_use]
    pub fn next_arrival_ns(&self) -> Option<u64> {
        self.wires.borrow().values().filter_map(|wire| wire.keys().next()).map(|&(arrival_ns, _)| arrival_ns).min()
    }

    fn launch(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let from = self.apparent.borrow().get(&from).copied().unwrap_or(from);
        self.count(from, to, datagram);
        if let Some(forger) = self.forger.borrow().as_ref().filter(|forger| forger.to == to) {
            for _ in 0..forger.copies {
                self.sequence.set(self.sequence.get() + 1);
                let source = forger.sources[self.sequence.get() as usize % forger.sources.len()];
                self.count(source, to, datagram);
                let arrival = (self.now_ns() + self.path.get().delay_ns / 2, self.sequence.get());
                self.wires.borrow_mut().entry(to).or_default().insert(arrival, (source, datagram.to_vec()));
            }
        }
        let Some(to) = self.lane_at(to) else { return };
        let path = self.path.get();
        let now_ns = self.now_ns();
        let mut links = self.links.borrow_mut();
        let free_ns = links.entry((from, to)).or_insert(0);
        let queued_bytes =
            free_ns.saturating_sub(now_ns) as u128 * u128::from(path.rate_bits_per_second) / 8_000_000_000;
        if datagram.len() > path.datagram_bytes_max || queued_bytes > u128::from(path.buffer_bytes) {
            return;
        }
        *free_ns = now_ns.max(*free_ns) + datagram.len() as u64 * 8_000_000_000 / path.rate_bits_per_second.max(1);
        let departs_ns = *free_ns;
        let mut random = self.random.borrow_mut();
        let copies = if random.chance(path.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            if random.chance(path.loss) {
                continue;
            }
            let mut datagram = datagram.to_vec();
            if random.chance(path.corruption) {
                let at = random.below(datagram.len() as u64) as usize;
                datagram[at] ^= 1 << random.below(8);
            }
            let late_ns = if random.chance(path.reordering) { random.below(path.delay_ns.max(1)) } else { 0 };
            self.sequence.set(self.sequence.get() + 1);
            let arrival = (departs_ns + path.delay_ns + late_ns, self.sequence.get());
            self.wires.borrow_mut().entry(to).or_default().insert(arrival, (from, datagram));
        }
    }
}

impl SimNetwork {
    /// The lane that receives datagrams for an address; none if the address is that of a lane now
    /// known by another one.
    fn lane_at(&self, to: SocketAddr) -> Option<SocketAddr> {
        let apparent = self.apparent.borrow();
        let behind = apparent.iter().find(|&(_, known)| *known == to).map(|(&lane, _)| lane);
        behind.or_else(|| (!apparent.contains_key(&to)).then_some(to))
    }

    fn count(&self, from: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let mut traffic = self.traffic.borrow_mut();
        let entry = traffic.entry((from, to)).or_default();
        entry.datagrams += 1;
        entry.bytes += datagram.len() as u64;
        entry.data += u64::from(Header::parse(datagram).is_ok_and(|header| header.kind == SegmentKind::Data));
    }
}

/// A lane's end of a [`SimNetwork`].
#[derive(Debug)]
pub struct SimDatapath {
    network: Rc<SimNetwork>,
    address: SocketAddr,
}

impl Datapath for SimDatapath {
    fn now_ns(&self) -> u64 {
        self.network.now_ns()
    }

    fn receive(&mut self, mut each: impl FnMut(&[u8], Arrival)) -> usize {
        let mut datagrams = 0;
        while datagrams < 64 {
            let next = {
                let mut wires = self.network.wires.borrow_mut();
                let Some(wire) = wires.get_mut(&self.address) else { break };
                let Some(entry) = wire.first_entry().filter(|entry| entry.key().0 <= self.network.now_ns()) else {
                    break;
                };
                entry.remove()
            };
            each(&next.1, Arrival { from: next.0, is_astray: false, taken_ns: self.now_ns() });
            datagrams += 1;
        }
        datagrams
    }

    fn send_run(
        &mut self,
        endpoints: Endpoints<'_>,
        datagrams_max: usize,
        mut seal: impl FnMut(&mut [u8], usize) -> Option<usize>,
    ) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        let mut packet = vec![0; 1 << 16];
        let mut datagram_bytes = usize::MAX;
        while outcome.datagrams < datagrams_max.min(16) {
            let Some(bytes) = seal(&mut packet, datagram_bytes) else { break };
            self.network.launch(self.address, endpoints.to, &packet[..bytes]);
            outcome.datagrams += 1;
            outcome.bytes += bytes;
            if datagram_bytes != usize::MAX && bytes < datagram_bytes {
                break;
            }
            datagram_bytes = bytes;
        }
        outcome
    }

    fn run_datagrams_max(&self, _datagram_bytes: usize) -> usize {
        16
    }

    fn is_blocked(&mut self) -> bool {
        false
    }

    fn queue_condition(&mut self) -> QueueCondition {
        QueueCondition::default()
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn segments_runs(&self) -> bool {
        true
    }
}
