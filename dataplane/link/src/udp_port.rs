//! UDP ports as lanes use them.
//!
//! Lanes bind their own before they enter the sandbox. More are bound by the control process and
//! passed on (`docs/wire.md` W-48), because the data plane opens no sockets any more.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// A non-blocking UDP socket, bound and not connected.
#[derive(Debug)]
pub struct UdpPort {
    fd: OwnedFd,
    is_v6: bool,
}

impl UdpPort {
    /// Binds as a lane's port is bound: with buffers of `socket_buffer_bytes`, as far as the host
    /// grants them, and leaving the path's MTU to the flow's own probes (RFC 8899). The unspecified
    /// IPv6 address serves both families, and falls back to IPv4 on a host without IPv6.
    ///
    /// # Errors
    /// The operating system's; most often the port is in use.
    pub fn bind(address: IpAddr, port: u16, socket_buffer_bytes: usize) -> io::Result<Self> {
        let bound = Self::bind_any_family(SocketAddr::new(address, port))?;
        bound.set_buffers(socket_buffer_bytes);
        bound.leave_path_mtu_alone();
        Ok(bound)
    }

    fn bind_any_family(address: SocketAddr) -> io::Result<Self> {
        match Self::bind_family(address) {
            // A host without IPv6: "any address" then means any IPv4 address.
            Err(error)
                if address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                    && matches!(Errno::from_io_error(&error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL)) =>
            {
                Self::bind_family(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()))
            }
            bound => bound,
        }
    }

    fn bind_family(address: SocketAddr) -> io::Result<Self> {
        let is_v6 = address.is_ipv6();
        let family = if is_v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        if is_v6 {
            sockopt::set_ipv6_v6only(&fd, false)?;
        }
        rustix::net::bind(&fd, &address)?;
        Ok(Self { fd, is_v6 })
    }

    /// A socket that another process has bound; `is_v6` names its family.
    #[must_use]
    pub const fn from_fd(fd: OwnedFd, is_v6: bool) -> Self {
        Self { fd, is_v6 }
    }

    /// The descriptor, to be passed on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Whether it is an IPv6 socket, which serves both families.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.is_v6
    }

    /// Its number.
    ///
    /// # Errors
    /// The operating system's.
    pub fn number(&self) -> io::Result<u16> {
        let address = SocketAddr::try_from(rustix::net::getsockname(&self.fd)?)?;
        Ok(address.port())
    }

    /// Asks for large buffers: beyond the host's limit if this process may, else up to it.
    fn set_buffers(&self, bytes: usize) {
        if sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes).is_err() {
            let _ = sockopt::set_socket_recv_buffer_size(&self.fd, bytes);
        }
        if sockopt::set_socket_send_buffer_size_force(&self.fd, bytes).is_err() {
            let _ = sockopt::set_socket_send_buffer_size(&self.fd, bytes);
        }
    }

    /// Bytes of its receive buffer, as it was granted.
    #[must_use]
    pub fn receive_buffer_bytes(&self) -> usize {
        // The kernel doubles the requested size, to cover its own overhead.
        sockopt::socket_recv_buffer_size(&self.fd).unwrap_or(0) / 2
    }

    /// Sets DF on every datagram and ignores the kernel's idea of the path's MTU.
    fn leave_path_mtu_alone(&self) {
        let _ = sockopt::set_ip_mtu_discover(&self.fd, sockopt::Ipv4PathMtuDiscovery::PROBE);
        if self.is_v6 {
            let _ = sockopt::set_ipv6_mtu_discover(&self.fd, sockopt::Ipv6PathMtuDiscovery::PROBE);
        }
    }
}

impl AsFd for UdpPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
