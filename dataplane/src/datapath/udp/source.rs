//! Another port to send a flow from than its lane's own.
//!
//! The NIC at the other end chooses a receive queue by a hash over addresses and ports. Where that is another lane's queue the receiver
//! asks for another source port (`docs/wire.md` W-48). The control process binds it, because this process opens no sockets any more,
//! and passes the descriptor; the flow owns it. The receiver's answers to probes come to it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::socket::UdpSocket;

/// A bound UDP socket and its port.
#[derive(Debug)]
pub struct SourceSocket {
    pub(super) socket: UdpSocket,
    port: u16,
}

impl SourceSocket {
    /// Binds `port` on `address` as a lane's own port is bound, with a send buffer of `socket_buffer_bytes` as far as the host grants it.
    ///
    /// # Errors
    /// The operating system's: the port is in use, most often.
    pub fn bind(address: IpAddr, port: u16, socket_buffer_bytes: usize) -> io::Result<Self> {
        let socket = UdpSocket::bind(SocketAddr::new(address, port))?;
        socket.set_buffers(socket_buffer_bytes);
        socket.probe_by_ourselves();
        Ok(Self { socket, port })
    }

    /// What another process has bound; `is_v6` says of which family.
    #[must_use]
    pub const fn from_fd(fd: OwnedFd, port: u16, is_v6: bool) -> Self {
        Self { socket: UdpSocket::from_fd(fd, is_v6), port }
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is an IPv6 socket, which serves both families.
    #[must_use]
    pub const fn is_v6(&self) -> bool {
        self.socket.is_v6()
    }

    /// The descriptor, to be passed on.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.socket.into_fd()
    }
}

impl AsFd for SourceSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }
}
