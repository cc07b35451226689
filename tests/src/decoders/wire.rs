//! What arrives over UDP: segments, as a socket or an AF_XDP queue hands them over, and the
//! feedback in reports.

use culvert_dataplane::datapath::af_xdp::headers;
use culvert_protocol::arrivals::PacketRange;
use culvert_protocol::feedback::{REPORT_BYTES_MAX, Report, Summary, write_report};
use culvert_protocol::wire::{EPOCH_BITS, HEADER_BYTES, Header, OVERHEAD_BYTES, SegmentKind};

pub(super) fn datagram_samples() -> Vec<Vec<u8>> {
    let short = segment(SegmentKind::Data, 1, 1_500, OVERHEAD_BYTES + 76);
    vec![
        segment(SegmentKind::Data, 11, 4 << 20, OVERHEAD_BYTES + 1_424),
        segment(SegmentKind::Probe, 0, 0, 1_472),
        segment(SegmentKind::ProbeReply, 1_472, 0, OVERHEAD_BYTES),
        segment(SegmentKind::Opening, 0, 0, OVERHEAD_BYTES),
        frame("192.0.2.1", "192.0.2.2:7273", None, &short),
        frame("fd96::1", "[fd96::2]:7273", Some(7), &short),
        short,
    ]
}

/// A datagram's header, and the same bytes as a frame off a NIC's queue.
pub(super) fn datagram(bytes: &[u8]) {
    header(bytes);
    if let Some(datagram) = headers::parse(bytes) {
        assert!(datagram.payload.len() < bytes.len());
        header(datagram.payload);
    }
}

pub(super) fn report_samples() -> Vec<Vec<u8>> {
    let summary = Summary {
        flow_id: 7,
        sequence: 3,
        next_packet: 10_000,
        decided_below: 9_000,
        credit: 12,
        ..Summary::default()
    };
    let mut out = [0; REPORT_BYTES_MAX];
    let lost = [PacketRange { first: 100, count: 3 }, PacketRange { first: 8_000, count: 500 }];
    let (bytes, ..) = write_report(&mut out, &summary, &lost, [1, 5, 70_000].into_iter());
    let full = out[..bytes].to_vec();
    let (bytes, ..) = write_report(&mut out, &Summary::default(), &[], std::iter::empty());
    vec![full, out[..bytes].to_vec()]
}

pub(super) fn report(bytes: &[u8]) {
    let Ok(report) = Report::parse(bytes) else { return };
    let mut end = 0;
    for range in report.lost() {
        assert!(range.count > 0 && range.first >= end && range.end() <= report.summary.next_packet);
        end = range.end();
    }
    assert!(report.completed().count() <= bytes.len());
}

fn segment(kind: SegmentKind, index: u32, chunk_bytes: u32, bytes: usize) -> Vec<u8> {
    let header = Header {
        kind,
        stride: 1_424,
        flow_id: 0xA1B2_C3D4,
        packet_number: (7 << EPOCH_BITS) + 3,
        chunk: 42,
        chunk_bytes,
        index,
        sent_us: 99,
    };
    let mut datagram = vec![0; bytes];
    if let Some(place) = datagram.first_chunk_mut::<HEADER_BYTES>() {
        header.write(place);
    }
    datagram
}

/// An Ethernet frame around a datagram.
fn frame(source: &str, to: &str, vlan: Option<u16>, datagram: &[u8]) -> Vec<u8> {
    let hop = culvert_link::kernel_bypass::NextHop {
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        vlan,
        source: source.parse().expect("an address"),
        mtu: 9_000,
    };
    let template = headers::Template::new(&hop, 7_273, to.parse().expect("an address")).expect("one family");
    let mut packet = vec![0; template.bytes()];
    packet.extend(datagram);
    template.write(&mut packet);
    packet
}

fn header(bytes: &[u8]) {
    let Ok(header) = Header::parse_datagram(bytes) else { return };
    assert!(bytes.len() >= OVERHEAD_BYTES);
    if header.kind == SegmentKind::Data {
        assert_eq!(bytes.len(), OVERHEAD_BYTES + header.payload_bytes());
        assert!(header.offset() + header.payload_bytes() <= header.chunk_bytes as usize);
    }
    let mut again = [0; HEADER_BYTES];
    header.write(&mut again);
    assert_eq!(again, bytes[..HEADER_BYTES]);
}
