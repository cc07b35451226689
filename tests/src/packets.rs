//! IP packets read and forged byte by byte: addresses, ports, and ICMP errors that quote other
//! packets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// The most bytes of a packet that an ICMP error quotes: what fits into 576 and 1,280 bytes (RFC
/// 1812 4.3.2.3, RFC 4443 2.4).
const QUOTED_BYTES: [usize; 2] = [548, 1_232];

/// Where the parts of an IP packet are. Packets have no options and no extension headers here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its source.
    pub from: SocketAddr,
    /// Its destination.
    pub to: SocketAddr,
    /// The protocol above IP.
    pub protocol: u8,
    /// Where its header begins.
    pub transport: usize,
}

impl Packet {
    /// Reads a packet's headers; ports are 0 where there are none.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (from, to, protocol, transport) = if bytes.first()? >> 4 == 4 {
            let v4 = |at: usize| Some(IpAddr::from(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).ok()?));
            (v4(12)?, v4(16)?, bytes[9], 20)
        } else {
            let v6 = |at: usize| Some(IpAddr::from(<[u8; 16]>::try_from(bytes.get(at..at + 16)?).ok()?));
            (v6(8)?, v6(24)?, *bytes.get(6)?, 40)
        };
        let has_ports = matches!(protocol, TCP | UDP);
        let port = |at: usize| {
            let bytes = bytes.get(transport + at..transport + at + 2).filter(|_| has_ports);
            bytes.map_or(0, |bytes| u16::from_be_bytes([bytes[0], bytes[1]]))
        };
        Some(Self { from: SocketAddr::new(from, port(0)), to: SocketAddr::new(to, port(2)), protocol, transport })
    }

    /// Whether it is a UDP datagram.
    #[must_use]
    pub const fn is_udp(&self) -> bool {
        self.protocol == UDP
    }

    /// Whether it is a TCP segment.
    #[must_use]
    pub const fn is_tcp(&self) -> bool {
        self.protocol == TCP
    }

    /// The UDP payload.
    #[must_use]
    pub fn payload<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        bytes.get(self.transport + 8..).unwrap_or_default()
    }
}

/// An ICMP error that a router or host might send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// "Fragmentation needed and DF set" or "packet too big", with the claimed MTU.
    TooBig(u32),
    /// Another error, by its type and code.
    Other(u8, u8),
}

impl IcmpError {
    /// The table of attacks for a family: every MTU, and every error that may say something about a
    /// path.
    #[must_use]
    pub fn table(is_v6: bool) -> Vec<Self> {
        let mtus: &[u32] =
            if is_v6 { &[68, 576, 1_280, 1_400, 1_500] } else { &[68, 296, 552, 600, 1_006, 1_280, 1_400, 1_500] };
        // Network, host, protocol, port, administratively prohibited; time exceeded in transit and
        // in reassembly; a parameter problem.
        let others: &[(u8, u8)] = if is_v6 {
            &[(1, 0), (1, 1), (1, 3), (1, 4), (3, 0), (3, 1), (4, 1)]
        } else {
            &[(3, 0), (3, 1), (3, 2), (3, 3), (3, 9), (3, 10), (3, 13), (11, 0), (11, 1), (12, 0)]
        };
        let too_big = mtus.iter().map(|&mtu| Self::TooBig(mtu));
        too_big.chain(others.iter().map(|&(kind, code)| Self::Other(kind, code))).collect()
    }

    /// The error about `quoted`, a whole packet, as `from` would send it to the packet's sender.
    ///
    /// # Panics
    /// If `quoted` is not a packet of the family of `from`.
    #[must_use]
    pub fn about(self, quoted: &[u8], from: IpAddr) -> Vec<u8> {
        let to = Packet::parse(quoted).expect("a packet is quoted").from.ip();
        let is_v6 = from.is_ipv6();
        let (kind, code, word) = match self {
            Self::TooBig(mtu) if is_v6 => (2, 0, mtu),
            Self::TooBig(mtu) => (3, 4, mtu),
            Self::Other(kind, code) => (kind, code, 0),
        };
        let mut message = vec![kind, code, 0, 0];
        message.extend_from_slice(&word.to_be_bytes());
        message.extend_from_slice(&quoted[..quoted.len().min(QUOTED_BYTES[usize::from(is_v6)])]);
        let mut packet = ip_packet(from, to, if is_v6 { ICMPV6 } else { ICMP }, &message);
        write_transport_checksum(&mut packet);
        packet
    }
}

/// A UDP datagram, or an ICMP echo reply where the port is 0: what somebody who has seen nothing
/// can make up. Kernels answer echo requests without a socket, so they always believe errors about
/// such replies.
#[must_use]
pub fn imagined(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut message = vec![0; 1_000];
    let protocol = if from.port() == 0 {
        message[0] = if from.is_ipv6() { 129 } else { 0 };
        if from.is_ipv6() { ICMPV6 } else { ICMP }
    } else {
        message[..2].copy_from_slice(&from.port().to_be_bytes());
        message[2..4].copy_from_slice(&to.port().to_be_bytes());
        let bytes = (message.len() as u16).to_be_bytes();
        message[4..6].copy_from_slice(&bytes);
        UDP
    };
    let mut packet = ip_packet(from.ip(), to.ip(), protocol, &message);
    write_transport_checksum(&mut packet);
    packet
}

/// The packet with another source address and port: a copy sent by somebody else, or what a NAT
/// makes of it.
///
/// # Panics
/// If it is not a packet of that family with ports.
#[must_use]
pub fn from_elsewhere(packet: &[u8], from: SocketAddr) -> Vec<u8> {
    translated(packet, from, Packet::parse(packet).expect("a packet").to)
}

/// The packet with other addresses and ports.
///
/// # Panics
/// If it is not a packet of that family with ports.
#[must_use]
pub fn translated(packet: &[u8], from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let Packet { transport, .. } = Packet::parse(packet).expect("a packet");
    let mut packet = packet.to_vec();
    match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => write_v4_addresses(&mut packet, from, to),
        (IpAddr::V6(from), IpAddr::V6(to)) => write_v6_addresses(&mut packet, from, to),
        _ => panic!("a packet has one family"),
    }
    packet[transport..transport + 2].copy_from_slice(&from.port().to_be_bytes());
    packet[transport + 2..transport + 4].copy_from_slice(&to.port().to_be_bytes());
    write_transport_checksum(&mut packet);
    packet
}

fn ip_packet(from: IpAddr, to: IpAddr, protocol: u8, message: &[u8]) -> Vec<u8> {
    let mut packet = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let mut header = vec![0; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&(20 + message.len() as u16).to_be_bytes());
            // Don't fragment: only such packets can be too big.
            header[6] = 0x40;
            (header[8], header[9]) = (64, protocol);
            write_v4_addresses(&mut header, from, to);
            header
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let mut header = vec![0; 40];
            header[0] = 0x60;
            header[4..6].copy_from_slice(&(message.len() as u16).to_be_bytes());
            (header[6], header[7]) = (protocol, 64);
            write_v6_addresses(&mut header, from, to);
            header
        }
        _ => panic!("a packet has one family"),
    };
    packet.extend_from_slice(message);
    packet
}

fn write_v4_addresses(packet: &mut [u8], from: Ipv4Addr, to: Ipv4Addr) {
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.octets());
    packet[10..12].fill(0);
    let sum = checksum(0, &packet[..20]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

fn write_v6_addresses(packet: &mut [u8], from: Ipv6Addr, to: Ipv6Addr) {
    packet[8..24].copy_from_slice(&from.octets());
    packet[24..40].copy_from_slice(&to.octets());
}

/// Writes the checksum of the protocol above IP.
fn write_transport_checksum(packet: &mut [u8]) {
    let Some(Packet { protocol, transport, .. }) = Packet::parse(packet) else { return };
    let at = transport
        + match protocol {
            TCP => 16,
            UDP => 6,
            _ => 2,
        };
    packet[at..at + 2].fill(0);
    let pseudo = if protocol == ICMP {
        0
    } else {
        let addresses = if transport == 20 { &packet[12..20] } else { &packet[8..40] };
        words(addresses) + u64::from(protocol) + (packet.len() - transport) as u64
    };
    let sum = checksum(pseudo, &packet[transport..]);
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

fn words(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]))).sum()
}

/// The Internet checksum (RFC 1071).
fn checksum(begin: u64, bytes: &[u8]) -> u16 {
    let mut sum = begin + words(bytes);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forged_is_read_back() {
        for (from, to) in [("10.0.0.1:7", "10.0.0.2:9"), ("[fd00::1]:7", "[fd00::2]:9")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let packet = imagined(from, to);
            let read = Packet::parse(&packet).unwrap();
            assert_eq!((read.from, read.to, read.is_udp()), (from, to, true));
            let error = IcmpError::TooBig(552).about(&packet, to.ip());
            let read = Packet::parse(&error).unwrap();
            assert_eq!((read.from.ip(), read.to.ip()), (to.ip(), from.ip()));
            assert_eq!(error[read.transport + 4..read.transport + 8], 552u32.to_be_bytes());
            let moved = from_elsewhere(&packet, to);
            assert_eq!(Packet::parse(&moved).unwrap().from, to);
            assert_eq!(from_elsewhere(&moved, from), packet);
        }
    }
}
