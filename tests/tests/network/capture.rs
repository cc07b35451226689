//! `culvert capture` and the dissector: what lanes send and receive, on AF_XDP and on UDP sockets,
//! as tshark decodes it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use culvert_protocol::wire::{HEADER_BYTES, Header, SegmentKind};
use culvert_tests::capture::{Capturing, Packet, counts_of, dissector, has_tshark, packets_of};
use culvert_tests::node::{Pair, kill, wait_for};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::random::Random;
use culvert_tests::sides::Sides;
use rustix::process::Signal;

const CHUNK_BYTES: u64 = 4 << 20;
const FILE_BYTES: u64 = 21 * 1_000_003;
const DATA: u8 = SegmentKind::Data as u8;
const REPLY: u8 = SegmentKind::ProbeReply as u8;

fn of_kind(packets: &[Packet], kind: u8) -> Vec<&Packet> {
    packets.iter().filter(|packet| packet.is_kind(kind)).collect()
}

/// The distinct values of a field.
fn values<'a>(packets: &[&'a Packet], name: &str) -> BTreeSet<&'a str> {
    packets.iter().map(|packet| packet.text(name)).collect()
}

/// Compares data segments with the file that they carried, and returns their flows.
fn check_segments<'a>(data: &[&'a Packet], file_bytes: u64) -> BTreeSet<&'a str> {
    let mut places = BTreeMap::new();
    for packet in data {
        let place = (packet.number("culvert.chunk"), packet.number("culvert.offset"));
        let bytes = packet.number("culvert.payload_bytes");
        let before = places.insert(place, bytes);
        assert!(before.is_none_or(|before| before == bytes), "{packet:?} had {before:?} bytes before");
    }
    let chunks: BTreeSet<u64> = places.keys().map(|(chunk, _)| *chunk).collect();
    assert_eq!(chunks, (0..file_bytes.div_ceil(CHUNK_BYTES)).collect());
    assert_eq!(places.values().sum::<u64>(), file_bytes, "the segments are not the file");
    values(data, "culvert.flow_id")
}

/// Checks that a sender's capture shows each flow's segments in the order of their numbers.
fn check_order(data: &[&Packet]) {
    let mut last = BTreeMap::new();
    for packet in data {
        let number = packet.number("culvert.packet_number");
        let before = last.insert(packet.text("culvert.flow_id"), number);
        assert!(before.is_none_or(|before| before < number), "{packet:?} came after {before:?}");
    }
}

fn check_sound(packets: &[Packet]) {
    let unsound: Vec<_> = packets.iter().filter(|packet| !packet.is_sound()).take(3).collect();
    assert!(unsound.is_empty(), "{unsound:?}");
}

/// Checks that as many segments arrived as a result says were sent, less those that were lost and
/// sent again.
fn check_count(data: &[&Packet], result: &serde_json::Value) {
    let (sent, resent) = (result["segments_sent"].as_u64().unwrap(), result["segments_resent"].as_u64().unwrap());
    assert!((sent - resent..=sent).contains(&(data.len() as u64)), "{} segments of {result}", data.len());
}

fn largest_frame(data: &[&Packet]) -> u64 {
    data.iter().map(|packet| packet.number("frame.len")).max().unwrap()
}

/// Starts a capture at the node of a lab's second side.
fn capture_there(sides: &Sides, file: &Path, options: &[&str]) -> Capturing {
    let mut capturing = command(&sides.pair.there, ["capture"]);
    capturing.args(options).arg(file);
    Capturing::start(&mut sides.lab.inside(1, &capturing), file.with_extension("log"))
}

fn one(value: &str) -> BTreeSet<&str> {
    BTreeSet::from([value])
}

fn mac_of(sides: &Sides, side: usize) -> String {
    let path = format!("/sys/class/net/{}/address", sides.lab.link(side));
    let output = sides.lab.inside(side, Command::new("cat").arg(path)).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn frames_of_af_xdp_are_captured_as_they_are_on_the_wire() {
    if !has_tshark() {
        return;
    }
    for (address, there, here) in [("10.96.0.2", "10.96.0.2", "10.96.0.1"), ("[fd96::2]", "fd96::2", "fd96::1")] {
        let Some(sides) = Sides::start(1_500, address) else { return };
        let source = sides.large_source(FILE_BYTES as usize);
        let macs = [mac_of(&sides, 0), mac_of(&sides, 1)];
        let (ip, ether_type) = if there.contains(':') { ("ipv6", "0x86dd") } else { ("ip", "0x0800") };

        // The node receives.
        let file = sides.pair.path("received.pcap");
        let capturing = capture_there(&sides, &file, &[]);
        let result = sides.send(&source, &[]).exits(0).json();
        let ran = capturing.interrupt().exits(0);
        assert_eq!(result["datapath"], "af_xdp", "{result}");
        let packets = packets_of(&file);
        assert_eq!(counts_of(&ran), (packets.len() as u64, 0), "{}", ran.err);
        check_sound(&packets);
        let data = of_kind(&packets, DATA);
        check_count(&data, &result);
        let flows = check_segments(&data, FILE_BYTES);
        assert_eq!(flows.len() as u64, result["flows"].as_u64().unwrap());
        // Data arrived, and answers left: real frames, on the lane's port.
        let port = sides.status()["dataplane"]["lanes"][0]["port"].to_string();
        for (kind, from, to) in [(DATA, 0, 1), (REPLY, 1, 0)] {
            let packets = of_kind(&packets, kind);
            assert_eq!(values(&packets, "eth.src"), one(&macs[from]));
            assert_eq!(values(&packets, "eth.dst"), one(&macs[to]));
            assert_eq!(values(&packets, "eth.type"), one(ether_type));
            assert_eq!(values(&packets, "vlan.id"), one(""));
            assert_eq!(values(&packets, &format!("{ip}.src")), one([here, there][from]));
            assert_eq!(values(&packets, &format!("{ip}.dst")), one([here, there][to]));
            assert_eq!(values(&packets, ["udp.srcport", "udp.dstport"][to]), one(&port));
            assert_eq!(values(&packets, "culvert.flow_id"), flows);
        }
        assert_eq!(largest_frame(&data), 14 + 1_500);
        assert!(packets.iter().all(|packet| packet.number("frame.cap_len") <= 128));

        // The node sends.
        let file = sides.pair.path("sent.pcap");
        let capturing = capture_there(&sides, &file, &["--snap", "2000"]);
        let stored = format!("second:{}", sides.pair.shared.join("in").display());
        let mut getting = command(&sides.pair.here, ["get", "--json", "--datapath", "af_xdp", "--cores", "1"]);
        getting.arg(stored).arg(sides.pair.path("pulled"));
        let result = Ran::from(sides.lab.inside(0, &getting).output().unwrap()).exits(0).json();
        let ran = capturing.interrupt().exits(0);
        let packets = packets_of(&file);
        // Whole frames, with all their checksums.
        check_sound(&packets);
        assert!(packets.iter().all(|packet| packet.number("frame.cap_len") == packet.number("frame.len")));
        let (data, (_, dropped)) = (of_kind(&packets, DATA), counts_of(&ran));
        check_order(&data);
        let sent = result["segments_sent"].as_u64().unwrap();
        assert!((sent - dropped.min(sent)..=sent).contains(&(data.len() as u64)), "{} of {result}", ran.err);
        if dropped == 0 {
            check_segments(&data, FILE_BYTES);
        }
        assert_eq!(values(&data, "eth.src"), one(&macs[1]));
        assert_eq!(values(&data, "udp.srcport"), one(&port));
        sides.account_for_frames();
    }
}

#[test]
fn datagrams_of_udp_sockets_get_headers_and_are_cut_where_they_were_joined() {
    if !has_tshark() {
        return;
    }
    let pair = Pair::new();
    let _node = pair.start_with(&["--cores", "0,1"]);
    let source = pair.path("source");
    fs::write(&source, Random::new(4).bytes(FILE_BYTES as usize)).unwrap();
    let file = pair.path("capture.pcap");
    let capturing = Capturing::start(command(&pair.there, ["capture"]).arg(&file), pair.path("log"));
    let began = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let result = pair.send(&source, "in", &["--mtu", "1500", "--cores", "0,1"]).exits(0).json();
    let ended = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    let ran = capturing.interrupt().exits(0).says("capturing 2 lanes");
    let packets = packets_of(&file);
    assert_eq!(counts_of(&ran), (packets.len() as u64, 0), "{}", ran.err);
    check_sound(&packets);
    let data = of_kind(&packets, DATA);
    check_count(&data, &result);
    assert_eq!(check_segments(&data, FILE_BYTES).len() as u64, result["flows"].as_u64().unwrap());
    // Super-buffers of many segments, each of which is a separate packet.
    assert_eq!(largest_frame(&data), result["segment_bytes"].as_u64().unwrap() + 48 + 42);
    let status = run(&pair.there, ["status", "--json"]).exits(0).json();
    for lane in status["dataplane"]["lanes"].as_array().unwrap() {
        let (port, mac) = (lane["port"].to_string(), format!("02:00:00:00:00:0{}", lane["lane"]));
        for (ours, theirs, our_port) in [("eth.dst", "eth.src", "udp.dstport"), ("eth.src", "eth.dst", "udp.srcport")] {
            let packets: Vec<_> = packets.iter().filter(|packet| packet.text(our_port) == port).collect();
            assert_eq!(values(&packets, ours), one(&mac));
            assert_eq!(values(&packets, theirs), one("00:00:00:00:00:00"));
        }
    }
    let all: Vec<_> = packets.iter().collect();
    assert_eq!(values(&all, "ip.src"), one("127.0.0.1"));
    assert_eq!(values(&all, "ip.dst"), one("127.0.0.1"));
    // Wall-clock time; a second of tolerance for a clock that is being set.
    let time = |packet: &Packet| packet.text("frame.time_epoch").parse::<f64>().unwrap();
    assert!(packets.iter().all(|packet| (began - 1.0..ended + 1.0).contains(&time(packet))), "{began} to {ended}");

    // One of the two lanes.
    let file = pair.path("lane.pcap");
    let capturing = Capturing::start(command(&pair.there, ["capture", "--lane", "1"]).arg(&file), pair.path("log"));
    pair.send(&source, "again", &["--mtu", "1500", "--cores", "0,1"]).exits(0);
    let _ = capturing.interrupt().exits(0).says("capturing 1 lane");
    let port = status["dataplane"]["lanes"][1]["port"].to_string();
    let packets = packets_of(&file);
    assert!(!of_kind(&packets, DATA).is_empty());
    assert!(packets.iter().all(|packet| [packet.text("udp.srcport"), packet.text("udp.dstport")].contains(&&*port)));
}

#[test]
fn a_reader_that_is_too_slow_loses_packets_and_is_told_how_many() {
    if !has_tshark() {
        return;
    }
    let pair = Pair::new();
    let _node = pair.start_with(&["--cores", "0"]);
    let source = pair.path("source");
    fs::write(&source, Random::new(5).bytes(80 << 20)).unwrap();
    let file = pair.path("capture.pcap");
    let arguments = ["capture", "--snap", "2000"];
    let capturing = Capturing::start(command(&pair.there, arguments).arg(&file), pair.path("log"));
    capturing.signal(Signal::STOP);
    let result = pair.send(&source, "in", &["--mtu", "1500", "--cores", "1"]).exits(0).json();
    capturing.signal(Signal::CONT);
    let ran = capturing.interrupt().exits(0).says("dropped because the buffer was full");
    let (packets, dropped) = counts_of(&ran);
    assert!(dropped > 0 && packets > 0, "{}", ran.err);
    let sent = result["segments_sent"].as_u64().unwrap();
    assert!(packets + dropped >= sent - result["segments_resent"].as_u64().unwrap(), "{} {result}", ran.err);
    let found = packets_of(&file);
    assert_eq!(found.len() as u64, packets);
    check_sound(&found);
}

#[test]
fn a_capture_ends_as_it_is_told() {
    if !has_tshark() {
        return;
    }
    let pair = Pair::new();
    run(&pair.there, ["capture", "-"]).exits(3).says("culvert node");
    let node = pair.start_with(&["--cores", "0"]);
    let source = pair.path("source");
    fs::write(&source, Random::new(6).bytes(8 << 20)).unwrap();
    let file = pair.path("capture.pcap");
    let log = || pair.path("log");
    // What is wrong is reported before a file is touched.
    fs::write(&file, "something else").unwrap();
    let lane = run(&pair.there, ["capture".as_ref(), "--lane".as_ref(), "1".as_ref(), file.as_os_str()]);
    lane.exits(2).says("there is no lane 1");
    assert_eq!(fs::read(&file).unwrap(), b"something else");
    for wrong in [["--snap", "0"], ["--snap", "100000"], ["--packets", "0"], ["--seconds", "-1"]] {
        run(&pair.there, ["capture", wrong[0], wrong[1], "x"]).exits(2);
    }

    // After a number of packets.
    let counted = Capturing::start(command(&pair.there, ["capture", "--packets", "100"]).arg(&file), log());
    // Only one at a time.
    run(&pair.there, ["capture", "-"]).exits(5).says("another capture");
    pair.send(&source, "in", &["--mtu", "1500"]).exits(0);
    assert_eq!(counts_of(&counted.wait().exits(0)), (100, 0));
    let found = packets_of(&file);
    assert_eq!(found.len(), 100);
    check_sound(&found);

    // After a number of seconds, with nothing to capture.
    let timed = command(&pair.there, ["capture", "--seconds", "0.2", "--json"]).arg(&file).output().unwrap();
    let timed = Ran::from(timed).exits(0);
    culvert_tests::schema::assert_valid(&timed.json(), "capture");
    assert_eq!(timed.json(), serde_json::json!({ "packets": 0, "dropped": 0, "cut_short": null }));
    assert_eq!(packets_of(&file), []);

    // Into a pipe, whose reader ends it.
    let mut piping = command(&pair.there, ["capture", "-"]);
    let mut capturing = piping.stdout(Stdio::piped()).stderr(fs::File::create(log()).unwrap()).spawn().unwrap();
    let script = format!("lua_script:{}", dissector().display());
    let reading = Command::new("tshark")
        .args(["-X", &script, "-r", "-", "-c", "20", "-Y", "culvert"])
        .stdin(capturing.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("the capture", || fs::read_to_string(log()).unwrap().contains("capturing").then_some(()));
    pair.send(&source, "piped", &["--mtu", "1500"]).exits(0);
    let read: Ran = reading.wait_with_output().unwrap().into();
    assert_eq!(read.out.lines().filter(|line| line.contains("Culvert")).count(), 20, "{read:?}");
    pair.send(&source, "ended", &["--mtu", "1500"]).exits(0);
    assert!(capturing.wait().unwrap().success(), "{}", fs::read_to_string(log()).unwrap());

    // By a client that is killed: the next one finds the place free.
    let killed = Capturing::start(command(&pair.there, ["capture"]).arg(&file), log());
    killed.signal(Signal::KILL);
    let _ = killed.wait();
    let next = wait_for("the place", || {
        let ran = run(&pair.there, ["capture".as_ref(), "--seconds".as_ref(), "0.01".as_ref(), file.as_os_str()]);
        (ran.code != 5).then_some(ran)
    });
    next.exits(0);

    // By the end of the data plane.
    let orphaned = Capturing::start(command(&pair.there, ["capture"]).arg(&file), log());
    pair.send(&source, "before", &["--mtu", "1500"]).exits(0);
    wait_for("packets", || (fs::metadata(&file).unwrap().len() > 100_000).then_some(()));
    kill(node.data_plane());
    let ran = orphaned.wait().exits(5).says("the data plane process ended");
    assert!(ran.err.contains("what was captured until then"), "{ran:?}");
    let found = packets_of(&file);
    assert!(of_kind(&found, DATA).len() > 1_000, "{} packets", found.len());
}

#[test]
fn a_transfer_without_a_node_is_captured_too() {
    if !has_tshark() {
        return;
    }
    let pair = Pair::new();
    let node = pair.start_with(&["--cores", "0"]);
    let source = pair.path("source");
    fs::write(&source, Random::new(7).bytes(FILE_BYTES as usize)).unwrap();
    let file = pair.path("sent.pcap");
    let options = ["--mtu", "1500", "--cores", "1", "--capture", file.to_str().unwrap()];
    let ran = pair.send(&source, "in", &options).exits(0);
    let packets = packets_of(&file);
    assert_eq!(counts_of(&ran), (packets.len() as u64, 0), "{}", ran.err);
    check_sound(&packets);
    let data = of_kind(&packets, DATA);
    check_order(&data);
    check_segments(&data, FILE_BYTES);
    assert_eq!(data.len() as u64, ran.json()["segments_sent"].as_u64().unwrap());
    // A running node makes captures by itself.
    let elsewhere = ["send".as_ref(), source.as_os_str(), "first:/x".as_ref(), "--capture".as_ref(), file.as_os_str()];
    run(&pair.there, elsewhere).exits(2).says("culvert capture");
    drop(node);
}

/// Ethernet, IPv4 and UDP around `payload`, by hand.
fn frame(ports: [u16; 2], payload: &[u8]) -> Vec<u8> {
    let udp_bytes = (8 + payload.len()) as u16;
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + udp_bytes).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let words = frame[14..34].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    for word in [ports[0], ports[1], udp_bytes, 0] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(payload);
    frame
}

#[test]
fn damaged_datagrams_are_marked_and_foreign_ones_left_alone() {
    //= W-5
    //# A data datagram is exactly as long as its fields say
    if !has_tshark() {
        return;
    }
    let header = Header {
        kind: SegmentKind::Data,
        stride: 1_424,
        flow_id: 0xabcd_0007,
        packet_number: (5 << 22) + 9,
        chunk: 3,
        chunk_bytes: 4 << 20,
        index: 7,
        sent_us: 123,
    };
    let datagram = |header: Header, bytes: usize| {
        let mut datagram = vec![0; bytes.max(HEADER_BYTES)];
        header.write(datagram.first_chunk_mut().unwrap());
        datagram
    };
    let changed = |at: usize, value: u8| {
        let mut datagram = datagram(header, 1_472);
        datagram[at] = value;
        datagram
    };
    let (ours, others) = ([40_000, 7_273], [40_000, 40_001]);
    let reply = Header { kind: SegmentKind::ProbeReply, stride: 0, chunk: 77, index: 1_472, ..header };
    let expected: [(Vec<u8>, [u16; 2], &str); 12] = [
        (datagram(header, 1_472), ours, "data"),
        (datagram(header, 1_472), others, "data"),
        (datagram(reply, 48), ours, "reply"),
        (datagram(reply, 48), others, "reply"),
        (b"hello".to_vec(), ours, "Shorter than a header and a tag"),
        (changed(0, 2), ours, "Not version 1 (W-2)"),
        (changed(1, 9), ours, "No such kind (W-3)"),
        (changed(2, 0), ours, "Stride, chunk or index out of bounds (W-4)"),
        (changed(24, 1), ours, "Stride, chunk or index out of bounds (W-4)"),
        (datagram(header, 1_471), ours, "Not as long as its fields announce (W-5)"),
        (datagram(reply, 49), ours, "Not as long as its fields announce (W-5)"),
        (changed(0, 2), others, "foreign"),
    ];
    let room = tempfile::tempdir().unwrap();
    for snap in [128, 2_000] {
        let mut file: Vec<u8> =
            [0xa1b2_3c4d_u32, 0x0004_0002, 0, 0, snap, 1].into_iter().flat_map(u32::to_le_bytes).collect();
        for (payload, ports, _) in &expected {
            let frame = frame(*ports, payload);
            let captured = frame.len().min(snap as usize);
            file.extend([1_700_000_000, 5, captured as u32, frame.len() as u32].into_iter().flat_map(u32::to_le_bytes));
            file.extend(&frame[..captured]);
        }
        let path = room.path().join("hand.pcap");
        fs::write(&path, file).unwrap();
        let packets = packets_of(&path);
        assert_eq!(packets.len(), expected.len());
        for (packet, (_, _, what)) in packets.iter().zip(&expected) {
            let of = |names: &[&str]| -> Vec<String> {
                names.iter().map(|name| packet.text(&format!("culvert.{name}")).to_owned()).collect()
            };
            match *what {
                "data" => {
                    let header = of(&["kind", "stride", "flow_id", "packet_number", "epoch", "chunk", "segment_index"]);
                    assert_eq!(header, ["0", "1424", "0xabcd0007", "20971529", "5", "3", "7"]);
                    assert_eq!(of(&["offset", "payload_bytes", "token"]), ["9968", "1424", ""]);
                    assert!(packet.is_sound(), "{packet:?}");
                }
                "reply" => {
                    assert_eq!(of(&["kind", "flow_id", "token", "chunk"]), ["2", "0xabcd0007", "77", ""]);
                    assert!(packet.is_sound(), "{packet:?}");
                }
                "foreign" => assert!(!packet.text("frame.protocols").contains("culvert"), "{packet:?}"),
                flaw => assert_eq!(packet.text("_ws.expert.message"), flaw, "{packet:?}"),
            }
        }
    }
}
