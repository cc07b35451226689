//! The datapath that works everywhere: a UDP socket with segmentation offload in both directions.
//!
//! A run of datagrams of one size is sealed into a super-buffer of up to [`SUPER_BUFFER_BYTES`] and
//! handed to the kernel in one call, which cuts it (GSO) as late as it can; on receive the kernel
//! joins datagrams of a flow (GRO), and one call returns up to 64 KiB. Where a path cannot segment
//! (`EIO`), the run goes out datagram by datagram from then on.

pub(super) mod socket;
pub mod source;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use culvert_link::capture::{Direction, Tap};
use culvert_link::clock::monotonic_ns;
use culvert_link::path_mtu::DATAGRAM_BYTES_MAX;
use culvert_link::udp_port::UdpPort;
use rustix::event::epoll;

use super::interface::{Arrival, Datapath, Endpoints, SendOutcome};
use socket::{Incoming, QueueCondition, UdpSocket};
use source::SourceSocket;

/// Bytes of a super-buffer: the most that crosses as one packet on both families (65,473 on IPv6,
/// measured; one more and the kernel cuts it before the device, and nothing is joined on the other
/// side).
pub const SUPER_BUFFER_BYTES: usize = DATAGRAM_BYTES_MAX as usize;
/// Super-buffers taken in one turn. More would delay the other work of a turn; with fewer, its
/// fixed cost weighs more.
const RECEIVE_BATCH: usize = 8;

/// A lane's UDP socket and its two super-buffers.
#[derive(Debug)]
pub struct UdpDatapath {
    socket: UdpSocket,
    outgoing: Box<[u8]>,
    incoming: Box<[u8]>,
    segments_max: usize,
    gso: bool,
    gro: bool,
    /// A sealed run for which the socket had no room: where to, its bytes, and the size of its
    /// datagrams. It goes out from the lane's own port even if the flow has another: receivers
    /// accept any.
    waiting: Option<(SocketAddr, usize, usize)>,
    /// The lane's own address, for captures.
    port: u16,
    pub(super) tap: Option<Box<Tap>>,
    /// Ready when any of several sockets is. Made before the sandbox.
    readiness: OwnedFd,
    /// Whether there are sockets besides the lane's own.
    has_sources: bool,
}

/// Why a lane has no socket.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The port is in use by another program.
    #[error(
        "UDP port {port} on {address} is in use: stop the program that uses it (ss -ulpn shows it) \
         or choose other ports with --ports"
    )]
    PortInUse {
        /// The address.
        address: IpAddr,
        /// The port.
        port: u16,
    },
    /// There are fewer ports than lanes.
    #[error("there are fewer UDP ports than lanes ({lanes}): name more with --ports")]
    TooFewPorts {
        /// The lanes.
        lanes: usize,
    },
    /// Anything else.
    #[error("cannot open a UDP socket on {address} port {port}: {error}")]
    Other {
        /// The address.
        address: IpAddr,
        /// The port, 0 for any.
        port: u16,
        /// Why.
        error: io::Error,
    },
}

impl UdpDatapath {
    /// Opens a socket on `address` and `port` (0 for any) with buffers of `socket_buffer_bytes`, as
    /// far as the host grants them. The unspecified IPv6 address serves both families, and falls
    /// back to IPv4 on a host without IPv6.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(address: IpAddr, port: u16, socket_buffer_bytes: usize) -> Result<Self, OpenError> {
        let socket = UdpPort::bind(address, port, socket_buffer_bytes).map_err(|error| match error.kind() {
            io::ErrorKind::AddrInUse => OpenError::PortInUse { address, port },
            _ => OpenError::Other { address, port, error },
        })?;
        let socket = UdpSocket::new(socket);
        let gro = socket.enable_gro();
        let segments_max = socket::probe_segments_max();
        let port = socket.port().number().map_err(|error| OpenError::Other { address, port, error })?;
        let readiness = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|error| OpenError::Other {
            address,
            port,
            error: error.into(),
        })?;
        Ok(Self {
            socket,
            outgoing: vec![0; SUPER_BUFFER_BYTES].into_boxed_slice(),
            incoming: vec![0; 1 << 16].into_boxed_slice(),
            segments_max,
            gso: segments_max > 1,
            gro,
            waiting: None,
            port,
            tap: None,
            readiness,
            has_sources: false,
        })
    }

    /// The socket's port.
    ///
    /// # Errors
    /// The operating system's.
    pub fn port(&self) -> io::Result<u16> {
        self.socket.port().number()
    }

    /// Whether the kernel joins datagrams.
    #[must_use]
    pub const fn has_gro(&self) -> bool {
        self.gro
    }

    /// Bytes of receive buffer that the host granted.
    #[must_use]
    pub fn receive_buffer_bytes(&self) -> usize {
        self.socket.port().receive_buffer_bytes()
    }

    /// As [`Self::transmit`], and shows what has left.
    fn transmit_in_sight(
        &mut self,
        endpoints: Endpoints<'_>,
        bytes: usize,
        datagram_bytes: usize,
    ) -> Result<(), io::Error> {
        let done = self.transmit(endpoints, bytes, datagram_bytes);
        if let Some(tap) = &mut self.tap
            && done.is_ok()
        {
            let port = endpoints.source.map_or(self.port, SourceSocket::port);
            tap.stamp();
            tap.datagrams(Direction::Sent, port, endpoints.to, &self.outgoing[..bytes], datagram_bytes);
            tap.flush();
        }
        done
    }

    /// Hands `bytes` of the outgoing super-buffer to the kernel.
    fn transmit(&mut self, endpoints: Endpoints<'_>, bytes: usize, datagram_bytes: usize) -> Result<(), io::Error> {
        let socket = endpoints.source.map_or(&self.socket, |source| &source.socket);
        let to = endpoints.to;
        if bytes <= datagram_bytes {
            return socket.send(to, &self.outgoing[..bytes], None);
        }
        if self.gso {
            match socket.send(to, &self.outgoing[..bytes], Some(datagram_bytes as u16)) {
                // The device on this path cannot compute checksums of segments: cut by hand from
                // now on.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EIO | libc::EINVAL)) => self.gso = false,
                done => return done,
            }
        }
        self.outgoing[..bytes].chunks(datagram_bytes).try_for_each(|datagram| socket.send(to, datagram, None))
    }
}

impl Datapath for UdpDatapath {
    #[inline]
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    #[inline]
    fn receive(&mut self, each: impl FnMut(&[u8], Arrival)) -> usize {
        receive_from(&self.socket, self.port, &mut self.tap, &mut self.incoming, each)
    }

    fn receive_at(&mut self, source: &SourceSocket, each: impl FnMut(&[u8], Arrival)) -> usize {
        receive_from(&source.socket, source.port(), &mut self.tap, &mut self.incoming, each)
    }

    fn watch(&mut self, source: &SourceSocket) {
        let add = |fd| epoll::add(&self.readiness, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN);
        // What cannot be watched is read when the lane is awake.
        if !self.has_sources {
            self.has_sources = add(self.socket.fd()).is_ok();
        }
        let _ = add(source.as_fd());
    }

    #[inline]
    fn send_run(
        &mut self,
        endpoints: Endpoints<'_>,
        datagrams_max: usize,
        mut seal: impl FnMut(&mut [u8], usize) -> Option<usize>,
    ) -> SendOutcome {
        let mut outcome = SendOutcome::default();
        if self.is_blocked() {
            outcome.is_blocked = true;
            return outcome;
        }
        let mut datagram_bytes = usize::MAX;
        while outcome.datagrams < datagrams_max.min(self.segments_max.max(1)) {
            let room = &mut self.outgoing[outcome.bytes..];
            if datagram_bytes != usize::MAX && room.len() < datagram_bytes {
                break;
            }
            let Some(bytes) = seal(room, datagram_bytes) else { break };
            outcome.datagrams += 1;
            outcome.bytes += bytes;
            if datagram_bytes == usize::MAX {
                datagram_bytes = bytes;
            } else if bytes < datagram_bytes {
                break;
            }
        }
        if outcome.datagrams == 0 {
            return outcome;
        }
        if let Err(error) = self.transmit_in_sight(endpoints, outcome.bytes, datagram_bytes) {
            if error.kind() == io::ErrorKind::WouldBlock {
                self.waiting = Some((endpoints.to, outcome.bytes, datagram_bytes));
                outcome.is_blocked = true;
            } else {
                outcome.error = error.raw_os_error();
            }
        }
        outcome
    }

    fn run_datagrams_max(&self, datagram_bytes: usize) -> usize {
        (SUPER_BUFFER_BYTES / datagram_bytes.max(1)).clamp(1, self.segments_max.max(1))
    }

    #[inline]
    fn is_blocked(&mut self) -> bool {
        let Some((to, bytes, datagram_bytes)) = self.waiting else { return false };
        match self.transmit_in_sight(to.into(), bytes, datagram_bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            // Sent, or refused: then its segments are lost like any others.
            _ => {
                self.waiting = None;
                false
            }
        }
    }

    fn queue_condition(&mut self) -> QueueCondition {
        self.socket.queue_condition()
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(if self.has_sources { self.readiness.as_fd() } else { self.socket.fd() })
    }

    fn segments_runs(&self) -> bool {
        self.gso
    }

    fn set_tap(&mut self, tap: Option<Box<Tap>>) -> Option<Box<Tap>> {
        std::mem::replace(&mut self.tap, tap)
    }
}

/// Takes a batch from the socket of `port`.
#[inline]
fn receive_from(
    socket: &UdpSocket,
    port: u16,
    tap: &mut Option<Box<Tap>>,
    incoming: &mut [u8],
    mut each: impl FnMut(&[u8], Arrival),
) -> usize {
    let mut datagrams = 0;
    for _ in 0..RECEIVE_BATCH {
        let Some(Incoming { bytes, datagram_bytes, from }) = socket.receive(incoming) else { break };
        let taken_ns = monotonic_ns();
        if let Some(tap) = tap {
            tap.stamp();
            tap.datagrams(Direction::Received, port, from, &incoming[..bytes], datagram_bytes);
            tap.flush();
        }
        for datagram in incoming[..bytes].chunks(datagram_bytes) {
            each(datagram, Arrival { from, is_astray: false, taken_ns });
            datagrams += 1;
        }
    }
    datagrams
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (UdpDatapath, UdpDatapath, SocketAddr) {
        let open = || UdpDatapath::open("::".parse().unwrap(), 0, 1 << 20).unwrap();
        let (sender, receiver) = (open(), open());
        let to = SocketAddr::new("127.0.0.1".parse().unwrap(), receiver.port().unwrap());
        (sender, receiver, to)
    }

    fn receive_all(receiver: &mut UdpDatapath, expected: usize) -> Vec<Vec<u8>> {
        let mut got = Vec::new();
        for _ in 0..1_000 {
            receiver.receive(|datagram, _| got.push(datagram.to_vec()));
            if got.len() >= expected {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        got
    }

    fn send_numbered(sender: &mut UdpDatapath, to: SocketAddr, sizes: &[usize]) -> SendOutcome {
        let mut sizes = sizes.iter().enumerate();
        sender.send_run(to.into(), usize::MAX, |room, bytes_max| {
            let (number, &bytes) = sizes.next()?;
            assert!(bytes <= bytes_max, "the run may not grow");
            room[..bytes].fill(number as u8);
            Some(bytes)
        })
    }

    #[test]
    fn a_run_arrives_as_the_datagrams_that_it_was() {
        for (count, bytes) in [(1, 100), (40, 1472), (7, 8972), (100, 600)] {
            let (mut sender, mut receiver, to) = pair();
            let mut sizes = vec![bytes; count];
            *sizes.last_mut().unwrap() = 77.min(bytes);
            let outcome = send_numbered(&mut sender, to, &sizes);
            assert_eq!(outcome.error, None);
            let expected = outcome.datagrams;
            assert_eq!(expected, count.min(sender.segments_max), "of {count} datagrams of {bytes} bytes");
            let got = receive_all(&mut receiver, expected);
            assert_eq!(got.len(), expected);
            for (number, datagram) in got.iter().enumerate() {
                assert_eq!(datagram.len(), sizes[number]);
                assert!(datagram.iter().all(|&byte| byte == number as u8), "datagram {number} is mixed up");
            }
        }
    }

    #[test]
    fn without_segmentation_the_same_datagrams_arrive() {
        let (mut sender, mut receiver, to) = pair();
        sender.gso = false;
        let outcome = send_numbered(&mut sender, to, &[1000, 1000, 1000, 10]);
        assert_eq!((outcome.datagrams, outcome.error), (4, None));
        assert_eq!(receive_all(&mut receiver, 4).iter().map(Vec::len).collect::<Vec<_>>(), [1000, 1000, 1000, 10]);
    }

    #[test]
    fn ipv6_reaches_the_same_socket() {
        let (mut sender, mut receiver, to) = pair();
        let to = SocketAddr::new("::1".parse().unwrap(), to.port());
        let outcome = send_numbered(&mut sender, to, &[500, 500]);
        if outcome.error.is_some() {
            eprintln!("skipped: this host has no IPv6 loopback");
            return;
        }
        assert_eq!(receive_all(&mut receiver, 2).len(), 2);
    }

    #[test]
    fn a_flow_can_be_sent_from_another_port_and_is_answered_there() {
        let (mut sender, mut receiver, to) = pair();
        let bound = UdpPort::bind("::".parse().unwrap(), 0, 1 << 20).unwrap();
        let (port, is_v6) = (bound.number().unwrap(), bound.is_v6());
        let source = SourceSocket::new(UdpPort::from_fd(bound.into_fd(), is_v6), port);
        sender.watch(&source);
        let run = |room: &mut [u8], _| {
            room[..600].fill(7);
            Some(600)
        };
        let endpoints = Endpoints { to, source: Some(&source) };
        assert_eq!(sender.send_run(endpoints, 3, run).error, None);
        let (mut datagrams, mut from) = (0, None);
        for _ in 0..1_000 {
            datagrams += receiver.receive(|_, by| from = Some(by.from));
            if datagrams == 3 {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        let from = from.expect("nothing came");
        assert_eq!((datagrams, from.port()), (3, port));
        receiver.send_run(from.into(), 1, run);
        let mut fds =
            [rustix::event::PollFd::from_borrowed_fd(sender.poll_fd().unwrap(), rustix::event::PollFlags::IN)];
        let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut fds, Some(&patience)).unwrap(), 1, "the answer does not wake the lane");
        assert_eq!(sender.receive(|_, _| {}), 0, "the answer came to the lane's own port");
        assert_eq!(sender.receive_at(&source, |datagram, _| assert_eq!(datagram.len(), 600)), 1);
    }

    #[test]
    fn a_port_in_use_is_named() {
        let (_sender, _receiver, to) = pair();
        let error = UdpDatapath::open("::".parse().unwrap(), to.port(), 1 << 20).unwrap_err().to_string();
        assert!(error.contains(&to.port().to_string()) && error.contains("in use"), "{error}");
    }
}
