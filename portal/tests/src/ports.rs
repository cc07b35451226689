//! Ports that programs get before they listen on them.
//!
//! A port that was free a moment ago may be somebody else's now. A socket that is bound, but does
//! not listen, keeps it: whoever sets `SO_REUSEADDR`, as servers do, may listen beside it, while
//! the kernel gives it to nobody. As long as nobody listens, connections are refused.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::process::Process;

/// A port of the loopback address 127.0.0.1 that is kept for a server.
#[derive(Debug)]
pub struct Port {
    address: SocketAddr,
    _kept: Socket,
}

impl Port {
    /// Finds a free one and keeps it.
    ///
    /// # Panics
    /// If there is none.
    #[must_use]
    pub fn reserve() -> Self {
        let socket = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let address = socket.local_addr().expect("a bound socket has an address");
        Self { address: address.as_socket().expect("it is one of IPv4"), _kept: socket }
    }

    /// The number of the port.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.address.port()
    }

    /// The address with the port.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Listens on it.
    ///
    /// # Panics
    /// If somebody else does.
    #[must_use]
    pub fn listen(&self) -> Socket {
        let socket = bind(self.address);
        socket.listen(128).unwrap_or_else(|error| panic!("{}: {error}", self.address));
        socket
    }
}

/// Whether somebody takes connections.
#[must_use]
pub fn answers(address: SocketAddr) -> bool {
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

/// Waits until a server takes connections.
///
/// # Panics
/// With what it printed, if it ends or takes too long.
#[track_caller]
pub fn wait_for(process: &Process, address: SocketAddr, patience: Duration) {
    process.until(&format!("taking connections on {address}"), patience, || answers(address));
}

fn bind(address: SocketAddr) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be made");
    socket.set_reuse_address(true).expect("SO_REUSEADDR can be set");
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("{address}: {error}"));
    socket
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_kept_port_refuses_until_a_server_listens() {
        let port = Port::reserve();
        let refused = TcpStream::connect(port.address()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        for _ in 0..2 {
            let server = TcpListener::bind(port.address()).unwrap();
            assert!(answers(port.address()));
            drop(server);
            assert!(!answers(port.address()));
        }
    }
}
