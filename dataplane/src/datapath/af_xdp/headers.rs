//! Ethernet, IP and UDP: written from a template in front of what a lane sends, and read off what
//! it receives.
//!
//! A [`Template`] is made once for a next hop to a partner, from what the kernel's tables say of
//! the next hop; a packet then costs a copy of 42 to 66 bytes and its lengths. IPv4 sends the UDP
//! checksum 0, which it may: the segment authenticates itself. IPv6 may not (RFC 8200, 8.1), so
//! there it is computed. Neither is checked on receipt: the cipher's tag is the better check.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use culvert_link::kernel_bypass::NextHop;

/// Bytes of the longest headers: Ethernet, a VLAN tag, IPv6, UDP.
pub const HEADERS_MAX: usize = 14 + 4 + IPV6_BYTES + UDP_BYTES;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const UDP_BYTES: usize = 8;
const UDP: u8 = 17;
const HOP_LIMIT: u8 = 64;

/// The headers of packets to one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    headers: [u8; HEADERS_MAX],
    bytes: usize,
    /// Where the IP header begins.
    ip: usize,
    is_v6: bool,
    /// The checksum's sum over all that does not change: of the IPv4 header, or of IPv6's pseudo
    /// header and the ports.
    constant_sum: u64,
    datagram_bytes_max: usize,
}

impl Template {
    /// Headers for packets from `source_port` to `to`; `None` if the families differ.
    #[must_use]
    #[expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "headers of known sizes in room for the longest"
    )]
    pub fn new(hop: &NextHop, source_port: u16, to: SocketAddr) -> Option<Self> {
        let mut headers = [0; HEADERS_MAX];
        headers[..6].copy_from_slice(&hop.destination_mac);
        headers[6..12].copy_from_slice(&hop.source_mac);
        let mut ip = 14;
        if let Some(vlan) = hop.vlan {
            headers[12..14].copy_from_slice(&0x8100u16.to_be_bytes());
            headers[14..16].copy_from_slice(&vlan.to_be_bytes());
            ip = 18;
        }
        let (ip_bytes, ether_type) = match (hop.source, to.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = &mut headers[ip..ip + IPV4_BYTES];
                header[0] = 0x45;
                // Don't fragment: the flow probes the path (RFC 8899), and a packet that is never
                // cut needs no number (RFC 6864).
                header[6] = 0x40;
                header[8] = HOP_LIMIT;
                header[9] = UDP;
                header[12..16].copy_from_slice(&source.octets());
                header[16..20].copy_from_slice(&destination.octets());
                (IPV4_BYTES, 0x0800u16)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = &mut headers[ip..ip + IPV6_BYTES];
                header[0] = 0x60;
                header[6] = UDP;
                header[7] = HOP_LIMIT;
                header[8..24].copy_from_slice(&source.octets());
                header[24..40].copy_from_slice(&destination.octets());
                (IPV6_BYTES, 0x86dd)
            }
            _ => return None,
        };
        headers[ip - 2..ip].copy_from_slice(&ether_type.to_be_bytes());
        let udp = ip + ip_bytes;
        headers[udp..udp + 2].copy_from_slice(&source_port.to_be_bytes());
        headers[udp + 2..udp + 4].copy_from_slice(&to.port().to_be_bytes());
        let is_v6 = to.is_ipv6();
        let constant_sum = if is_v6 {
            sum(&headers[ip + 8..udp + 4]) + u64::from(u16::from(UDP).to_be())
        } else {
            sum(&headers[ip..udp])
        };
        let datagram_bytes_max = (hop.mtu as usize).saturating_sub(ip_bytes + UDP_BYTES);
        Some(Self { headers, bytes: udp + UDP_BYTES, ip, is_v6, constant_sum, datagram_bytes_max })
    }

    /// Bytes of the headers: where the datagram begins.
    #[inline]
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// The largest datagram that the link takes.
    #[inline]
    #[must_use]
    pub const fn datagram_bytes_max(&self) -> usize {
        self.datagram_bytes_max
    }

    /// Writes the headers before the datagram that lies in `packet` from [`Template::bytes`] to the
    /// end.
    ///
    /// # Panics
    /// If `packet` is shorter than the headers or longer than 64 KiB, which no frame is.
    #[inline]
    #[expect(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::expect_used,
        reason = "frames are this lane's own, and longer than their headers"
    )]
    pub fn write(&self, packet: &mut [u8]) {
        packet[..self.bytes].copy_from_slice(&self.headers[..self.bytes]);
        let ip_bytes = u16::try_from(packet.len() - self.ip).expect("a packet of at most 64 KiB");
        let udp = self.bytes - UDP_BYTES;
        let udp_bytes = ((packet.len() - udp) as u16).to_be_bytes();
        packet[udp + 4..udp + 6].copy_from_slice(&udp_bytes);
        let length = u64::from(u16::from_ne_bytes(udp_bytes));
        if self.is_v6 {
            packet[self.ip + 4..self.ip + 6].copy_from_slice(&udp_bytes);
            // The length counts twice: in the pseudo header and in the UDP header.
            let checksum = fold(self.constant_sum + 2 * length + sum(&packet[self.bytes..]));
            // 0 says "none"; all ones is the same sum (RFC 768).
            let checksum = if checksum == 0 { 0xffff } else { checksum };
            packet[udp + 6..udp + 8].copy_from_slice(&checksum.to_ne_bytes());
        } else {
            let total = ip_bytes.to_be_bytes();
            packet[self.ip + 2..self.ip + 4].copy_from_slice(&total);
            let checksum = fold(self.constant_sum + u64::from(u16::from_ne_bytes(total)));
            packet[self.ip + 10..self.ip + 12].copy_from_slice(&checksum.to_ne_bytes());
        }
    }
}

/// A UDP datagram in a received packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The sender's address.
    pub from: SocketAddr,
    /// To which port.
    pub port: u16,
    /// The payload.
    pub payload: &'a [u8],
}

/// Reads the packets that the steering program lets through: Ethernet, at most one VLAN tag, IPv4
/// without options and fragments or IPv6, UDP.
#[inline]
#[must_use]
pub fn parse(packet: &[u8]) -> Option<Datagram<'_>> {
    let mut rest = packet.get(12..)?;
    let mut ether_type = take_u16(&mut rest)?;
    if matches!(ether_type, 0x8100 | 0x88a8) {
        rest = rest.get(2..)?;
        ether_type = take_u16(&mut rest)?;
    }
    let (source, ip_payload): (IpAddr, &[u8]) = match ether_type {
        0x0800 => {
            let (header, _) = rest.split_first_chunk::<IPV4_BYTES>()?;
            let is_plain = header[0] == 0x45 && u16::from_be_bytes([header[6], header[7]]) & 0x3fff == 0;
            if !is_plain || header[9] != UDP {
                return None;
            }
            let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
            (Ipv4Addr::new(header[12], header[13], header[14], header[15]).into(), rest.get(IPV4_BYTES..total)?)
        }
        0x86dd => {
            let (header, after) = rest.split_first_chunk::<IPV6_BYTES>()?;
            if header[0] >> 4 != 6 || header[6] != UDP {
                return None;
            }
            let source: [u8; 16] = *header[8..].first_chunk()?;
            let bytes = usize::from(u16::from_be_bytes([header[4], header[5]]));
            (Ipv6Addr::from(source).into(), after.get(..bytes)?)
        }
        _ => return None,
    };
    let (udp, payload) = ip_payload.split_first_chunk::<UDP_BYTES>()?;
    let [source_high, source_low, port_high, port_low, high, low, ..] = *udp;
    if usize::from(u16::from_be_bytes([high, low])) != ip_payload.len() {
        return None;
    }
    let from = SocketAddr::new(source, u16::from_be_bytes([source_high, source_low]));
    Some(Datagram { from, port: u16::from_be_bytes([port_high, port_low]), payload })
}

/// The sum of the 16-bit words of `bytes` in memory's own order, which folds to the same checksum
/// (RFC 1071, 2 (B)). An odd last byte is followed by a zero.
#[inline]
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    // 2^32 of them cannot overflow, and no packet has as many.
    let total: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    let mut last = [0; 4];
    last.iter_mut().zip(rest).for_each(|(place, &byte)| *place = byte);
    total.wrapping_add(u32::from_ne_bytes(last).into())
}

#[inline]
fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff).wrapping_add(sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[inline]
fn take_u16(rest: &mut &[u8]) -> Option<u16> {
    let (bytes, after) = rest.split_first_chunk::<2>()?;
    *rest = after;
    Some(u16::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 1071 by the book: 16-bit words in network order.
    fn checksum_by_the_book(parts: &[&[u8]]) -> u16 {
        let bytes: Vec<u8> = parts.concat();
        let mut sum = 0u32;
        for word in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([word[0], *word.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    fn hop(source: IpAddr, vlan: Option<u16>) -> NextHop {
        NextHop { source_mac: [2, 0, 0, 0, 0, 1], destination_mac: [2, 0, 0, 0, 0, 2], vlan, source, mtu: 1_500 }
    }

    #[test]
    fn the_families_must_agree() {
        let to = "[fd96::2]:7273".parse().unwrap();
        assert_eq!(Template::new(&hop("10.0.0.1".parse().unwrap(), None), 1, to), None);
    }

    #[test]
    fn the_mtu_bounds_the_datagram() {
        let of = |source: &str, to: &str| {
            Template::new(&hop(source.parse().unwrap(), None), 1, to.parse().unwrap()).unwrap().datagram_bytes_max()
        };
        assert_eq!(of("10.0.0.1", "10.0.0.2:1"), 1_472);
        assert_eq!(of("fd96::1", "[fd96::2]:1"), 1_452);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_sums_up(source: [u8; 4], destination: [u8; 4], source_v6: [u8; 16],
            destination_v6: [u8; 16], v6: bool, vlan in proptest::option::of(0u16..4_095), ports: (u16, u16),
            payload in proptest::collection::vec(any::<u8>(), 0..200))
        {
            let (source, destination): (IpAddr, IpAddr) =
                if v6 { (source_v6.into(), destination_v6.into()) } else { (source.into(), destination.into()) };
            let template = Template::new(&hop(source, vlan), ports.0, SocketAddr::new(destination, ports.1)).unwrap();
            let mut packet = vec![0xEE; template.bytes()];
            packet.extend(&payload);
            template.write(&mut packet);
            let datagram = parse(&packet).unwrap();
            prop_assert_eq!(datagram.from, SocketAddr::new(source, ports.0));
            prop_assert_eq!((datagram.port, datagram.payload), (ports.1, &payload[..]));
            let ip = if vlan.is_some() { 18 } else { 14 };
            if v6 {
                let udp = &packet[ip + 40..];
                let length = (udp.len() as u32).to_be_bytes();
                prop_assert_eq!(checksum_by_the_book(&[&packet[ip + 8..ip + 40], &length, &[0, 0, 0, UDP], udp]), 0);
                prop_assert_ne!(&udp[6..8], &[0, 0]);
            } else {
                prop_assert_eq!(checksum_by_the_book(&[&packet[ip..ip + 20]]), 0);
                prop_assert_eq!(&packet[ip + 26..ip + 28], &[0, 0]);
            }
            // Padding to Ethernet's 60 bytes is not part of the datagram.
            packet.resize(packet.len() + 10, 0);
            prop_assert_eq!(parse(&packet).unwrap().payload, &payload[..]);
        }

        #[test]
        fn parsing_never_panics(packet in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&packet);
        }
    }
}
