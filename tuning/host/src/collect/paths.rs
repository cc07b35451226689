//! Paths to partners: the kernel's MTU for each and, on request, the result of ICMP echoes.
//!
//! An echo is one ICMP packet with "don't fragment" set. An answer proves that its size passes. No
//! answer proves nothing, because a partner may not answer. `culvert path check` measures with the
//! partner's help; this works without it.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, Timeout, ip_mtu, ipv6_mtu, set_ip_mtu_discover, set_ipv6_mtu_discover,
    set_socket_timeout,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, ipproto, recv, send, socket_with,
};

use super::collector::Collector;
use crate::facts::{Link, PathFact};

/// How long to wait for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Echoes per size.
const TRIES: u16 = 3;
/// Sizes of common networks, the largest first; the link's own MTU is tried before them.
const MTU_LADDER: [u32; 7] = [9000, 8900, 4470, 1500, 1492, 1420, 1280];
/// Length of an IPv4 header without options.
const IPV4_HEADER_BYTES: u32 = 20;
/// Length of an IPv6 header.
const IPV6_HEADER_BYTES: u32 = 40;
/// Length of an ICMP echo header.
const ECHO_HEADER_BYTES: usize = 8;
/// The port for looking up the route; nothing is sent to it.
const ANY_PORT: u16 = 9;

/// A partner whose path is examined.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partner {
    /// Its name in the site file.
    pub name: String,
    /// A host name or address.
    pub address: String,
}

impl Collector<'_> {
    pub(super) fn paths(&mut self, partners: &[Partner], links: &[Link], probe: bool) -> Vec<PathFact> {
        let mut paths = Vec::new();
        for partner in partners {
            let found = path(partner, links, probe);
            paths.extend(self.known(&format!("path to {} ({})", partner.name, partner.address), found));
        }
        paths
    }
}

fn path(partner: &Partner, links: &[Link], probe: bool) -> io::Result<PathFact> {
    let address = (partner.address.as_str(), ANY_PORT).to_socket_addrs()?.next();
    let address = address.ok_or_else(|| io::Error::other("the name has no address"))?;
    let local: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
    let socket = UdpSocket::bind(local)?;
    // Connecting a UDP socket only looks up the route; it sends nothing.
    socket.connect(address)?;
    let source = socket.local_addr()?.ip().to_string();
    let link =
        links.iter().find(|link| link.addresses.iter().any(|known| known.split('/').next() == Some(source.as_str())));
    let kernel_mtu = if address.is_ipv4() { ip_mtu(&socket)? } else { ipv6_mtu(&socket)? };
    let mut fact = PathFact {
        partner: partner.name.clone(),
        address: address.ip().to_string(),
        link: link.map(|link| link.name.clone()),
        kernel_mtu_bytes: Some(kernel_mtu),
        ..PathFact::default()
    };
    if probe {
        let mtu = link.map_or(kernel_mtu, |link| link.mtu_bytes);
        let mut echo = Echo::open(address.ip())?;
        let answered = echo.round_trip(MTU_LADDER[MTU_LADDER.len() - 1])?;
        fact.rtt_ms = answered.map(|time| time.as_secs_f64() * 1e3);
        fact.method = Some("ICMP echo".to_owned());
        if answered.is_some() {
            let sizes = std::iter::once(mtu).chain(MTU_LADDER.into_iter().filter(|size| *size < mtu));
            for size in sizes {
                if echo.round_trip(size)?.is_some() {
                    fact.proven_mtu_bytes = Some(size);
                    break;
                }
            }
        }
    }
    Ok(fact)
}

/// A socket that sends echo requests to one address.
struct Echo {
    socket: OwnedFd,
    version_6: bool,
    /// Whether received packets include the IP header, as on a raw IPv4 socket.
    with_ip_header: bool,
    sequence: u16,
}

impl Echo {
    fn open(address: IpAddr) -> io::Result<Self> {
        let version_6 = address.is_ipv6();
        let (family, protocol) =
            if version_6 { (AddressFamily::INET6, ipproto::ICMPV6) } else { (AddressFamily::INET, ipproto::ICMP) };
        let open = |kind| socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol));
        // Echo sockets are open to the groups of net.ipv4.ping_group_range; raw ones need
        // CAP_NET_RAW.
        let (socket, raw) = match open(SocketType::DGRAM) {
            Ok(socket) => (socket, false),
            Err(_) => (open(SocketType::RAW)?, true),
        };
        if version_6 {
            set_ipv6_mtu_discover(&socket, Ipv6PathMtuDiscovery::PROBE)?;
        } else {
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
        }
        set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_WITHIN))?;
        connect(&socket, &SocketAddr::new(address, 0))?;
        Ok(Self { socket, version_6, with_ip_header: raw && !version_6, sequence: 0 })
    }

    /// The time until the answer to a packet of `mtu` bytes in total; `None` if the packet does not
    /// fit or no answer comes.
    fn round_trip(&mut self, mtu: u32) -> io::Result<Option<Duration>> {
        let header = if self.version_6 { IPV6_HEADER_BYTES } else { IPV4_HEADER_BYTES };
        let length = (mtu - header) as usize;
        let mut answer = vec![0_u8; length + 128];
        for _ in 0..TRIES {
            self.sequence += 1;
            let packet = self.request(length);
            let sent = Instant::now();
            match send(&self.socket, &packet, SendFlags::empty()) {
                Ok(_) => {}
                Err(rustix::io::Errno::MSGSIZE) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            while sent.elapsed() < ANSWER_WITHIN {
                match recv(&self.socket, &mut *answer, RecvFlags::empty()) {
                    Ok((_, bytes)) if self.is_answer(&answer[..bytes], length) => return Ok(Some(sent.elapsed())),
                    Ok(_) => {}
                    // A timeout, or a router's report that the packet does not fit or cannot be
                    // forwarded.
                    Err(_) => break,
                }
            }
        }
        Ok(None)
    }

    fn request(&self, length: usize) -> Vec<u8> {
        let mut packet = vec![0_u8; length.max(ECHO_HEADER_BYTES)];
        packet[0] = if self.version_6 { 128 } else { 8 };
        // The kernel replaces the identifier on an echo socket; a raw one keeps this.
        packet[4..6].copy_from_slice(&(std::process::id() as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        if !self.version_6 {
            let sum = internet_checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    fn is_answer(&self, packet: &[u8], length: usize) -> bool {
        let packet = if self.with_ip_header { packet.get(IPV4_HEADER_BYTES as usize..) } else { Some(packet) };
        let kind = if self.version_6 { 129 } else { 0 };
        packet.is_some_and(|packet| {
            packet.len() >= length && packet[0] == kind && packet[6..8] == self.sequence.to_be_bytes()
        })
    }
}

/// The Internet checksum (RFC 1071).
fn internet_checksum(packet: &[u8]) -> u16 {
    let words = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_1071() {
        // The example of section 3: the sum of these is ddf2.
        assert_eq!(internet_checksum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
    }

    #[test]
    fn loopback_proves_its_own_mtu() {
        let links = [Link {
            name: "lo".to_owned(),
            mtu_bytes: 9000,
            addresses: vec!["127.0.0.1/8".to_owned()],
            ..Link::default()
        }];
        let partner = Partner { name: "self".to_owned(), address: "127.0.0.1".to_owned() };
        match path(&partner, &links, true) {
            Ok(fact) => {
                assert_eq!(fact.link.as_deref(), Some("lo"));
                assert_eq!(fact.proven_mtu_bytes, Some(9000));
                assert!(fact.rtt_ms.is_some());
            }
            Err(error) => eprintln!("skipped: no ICMP echo on loopback: {error}"),
        }
    }
}
