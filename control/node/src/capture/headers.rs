//! Synthesizes headers for packets that went through the kernel.
//!
//! The lane knows the partner's address and both ports. The local address is the one from which
//! this host's routes reach the partner. The Ethernet addresses are unknown: this host's is shown
//! as `02:00:00:00` followed by the lane's number, the partner's as zero.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};

use culvert_link::capture::{Direction, Layer, Packet};

/// Partners for which the local address is cached; when there are more, the cache starts over.
const PARTNERS_MAX: usize = 1_024;
const UDP: u8 = 17;
const HOPS: u8 = 64;

/// Synthesizes headers.
#[derive(Debug)]
pub(super) struct Headers {
    /// The address that the lanes are bound to, if it is a specific one.
    bound: Option<IpAddr>,
    local: HashMap<IpAddr, IpAddr>,
}

impl Headers {
    /// For lanes bound to `bind`.
    pub fn new(bind: IpAddr) -> Self {
        Self { bound: (!bind.is_unspecified()).then_some(bind.to_canonical()), local: HashMap::new() }
    }

    /// Appends the packet's headers to `out`: none if its bytes start with an Ethernet header.
    /// Returns the number of bytes appended.
    pub fn write(&mut self, lane: u16, packet: &Packet<'_>, out: &mut Vec<u8>) -> usize {
        let Layer::Datagram { local_port, partner } = packet.layer else { return 0 };
        let local = SocketAddr::new(self.local_address(partner), local_port);
        let [high, low] = lane.to_be_bytes();
        let local_mac = [2, 0, 0, 0, high, low];
        let begin = out.len();
        match packet.direction {
            Direction::Sent => write(out, (local_mac, local), ([0; 6], partner), packet.whole_bytes),
            Direction::Received => write(out, ([0; 6], partner), (local_mac, local), packet.whole_bytes),
        }
        out.len() - begin
    }

    fn local_address(&mut self, partner: SocketAddr) -> IpAddr {
        if let Some(bound) = self.bound.filter(|bound| bound.is_ipv4() == partner.is_ipv4()) {
            return bound;
        }
        if let Some(&local) = self.local.get(&partner.ip()) {
            return local;
        }
        if self.local.len() >= PARTNERS_MAX {
            self.local.clear();
        }
        // Without a route to the partner, the unspecified address of the right family.
        let none: IpAddr = if partner.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let local = local_address_towards(partner).unwrap_or(none);
        self.local.insert(partner.ip(), local);
        local
    }
}

/// The local address from which this host's routes reach `partner`.
fn local_address_towards(partner: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if partner.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = std::net::UdpSocket::bind((any, 0))?;
    // Connecting sends nothing.
    socket.connect(partner)?;
    Ok(socket.local_addr()?.ip())
}

/// Writes the Ethernet, IP and UDP headers of a datagram of `bytes`, without the checksums that a
/// NIC would fill in, except where one is mandatory.
fn write(out: &mut Vec<u8>, source: ([u8; 6], SocketAddr), destination: ([u8; 6], SocketAddr), bytes: usize) {
    let ((source_mac, source), (destination_mac, destination)) = (source, destination);
    let udp_bytes = (8 + bytes).min(usize::from(u16::MAX)) as u16;
    out.extend(destination_mac);
    out.extend(source_mac);
    let udp_sum = match (source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out.extend([0x08, 0x00]);
            let begin = out.len();
            out.extend([0x45, 0]);
            out.extend(udp_bytes.saturating_add(20).to_be_bytes());
            // Identification 0, don't fragment.
            out.extend([0, 0, 0x40, 0, HOPS, UDP, 0, 0]);
            out.extend(source.octets());
            out.extend(destination.octets());
            let sum = !sum(&out[begin..]);
            out[begin + 10..begin + 12].copy_from_slice(&sum.to_be_bytes());
            0
        }
        (source, destination) => {
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend(udp_bytes.to_be_bytes());
            out.extend([UDP, HOPS]);
            let begin = out.len();
            for address in [source, destination] {
                out.extend(match address {
                    IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                    IpAddr::V6(address) => address.octets(),
                });
            }
            // UDP over IPv6 must have a checksum. This is the one of the pseudo-header, which other
            // tools see too on packets whose checksum the NIC completes.
            let mut pseudo = out[begin..].to_vec();
            pseudo.extend(udp_bytes.to_be_bytes());
            pseudo.extend([0, UDP]);
            sum(&pseudo)
        }
    };
    for word in [source.port(), destination.port(), udp_bytes, udp_sum] {
        out.extend(word.to_be_bytes());
    }
}

/// The checksum of RFC 1071 before complementing.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use culvert_dataplane::datapath::af_xdp::headers::parse;
    use proptest::prelude::*;

    use super::*;

    fn packet(direction: Direction, partner: &str, bytes: &'static [u8]) -> Packet<'static> {
        let layer = Layer::Datagram { local_port: 7_273, partner: partner.parse().unwrap() };
        Packet { time_ns: 0, direction, layer, whole_bytes: bytes.len(), bytes }
    }

    proptest! {
        #[test]
        fn synthesized_headers_are_what_the_lanes_would_parse(
            v6: bool, from: [u8; 16], to: [u8; 16], ports: (u16, u16), payload in proptest::collection::vec(any::<u8>(), 0..300))
        {
            let address = |ip: [u8; 16], port| {
                let ip: IpAddr = if v6 { ip.into() } else { [ip[0], ip[1], ip[2], ip[3]].into() };
                SocketAddr::new(ip, port)
            };
            let (source, destination) = (address(from, ports.0), address(to, ports.1));
            let mut frame = Vec::new();
            write(&mut frame, ([1; 6], source), ([2; 6], destination), payload.len());
            frame.extend(&payload);
            let datagram = parse(&frame).unwrap();
            prop_assert_eq!((datagram.from, datagram.port, datagram.payload), (source, ports.1, &payload[..]));
            prop_assert_eq!(&frame[..12], &[2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1]);
            if !v6 {
                prop_assert_eq!(sum(&frame[14..34]), 0xffff);
            }
        }
    }

    #[test]
    fn this_host_is_on_the_right_side_with_its_lane() {
        let mut headers = Headers::new("::".parse().unwrap());
        for (direction, ours, theirs) in [(Direction::Sent, 6, 0), (Direction::Received, 0, 6)] {
            let mut frame = Vec::new();
            let bytes = headers.write(3, &packet(direction, "127.0.0.1:99", b"abc"), &mut frame);
            assert_eq!((bytes, frame.len()), (14 + 20 + 8, 14 + 20 + 8));
            assert_eq!(frame[ours..ours + 6], [2, 0, 0, 0, 0, 3]);
            assert_eq!(frame[theirs..theirs + 6], [0; 6]);
            assert_eq!(frame[26..34], [127, 0, 0, 1, 127, 0, 0, 1]);
        }
    }

    #[test]
    fn a_bound_address_is_the_local_one_of_its_family() {
        let mut headers = Headers::new("192.0.2.7".parse().unwrap());
        assert_eq!(headers.local_address("127.0.0.1:1".parse().unwrap()), "192.0.2.7".parse::<IpAddr>().unwrap());
        assert!(headers.local_address("[::1]:1".parse().unwrap()).is_ipv6());
    }

    #[test]
    fn a_frame_gets_no_headers() {
        let mut headers = Headers::new("::".parse().unwrap());
        let packet = Packet { layer: Layer::Frame, ..packet(Direction::Sent, "127.0.0.1:99", b"abc") };
        assert_eq!(headers.write(0, &packet, &mut Vec::new()), 0);
    }
}
