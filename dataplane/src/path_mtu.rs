//! What the first link towards a partner carries, from the kernel's routes.

use std::io;
use std::net::SocketAddr;

use crate::datapath::udp::SUPER_BUFFER_BYTES;

/// The largest UDP payload that leaves this host for `partner` in one packet, from the outgoing interface's MTU.
///
/// # Errors
/// The operating system's, for instance that there is no route.
pub fn datagram_bytes_towards(partner: SocketAddr) -> io::Result<u16> {
    let family = if partner.is_ipv6() { "::" } else { "0.0.0.0" };
    let socket = std::net::UdpSocket::bind((family, 0))?;
    socket.connect(partner)?;
    let (mtu, headers) = if partner.is_ipv6() {
        (rustix::net::sockopt::ipv6_mtu(&socket)?, 48)
    } else {
        (rustix::net::sockopt::ip_mtu(&socket)?, 28)
    };
    let bytes = mtu.saturating_sub(headers).min(SUPER_BUFFER_BYTES as u32);
    u16::try_from(bytes).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_carries_whole_super_buffers() {
        let bytes = datagram_bytes_towards("127.0.0.1:9".parse().unwrap()).unwrap();
        assert!(bytes >= 1_400, "loopback carries {bytes} bytes");
    }
}
