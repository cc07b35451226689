//! The tap against its reader, in one process.

use proptest::prelude::*;

use super::*;

fn ends(snap_bytes: usize) -> (Tap, Reader) {
    let memory = Arc::new(SharedMemory::create("test", CAPTURE_BYTES, false).unwrap());
    (Tap::new(memory.clone(), snap_bytes), Reader::new(memory))
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    direction: Direction,
    layer: Layer,
    whole_bytes: usize,
    bytes: Vec<u8>,
}

fn drain(reader: &mut Reader) -> Vec<Seen> {
    let mut seen = Vec::new();
    let mut take = |packet: &Packet<'_>| {
        let Packet { direction, layer, whole_bytes, bytes, .. } = *packet;
        seen.push(Seen { direction, layer, whole_bytes, bytes: bytes.to_vec() });
    };
    while reader.drain(8, &mut take).unwrap() > 0 {}
    seen
}

fn layers() -> impl Strategy<Value = Layer> {
    let v4 = any::<([u8; 4], u16)>().prop_map(SocketAddr::from);
    // Mapped addresses are written as the IPv4 addresses that they are, as the sockets do.
    let v6 = any::<([u8; 16], u16, u32)>().prop_map(|(mut ip, port, scope)| {
        ip[0] |= 0x20;
        std::net::SocketAddrV6::new(ip.into(), port, 0, scope).into()
    });
    let partner = prop_oneof![v4, v6];
    let datagram = (any::<u16>(), partner).prop_map(|(local_port, partner)| Layer::Datagram { local_port, partner });
    prop_oneof![Just(Layer::Frame), datagram]
}

proptest! {
    #[test]
    fn packets_come_out_as_they_went_in_and_cut(
        snap_bytes in prop_oneof![1usize..300, Just(SNAP_BYTES_MAX)],
        packets in proptest::collection::vec((any::<bool>(), layers(), 0usize..20_000, any::<bool>()), 1..40))
    {
        let (mut tap, mut reader) = ends(snap_bytes);
        let mut expected = Vec::new();
        for (number, (is_sent, layer, bytes, ends_batch)) in packets.into_iter().enumerate() {
            let direction = if is_sent { Direction::Sent } else { Direction::Received };
            let packet = vec![number as u8; bytes];
            tap.add(direction, layer, &packet);
            if ends_batch {
                tap.flush();
            }
            let bytes = packet[..bytes.min(snap_bytes)].to_vec();
            expected.push(Seen { direction, layer, whole_bytes: packet.len(), bytes });
        }
        tap.flush();
        prop_assert_eq!(drain(&mut reader), expected);
        prop_assert_eq!(reader.dropped(), 0);
    }

    #[test]
    fn nonsense_in_a_record_is_broken_not_a_panic(record in proptest::collection::vec(any::<u8>(), 1..200)) {
        let (mut tap, mut reader) = ends(100);
        tap.record[..record.len()].copy_from_slice(&record);
        tap.filled = record.len();
        tap.flush();
        let mut bytes = 0;
        if reader.drain(1, |packet| bytes += HEAD_BYTES + packet.bytes.len()).is_ok() {
            prop_assert_eq!(bytes, record.len());
        }
    }
}

#[test]
fn what_finds_no_room_is_dropped_and_counted() {
    let (mut tap, mut reader) = ends(1_000);
    let mut taken = 0u64;
    // Without a reader, batches are eventually dropped, as a whole.
    while tap.dropped == 0 {
        for _ in 0..7 {
            tap.frame(Direction::Sent, &[7; 1_000]);
        }
        tap.flush();
        taken += 7;
    }
    assert_eq!(reader.dropped(), 7);
    let seen = drain(&mut reader);
    assert_eq!(seen.len() as u64, taken - 7);
    assert!(seen.len() * 1_000 > RING_BYTES / 2, "the ring was full with {} packets", seen.len());
    // Read empty, it takes packets again.
    tap.frame(Direction::Received, &[8; 10]);
    tap.flush();
    assert_eq!(drain(&mut reader).len(), 1);
    assert_eq!(reader.dropped(), 7);
}

#[test]
fn a_run_is_cut_into_its_datagrams() {
    let (mut tap, mut reader) = ends(10);
    let partner = "10.0.0.2:7273".parse().unwrap();
    tap.datagrams(Direction::Sent, 4_000, partner, &[1; 2_500], 1_000);
    tap.flush();
    let whole: Vec<_> = drain(&mut reader).iter().map(|seen| (seen.whole_bytes, seen.bytes.len())).collect();
    assert_eq!(whole, [(1_000, 10), (1_000, 10), (500, 10)]);
}

#[test]
fn the_end_comes_after_the_last_packet() {
    let (mut tap, mut reader) = ends(10);
    assert_eq!(reader.state(), State::Waiting);
    tap.begin();
    assert_eq!(reader.state(), State::Running);
    tap.frame(Direction::Sent, &[1; 60]);
    tap.end();
    assert_eq!(reader.state(), State::Ended);
    assert_eq!(drain(&mut reader).len(), 1);
}
