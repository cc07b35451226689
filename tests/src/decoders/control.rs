//! What a partner sends on the control connection, and stored receipts.

use culvert_protocol::control::{
    Accepted, FileError, FlowOffer, FrameReader, LeftOut, Message, Options, Overwrite, PermissionAnswer, Refusal,
    RefusalCode, Request, RequestedAction, Run, TransferId, decode_entries, encode_entry,
};
use culvert_protocol::dry_run::{Fate, FateRun, Finding};
use culvert_protocol::identity::Identity;
use culvert_protocol::manifest::{Entry, EntryKind, FileTime, Manifest};
use culvert_protocol::path::{
    Hop, PathMessage, PathPermission, PathReport, PathRequest, PathStep, ReplySize, Route, StepKind, TraceKind, Train,
    TrainReceived, TrainSent,
};
use culvert_protocol::rate_control::Mode;
use culvert_protocol::receipt::{Receipt, Statement, sign_line};
use culvert_protocol::seal::Cipher;

pub(super) fn message_samples() -> Vec<Vec<u8>> {
    let framed = |message: &Message| {
        let mut frame = Vec::new();
        message.write_frame(&mut frame);
        frame
    };
    let entry = FileError { file: 3, code: "time".into(), text: "utimensat: Operation not permitted".into() };
    let since_6 = [Message::NotKept { count: 9, first: vec![entry] }];
    let left = LeftOut { name: "a/pipe".into(), code: "special".into(), text: "a pipe".into() };
    let since_7 = [
        Message::DryRun(Finding::LeftOut { count: 3, first: vec![left] }),
        Message::DryRun(Finding::Fates(vec![
            FateRun { count: 9, fate: Fate::New },
            FateRun { count: 1, fate: Fate::CollidesByName },
            FateRun { count: 2, fate: Fate::NotPermitted },
        ])),
        Message::DryRun(Finding::Room { free_bytes: Some(1 << 40), needed_bytes: 77 }),
    ];
    let since_8 = [
        Message::Permits { store: PermissionAnswer::Yes, fetch: PermissionAnswer::Unusable },
        Message::DryRun(Finding::Fates(vec![FateRun { count: 3, fate: Fate::SameButMode }])),
        Message::DryRun(Finding::Inodes { free: None, needed: 7 }),
        Message::RefusedHere,
    ];
    // A sample's number is its file name in the corpus.
    transfer_messages()
        .iter()
        .chain(&path_messages())
        .chain(&since_6)
        .chain(&since_7)
        .chain(&since_8)
        .map(framed)
        .collect()
}

/// A control connection's bytes: transfers' messages and path checks'.
pub(super) fn message(bytes: &[u8]) {
    let mut reader = FrameReader::default();
    reader.push(bytes);
    // Messages until there are no more, or the connection is unusable.
    for _ in 0..=bytes.len() {
        let Ok(Some(message)) = reader.next_message() else { return };
        let mut again = Vec::new();
        message.write_frame(&mut again);
        let mut twice = Vec::new();
        Message::parse(&again[4..]).expect("what was accepted is accepted again").write_frame(&mut twice);
        // Bytes, not values: NaN is not equal to itself.
        assert_eq!(again, twice);
    }
    panic!("more messages than bytes");
}

pub(super) fn entries_samples() -> Vec<Vec<u8>> {
    vec![entries_sample()]
}

/// A part of a manifest.
pub(super) fn entries(bytes: &[u8]) {
    let mut manifest = Manifest::default();
    for entry in decode_entries(bytes) {
        let Ok(entry) = entry else { return };
        let is_valid = entry.check().is_ok();
        if manifest.push(&entry).is_ok() {
            assert!(is_valid, "the manifest accepts {entry:?}");
            assert!(!entry.name.starts_with(b"/") && !entry.name.contains(&0));
            let mut parts = entry.name.split(|&byte| byte == b'/');
            assert!(parts.all(|part| !part.is_empty() && part != b"." && part != b".."), "{entry:?}");
        }
    }
    let _ = manifest.digest();
}

pub(super) fn receipt_samples() -> Vec<Vec<u8>> {
    let (sender, receiver) = (Identity::generate(), Identity::generate());
    let statement = Statement {
        culvert_receipt: 1,
        transfer: TransferId::new(1, 2).to_string(),
        sender: sender.public_key(),
        receiver: receiver.public_key(),
        began_unix_ms: 1,
        ended_unix_ms: 2,
        files: 3,
        files_failed: 0,
        bytes: 4,
        root_blake3: "00".repeat(32),
        segments_sent: 5,
        segments_resent: 6,
        cipher: "aes-256-gcm".into(),
        verdict: "limited by path (90 %)".into(),
    };
    let line = statement.to_line();
    let receipt =
        Receipt { sender_signature: sign_line(&sender, &line), receiver_signature: sign_line(&receiver, &line), line };
    vec![receipt.to_text().into_bytes()]
}

/// A receipt file. Whatever verifies is what both signed, and verifies again when it is rewritten.
pub(super) fn receipt(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok((receipt, _)) = Receipt::verify(text) {
        assert!(Receipt::verify(&receipt.to_text()).is_ok());
    }
}

fn transfer_messages() -> Vec<Message> {
    let options = Options {
        chunk_bytes: 4 << 20,
        checksum: true,
        cipher: Cipher::Aes256Gcm,
        overwrite: Overwrite::Changed,
        preserve: true,
        flows: 4,
        mode: Mode::Fair,
        rate_bits_per_second: Some(10_000_000_000),
        dry_run: false,
    };
    let wish = RequestedAction::Pull { sources: vec![b"/data/x".to_vec(), b"/data/y".to_vec()] };
    vec![
        Message::Hello { version_min: 1, version_max: 1, software: "culvert 0.1.0".into(), name: "dtn".into() },
        Message::Request(Request {
            transfer: TransferId::new(5, 6),
            wish,
            options,
            lane_ports: vec![1, 2],
            datagram_bytes_max: 8_972,
        }),
        Message::Accepted(Accepted { lane_ports: vec![7_273], datagram_bytes_max: 1_472 }),
        Message::Refused(Refusal::new(RefusalCode::NoSpace, "no room")),
        Message::ManifestPart(entries_sample()),
        Message::ManifestEnd { entries: 3, digest: [9; 32], allocated_bytes: 77, is_single_file: false },
        Message::PlanPart { skipped: vec![Run { first: 3, count: 9 }] },
        Message::PlanEnd { flows: vec![FlowOffer { flow_id: 1, receiver_lane: 2, sender_lane: 3 }], stored_bytes: 5 },
        Message::ChunkHashes(vec![(1, [1; 32]), (2, [2; 32])]),
        Message::PackHashes { chunk: 5, hashes: vec![[3; 32]; 3] },
        Message::MoveFlow { flow_id: 0x0102_0304, source_port: 50_000 },
        Message::FileFailed(FileError { file: 3, code: "changed".into(), text: "it changed".into() }),
        Message::Countersigned { signature: vec![1; 64] },
    ]
}

fn path_messages() -> Vec<Message> {
    let request = PathRequest { seconds_max: 60, rate_bits_per_second_max: 10_000_000_000, datagram_bytes_max: 8_972 };
    let permission = PathPermission {
        udp_port: 7_272,
        seconds_max: 60,
        rate_bits_per_second_max: 1_000_000_000,
        datagram_bytes_max: 1_472,
    };
    let train = Train { rate_bits_per_second: 1_000_000_000, duration_us: 50_000, packet_bytes: 1_400 };
    let hop = Hop {
        ttl: 3,
        address: Some(std::net::Ipv4Addr::new(192, 0, 2, 1).into()),
        rtt_us: Some(1_500.0),
        icmp: Some((3, 4)),
        mtu: Some(1_400),
    };
    let reflected = PathReport::Reflected { received: 100, duplicates: 1, reordered: 2, too_big: 3, mtu: 1_400 };
    let said = [
        PathMessage::Ask(request),
        PathMessage::Permitted(permission),
        PathMessage::Step(PathStep { number: 1, kind: StepKind::Reflect(ReplySize::Bytes(900)) }),
        PathMessage::Step(PathStep { number: 2, kind: StepKind::SendTrain(train) }),
        PathMessage::Step(PathStep { number: 3, kind: StepKind::Trace(TraceKind::Icmp) }),
        PathMessage::Report(reflected),
        PathMessage::Report(PathReport::TrainReceived(TrainReceived { packets: 9, ..TrainReceived::default() })),
        PathMessage::Report(PathReport::TrainSent(TrainSent { packets: 9, ..TrainSent::default() })),
        PathMessage::Report(PathReport::Route(Route { hops: vec![hop], reached: true })),
        PathMessage::Report(PathReport::Failed("no socket".into())),
        PathMessage::End,
    ];
    said.into_iter().map(Message::Path).collect()
}

fn entries_sample() -> Vec<u8> {
    let modified = FileTime { seconds: 1_700_000_000, nanoseconds: 5 };
    let file = Entry {
        name: b"a/file",
        kind: EntryKind::File { bytes: 1 << 40, is_sparse: true },
        target: b"",
        mode: 0o640,
        modified,
    };
    let mut part = Vec::new();
    encode_entry(&Entry { name: b"a", kind: EntryKind::Directory, mode: 0o755, ..file.clone() }, &mut part);
    encode_entry(&file, &mut part);
    encode_entry(&Entry { name: b"a/link", kind: EntryKind::Symlink, target: b"file", ..file }, &mut part);
    part
}
