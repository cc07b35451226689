//! A captured packet between the processes: a head of fixed size, and as much of the packet as was
//! asked for.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Bytes of a head.
pub(super) const HEAD_BYTES: usize = 40;
const SENT: u8 = 1;
const FRAME: u8 = 2;

/// The direction of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To this host.
    Received,
    /// From this host.
    Sent,
}

/// Where the captured bytes begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// At the Ethernet header: the packet went around the kernel.
    Frame,
    /// Behind the UDP header: the kernel made or took the headers.
    Datagram {
        /// The lane's UDP port.
        local_port: u16,
        /// The other end.
        partner: SocketAddr,
    },
}

/// A captured packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<'a> {
    /// When the lane moved its batch, in nanoseconds of the monotonic clock.
    pub time_ns: u64,
    /// Its direction.
    pub direction: Direction,
    /// Where `bytes` begin.
    pub layer: Layer,
    /// Bytes before anything was cut off.
    pub whole_bytes: usize,
    /// The captured bytes.
    pub bytes: &'a [u8],
}

impl<'a> Packet<'a> {
    /// Reads the packet at the start of `record`, and returns what follows it. `None` if there is
    /// none.
    pub(super) fn read(record: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let (head, rest) = record.split_first_chunk()?;
        let Head { time_ns, direction, layer, whole_bytes, captured_bytes } = Head::read(head);
        let (bytes, rest) = rest.split_at_checked(captured_bytes)?;
        let packet = Self { time_ns, direction, layer, whole_bytes, bytes };
        (whole_bytes >= captured_bytes).then_some((packet, rest))
    }
}

/// What goes before a packet's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub time_ns: u64,
    pub direction: Direction,
    pub layer: Layer,
    pub whole_bytes: usize,
    pub captured_bytes: usize,
}

impl Head {
    /// Writes the head.
    pub fn write(&self, out: &mut [u8; HEAD_BYTES]) {
        let (flags, local_port, partner) = match self.layer {
            Layer::Frame => (FRAME, 0, SocketAddr::from(([0; 16], 0))),
            Layer::Datagram { local_port, partner } => (0, local_port, partner),
        };
        let (ip, scope) = match partner {
            SocketAddr::V4(partner) => (partner.ip().to_ipv6_mapped(), 0),
            SocketAddr::V6(partner) => (*partner.ip(), partner.scope_id()),
        };
        out[..8].copy_from_slice(&self.time_ns.to_le_bytes());
        out[8..12].copy_from_slice(&u32::try_from(self.whole_bytes).unwrap_or(u32::MAX).to_le_bytes());
        out[12..14].copy_from_slice(&u16::try_from(self.captured_bytes).unwrap_or(u16::MAX).to_le_bytes());
        out[14..16].copy_from_slice(&local_port.to_le_bytes());
        out[16..18].copy_from_slice(&partner.port().to_le_bytes());
        out[18] = flags | if self.direction == Direction::Sent { SENT } else { 0 };
        out[19] = 0;
        out[20..36].copy_from_slice(&ip.octets());
        out[36..40].copy_from_slice(&scope.to_le_bytes());
    }

    /// Reads a head.
    pub fn read(head: &[u8; HEAD_BYTES]) -> Self {
        let [t0, t1, t2, t3, t4, t5, t6, t7, w0, w1, w2, w3, c0, c1, l0, l1, p0, p1, flags, _, rest @ ..] = *head;
        let [ip @ .., s0, s1, s2, s3] = rest;
        let (ip, port): ([u8; 16], _) = (ip, u16::from_le_bytes([p0, p1]));
        let ip = Ipv6Addr::from(ip);
        let partner = match ip.to_ipv4_mapped() {
            Some(ip) => SocketAddr::new(IpAddr::V4(ip), port),
            None => SocketAddrV6::new(ip, port, 0, u32::from_le_bytes([s0, s1, s2, s3])).into(),
        };
        let local_port = u16::from_le_bytes([l0, l1]);
        let layer = if flags & FRAME == 0 { Layer::Datagram { local_port, partner } } else { Layer::Frame };
        Self {
            time_ns: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
            direction: if flags & SENT == 0 { Direction::Received } else { Direction::Sent },
            layer,
            whole_bytes: u32::from_le_bytes([w0, w1, w2, w3]) as usize,
            captured_bytes: u16::from_le_bytes([c0, c1]).into(),
        }
    }
}
