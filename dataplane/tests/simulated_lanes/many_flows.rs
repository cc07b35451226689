//! A lane with all the flows that it can have, each of which has the longest report to write in the
//! same turn: 256 of them do not fit into the ring of events, and the control process may be late
//! in reading it.

use std::collections::HashMap;

use culvert_link::layout::FLOWS_PER_LANE;
use culvert_protocol::feedback::{REPORT_BYTES_MAX, Report};
use culvert_protocol::receiver_flow::Received;
use culvert_protocol::wire::{OVERHEAD_BYTES, TAG_BYTES};

use super::*;

/// Packets that never came, between two that did: ranges that take long numbers.
const GAP: u64 = 20_000;
/// As many as a flow lists.
const RANGES: u64 = 2_048;

/// A flow that has as much to report as there can be.
fn flow_with_long_report(slot: u16, partner: SocketAddr, now_ns: u64) -> Box<ReceiveFlow> {
    let flow_id = 0x0500_0000 | u32::from(slot);
    let schedule = |direction| KeySchedule::new(Cipher::Aes256Gcm, &Secret::new(&[2; 32]), flow_id, direction);
    let (mut forward, mut reverse) = (schedule(Direction::Forward), schedule(Direction::Reverse));
    let config =
        ReceiverConfig { flow_id, chunk_count: 1, chunk_bytes_max: CHUNK_BYTES, allowance: 0, assemblies_max: 1 };
    let mut protocol = ReceiverFlow::new(&config, &mut forward, &mut reverse, wire_us(now_ns));
    let (_, mut key) = schedule(Direction::Forward).next_key();
    let mut memory = culvert_protocol::heap_buffers::HeapBuffers::new(0, CHUNK_BYTES);
    let mut epochs = schedule(Direction::Forward);
    let (mut epoch, _) = epochs.next_key();
    for number in 0..RANGES {
        let packet_number = number * GAP;
        while epoch < packet_number >> culvert_protocol::wire::EPOCH_BITS {
            (epoch, key) = epochs.next_key();
            if let Some(wanted) = protocol.wants_key() {
                protocol.push_key(wanted, schedule_key(&mut forward, wanted));
            }
        }
        let header = Header {
            kind: SegmentKind::Probe,
            stride: 0,
            flow_id,
            packet_number,
            chunk: 0,
            chunk_bytes: 0,
            index: 0,
            sent_us: 0,
        };
        let mut datagram = [0; OVERHEAD_BYTES];
        let (clear, sealed) = datagram.split_first_chunk_mut::<HEADER_BYTES>().unwrap();
        assert_eq!(sealed.len(), TAG_BYTES);
        header.write(clear);
        key.seal(packet_number, clear, &[], sealed);
        let received = protocol.receive(&datagram, &header, &mut memory, 0);
        assert_eq!(received, Received::Probe(header), "packet {packet_number}");
    }
    Box::new(ReceiveFlow::new(ReceiveSlot(slot), protocol, partner, 500, true, CHUNK_BYTES))
}

fn schedule_key(schedule: &mut KeySchedule, epoch: u64) -> culvert_protocol::seal::PacketKey {
    schedule.key_of(epoch).expect("a key of the epochs to come")
}

#[test]
fn reports_of_all_flows_go_in_turn_however_late_they_are_read() {
    let network = SimNetwork::new(1, SimPath::default());
    let partner = "10.0.0.1:1".parse().unwrap();
    let mut side = Side::new(&network, "10.0.0.2:2".parse().unwrap(), 8);
    for slot in 0..FLOWS_PER_LANE {
        let flow = flow_with_long_report(slot, partner, network.now_ns());
        assert!(side.handoff.deliver(ToLane::Receive(flow)));
    }
    side.lane.turn();
    network.advance(1_000_000);
    // Without a reader, the lane continues until the ring is full, and loses nothing.
    for _ in 0..100 {
        side.lane.turn();
    }
    let mut reports: HashMap<ReceiveSlot, u32> = HashMap::new();
    let mut longest = 0;
    for _ in 0..400 {
        for bytes in side.take_events() {
            match postcard::from_bytes::<Event<'_>>(&bytes).unwrap() {
                Event::Report { flow, bytes } => {
                    let report = Report::parse(bytes).expect("the lane writes reports that parse");
                    let count = reports.entry(flow).or_default();
                    assert_eq!(report.summary.sequence, u64::from(*count), "a report of {flow:?} is missing");
                    *count += 1;
                    longest = longest.max(bytes.len());
                }
                other => panic!("an event that nobody expected: {other:?}"),
            }
        }
        side.lane.turn();
        network.advance(100_000);
    }
    assert!(longest > REPORT_BYTES_MAX / 2, "{longest} bytes are no long report");
    assert_eq!(reports.len(), usize::from(FLOWS_PER_LANE), "a flow never reported");
    assert!(reports.values().all(|&count| count >= 1));
}
