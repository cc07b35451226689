//! The datapath of hosts whose NIC and privileges permit it: AF_XDP, packets between a NIC queue
//! and the lane's memory without the kernel's network stack.
//!
//! ```text
//!  NIC queue ── steering program ──> RX ring ──> lane            ([`queue`], [`umem`], [`rings`], [`socket`])
//!                     │ everything else
//!                     └──> kernel ──> the lane's UDP socket ──> lane
//!  lane ── headers of the next hop ──> TX ring ──> NIC            ([`headers`])
//!   └── no next hop known, or the interface is down ──> the lane's UDP socket
//! ```
//!
//! A lane keeps its UDP socket in addition to the rings. It holds the port, receives what the
//! program lets pass (a flow on the wrong queue, a packet with options), and sends if no next hop
//! is known. Nothing that AF_XDP cannot carry is lost, and if it fails completely, transfers
//! continue over the socket.
//!
//! The control process finds next hops in the kernel's tables and passes them on; [`ladder`] opens
//! all this in the best available mode.

pub mod headers;
pub mod ladder;
pub mod privilege;
pub mod queue;
pub mod rings;
pub mod rules;
pub mod socket;
pub mod steering;
pub mod umem;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use culvert_link::capture::{Direction, Tap};
use culvert_link::kernel_bypass::{Mode, NextHop};
use rustix::event::epoll;

use super::interface::{Arrival, DatagramCounts, Datapath, Endpoints, RingCensus, SendOutcome};
use super::udp::UdpDatapath;
use super::udp::socket::QueueCondition;
use super::udp::source::SourceSocket;
use headers::{Template, parse};
use queue::Queue;
use socket::XdpSocket;
use umem::{Account, CHUNK_BYTES, Frame, Purpose, Umem};

/// Packets taken from a queue in one turn: as many as a few super-buffers of the UDP datapath hold.
const RECEIVE_BATCH: usize = 64;
/// Packets of one run: the most that is sealed before the kernel is woken.
const RUN_DATAGRAMS_MAX: usize = 64;
/// While packets arrive through the rings, the UDP socket is read every so many turns.
const TURNS_PER_KERNEL_LOOK: u32 = 16;
/// While the interface is down, the kernel is asked every so many runs whether it still is.
const RUNS_PER_RETRY: u32 = 64;
/// Partners whose next hops a lane keeps, and lanes of partners whose headers it keeps.
const HOPS_MAX: usize = 256;

/// A lane's rings, its packet memory and its UDP socket.
#[derive(Debug)]
pub struct AfXdpDatapath {
    /// Dropped before the memory that they use.
    queues: Vec<Queue<XdpSocket>>,
    umem: Umem,
    udp: UdpDatapath,
    port: u16,
    mode: Mode,
    hops: Vec<(IpAddr, NextHop)>,
    /// Made of them as addresses and source ports come up, most recent last.
    templates: Vec<(SocketAddr, u16, Template)>,
    /// Ready when any of the sockets is.
    readiness: OwnedFd,
    turns: u32,
    retries: u32,
    counts: DatagramCounts,
}

impl AfXdpDatapath {
    /// Puts a lane's datapath together from bound queues over `umem`.
    ///
    /// # Errors
    /// The operating system's, if the sockets cannot be waited for.
    pub fn new(queues: Vec<Queue<XdpSocket>>, umem: Umem, udp: UdpDatapath, mode: Mode) -> io::Result<Self> {
        let readiness = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let add = |fd: BorrowedFd<'_>| epoll::add(&readiness, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN);
        for queue in &queues {
            add(queue.wake().as_fd())?;
        }
        if let Some(fd) = udp.poll_fd() {
            add(fd)?;
        }
        let port = udp.port()?;
        Ok(Self {
            queues,
            umem,
            udp,
            port,
            mode,
            hops: Vec::with_capacity(HOPS_MAX),
            templates: Vec::with_capacity(HOPS_MAX),
            readiness,
            turns: 0,
            retries: 0,
            counts: DatagramCounts::default(),
        })
    }

    /// The rung of the ladder.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// The UDP socket used alongside the rings.
    #[must_use]
    pub const fn udp(&self) -> &UdpDatapath {
        &self.udp
    }

    /// Where the packet memory's frames are: for receiving, for sending.
    #[must_use]
    pub fn accounts(&self) -> [Account; 2] {
        [self.umem.account(Purpose::Receive), self.umem.account(Purpose::Transmit)]
    }

    /// Takes back the frames of packets that have left.
    pub fn complete(&mut self) {
        for queue in &mut self.queues {
            queue.complete(&mut self.umem);
        }
    }

    /// Closes the sockets and returns where the frames are then: all of them in the pool.
    #[must_use]
    pub fn close(mut self) -> [Account; 2] {
        // The sockets' rings go with them; then no frame is in use elsewhere.
        self.queues.clear();
        self.umem.reclaim_all();
        self.accounts()
    }

    /// The headers of packets between these endpoints.
    #[inline]
    fn template(&mut self, endpoints: Endpoints<'_>) -> Option<Template> {
        let (to, port) = (endpoints.to, endpoints.source.map_or(self.port, SourceSocket::port));
        if let Some(&(.., template)) = self.templates.iter().find(|(at, from, _)| *at == to && *from == port) {
            return Some(template);
        }
        let (_, hop) = self.hops.iter().find(|(address, _)| *address == to.ip())?;
        let template = Template::new(hop, port, to)?;
        if self.templates.len() == HOPS_MAX {
            self.templates.remove(0);
        }
        self.templates.push((to, port, template));
        Some(template)
    }

    /// Whether packets can leave through the rings now.
    fn rings_send(&mut self) -> bool {
        let Some(queue) = self.queues.first_mut() else { return false };
        if queue.is_down() {
            self.retries += 1;
            if self.retries.is_multiple_of(RUNS_PER_RETRY) {
                queue.flush(&mut self.umem);
            }
        }
        !queue.is_broken() && !queue.is_down()
    }

    /// A frame to send from, if there is one, and room in the ring for all of it.
    fn outgoing_frame(&mut self) -> Option<Frame> {
        let frame_bytes = self.umem.transmit_bytes();
        let queue = self.queues.first_mut()?;
        if self.umem.free(Purpose::Transmit) == 0 || !queue.has_room(frame_bytes) {
            queue.complete(&mut self.umem);
        }
        if queue.has_room(frame_bytes) { self.umem.take(Purpose::Transmit) } else { None }
    }

    fn send_by_kernel(
        &mut self,
        endpoints: Endpoints<'_>,
        datagrams_max: usize,
        seal: impl FnMut(&mut [u8], usize) -> Option<usize>,
    ) -> SendOutcome {
        let outcome = self.udp.send_run(endpoints, datagrams_max, seal);
        self.counts.kernel_sent += outcome.datagrams as u64;
        outcome
    }
}

impl Datapath for AfXdpDatapath {
    #[inline]
    fn now_ns(&self) -> u64 {
        culvert_link::clock::monotonic_ns()
    }

    #[inline]
    fn receive(&mut self, mut each: impl FnMut(&[u8], Arrival)) -> usize {
        let mut datagrams = 0;
        let port = self.port;
        for queue in &mut self.queues {
            if queue.owes_wakeup() && !queue.is_down() && !queue.is_broken() {
                queue.flush(&mut self.umem);
            }
            let mut take = |packet: &[u8], taken_ns| {
                // The program lets nothing else through; a packet that is not ours is ignored.
                if let Some(datagram) = parse(packet).filter(|datagram| datagram.port == port) {
                    each(datagram.payload, Arrival { from: datagram.from, is_astray: false, taken_ns });
                    datagrams += 1;
                }
            };
            match &mut self.udp.tap {
                None => queue.receive(&mut self.umem, RECEIVE_BATCH, take),
                Some(tap) => {
                    tap.stamp();
                    let packets = queue.receive(&mut self.umem, RECEIVE_BATCH, |packet, taken_ns| {
                        tap.frame(Direction::Received, packet);
                        take(packet, taken_ns);
                    });
                    tap.flush();
                    packets
                }
            };
        }
        self.counts.ring_received += datagrams as u64;
        self.turns = self.turns.wrapping_add(1);
        if datagrams == 0 || self.turns.is_multiple_of(TURNS_PER_KERNEL_LOOK) {
            let by_kernel = self.udp.receive(|datagram, by| each(datagram, Arrival { is_astray: true, ..by }));
            self.counts.kernel_received += by_kernel as u64;
            datagrams += by_kernel;
        }
        datagrams
    }

    fn receive_at(&mut self, source: &SourceSocket, each: impl FnMut(&[u8], Arrival)) -> usize {
        // The program knows the lane's own port only.
        let datagrams = self.udp.receive_at(source, each);
        self.counts.kernel_received += datagrams as u64;
        datagrams
    }

    fn watch(&mut self, source: &SourceSocket) {
        let data = epoll::EventData::new_u64(0);
        // What cannot be watched is read when the lane is awake.
        let _ = epoll::add(&self.readiness, source.as_fd(), data, epoll::EventFlags::IN);
    }

    #[inline]
    fn send_run(
        &mut self,
        endpoints: Endpoints<'_>,
        datagrams_max: usize,
        mut seal: impl FnMut(&mut [u8], usize) -> Option<usize>,
    ) -> SendOutcome {
        let Some(template) = self.template(endpoints).filter(|_| self.rings_send()) else {
            return self.send_by_kernel(endpoints, datagrams_max, seal);
        };
        let mut outcome = SendOutcome::default();
        let mut datagram_bytes = usize::MAX;
        while outcome.datagrams < datagrams_max.min(RUN_DATAGRAMS_MAX) {
            let Some(mut frame) = self.outgoing_frame() else {
                outcome.is_blocked = outcome.datagrams == 0;
                break;
            };
            let room = &mut self.umem.frame_mut(&mut frame)[template.bytes()..];
            let Some(bytes) = seal(room, datagram_bytes) else {
                self.umem.give_back(frame);
                // Nothing to send, or too much for a frame: the MTU was raised after the start.
                if outcome.datagrams == 0 {
                    return self.send_by_kernel(endpoints, datagrams_max, seal);
                }
                break;
            };
            outcome.datagrams += 1;
            outcome.bytes += bytes;
            if bytes > template.datagram_bytes_max() {
                self.umem.give_back(frame);
                outcome.error = Some(libc::EMSGSIZE);
                break;
            }
            let packet_bytes = template.bytes() + bytes;
            template.write(&mut self.umem.frame_mut(&mut frame)[..packet_bytes]);
            if let Err(frame) = self.queues[0].send(&mut self.umem, frame, packet_bytes) {
                // Room was asked for: a lost packet is sent again, a lost frame would not be.
                self.umem.give_back(frame);
                break;
            }
            if datagram_bytes == usize::MAX {
                datagram_bytes = bytes;
            } else if bytes < datagram_bytes {
                break;
            }
        }
        if outcome.datagrams > 0 {
            if let Some(tap) = &mut self.udp.tap {
                tap.stamp();
                self.queues[0].leaving(&self.umem, |packet| tap.frame(Direction::Sent, packet));
                tap.flush();
            }
            self.queues[0].flush(&mut self.umem);
            self.counts.ring_sent += outcome.datagrams as u64;
        }
        outcome
    }

    fn run_datagrams_max(&self, _datagram_bytes: usize) -> usize {
        RUN_DATAGRAMS_MAX
    }

    #[inline]
    fn is_blocked(&mut self) -> bool {
        if self.udp.is_blocked() {
            return true;
        }
        let Some(queue) = self.queues.first_mut() else { return false };
        if queue.is_broken() || queue.is_down() {
            return false;
        }
        queue.complete(&mut self.umem);
        if self.umem.free(Purpose::Transmit) > 0 && queue.has_room(self.umem.transmit_bytes()) {
            return false;
        }
        // The ring is full: without this, nothing would wake a kernel that stopped midway.
        queue.flush(&mut self.umem);
        self.umem.free(Purpose::Transmit) == 0 || !queue.has_room(self.umem.transmit_bytes())
    }

    fn queue_condition(&mut self) -> QueueCondition {
        let mut condition = self.udp.queue_condition();
        for queue in &mut self.queues {
            condition.drops += queue.wake().drops();
            condition.backlog_bytes += queue.waiting() * CHUNK_BYTES as u32;
        }
        condition
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.readiness.as_fd())
    }

    fn segments_runs(&self) -> bool {
        false
    }

    fn counts(&self) -> DatagramCounts {
        self.counts
    }

    fn ring_census(&mut self) -> Option<RingCensus> {
        if let Some(queue) = self.queues.first_mut().filter(|queue| queue.owes_wakeup() && !queue.is_down()) {
            queue.flush(&mut self.umem);
        }
        self.complete();
        let [receive, transmit] = self.accounts();
        let mut census = RingCensus { receive, transmit, ..RingCensus::default() };
        for queue in &mut self.queues {
            let counters = queue.counters();
            census.receive_in_rings += queue.receive_frames_in_rings();
            census.malformed += counters.malformed;
            census.wakeups += counters.wakeups;
        }
        Some(census)
    }

    fn awaits_frames(&self) -> bool {
        // What a link that is down has comes back when it is up again, or never.
        let is_up = self.queues.first().is_some_and(|queue| !queue.is_down() && !queue.is_broken());
        is_up && self.umem.lent(Purpose::Transmit) > 0
    }

    fn set_next_hop(&mut self, to: IpAddr, hop: Option<&NextHop>) {
        self.templates.retain(|(address, ..)| address.ip() != to);
        self.hops.retain(|(address, _)| *address != to);
        if let Some(&hop) = hop.filter(|_| self.hops.len() < HOPS_MAX) {
            self.hops.push((to, hop));
        }
    }

    fn set_tap(&mut self, tap: Option<Box<Tap>>) -> Option<Box<Tap>> {
        // One tap for rings and socket: the UDP socket's datagrams are this lane's too.
        self.udp.set_tap(tap)
    }
}
