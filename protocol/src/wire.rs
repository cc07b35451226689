//! The header that every Culvert datagram begins with.
//!
//! ```text
//!  0        1        2                 4                                   8
//!  +--------+--------+-----------------+-----------------------------------+
//!  | version|  kind  |     stride      |              flow id              |
//!  +--------+--------+-----------------+-----------------------------------+
//!  |                         packet number (64 bits)                       |
//!  +-----------------------------------+-----------------------------------+
//!  |             chunk id              |            chunk bytes            |
//!  +-----------------------------------+-----------------------------------+
//!  |           segment index           |      sender's clock in µs         |
//!  +-----------------------------------+-----------------------------------+
//!  |   sealed payload …                                                    |
//!  +-----------------------------------------------------------------------+
//!  |   AES-GCM tag (16 bytes)                                              |
//!  +-----------------------------------------------------------------------+
//! ```
//!
//! All fields are big-endian; the header is in clear and is the additional authenticated data of
//! the payload (`docs/wire.md` W-1 … W-9). The key epoch is not a field of its own: it is the upper
//! 42 bits of the packet number, so the two cannot contradict each other.
//!
//! This module needs neither an allocator nor the standard library and cannot panic: the XDP
//! steering program uses it as it stands.

/// Bytes of the clear header. Two AES blocks, so that hashing it as AAD costs no padding.
pub const HEADER_BYTES: usize = 32;
/// Bytes of the AES-GCM tag that ends every datagram.
pub const TAG_BYTES: usize = 16;
/// What a datagram carries in addition to its payload.
pub const OVERHEAD_BYTES: usize = HEADER_BYTES + TAG_BYTES;
/// The only version of the format so far (W-2).
pub const VERSION: u8 = 1;
/// Packet numbers of one key epoch: 2^22, half of what RFC 9001 B.1 permits for packets above 2 KiB
/// (W-7).
pub const EPOCH_BITS: u32 = 22;
/// The smallest payload of a full segment. Below it a chunk would need more bitmap than it is
/// worth, and no path that carries IPv4's or IPv6's minimum MTU asks for less.
pub const STRIDE_MIN: u16 = 512;
/// The largest chunk that a header may announce.
pub const CHUNK_BYTES_MAX: u32 = 16 << 20;

/// What a datagram is for (W-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum SegmentKind {
    /// A segment of a chunk, sealed under the flow's forward key.
    Data = 0,
    /// A padded probe from the data's sender: is a datagram of this size delivered, and where from
    /// does it come?
    Probe = 1,
    /// The answer to a probe, sealed under the flow's reverse key. `index` repeats the bytes of the
    /// datagram that arrived, `chunk` the probe's token, `sent_us` the probe's time stamp.
    ProbeReply = 2,
    /// An empty datagram from the data's receiver, sealed under the reverse key, that opens the way
    /// through address translators and stateful firewalls on the receiver's side.
    Opening = 3,
}

impl SegmentKind {
    #[inline]
    const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Data),
            1 => Some(Self::Probe),
            2 => Some(Self::ProbeReply),
            3 => Some(Self::Opening),
            _ => None,
        }
    }
}

/// A parsed header. Parsing proves its shape, not its truth: only opening the payload authenticates
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the datagram is for.
    pub kind: SegmentKind,
    /// Payload bytes of each segment of the chunk but the last.
    pub stride: u16,
    /// The flow, chosen by the data's receiver.
    pub flow_id: u32,
    /// Counts the sender's datagrams of this flow and direction; never used twice.
    pub packet_number: u64,
    /// The chunk within the transfer.
    pub chunk: u32,
    /// Bytes of the whole chunk.
    pub chunk_bytes: u32,
    /// Which segment of the chunk: its payload begins at `index * stride`.
    pub index: u32,
    /// The sender's clock when it sealed the datagram, in microseconds, wrapping.
    pub sent_us: u32,
}

/// Why bytes are not a Culvert header. The receiver counts these and drops the datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// Shorter than a header and a tag.
    Truncated,
    /// Another protocol or another version of this one.
    Version,
    /// A kind that this version does not know.
    Kind,
    /// Fields that contradict each other or exceed a limit.
    Shape,
    /// The datagram's length is not what its fields announce.
    Length,
}

impl Header {
    /// Reads a header from the first [`HEADER_BYTES`] of `bytes` and checks that its fields agree
    /// (W-4, W-5).
    ///
    /// The length of the datagram is checked by [`Header::parse_datagram`]; a program that sees
    /// only the beginning of a packet uses this function.
    ///
    /// # Errors
    /// [`HeaderError`] names the first rule that does not hold.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let Some(bytes) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(HeaderError::Truncated);
        };
        let [version, kind, s0, s1, f0, f1, f2, f3, p0, p1, p2, p3, p4, p5, p6, p7, rest @ ..] = *bytes;
        let [c0, c1, c2, c3, b0, b1, b2, b3, i0, i1, i2, i3, t0, t1, t2, t3] = rest;
        //= W-2
        //# The version is 1. Datagrams of another version are counted and dropped.
        if version != VERSION {
            return Err(HeaderError::Version);
        }
        let Some(kind) = SegmentKind::from_wire(kind) else {
            return Err(HeaderError::Kind);
        };
        let header = Self {
            kind,
            stride: u16::from_be_bytes([s0, s1]),
            flow_id: u32::from_be_bytes([f0, f1, f2, f3]),
            packet_number: u64::from_be_bytes([p0, p1, p2, p3, p4, p5, p6, p7]),
            chunk: u32::from_be_bytes([c0, c1, c2, c3]),
            chunk_bytes: u32::from_be_bytes([b0, b1, b2, b3]),
            index: u32::from_be_bytes([i0, i1, i2, i3]),
            sent_us: u32::from_be_bytes([t0, t1, t2, t3]),
        };
        if matches!(header.kind, SegmentKind::Data) && !header.is_segment_of_a_chunk() {
            return Err(HeaderError::Shape);
        }
        Ok(header)
    }

    /// Reads the header of a whole datagram and checks the datagram's length against it (W-5).
    ///
    /// # Errors
    /// [`HeaderError`] names the first rule that does not hold.
    #[inline]
    pub fn parse_datagram(datagram: &[u8]) -> Result<Self, HeaderError> {
        if datagram.len() < OVERHEAD_BYTES {
            return Err(HeaderError::Truncated);
        }
        let header = Self::parse(datagram)?;
        if header.announces(datagram.len()) { Ok(header) } else { Err(HeaderError::Length) }
    }

    /// Whether a datagram with this header may have `datagram_bytes` (W-5).
    #[inline]
    #[must_use]
    pub fn announces(&self, datagram_bytes: usize) -> bool {
        //= W-5
        //# A data datagram is exactly as long as its fields say: 48 bytes plus min(stride, chunk
        //# bytes − index × stride). Replies and openings are 48 bytes.
        match self.kind {
            SegmentKind::Data => datagram_bytes.checked_sub(OVERHEAD_BYTES) == Some(self.payload_bytes()),
            SegmentKind::Probe => datagram_bytes >= OVERHEAD_BYTES,
            SegmentKind::ProbeReply | SegmentKind::Opening => datagram_bytes == OVERHEAD_BYTES,
        }
    }

    /// Writes the header into the first bytes of a datagram.
    #[inline]
    pub fn write(&self, out: &mut [u8; HEADER_BYTES]) {
        out[0] = VERSION;
        out[1] = self.kind as u8;
        out[2..4].copy_from_slice(&self.stride.to_be_bytes());
        out[4..8].copy_from_slice(&self.flow_id.to_be_bytes());
        out[8..16].copy_from_slice(&self.packet_number.to_be_bytes());
        out[16..20].copy_from_slice(&self.chunk.to_be_bytes());
        out[20..24].copy_from_slice(&self.chunk_bytes.to_be_bytes());
        out[24..28].copy_from_slice(&self.index.to_be_bytes());
        out[28..32].copy_from_slice(&self.sent_us.to_be_bytes());
    }

    /// Where the payload of a data segment begins in its chunk.
    #[inline]
    #[must_use]
    pub fn offset(&self) -> usize {
        //= W-1
        //# A datagram is self-contained: its header says where its payload belongs, independent of
        //# any other datagram.
        // Cannot wrap: in a parsed header, the offset is below the chunk's size.
        (self.index as usize).wrapping_mul(self.stride as usize)
    }

    /// Payload bytes of a data segment: the stride, or the rest of the chunk.
    #[inline]
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        (self.chunk_bytes as usize).saturating_sub(self.offset()).min(self.stride as usize)
    }

    /// The key epoch that seals this packet number (W-7).
    #[inline]
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        //= W-7
        //# The key epoch is packet number >> 22.
        self.packet_number >> EPOCH_BITS
    }

    #[inline]
    fn is_segment_of_a_chunk(&self) -> bool {
        //= W-4
        //# A data header is valid if the stride is at least 512, the chunk is at most 16 MiB, and
        //# the segment starts inside the chunk.
        let offset = u64::from(self.index).wrapping_mul(u64::from(self.stride));
        self.stride >= STRIDE_MIN && self.chunk_bytes <= CHUNK_BYTES_MAX && offset < u64::from(self.chunk_bytes)
    }
}

/// How many segments of `stride` payload bytes a chunk has.
#[inline]
#[must_use]
pub const fn segment_count(chunk_bytes: u32, stride: u16) -> u32 {
    chunk_bytes.div_ceil(stride as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn data_header() -> Header {
        Header {
            kind: SegmentKind::Data,
            stride: 1424,
            flow_id: 0xA1B2_C3D4,
            packet_number: (7 << EPOCH_BITS) + 3,
            chunk: 42,
            chunk_bytes: 4 << 20,
            index: 11,
            sent_us: 99,
        }
    }

    #[test]
    fn a_written_header_is_read_back() {
        //= W-1
        //# A datagram is self-contained: its header says where its payload belongs, independent of
        //# any other datagram.
        let header = data_header();
        let mut datagram = vec![0; OVERHEAD_BYTES + header.payload_bytes()];
        header.write(datagram.first_chunk_mut().unwrap());
        assert_eq!(Header::parse_datagram(&datagram), Ok(header));
        assert_eq!(header.epoch(), 7);
        assert_eq!(header.offset(), 11 * 1424);
    }

    #[test]
    fn the_last_segment_is_what_is_left() {
        let header = Header { index: segment_count(4 << 20, 1424) - 1, ..data_header() };
        assert_eq!(header.payload_bytes(), (4 << 20) % 1424);
    }

    #[test]
    fn each_rule_has_its_error() {
        //= W-2
        //# The version is 1. Datagrams of another version are counted and dropped.
        //= W-4
        //# A data header is valid if the stride is at least 512, the chunk is at most 16 MiB, and
        //# the segment starts inside the chunk.
        //= W-5
        //# A data datagram is exactly as long as its fields say: 48 bytes plus min(stride, chunk
        //# bytes − index × stride). Replies and openings are 48 bytes.
        let mut datagram = vec![0; OVERHEAD_BYTES + 1424];
        data_header().write(datagram.first_chunk_mut().unwrap());
        let error = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut changed = datagram.clone();
            change(&mut changed);
            Header::parse_datagram(&changed).unwrap_err()
        };
        assert_eq!(error(&|d| d.truncate(OVERHEAD_BYTES - 1)), HeaderError::Truncated);
        assert_eq!(error(&|d| d[0] = 2), HeaderError::Version);
        assert_eq!(error(&|d| d[1] = 9), HeaderError::Kind);
        assert_eq!(error(&|d| d[2..4].fill(0)), HeaderError::Shape);
        assert_eq!(error(&|d| d[20..24].fill(0xff)), HeaderError::Shape);
        assert_eq!(error(&|d| d[24..28].fill(0xff)), HeaderError::Shape);
        assert_eq!(error(&|d| d.push(0)), HeaderError::Length);
        assert_eq!(error(&|d| d[1] = SegmentKind::ProbeReply as u8), HeaderError::Length);
    }

    proptest! {
        #[test]
        fn parsing_never_panics_and_never_reaches_past_the_chunk(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            if let Ok(header) = Header::parse(&bytes)
                && header.kind == SegmentKind::Data
            {
                prop_assert!(header.offset() + header.payload_bytes() <= header.chunk_bytes as usize);
                prop_assert!(header.payload_bytes() > 0);
            }
        }

        #[test]
        fn write_and_parse_are_inverse(stride in STRIDE_MIN..=u16::MAX, flow_id: u32, packet_number: u64, chunk: u32,
                                       chunk_bytes in 1..=CHUNK_BYTES_MAX, at: u32, sent_us: u32) {
            let header = Header { kind: SegmentKind::Data, stride, flow_id, packet_number, chunk, chunk_bytes,
                                  index: at % segment_count(chunk_bytes, stride), sent_us };
            let mut bytes = [0; HEADER_BYTES];
            header.write(&mut bytes);
            prop_assert_eq!(Header::parse(&bytes), Ok(header));
        }
    }
}
