//! An approved partner that fetches maliciously: its plan, its reports or its wishes lie.
//!
//! In every case the sending node ends the transfer with a named reason, stays small, and serves
//! others.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::net::UdpSocket;
use std::os::unix::ffi::OsStrExt as _;

use culvert_protocol::arrivals::PacketRange;
use culvert_protocol::control::{FileError, FlowOffer, Message, Options, RefusalCode, Request, RequestedAction, Run};
use culvert_protocol::dry_run::{Fate, FateRun, Finding};
use culvert_protocol::feedback::{Summary, write_report};
use culvert_protocol::rate_control::Mode;
use culvert_tests::hostile_receiver::HostileReceiver;
use culvert_tests::hostile_sender::new_id;
use culvert_tests::node::{Pair, RunningNode, resident_kib, wait_for};
use culvert_tests::program::{Ran, command};
use culvert_tests::random::Random;
use culvert_tests::stranger::{Stranger, request};

struct AttackedNode {
    pair: Pair,
    node: RunningNode,
}

impl AttackedNode {
    fn begin() -> Self {
        let pair = Pair::new();
        let node = pair.start();
        Self::around(pair, node)
    }

    /// Begins with a node that soon gives up on what makes no progress.
    fn begin_impatient() -> Self {
        let pair = Pair::new();
        let node = pair.start_impatient(3);
        Self::around(pair, node)
    }

    fn around(pair: Pair, node: RunningNode) -> Self {
        fs::create_dir(pair.shared.join("data")).unwrap();
        for number in 0..20 {
            fs::write(pair.shared.join(format!("data/file-{number}")), Random::new(number).bytes(300_000)).unwrap();
        }
        Self { pair, node }
    }

    /// Requests everything and receives the manifest.
    fn pull(&self, lane_port: u16) -> Stranger {
        self.pull_with(lane_port, |_| {})
    }

    fn pull_with(&self, lane_port: u16, change: impl FnOnce(&mut Options)) -> Stranger {
        let mut stranger = Stranger::introduced(&self.pair.here, self.node.port);
        let source = self.pair.shared.join("data/").as_os_str().as_bytes().to_vec();
        let Message::Request(mut asked) = request(RequestedAction::Pull { sources: vec![source] }) else {
            unreachable!()
        };
        asked.transfer = new_id();
        asked.options.chunk_bytes = 64 << 10;
        asked.lane_ports = vec![lane_port];
        change(&mut asked.options);
        stranger.say(&Message::Request(asked));
        loop {
            match stranger.hear() {
                Some(Message::ManifestEnd { entries, .. }) => {
                    assert_eq!(entries, 20);
                    return stranger;
                }
                Some(Message::Refused(refusal)) => panic!("the node refuses: {refusal}"),
                Some(_) => {}
                None => panic!("the node closed the connection"),
            }
        }
    }

    fn lift(mut self) {
        assert!(self.node.is_alive() && !self.node.log().contains("panicked"), "{}", self.node.log());
        let resident = resident_kib(self.node.process_id());
        assert!(resident < 200 << 10, "the control process grew to {resident} KiB");
        let resident = resident_kib(self.node.data_plane());
        assert!(resident < 500 << 10, "the data plane grew to {resident} KiB");
        let copy = self.pair.path("copy");
        self.pair.get("data/", &copy, &[]).exits(0);
        assert_eq!(fs::read_dir(copy).unwrap().count(), 20);
        assert_eq!(self.node.metric("culvert_dataplane_restarts_total"), 0.0);
    }
}

fn offer(sender_lane: u16, receiver_lane: u16) -> FlowOffer {
    FlowOffer { flow_id: 0x0102_0300, receiver_lane, sender_lane }
}

/// wire.md W-38: "runs in `PlanPart` ascend and do not overlap … there are no more proofs than
/// chunks".
#[test]
fn plans_that_lie_are_refused() {
    //= W-38
    //# Runs in `PlanPart` ascend and do not overlap, including across messages. There are no more
    //# proofs than chunks.
    let siege = AttackedNode::begin();
    let run = |first, count| Run { first, count };
    let lies = [
        // Files that do not exist, and files named again and again, which would cost more each time
        // than it takes to name them.
        Message::PlanPart { skipped: vec![run(0, 21)] },
        Message::PlanPart { skipped: vec![run(u32::MAX, u32::MAX)] },
        Message::PlanPart { skipped: vec![run(0, 20), run(0, 20)] },
        Message::Resumed(vec![(20, [0; 32])]),
        // More stored chunks than there are in all.
        Message::Proofs((0..1_000).map(|chunk| (chunk, [1; 32])).collect()),
        Message::PlanEnd { flows: vec![offer(0, 0); 1_000], stored_bytes: 0 },
        Message::PlanEnd { flows: vec![offer(77, 0)], stored_bytes: 0 },
        Message::PlanEnd { flows: vec![offer(0, 77)], stored_bytes: 0 },
        Message::AllSent(culvert_protocol::control::SenderSummary::default()),
    ];
    for lie in lies {
        let mut stranger = siege.pull(9);
        stranger.say(&lie);
        let refusal = stranger.hear_refusal();
        assert_eq!(refusal.code, RefusalCode::Protocol, "{lie:?}: {refusal}");
    }
    siege.lift();
}

/// The smallest of them made the stride smaller than any path that answered allows, and the data
/// plane ended for everybody (wire.md W-35: "a largest datagram below 560 bytes").
#[test]
fn a_datagram_that_cannot_carry_data_is_refused_with_a_sentence() {
    //= W-35
    //# A largest datagram below 560 bytes (W-4 plus overhead) and a path longer than 4,096 bytes
    //# are refused.
    let siege = AttackedNode::begin();
    for bytes in [0, 47, 100, 559] {
        let mut stranger = Stranger::introduced(&siege.pair.here, siege.node.port);
        let source = siege.pair.shared.join("data/").as_os_str().as_bytes().to_vec();
        let Message::Request(mut asked) = request(RequestedAction::Pull { sources: vec![source] }) else {
            unreachable!()
        };
        (asked.transfer, asked.datagram_bytes_max) = (new_id(), bytes);
        stranger.say(&Message::Request(asked));
        let refusal = stranger.hear_refusal();
        assert_eq!(refusal.code, RefusalCode::Protocol);
        assert!(refusal.text.contains(&format!("datagrams of {bytes} bytes")), "{refusal}");
        assert!(refusal.text.contains("560"), "{refusal}");
    }
    siege.lift();
}

#[test]
fn requests_beyond_what_a_node_can_count_are_refused_with_a_sentence() {
    let siege = AttackedNode::begin();
    let most = 45_000_000_000_000;
    type Change = fn(&mut Request);
    let larger: Change = |asked| asked.options.chunk_bytes = 16 << 20;
    let cases: [(u64, Change, &str); 10] = [
        (0, larger, "45 TB"),
        (most + 1, larger, "45 TB"),
        (u64::MAX, larger, "45 TB"),
        // As many bytes as are allowed, in more chunks than can be numbered.
        (most, |asked| asked.options.chunk_bytes = 64 << 10, "larger chunks"),
        (1, |asked| asked.options.chunk_bytes = 0, "power of two"),
        (1, |asked| asked.options.chunk_bytes = (64 << 10) + 1, "power of two"),
        (1, |asked| asked.options.chunk_bytes = 32 << 10, "power of two"),
        (1, |asked| asked.options.chunk_bytes = 32 << 20, "power of two"),
        (1, |asked| asked.lane_ports.clear(), "no lanes"),
        (1, |asked| asked.lane_ports = vec![9; 257], "too many"),
    ];
    for (bytes, change, said) in cases {
        let mut stranger = Stranger::introduced(&siege.pair.here, siege.node.port);
        let Message::Request(mut asked) = request(RequestedAction::Measure { bytes }) else { unreachable!() };
        asked.transfer = new_id();
        change(&mut asked);
        stranger.say(&Message::Request(asked));
        let refusal = stranger.hear_refusal();
        assert_eq!(refusal.code, RefusalCode::Protocol, "{bytes}: {refusal}");
        assert!(refusal.text.contains(said), "{bytes}: {refusal}");
    }
    siege.lift();
}

/// wire.md W-40: "at most three times, and only if the chunk was sent".
#[test]
fn wishes_for_more_than_was_sent_are_refused() {
    //= W-40
    //# at most three times, and only if the chunk was sent.
    //= W-26
    //# A report that breaks a rule ends the transfer; no part of the report is used.
    let siege = AttackedNode::begin();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for wish in [
        Message::SendAgain(vec![u32::MAX]),
        // The path is not open: no chunk has been sent.
        Message::SendAgain(vec![0]),
        // A port that belongs to somebody.
        Message::MoveFlow { flow_id: 0x0102_0300, source_port: 53 },
        Message::Feedback(vec![0xff; 40]),
        Message::Feedback(Vec::new()),
        Message::ManifestPart(vec![1, 2, 3]),
    ] {
        let mut stranger = siege.pull(socket.local_addr().unwrap().port());
        stranger.say(&Message::PlanEnd { flows: vec![offer(0, 0)], stored_bytes: 0 });
        std::thread::sleep(std::time::Duration::from_millis(200));
        stranger.say(&wish);
        let refusal = stranger.hear_refusal();
        assert_eq!(refusal.code, RefusalCode::Protocol, "{wish:?}: {refusal}");
    }
    siege.lift();
}

#[test]
fn fates_of_files_that_there_are_not_are_refused_and_so_are_too_few() {
    //= W-58
    //# More or fewer outcomes than entries violate the protocol
    let siege = AttackedNode::begin();
    let run = |count| FateRun { count, fate: Fate::New };
    let end = || Message::PlanEnd { flows: Vec::new(), stored_bytes: 0 };
    for (is_dry, runs) in [
        // There are twenty files.
        (true, vec![run(21)]),
        (true, vec![run(20), run(1)]),
        (true, vec![run(u32::MAX)]),
        (true, vec![run(0), run(20)]),
        (true, vec![run(19)]),
        (true, Vec::new()),
        // In a transfer that is not a dry run.
        (false, vec![run(20)]),
    ] {
        let mut stranger = siege.pull_with(9, |options| options.dry_run = is_dry);
        stranger.say(&Message::DryRun(Finding::Fates(runs.clone())));
        stranger.say(&end());
        let refusal = stranger.hear_refusal();
        assert_eq!(refusal.code, RefusalCode::Protocol, "{is_dry}, {runs:?}: {refusal}");
    }
    // A partner with an older version sends none, and must not.
    siege.lift();
}

#[test]
fn attributes_of_files_that_there_are_not_were_not_kept() {
    //= W-57
    //# Numbers beyond the manifest's, or entries that are not in it, violate the protocol.
    let siege = AttackedNode::begin();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let entry = |file| FileError { file, code: "time".to_owned(), text: "utimensat: no".to_owned() };
    // There are twenty files, and sixteen may be named.
    for (count, first) in [
        (u64::MAX, Vec::new()),
        (21, vec![entry(0)]),
        (1, vec![entry(20)]),
        (1, vec![entry(u32::MAX)]),
        (1, vec![entry(0), entry(1)]),
        (20, (0..17).map(entry).collect()),
    ] {
        let mut stranger = siege.pull(socket.local_addr().unwrap().port());
        stranger.say(&Message::PlanEnd { flows: vec![offer(0, 0)], stored_bytes: 0 });
        stranger.say(&Message::NotKept { count, first });
        let refusal = stranger.hear_refusal();
        assert_eq!(refusal.code, RefusalCode::Protocol, "{count}: {refusal}");
        assert!(refusal.text.contains("reports refused attributes"), "{refusal}");
    }
    siege.lift();
}

#[test]
fn reports_from_the_future_and_of_other_flows_change_nothing() {
    let siege = AttackedNode::begin();
    // A port that answers no probe.
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut stranger = siege.pull(socket.local_addr().unwrap().port());
    stranger.say(&Message::PlanEnd { flows: vec![offer(0, 0)], stored_bytes: u64::MAX });
    let mut bytes = [0; 2_048];
    let mut random = Random::new(1);
    for round in 0..500u32 {
        let summary = Summary {
            flow_id: if round % 2 == 0 { 0x0102_0300 } else { random.next_u64() as u32 },
            sequence: random.next_u64(),
            next_packet: u64::MAX >> 1,
            decided_below: u64::MAX >> 2,
            packets: random.next_u64() >> 8,
            bytes: random.next_u64() >> 8,
            echo_us: u32::MAX,
            hold_us: u32::MAX,
            credit: u64::MAX,
            ..Summary::default()
        };
        let lost = [culvert_protocol::arrivals::PacketRange { first: 0, count: u64::MAX >> 2 }];
        let (length, ..) = write_report(&mut bytes, &summary, &lost, (0..100).collect::<Vec<u32>>().into_iter());
        let mut frame = Vec::new();
        Message::Feedback(bytes[..length].to_vec()).write_frame(&mut frame);
        if stranger.say_bytes(&frame).is_err() {
            break;
        }
    }
    // Whatever the reports say, nothing was sent, and no probe was answered; or one of them was
    // found to be invalid.
    let refusal = stranger.hear_refusal();
    assert!([RefusalCode::Temporary, RefusalCode::Protocol].contains(&refusal.code), "{refusal}");
    siege.lift();
}

#[test]
fn a_receiver_that_calls_everything_lost_for_ever_is_given_up() {
    let siege = AttackedNode::begin();
    // Somebody else's transfer is under way all the while.
    let copy = siege.pair.path("honest");
    let source = format!("second:{}", siege.pair.shared.join("data/").display());
    let mut fetching = command(&siege.pair.here, ["get", "--json", "--rate", "20M", "--retries", "0"]);
    fetching.arg(source).arg(&copy).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let honest = fetching.spawn().unwrap();

    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let stranger = siege.pull_with(socket.local_addr().unwrap().port(), |options| {
        // The partner chooses how fast it is besieged.
        (options.mode, options.rate_bits_per_second) = (Mode::Fixed, Some(1_000_000_000));
    });
    let mut decided = 0;
    let refusal = HostileReceiver::begin(stranger, socket).report_until_refused(|seen| {
        let lost = PacketRange { first: decided, count: seen.next_packet - decided };
        decided = seen.next_packet;
        let lost = if lost.count > 0 { vec![lost] } else { Vec::new() };
        (Summary { decided_below: decided, credit: 4, interval_us: 2_000, ..*seen }, lost)
    });
    assert_eq!(refusal.code, RefusalCode::Temporary, "{refusal}");
    assert!(refusal.text.contains("lost") && refusal.text.contains("keeps reporting"), "{refusal}");

    let honest: Ran = honest.wait_with_output().unwrap().into();
    honest.exits(0);
    assert_eq!(fs::read_dir(copy).unwrap().count(), 20);
    siege.lift();
}

#[test]
fn a_flow_moves_to_the_port_that_its_receiver_asks_for_and_not_for_ever() {
    //= W-48
    //# A sender that cannot get the port, or has been asked more than 64 times, continues on its
    //# current port.
    let siege = AttackedNode::begin();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    let mut stranger = siege.pull(socket.local_addr().unwrap().port());
    stranger.say(&Message::PlanEnd { flows: vec![offer(0, 0)], stored_bytes: 0 });
    let mut datagram = [0; 1 << 16];
    let mut from = || socket.recv_from(&mut datagram).expect("the node probes the path").1.port();
    let own = from();
    // Ports that are free now; another process may take one, and then the flow stays where it was
    // for one step.
    let free: Vec<u16> = (50_000..60_000).filter(|&port| UdpSocket::bind(("::", port)).is_ok()).take(80).collect();
    let may_be_asked_for = &free[..64];
    for &source_port in may_be_asked_for {
        // For a flow that does not exist, it changes nothing and costs nothing.
        stranger.say(&Message::MoveFlow { flow_id: 7, source_port });
        stranger.say(&Message::MoveFlow { flow_id: 0x0102_0300, source_port });
    }
    wait_for("the flow to come from the last port", || (Some(&from()) == may_be_asked_for.last()).then_some(()));
    for &source_port in &free[64..] {
        stranger.say(&Message::MoveFlow { flow_id: 0x0102_0300, source_port });
    }
    for _ in 0..20 {
        let port = from();
        assert!(port != own && !free[64..].contains(&port), "it moved for the 65th time, to {port}");
    }
    drop(stranger);
    siege.lift();
}

/// Regression: it waited forever; for all that the sender knew, the receiver's disk was slow.
#[test]
fn a_receiver_that_never_gives_credit_is_given_up() {
    let siege = AttackedNode::begin_impatient();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let stranger = siege.pull(socket.local_addr().unwrap().port());
    let refusal = HostileReceiver::begin(stranger, socket)
        .report_until_refused(|seen| (Summary { decided_below: seen.next_packet, ..*seen }, Vec::new()));
    assert_eq!(refusal.code, RefusalCode::Temporary, "{refusal}");
    assert!(refusal.text.contains("the transfer made no progress"), "{refusal}");
    siege.lift();
}

/// Regression: a chunk that was sent again before the others of its file counted as one of them:
/// the file's hash was sent too early, and was wrong.
#[test]
fn a_chunk_that_is_wanted_twice_counts_once() {
    let siege = AttackedNode::begin();
    let of_data = |number| fs::read(siege.pair.shared.join(format!("data/file-{number}"))).unwrap();
    let hashes: HashSet<[u8; 32]> = (0..20).map(|number| *blake3::hash(&of_data(number)).as_bytes()).collect();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let stranger = siege.pull_with(socket.local_addr().unwrap().port(), |options| {
        (options.mode, options.rate_bits_per_second) = (Mode::Fixed, Some(50_000_000));
    });
    let mut receiver = HostileReceiver::begin(stranger, socket);
    // The first file's five chunks; the other four are not reported before the first has arrived
    // twice.
    let (mut came, mut kept_back) = (0, Vec::new());
    let mut said: HashMap<u32, [u8; 32]> = HashMap::new();
    wait_for("the hashes of all files", || {
        receiver.take_in();
        let mut completed = Vec::new();
        for chunk in receiver.take_whole() {
            match chunk {
                0 => {
                    came += 1;
                    completed.push(chunk);
                }
                1..5 if came < 2 => kept_back.push(chunk),
                _ => completed.push(chunk),
            }
        }
        let is_first = came == 1 && completed.contains(&0);
        let mut lost = receiver.take_lost();
        let mut honest = |seen: &Summary| {
            (Summary { decided_below: seen.next_packet, credit: 1_000, ..*seen }, std::mem::take(&mut lost))
        };
        let mut heard = receiver.report(&mut honest, &completed).expect("the node closed the connection");
        if is_first {
            receiver.say(&Message::SendAgain(vec![0]));
        }
        if came == 2 && !kept_back.is_empty() {
            heard.extend(receiver.report(&mut honest, &std::mem::take(&mut kept_back)).unwrap());
        }
        for message in heard {
            match message {
                Message::FilesComplete(files) => said.extend(files),
                Message::Refused(refusal) => panic!("{refusal}"),
                _ => {}
            }
        }
        (said.len() == 20).then_some(())
    });
    assert_eq!(came, 2);
    assert_eq!(said.into_values().collect::<HashSet<_>>(), hashes);
    drop(receiver);
    siege.lift();
}
