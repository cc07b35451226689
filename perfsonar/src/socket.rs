//! UDP sockets that report arrival time, TTL and source of packets, and ICMP errors about packets
//! that did not arrive.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, sendmsg};
use socket2::{Domain, Protocol, Socket, Type};

use crate::kernel_calls::set_option;

/// The TTL of measurement packets, from which the far end sees the number of hops (RFC 5357 4.2.1).
pub const MEASUREMENT_TTL: u32 = 255;
/// Room for all control messages of a packet.
const CONTROL_BYTES: usize = 512;
/// How often a packet is passed to the kernel if the calls return errors about earlier packets.
const SEND_TRIES: u32 = 4;
/// Never fragment, ignore the kernel's cached path MTU, and report packets that are too big
/// (`ip(7)`, `ipv6(7)`).
const PMTUDISC_PROBE: i32 = 3;

/// A received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its length; its bytes are at the beginning of the buffer.
    pub bytes: usize,
    /// Its source.
    pub from: SocketAddr,
    /// When the kernel received it, in nanoseconds since 1970.
    pub at_ns: i64,
    /// Its TTL or hop limit.
    pub ttl: Option<u8>,
    /// Its traffic class: DSCP and ECN.
    pub traffic_class: Option<u8>,
}

/// An error about a packet that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathError {
    /// Bytes quoted of the packet, at the beginning of the buffer.
    pub bytes: usize,
    /// The host that reports it; none if this host does.
    pub from: Option<IpAddr>,
    /// The ICMP or ICMPv6 type and code; none if this host reports it.
    pub icmp: Option<(u8, u8)>,
    /// The error as an errno.
    pub errno: i32,
    /// For packets that are too big: the MTU.
    pub mtu: u32,
    /// When it arrived, in nanoseconds since 1970.
    pub at_ns: i64,
}

/// A UDP socket for measurements.
#[derive(Debug)]
pub struct ProbeSocket {
    socket: UdpSocket,
    is_ipv6: bool,
    /// Whether ICMP reported that the partner's port is closed.
    is_refused: AtomicBool,
}

impl AsFd for ProbeSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for ProbeSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl ProbeSocket {
    /// Binds a UDP socket that reports kernel timestamps, TTLs and traffic classes of received
    /// packets, and sends with TTL 255.
    ///
    /// # Errors
    /// The operating system's.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        Self::bind_as(address, false)
    }

    /// As [`Self::bind`], but other sockets of this user may share the port. Packets from an
    /// address that one of them is connected to go to that socket.
    ///
    /// # Errors
    /// The operating system's.
    pub fn bind_shared(address: SocketAddr) -> io::Result<Self> {
        Self::bind_as(address, true)
    }

    fn bind_as(address: SocketAddr, is_shared: bool) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        let is_ipv6 = address.is_ipv6();
        if is_ipv6 {
            socket.set_only_v6(true)?;
        }
        if is_shared {
            set_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        }
        socket.bind(&address.into())?;
        Self::prepare(socket.into(), is_ipv6)
    }

    /// Binds any port of the family of `partner` and connects to it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn towards(partner: SocketAddr) -> io::Result<Self> {
        let socket = Self::bind(any_address(partner.is_ipv6(), 0))?;
        socket.connect(partner)?;
        Ok(socket)
    }

    fn prepare(socket: UdpSocket, is_ipv6: bool) -> io::Result<Self> {
        let this = Self { socket, is_ipv6, is_refused: AtomicBool::new(false) };
        this.option(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, 1)?;
        if is_ipv6 {
            this.option(libc::IPPROTO_IPV6, libc::IPV6_RECVHOPLIMIT, 1)?;
            this.option(libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)?;
        } else {
            this.option(libc::IPPROTO_IP, libc::IP_RECVTTL, 1)?;
            this.option(libc::IPPROTO_IP, libc::IP_RECVTOS, 1)?;
        }
        this.set_ttl(MEASUREMENT_TTL)?;
        Ok(this)
    }

    fn option(&self, level: i32, option: i32, value: i32) -> io::Result<()> {
        set_option(self.as_fd(), level, option, value)
    }

    fn ip_option(&self, v4: i32, v6: i32, value: i32) -> io::Result<()> {
        if self.is_ipv6 { self.option(libc::IPPROTO_IPV6, v6, value) } else { self.option(libc::IPPROTO_IP, v4, value) }
    }

    /// Connects to `partner`: from now on only its packets are received.
    ///
    /// # Errors
    /// The operating system's, for instance that there is no route.
    pub fn connect(&self, partner: SocketAddr) -> io::Result<()> {
        self.socket.connect(partner)
    }

    /// Sets the TTL or hop limit of outgoing packets.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_ttl(&self, ttl: u32) -> io::Result<()> {
        self.ip_option(libc::IP_TTL, libc::IPV6_UNICAST_HOPS, ttl as i32)
    }

    /// Sets the traffic class of outgoing packets.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_traffic_class(&self, class: u8) -> io::Result<()> {
        self.ip_option(libc::IP_TOS, libc::IPV6_TCLASS, class.into())
    }

    /// Sends packets unfragmented from now on, and ignores the kernel's cached path MTU.
    ///
    /// # Errors
    /// The operating system's.
    pub fn probe_mtu(&self) -> io::Result<()> {
        self.ip_option(libc::IP_MTU_DISCOVER, libc::IPV6_MTU_DISCOVER, PMTUDISC_PROBE)
    }

    /// Makes the kernel queue ICMP errors for [`Self::receive_error`].
    ///
    /// # Errors
    /// The operating system's.
    pub fn keep_errors(&self) -> io::Result<()> {
        self.ip_option(libc::IP_RECVERR, libc::IPV6_RECVERR, 1)
    }

    /// Asks for socket buffers of `bytes`; the host grants what `net.core.rmem_max` allows.
    ///
    /// # Errors
    /// The operating system's.
    pub fn ask_buffers(&self, bytes: usize) -> io::Result<()> {
        let socket = socket2::SockRef::from(&self.socket);
        socket.set_recv_buffer_size(bytes)?;
        socket.set_send_buffer_size(bytes)
    }

    /// Sets how long [`Self::receive`] blocks; `None` for no limit.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        // For the kernel zero means no limit.
        self.socket.set_read_timeout(timeout.map(|timeout| timeout.max(Duration::from_micros(1))))
    }

    /// Makes the socket asynchronous.
    ///
    /// # Errors
    /// The operating system's.
    pub fn with_runtime(self) -> io::Result<AsyncProbeSocket> {
        self.socket.set_nonblocking(true)?;
        // A second descriptor of the same socket, which the runtime may own.
        let readiness = tokio::net::UdpSocket::from_std(self.socket.try_clone()?)?;
        Ok(AsyncProbeSocket { socket: self, readiness })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// Whether its address family is IPv6.
    #[must_use]
    pub const fn is_ipv6(&self) -> bool {
        self.is_ipv6
    }

    /// Sends to the connected partner.
    ///
    /// # Errors
    /// The operating system's.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.in_spite_of_icmp(|| self.socket.send(bytes))
    }

    /// Sends to an address.
    ///
    /// # Errors
    /// The operating system's.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.in_spite_of_icmp(|| self.socket.send_to(bytes, to))
    }

    /// Sends several datagrams of `segment_bytes` each with one call (UDP GSO). The last may be
    /// shorter.
    ///
    /// # Errors
    /// The operating system's.
    pub fn send_segments(&self, bytes: &[u8], segment_bytes: u16) -> io::Result<usize> {
        if bytes.len() <= usize::from(segment_bytes) {
            return self.send(bytes);
        }
        let parts = [IoSlice::new(bytes)];
        let control = [ControlMessage::UdpGsoSegments(&segment_bytes)];
        self.in_spite_of_icmp(|| {
            Ok(sendmsg::<SockaddrStorage>(self.as_raw_fd(), &parts, &control, MsgFlags::empty(), None)?)
        })
    }

    /// Sends, and sends again if the call returned an ICMP error about an earlier packet. The
    /// kernel reports each such error once, instead of sending; without the repetition the packet
    /// would count as lost on the path.
    fn in_spite_of_icmp(&self, mut send: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
        let mut tries = SEND_TRIES;
        loop {
            tries -= 1;
            match send().inspect_err(|error| self.note_refusal(error)) {
                Err(error) if tries > 0 && error.raw_os_error().is_some_and(is_of_icmp) => {}
                done => return done,
            }
        }
    }

    fn note_refusal(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionRefused {
            self.is_refused.store(true, Ordering::Relaxed);
        }
    }

    /// Whether ICMP has reported, since the last call, that the partner's port is closed. Anybody
    /// can send such a report, so it may explain silence but must not end a measurement.
    pub fn take_refusal(&self) -> bool {
        self.is_refused.swap(false, Ordering::Relaxed)
    }

    /// Receives a packet. The part that exceeds the buffer is lost.
    ///
    /// # Errors
    /// The operating system's; `WouldBlock` when nothing came in time.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut control = [0; CONTROL_BYTES];
        let mut parts = [IoSliceMut::new(buffer)];
        let message = recvmsg::<SockaddrStorage>(self.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty())
            .map_err(io::Error::from)
            .inspect_err(|error| self.note_refusal(error))?;
        let mut received = Received {
            bytes: message.bytes,
            from: message.address.as_ref().and_then(address_of).unwrap_or_else(|| any_address(self.is_ipv6, 0)),
            at_ns: 0,
            ttl: None,
            traffic_class: None,
        };
        for part in message.cmsgs().into_iter().flatten() {
            match part {
                ControlMessageOwned::ScmTimestampns(at) => received.at_ns = nanoseconds(&at),
                ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => {
                    received.ttl = u8::try_from(ttl).ok();
                }
                ControlMessageOwned::Ipv4Tos(class) => received.traffic_class = Some(class),
                ControlMessageOwned::Ipv6TClass(class) => received.traffic_class = u8::try_from(class).ok(),
                _ => {}
            }
        }
        if received.at_ns == 0 {
            received.at_ns = crate::clock::now_ns();
        }
        Ok(received)
    }

    /// The next queued error; `None` if there is none.
    ///
    /// # Errors
    /// The operating system's.
    pub fn receive_error(&self, buffer: &mut [u8]) -> io::Result<Option<PathError>> {
        receive_error(self.as_fd(), buffer)
    }
}

/// Whether the kernel may report an ICMP message with this errno (`icmp_err_convert` in
/// net/ipv4/icmp.c, `tab_unreach` in net/ipv6/icmp.c).
#[must_use]
pub const fn is_of_icmp(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EOPNOTSUPP
            | libc::EPROTO
            | libc::EACCES
            | libc::EMSGSIZE
    )
}

/// A [`ProbeSocket`] for asynchronous code.
#[derive(Debug)]
pub struct AsyncProbeSocket {
    socket: ProbeSocket,
    readiness: tokio::net::UdpSocket,
}

impl AsyncProbeSocket {
    /// The socket, for operations that do not block.
    #[must_use]
    pub const fn get(&self) -> &ProbeSocket {
        &self.socket
    }

    /// As [`ProbeSocket::receive`]. Canceling the future loses nothing.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.readiness.async_io(tokio::io::Interest::READABLE, || self.socket.receive(buffer)).await
    }
}

/// The next error queued on a socket; `None` if there is none.
///
/// # Errors
/// The operating system's.
pub fn receive_error(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Option<PathError>> {
    let mut control = [0; CONTROL_BYTES];
    let mut parts = [IoSliceMut::new(buffer)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, Some(&mut control), flags) {
        Ok(message) => message,
        Err(nix::errno::Errno::EAGAIN) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let mut found =
        PathError { bytes: message.bytes, from: None, icmp: None, errno: 0, mtu: 0, at_ns: crate::clock::now_ns() };
    let mut note = |error: &libc::sock_extended_err, from: Option<IpAddr>| {
        let is_icmp = error.ee_origin == libc::SO_EE_ORIGIN_ICMP || error.ee_origin == libc::SO_EE_ORIGIN_ICMP6;
        found.errno = error.ee_errno as i32;
        found.mtu = error.ee_info;
        found.icmp = is_icmp.then_some((error.ee_type, error.ee_code));
        found.from = from.filter(|_| is_icmp);
    };
    let mut at_ns = None;
    for part in message.cmsgs().into_iter().flatten() {
        match part {
            ControlMessageOwned::Ipv4RecvErr(error, from) => {
                note(&error, from.map(|from| Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes()).into()));
            }
            ControlMessageOwned::Ipv6RecvErr(error, from) => {
                note(&error, from.map(|from| Ipv6Addr::from(from.sin6_addr.s6_addr).into()));
            }
            ControlMessageOwned::ScmTimestampns(at) => at_ns = Some(nanoseconds(&at)),
            _ => {}
        }
    }
    found.at_ns = at_ns.unwrap_or(found.at_ns);
    Ok(Some(found))
}

/// The unspecified address of a family.
#[must_use]
pub fn any_address(is_ipv6: bool, port: u16) -> SocketAddr {
    let any: IpAddr = if is_ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(any, port)
}

/// Bytes of the IP and UDP headers of a family.
#[must_use]
pub const fn header_bytes(is_ipv6: bool) -> u16 {
    if is_ipv6 { 48 } else { 28 }
}

fn nanoseconds(at: &nix::sys::time::TimeSpec) -> i64 {
    at.tv_sec().saturating_mul(1_000_000_000).saturating_add(at.tv_nsec())
}

fn address_of(address: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = address.as_sockaddr_in() {
        return Some(SocketAddr::new(v4.ip().into(), v4.port()));
    }
    address.as_sockaddr_in6().map(|v6| SocketAddr::new(v6.ip().into(), v6.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_with_their_time_ttl_and_sender() {
        for local in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(receiver) = ProbeSocket::bind(local.parse().unwrap()) else {
                eprintln!("skipped: this host has no {local}");
                continue;
            };
            let sender = ProbeSocket::towards(receiver.local_address().unwrap()).unwrap();
            sender.set_traffic_class(0xb8).unwrap();
            let before = crate::clock::now_ns();
            sender.send(b"hello").unwrap();
            let mut buffer = [0; 100];
            let received = receiver.receive(&mut buffer).unwrap();
            assert_eq!(&buffer[..received.bytes], b"hello");
            assert_eq!((received.ttl, received.traffic_class), (Some(255), Some(0xb8)));
            assert_eq!(received.from.port(), sender.local_address().unwrap().port());
            assert!(received.at_ns >= before - 1_000_000_000, "{received:?}");
        }
    }

    #[test]
    fn a_closed_port_is_reported() {
        let port = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap().local_address().unwrap();
        let sender = ProbeSocket::towards(port).unwrap();
        sender.keep_errors().unwrap();
        sender.send(b"anybody?").unwrap();
        let mut buffer = [0; 100];
        let error = (0..1_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            sender.receive_error(&mut buffer).unwrap()
        });
        let error = error.expect("the kernel reports the closed port");
        assert_eq!(error.icmp, Some((3, 3)));
        assert_eq!(error.errno, libc::ECONNREFUSED);
        assert_eq!(&buffer[..error.bytes], b"anybody?");
    }

    #[test]
    fn segments_arrive_as_datagrams() {
        let receiver = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let sender = ProbeSocket::towards(receiver.local_address().unwrap()).unwrap();
        sender.send_segments(&[7; 250], 100).unwrap();
        let mut buffer = [0; 300];
        let sizes: Vec<usize> = (0..3).map(|_| receiver.receive(&mut buffer).unwrap().bytes).collect();
        assert_eq!(sizes, [100, 100, 50]);
    }

    #[test]
    fn an_error_quotes_no_more_than_there_is_room_for() {
        let port = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap().local_address().unwrap();
        let sender = ProbeSocket::towards(port).unwrap();
        sender.keep_errors().unwrap();
        sender.send(&[7; 10_000]).unwrap();
        let mut buffer = [0; 100];
        let error = (0..1_000).find_map(|_| {
            std::thread::sleep(Duration::from_millis(1));
            sender.receive_error(&mut buffer[..50]).unwrap()
        });
        let error = error.expect("the kernel reports the closed port");
        assert!(error.bytes <= 50, "{error:?}");
        assert_eq!(buffer[50..], [0; 50], "nothing is written beyond it");
    }
}
