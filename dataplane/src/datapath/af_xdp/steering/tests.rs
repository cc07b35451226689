//! The committed object, parsed without privileges; the program, run on a table of packets with
//! `BPF_PROG_TEST_RUN`.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use culvert_link::kernel_bypass::NextHop;
use culvert_protocol::wire::{HEADER_BYTES, Header, OVERHEAD_BYTES, SegmentKind};

use super::*;
use crate::datapath::af_xdp::headers::Template;
use crate::datapath::af_xdp::socket::{SocketOptions, XdpSocket};
use crate::datapath::af_xdp::umem::{Umem, UmemLayout};

const DROP: u32 = 1;
const PASS: u32 = 2;
const REDIRECT: u32 = 4;
const PORT: u16 = 7_273;
const FLOW: u32 = 0xAB_CD_01_02;

/// The program, loaded; `None`, and why, where that cannot be.
fn loaded() -> Option<Steering> {
    let missing = crate::datapath::af_xdp::privilege::missing();
    if !missing.is_empty() {
        eprintln!("skipped: {} missing", missing.join(" and "));
        return None;
    }
    Some(Steering::load().unwrap())
}

fn addresses(v6: bool) -> (IpAddr, IpAddr) {
    if v6 {
        let address = |last| IpAddr::from(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, last));
        (address(1), address(2))
    } else {
        (Ipv4Addr::new(10, 96, 0, 1).into(), Ipv4Addr::new(10, 96, 0, 2).into())
    }
}

/// A segment of `FLOW` as the lane of another host sends it.
fn packet(v6: bool, vlan: Option<u16>, header: &Header, datagram_bytes: usize) -> Vec<u8> {
    let (source, destination) = addresses(v6);
    let hop = NextHop { source_mac: [2, 0, 0, 0, 0, 1], destination_mac: [2, 0, 0, 0, 0, 2], vlan, source, mtu: 9_000 };
    let template = Template::new(&hop, 40_000, SocketAddr::new(destination, PORT)).unwrap();
    let mut frame = vec![0; template.bytes() + datagram_bytes];
    if let Some(clear) = frame[template.bytes()..].first_chunk_mut::<HEADER_BYTES>() {
        header.write(clear);
    }
    template.write(&mut frame);
    frame
}

fn probe() -> Header {
    Header {
        kind: SegmentKind::Probe,
        stride: 0,
        flow_id: FLOW,
        packet_number: 1,
        chunk: 0,
        chunk_bytes: 0,
        index: 0,
        sent_us: 0,
    }
}

fn data() -> Header {
    Header { kind: SegmentKind::Data, stride: 1_424, chunk_bytes: 4 << 20, ..probe() }
}

#[test]
fn the_committed_object_is_what_the_data_plane_expects() {
    let object = aya_obj::Object::parse(OBJECT).unwrap();
    let program = &object.programs[PROGRAM];
    assert!(
        matches!(program.section, aya_obj::ProgramSection::Xdp { frags: true, .. }),
        "multi-buffer packets need xdp.frags: {:?}",
        program.section
    );
    // The compiler's own sections begin with a dot.
    let mut maps: Vec<_> = object.maps.keys().map(String::as_str).filter(|name| !name.starts_with('.')).collect();
    maps.sort_unstable();
    assert_eq!(maps, ["ADDRESSES", "ATTRIBUTION", "FLOWS", "PORTS", "QUEUE_LANES", "SOCKETS", "SOURCES", "VERDICTS"]);
    let sizes = |name: &str| (object.maps[name].key_size(), object.maps[name].value_size());
    assert_eq!((sizes("PORTS"), sizes("FLOWS"), sizes("ADDRESSES")), ((2, 4), (8, 1), (16, 1)));
    assert_eq!((sizes("VERDICTS"), sizes("QUEUE_LANES"), sizes("SOURCES")), ((4, 64), (4, 4), (16, 8)));
}

#[test]
fn the_cost_is_of_the_fates_that_it_names() {
    if loaded().is_none() {
        return;
    }
    // A packet of another fate is an error.
    cost::measure(100).unwrap();
}

#[test]
fn each_packet_meets_its_fate() {
    let Some(mut steering) = loaded() else { return };
    let umem = Umem::new(UmemLayout { receive_frames: 4, transmit_frames: 4, transmit_chunks: 1 }).unwrap();
    let options = SocketOptions { ring_entries: 4, busy_poll_us: None, multi_buffer: true };
    let (socket, _rings) = XdpSocket::open(&umem, &options, false).unwrap();
    steering.register_queue(0, 3, &socket).unwrap();
    steering.register_port(PORT, 3).unwrap();
    steering.register_port(PORT + 1, 4).unwrap();
    steering.add_flow(3, FLOW).unwrap();
    steering.add_flow(4, FLOW).unwrap();
    for v6 in [false, true] {
        steering.register_address(addresses(v6).1).unwrap();
    }
    let mut expected = Verdicts::default();
    let mut run =
        |steering: &mut Steering, what: &str, frame: &[u8], action: u32, count: fn(&mut Verdicts) -> &mut u64| {
            assert_eq!(steering.test_run(frame, 1).unwrap().0, action, "{what}");
            *count(&mut expected) += 1;
            assert_eq!(steering.verdicts(), expected, "{what}");
        };

    for v6 in [false, true] {
        for vlan in [None, Some(7)] {
            let at = if vlan.is_some() { 18 } else { 14 };
            let udp = at + if v6 { 40 } else { 20 };
            let name = |what: &str| format!("{what}, {} vlan {vlan:?}", if v6 { "IPv6" } else { "IPv4" });
            let segment = packet(v6, vlan, &data(), OVERHEAD_BYTES + 1_424);
            let changed = |change: &dyn Fn(&mut Vec<u8>)| {
                let mut frame = segment.clone();
                change(&mut frame);
                frame
            };
            run(&mut steering, &name("known flow"), &segment, REDIRECT, |v| &mut v.redirected);
            let small_probe = packet(v6, vlan, &probe(), OVERHEAD_BYTES);
            run(&mut steering, &name("smallest probe"), &small_probe, REDIRECT, |v| &mut v.redirected);
            let unknown = packet(v6, vlan, &Header { flow_id: FLOW + 1, ..data() }, OVERHEAD_BYTES + 1_424);
            run(&mut steering, &name("unknown flow"), &unknown, DROP, |v| &mut v.unknown_flow);

            // On the port and no segment.
            let version = changed(&|f| f[udp + 8] = 9);
            run(&mut steering, &name("other version"), &version, DROP, |v| &mut v.malformed);
            let short = packet(v6, vlan, &probe(), OVERHEAD_BYTES - 1);
            run(&mut steering, &name("truncated segment"), &short, DROP, |v| &mut v.malformed);
            let empty = packet(v6, vlan, &probe(), 0);
            run(&mut steering, &name("empty datagram"), &empty, DROP, |v| &mut v.malformed);
            let long = packet(v6, vlan, &data(), OVERHEAD_BYTES + 1_425);
            run(&mut steering, &name("longer than announced"), &long, DROP, |v| &mut v.malformed);
            let lying = changed(&|f| f[udp + 5] ^= 1);
            run(&mut steering, &name("UDP length against IP length"), &lying, DROP, |v| &mut v.malformed);

            // One that is not ours.
            let other_port = changed(&|f| f[udp + 2..udp + 4].copy_from_slice(&22u16.to_be_bytes()));
            run(&mut steering, &name("other port"), &other_port, PASS, |v| &mut v.passed);
            let other_lane = changed(&|f| f[udp + 2..udp + 4].copy_from_slice(&(PORT + 1).to_be_bytes()));
            run(&mut steering, &name("other lane"), &other_lane, PASS, |v| &mut v.wrong_queue);
            let other_host = changed(&|f| f[udp - 1] ^= 0x40);
            run(&mut steering, &name("other host"), &other_host, PASS, |v| &mut v.passed);
            let tcp = changed(&|f| f[if v6 { at + 6 } else { at + 9 }] = 6);
            run(&mut steering, &name("TCP"), &tcp, PASS, |v| &mut v.passed);
            let cut = &segment[..udp + 3];
            run(&mut steering, &name("cut in the UDP header"), cut, PASS, |v| &mut v.passed);
            let cut = &segment[..udp - 3];
            run(&mut steering, &name("cut in the IP header"), cut, PASS, |v| &mut v.passed);
            if v6 {
                let extension = changed(&|f| f[at + 6] = 0);
                run(&mut steering, &name("hop-by-hop options"), &extension, PASS, |v| &mut v.passed);
                let fragment = changed(&|f| f[at + 6] = 44);
                run(&mut steering, &name("fragment"), &fragment, PASS, |v| &mut v.passed);
            } else {
                let options = changed(&|f| f[at] = 0x46);
                run(&mut steering, &name("options"), &options, PASS, |v| &mut v.passed);
                let first_fragment = changed(&|f| f[at + 6] = 0x20);
                run(&mut steering, &name("first fragment"), &first_fragment, PASS, |v| &mut v.passed);
                let last_fragment = changed(&|f| f[at + 7] = 9);
                run(&mut steering, &name("last fragment"), &last_fragment, PASS, |v| &mut v.passed);
            }
        }
        let mut two_tags = packet(v6, Some(7), &data(), OVERHEAD_BYTES + 1_424);
        two_tags.splice(12..12, [0x88, 0xa8, 0, 9]);
        run(&mut steering, "two VLAN tags", &two_tags, PASS, |v| &mut v.passed);
    }
    let mut arp = vec![0xff; 60];
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    run(&mut steering, "ARP", &arp, PASS, |v| &mut v.passed);

    let sources = steering.sources();
    let dropped: u64 = sources.iter().map(|&(_, packets)| packets).sum();
    assert_eq!(dropped, expected.malformed + expected.unknown_flow, "every drop has its source: {sources:?}");
    assert!(sources.iter().any(|&(source, _)| source == addresses(false).0), "{sources:?}");
}

/// A flood's packets: of one source each.
fn flood_from(sources: impl IntoIterator<Item = u32>, steering: &mut Steering) -> usize {
    let mut frame = packet(false, None, &data(), OVERHEAD_BYTES + 1_424);
    let mut packets = 0;
    for source in sources {
        // The source address; the program does not look at checksums.
        frame[26..30].copy_from_slice(&source.to_be_bytes());
        assert_eq!(steering.test_run(&frame, 1).unwrap().0, DROP);
        packets += 1;
    }
    packets
}

/// Packets of the table's sources that fit `wanted`.
fn attributed(steering: &Steering, wanted: impl Fn(u32) -> bool) -> u64 {
    let of = |address| if let IpAddr::V4(address) = address { Some(u32::from(address)) } else { None };
    let sources = steering.sources();
    sources.iter().filter(|&&(source, _)| of(source).is_some_and(&wanted)).map(|&(_, packets)| packets).sum()
}

/// The second in which the program believes to be: 2^30 ns of the coarse clock.
fn program_second() -> i128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    (i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)) >> 30
}

fn await_second_after(second: i128) {
    while program_second() == second {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

#[test]
fn a_flood_of_forged_sources_is_dropped_whole_and_attributed_in_part() {
    const FORGED: u32 = 0x0b00_0000;
    const REAL: u32 = 0x0c00_0001;
    const FLOOD: u32 = 3_000;
    if loaded().is_none() {
        return;
    }
    // The limit counts for each core, so the flood stays on one.
    assert!(core_affinity::set_for_current(core_affinity::get_core_ids().unwrap()[0]));
    let flood_within_a_second = || {
        let mut steering = loaded()?;
        steering.register_port(PORT, 0).unwrap();
        steering.register_address(addresses(false).1).unwrap();
        await_second_after(program_second());
        let second = program_second();
        let packets = flood_from(FORGED..FORGED + FLOOD, &mut steering);
        assert_eq!(steering.verdicts().unknown_flow, packets as u64, "every packet is counted and dropped");
        (program_second() == second).then_some(steering)
    };
    let Some(mut steering) = (0..20).find_map(|_| flood_within_a_second()) else {
        panic!("{FLOOD} runs of the program take a second each time");
    };
    let flood = attributed(&steering, |source| source >> 24 == FORGED >> 24);
    let beyond = attributed(&steering, |source| (FORGED + 1_000..FORGED + FLOOD).contains(&source));
    assert!(flood > 500 && beyond == 0, "{flood} were attributed, {beyond} of them beyond the first thousand");
    assert!(steering.sources().len() <= 1_024, "the table has {} sources", steering.sources().len());
    // A later request gets it all the same.
    await_second_after(program_second());
    flood_from([REAL; 5], &mut steering);
    assert_eq!(attributed(&steering, |source| source == REAL), 5, "{:?}", &steering.sources()[..3]);
}

#[test]
fn a_loud_source_takes_nothing_from_others() {
    const LOUD: u32 = 0x0b00_0001;
    const QUIET: u32 = 0x0c00_0001;
    let Some(mut steering) = loaded() else { return };
    steering.register_port(PORT, 0).unwrap();
    steering.register_address(addresses(false).1).unwrap();
    flood_from([LOUD; 5_000], &mut steering);
    flood_from([QUIET; 3], &mut steering);
    flood_from([LOUD; 10], &mut steering);
    let of = |wanted| attributed(&steering, |source| source == wanted);
    assert_eq!((of(LOUD), of(QUIET)), (5_010, 3));
}

#[test]
fn flows_come_and_go_while_it_runs() {
    let Some(mut steering) = loaded() else { return };
    steering.register_port(PORT, 0).unwrap();
    steering.register_address(addresses(false).1).unwrap();
    let frame = packet(false, None, &data(), OVERHEAD_BYTES + 1_424);
    let action = |steering: &mut Steering| steering.test_run(&frame, 1).unwrap().0;
    assert_eq!(action(&mut steering), DROP);
    // Two flows with one id, which two partners may choose: the first that goes does not take the
    // other along.
    steering.add_flow(0, FLOW).unwrap();
    steering.add_flow(0, FLOW).unwrap();
    assert_eq!(action(&mut steering), PASS, "no queue has a lane yet");
    steering.remove_flow(0, FLOW);
    assert_eq!(action(&mut steering), PASS);
    steering.remove_flow(0, FLOW);
    steering.remove_flow(0, FLOW);
    assert_eq!(action(&mut steering), DROP);
}

#[test]
fn what_a_driver_refuses_is_said_with_its_remedy() {
    let said = |errno: i32| {
        let io_error = io::Error::from_raw_os_error(errno);
        attach_error(&aya::sys::SyscallError { call: "bpf_link_create", io_error }.into(), 0).to_string()
    };
    for (errno, words) in [
        (libc::ERANGE, ["MTU", "3498"]),
        (libc::EOPNOTSUPP, ["driver", "no XDP"]),
        (libc::EBUSY, ["already has an XDP program", "ip link set DEVICE xdp off"]),
        (libc::EEXIST, ["already has an XDP program", "stop its owner"]),
        (libc::ENODEV, ["interface", "gone"]),
        (libc::EINVAL, ["lro off", "ethtool -L"]),
    ] {
        let said = said(errno);
        assert!(words.iter().all(|word| said.contains(word)), "{errno}: {said}");
    }
}
