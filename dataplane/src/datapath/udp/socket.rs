//! The socket itself: what `rustix` does not offer (segment sizes in control messages,
//! `SO_MEMINFO`) through `libc`.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use culvert_link::udp_port::UdpPort;

/// `SO_MEMINFO` (include/uapi/asm-generic/socket.h) and two of its words
/// (include/uapi/linux/sock_diag.h).
const SO_MEMINFO: libc::c_int = 55;
const SK_MEMINFO_RMEM_ALLOC: usize = 0;
const SK_MEMINFO_DROPS: usize = 8;
const SK_MEMINFO_VARS: usize = 9;

/// The state of a datapath's receive queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCondition {
    /// Bytes that wait, as the kernel accounts them.
    pub backlog_bytes: u32,
    /// Datagrams dropped because the queue was full, since the datapath was opened.
    pub drops: u64,
}

/// Control messages of both directions fit here: one `int` or `u16`, aligned.
#[repr(C, align(8))]
struct ControlSpace([u8; 64]);

/// The datagrams that one call returned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Incoming {
    pub(super) bytes: usize,
    /// The size of each datagram but the last.
    pub(super) datagram_bytes: usize,
    pub(super) from: SocketAddr,
}

/// Sends from a port and receives at it.
#[derive(Debug)]
pub(super) struct UdpSocket {
    port: UdpPort,
}

impl UdpSocket {
    pub(super) const fn new(port: UdpPort) -> Self {
        Self { port }
    }

    /// The port, to be passed on or asked.
    pub(super) const fn port(&self) -> &UdpPort {
        &self.port
    }

    pub(super) fn enable_gro(&self) -> bool {
        set_int_option(self.port.as_fd(), libc::SOL_UDP, libc::UDP_GRO, 1).is_ok()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.port.as_fd()
    }

    /// Sends `bytes`, cut into datagrams of `datagram_bytes` if given.
    #[inline]
    pub(super) fn send(&self, to: SocketAddr, bytes: &[u8], datagram_bytes: Option<u16>) -> io::Result<()> {
        let (name, name_bytes) = self.raw_address(to);
        let mut iov = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let mut control = ControlSpace([0; 64]);
        // SAFETY: an all-zero msghdr is valid: no name, no vectors, no control data.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = (&raw const name).cast_mut().cast();
        message.msg_namelen = name_bytes;
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        if let Some(datagram_bytes) = datagram_bytes {
            message.msg_control = control.0.as_mut_ptr().cast();
            // SAFETY: CMSG_SPACE and CMSG_LEN compute on their argument; the control space is
            // aligned and larger than one u16's message, so CMSG_FIRSTHDR points into it and so
            // does its data.
            unsafe {
                message.msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as usize;
                let header = libc::CMSG_FIRSTHDR(&raw const message);
                (*header).cmsg_level = libc::SOL_UDP;
                (*header).cmsg_type = libc::UDP_SEGMENT;
                (*header).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
                libc::CMSG_DATA(header).cast::<u16>().write_unaligned(datagram_bytes);
            }
        }
        let mut has_pending_error = true;
        loop {
            // SAFETY: every pointer in the message lives until the call returns, and the kernel
            // only reads through them.
            let sent = unsafe { libc::sendmsg(self.port.as_fd().as_raw_fd(), &raw const message, libc::MSG_DONTWAIT) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::ENOBUFS) => return Err(io::ErrorKind::WouldBlock.into()),
                Some(errno) if is_of_another_datagram(errno) && std::mem::take(&mut has_pending_error) => {}
                _ => return Err(error),
            }
        }
    }

    /// Receives what the kernel joined into `buffer`; `None` if nothing waits.
    #[inline]
    pub(super) fn receive(&self, buffer: &mut [u8]) -> Option<Incoming> {
        let mut name = MaybeUninit::<libc::sockaddr_in6>::zeroed();
        let mut iov = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let mut control = ControlSpace([0; 64]);
        // SAFETY: an all-zero msghdr is valid.
        let mut message: libc::msghdr = unsafe { zeroed() };
        message.msg_name = name.as_mut_ptr().cast();
        message.msg_namelen = size_of::<libc::sockaddr_in6>() as u32;
        message.msg_iov = &raw mut iov;
        message.msg_iovlen = 1;
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = control.0.len();
        let mut has_pending_error = true;
        let bytes = loop {
            // SAFETY: every pointer in the message lives until the call returns and is valid for
            // writes of the announced length.
            let received =
                unsafe { libc::recvmsg(self.port.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
            match usize::try_from(received) {
                Ok(bytes) => break bytes,
                // What waits is taken all the same.
                Err(_) => {
                    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0);
                    if !is_of_another_datagram(errno) || !std::mem::take(&mut has_pending_error) {
                        return None;
                    }
                }
            }
        };
        let mut datagram_bytes = bytes;
        // SAFETY: the kernel has set controllen to what it wrote; the CMSG functions stay within
        // it.
        unsafe {
            let mut header = libc::CMSG_FIRSTHDR(&raw const message);
            while !header.is_null() {
                if (*header).cmsg_level == libc::SOL_UDP && (*header).cmsg_type == libc::UDP_GRO {
                    datagram_bytes = libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned() as usize;
                }
                header = libc::CMSG_NXTHDR(&raw const message, header);
            }
        }
        // SAFETY: zeroed before, so initialised whatever the kernel wrote.
        let name = unsafe { name.assume_init() };
        let from = address_from_raw(&name)?;
        // An empty datagram: chunks() needs a size above zero.
        Some(Incoming { bytes, datagram_bytes: datagram_bytes.max(1), from })
    }

    pub(super) fn queue_condition(&self) -> QueueCondition {
        let mut words = [0u32; SK_MEMINFO_VARS];
        let mut length = size_of_val(&words) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to `words`.
        let done = unsafe {
            libc::getsockopt(
                self.port.as_fd().as_raw_fd(),
                libc::SOL_SOCKET,
                SO_MEMINFO,
                words.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if done != 0 {
            return QueueCondition::default();
        }
        QueueCondition { backlog_bytes: words[SK_MEMINFO_RMEM_ALLOC], drops: words[SK_MEMINFO_DROPS].into() }
    }

    /// The address as the kernel takes it for this socket's family.
    #[inline]
    fn raw_address(&self, address: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
        // SAFETY: an all-zero socket address is a valid value.
        let mut raw: libc::sockaddr_in6 = unsafe { zeroed() };
        let ip = match address.ip() {
            IpAddr::V4(ip) if !self.port.is_v6() => {
                // SAFETY: a sockaddr_in6 is larger than a sockaddr_in and at least as aligned.
                let raw_v4 = unsafe { &mut *(&raw mut raw).cast::<libc::sockaddr_in>() };
                raw_v4.sin_family = libc::AF_INET as libc::sa_family_t;
                raw_v4.sin_port = address.port().to_be();
                raw_v4.sin_addr.s_addr = u32::from_ne_bytes(ip.octets());
                return (raw, size_of::<libc::sockaddr_in>() as libc::socklen_t);
            }
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        raw.sin6_port = address.port().to_be();
        raw.sin6_addr.s6_addr = ip.octets();
        if let SocketAddr::V6(address) = address {
            raw.sin6_scope_id = address.scope_id();
        }
        (raw, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
    }
}

/// Room for the probe's segments, of whatever size the kernel takes them for.
const PROBE_BUFFER_BYTES: usize = 1 << 20;

/// How many segments the kernel takes in one call: 128 from about Linux 6.9 on, 64 before, 1
/// without the offload. Asked of the kernel by sending to ourselves.
pub(super) fn probe_segments_max() -> usize {
    let Ok(bound) = UdpPort::bind(Ipv4Addr::LOCALHOST.into(), 0, PROBE_BUFFER_BYTES) else { return 1 };
    let Ok(port) = bound.number() else { return 1 };
    let socket = UdpSocket::new(bound);
    let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
    let bytes = [0; 128 * 32];
    [128, 64].into_iter().find(|&segments| socket.send(to, &bytes[..segments * 32], Some(32)).is_ok()).unwrap_or(1)
}

/// Whether an error may be an ICMP error about an earlier datagram. On a connected socket, or one
/// that asks for errors, the kernel reports it once instead of performing the requested operation.
/// The lanes' sockets are neither; this keeps a change of that from losing datagrams.
const fn is_of_another_datagram(errno: i32) -> bool {
    matches!(
        errno,
        libc::ECONNREFUSED
            | libc::EHOSTUNREACH
            | libc::ENETUNREACH
            | libc::EHOSTDOWN
            | libc::ENONET
            | libc::ENOPROTOOPT
            | libc::EPROTO
            | libc::EOPNOTSUPP
            | libc::EACCES
            | libc::EMSGSIZE
    )
}

/// The kernel's address as Rust's; a mapped IPv4 address as the IPv4 address that it is.
#[inline]
fn address_from_raw(raw: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match i32::from(raw.sin6_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in, which is smaller.
            let raw = unsafe { &*std::ptr::from_ref(raw).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Some(match ip.to_ipv4_mapped() {
                Some(ip) => SocketAddrV4::new(ip, port).into(),
                None => SocketAddrV6::new(ip, port, 0, raw.sin6_scope_id).into(),
            })
        }
        _ => None,
    }
}

fn set_int_option(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the kernel reads one int from a live int.
    let done = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lanes' sockets are not connected. One that is shows what an error of an earlier datagram
    /// does to the next call.
    #[test]
    fn what_icmp_says_of_one_datagram_costs_no_other() {
        let local = |port| SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let socket = UdpSocket::new(UdpPort::bind(Ipv4Addr::LOCALHOST.into(), 0, 1 << 20).unwrap());
        let ours = local(socket.port().number().unwrap());
        let partner = std::net::UdpSocket::bind(local(0)).unwrap();
        let theirs = partner.local_addr().unwrap();
        partner.send_to(b"waits", ours).unwrap();
        rustix::net::connect(socket.fd(), &theirs).unwrap();
        drop(partner);
        // There is no longer a listener: on loopback, the kernel answers with "port unreachable" at
        // once.
        let refused = || {
            socket.send(theirs, b"to nobody", None).unwrap();
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(socket.fd(), rustix::event::PollFlags::ERR)];
            let patience = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
            assert_eq!(rustix::event::poll(&mut fds, Some(&patience)).unwrap(), 1, "nothing was refused");
        };
        refused();
        let mut buffer = [0; 64];
        let incoming = socket.receive(&mut buffer).expect("what came before is there");
        assert_eq!(&buffer[..incoming.bytes], b"waits");
        refused();
        let partner = std::net::UdpSocket::bind(theirs).unwrap();
        socket.send(theirs, b"arrives", None).expect("the error is another datagram's");
        partner.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        assert_eq!(partner.recv(&mut buffer).unwrap(), b"arrives".len());
    }
}
