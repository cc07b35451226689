//! Another port to send a flow from than its lane's own.
//!
//! The NIC at the other end chooses a receive queue by a hash over addresses and ports. Where that
//! is another lane's queue the receiver asks for another source port (`docs/wire.md` W-48). The
//! control process binds it ([`UdpPort`]) and passes the descriptor; the flow owns it. The
//! receiver's answers to probes come to it.

use std::os::fd::{AsFd, BorrowedFd};

use culvert_link::udp_port::UdpPort;

use super::socket::UdpSocket;

/// A bound UDP socket and its port.
#[derive(Debug)]
pub struct SourceSocket {
    pub(super) socket: UdpSocket,
    port: u16,
}

impl SourceSocket {
    /// What the control process has bound, and its number.
    #[must_use]
    pub const fn new(bound: UdpPort, port: u16) -> Self {
        Self { socket: UdpSocket::new(bound), port }
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl AsFd for SourceSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.fd()
    }
}
