//! Every decoder of the protocol against bytes that nobody sane sends: no panic, no endless loop, and what is accepted means the
//! same when it is written again.
//!
//! Each decoder has a corpus (`tests/corpora/DECODER/*`), replayed in every run and mutated from a printed seed;
//! `CULVERT_SEED=n` repeats a run. `CULVERT_WRITE_CORPORA=1` writes the corpora's first samples anew. A finding becomes a file there.

use std::fs;
use std::path::PathBuf;

use culvert_protocol::arrivals::PacketRange;
use culvert_protocol::control::{
    Accepted, FileError, FlowOffer, FrameReader, Message, Options, Overwrite, Refusal, RefusalCode, Request, Run,
    TransferId, Wish, decode_entries, encode_entry,
};
use culvert_protocol::feedback::{REPORT_BYTES_MAX, Report, Summary, write_report};
use culvert_protocol::identity::Identity;
use culvert_protocol::manifest::{Entry, EntryKind, FileTime, Manifest};
use culvert_protocol::rate_control::Mode;
use culvert_protocol::receipt::{Receipt, Statement, sign_line};
use culvert_protocol::seal::Cipher;
use culvert_protocol::wire::{EPOCH_BITS, HEADER_BYTES, Header, OVERHEAD_BYTES, SegmentKind};

#[path = "shared/random.rs"]
mod random;

use random::Random;

/// Mutations of each sample in a run.
const MUTATIONS: u32 = 20_000;

/// A sample with some harm: bits turned, bytes set to extremes, cut, repeated, joined with itself.
fn mutate(random: &mut Random, sample: &[u8]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=below(random, 4) {
        let at = below(random, bytes.len());
        match below(random, 6) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << below(random, 8),
            1 if !bytes.is_empty() => bytes[at] = [0, 0x7f, 0x80, 0xff][below(random, 4)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at, random.next() as u8),
            4 => {
                let part = bytes[at..].to_vec();
                bytes.extend_from_slice(&part[..part.len().min(512)]);
            }
            _ => bytes.extend_from_slice(&random.next().to_le_bytes()),
        }
    }
    bytes
}

fn below(random: &mut Random, limit: usize) -> usize {
    random.below(limit.max(1) as u64) as usize
}

fn corpus(decoder: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpora").join(decoder)
}

/// Replays a decoder's corpus and mutations of it.
fn replay(decoder: &str, samples: &[Vec<u8>], check: impl Fn(&[u8])) {
    let directory = corpus(decoder);
    if std::env::var_os("CULVERT_WRITE_CORPORA").is_some() {
        fs::create_dir_all(&directory).unwrap();
        for (number, sample) in samples.iter().enumerate() {
            fs::write(directory.join(format!("sample-{number}")), sample).unwrap();
        }
    }
    let seed = std::env::var("CULVERT_SEED").map_or_else(
        |_| std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64,
        |seed| seed.parse().expect("CULVERT_SEED is a number"),
    );
    eprintln!("{decoder}: seed {seed}");
    let mut random = Random::new(seed);
    let mut files: Vec<PathBuf> = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= samples.len(), "the corpus {} is not complete", directory.display());
    for file in files {
        let sample = fs::read(&file).unwrap();
        check(&sample);
        for end in 0..sample.len().min(600) {
            check(&sample[..end]);
        }
        for _ in 0..MUTATIONS {
            check(&mutate(&mut random, &sample));
        }
    }
}

#[test]
fn datagram_headers() {
    let header = |kind, index, chunk_bytes| Header {
        kind,
        stride: 1_424,
        flow_id: 0xA1B2_C3D4,
        packet_number: (7 << EPOCH_BITS) + 3,
        chunk: 42,
        chunk_bytes,
        index,
        sent_us: 99,
    };
    let datagram = |header: Header, bytes: usize| {
        let mut datagram = vec![0; bytes];
        header.write(datagram.first_chunk_mut::<HEADER_BYTES>().unwrap());
        datagram
    };
    let samples = [
        datagram(header(SegmentKind::Data, 11, 4 << 20), OVERHEAD_BYTES + 1_424),
        datagram(header(SegmentKind::Data, 1, 1_500), OVERHEAD_BYTES + 76),
        datagram(header(SegmentKind::Probe, 0, 0), 1_472),
        datagram(header(SegmentKind::ProbeReply, 1_472, 0), OVERHEAD_BYTES),
        datagram(header(SegmentKind::Opening, 0, 0), OVERHEAD_BYTES),
    ];
    replay("header", &samples, |bytes| {
        let Ok(header) = Header::parse_datagram(bytes) else { return };
        assert!(bytes.len() >= OVERHEAD_BYTES);
        if header.kind == SegmentKind::Data {
            assert_eq!(bytes.len(), OVERHEAD_BYTES + header.payload_bytes());
            assert!(header.offset() + header.payload_bytes() <= header.chunk_bytes as usize);
        }
        let mut again = [0; HEADER_BYTES];
        header.write(&mut again);
        assert_eq!(again, bytes[..HEADER_BYTES]);
    });
}

#[test]
fn reports() {
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
    replay("report", &[full, out[..bytes].to_vec()], |bytes| {
        let Ok(report) = Report::parse(bytes) else { return };
        let mut end = 0;
        for range in report.lost() {
            assert!(range.count > 0 && range.first >= end && range.end() <= report.summary.next_packet);
            end = range.end();
        }
        assert!(report.completed().count() <= REPORT_BYTES_MAX);
    });
}

fn entries() -> Vec<u8> {
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

#[test]
fn control_messages() {
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
    let wish = Wish::Pull { sources: vec![b"/data/x".to_vec(), b"/data/y".to_vec()] };
    let messages = [
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
        Message::ManifestPart(entries()),
        Message::ManifestEnd { entries: 3, digest: [9; 32], allocated_bytes: 77, is_single_file: false },
        Message::PlanPart { skipped: vec![Run { first: 3, count: 9 }] },
        Message::PlanEnd { flows: vec![FlowOffer { flow_id: 1, receiver_lane: 2, sender_lane: 3 }], stored_bytes: 5 },
        Message::ChunkHashes(vec![(1, [1; 32]), (2, [2; 32])]),
        Message::PackHashes { chunk: 5, hashes: vec![[3; 32]; 3] },
        Message::FileFailed(FileError { file: 3, code: "changed".into(), text: "it changed".into() }),
        Message::Countersigned { signature: vec![1; 64] },
    ];
    let frames: Vec<Vec<u8>> = messages
        .iter()
        .map(|message| {
            let mut frame = Vec::new();
            message.write_frame(&mut frame);
            frame
        })
        .collect();
    replay("message", &frames, |bytes| {
        let mut reader = FrameReader::default();
        reader.push(bytes);
        // Messages until there are no more, or the connection is of no use.
        for _ in 0..=bytes.len() {
            let Ok(Some(message)) = reader.next_message() else { return };
            let mut again = Vec::new();
            message.write_frame(&mut again);
            assert_eq!(Message::parse(&again[4..]).as_ref(), Ok(&message));
        }
        panic!("more messages than bytes");
    });
}

#[test]
fn manifests() {
    replay("entries", &[entries()], |bytes| {
        let mut manifest = Manifest::default();
        for entry in decode_entries(bytes) {
            let Ok(entry) = entry else { return };
            let is_valid = entry.check().is_ok();
            if manifest.push(&entry).is_ok() {
                assert!(is_valid, "the manifest takes {entry:?}");
                assert!(!entry.name.starts_with(b"/") && !entry.name.contains(&0));
                assert!(
                    entry
                        .name
                        .split(|&byte| byte == b'/')
                        .all(|part| !part.is_empty() && part != b"." && part != b"..")
                );
            }
        }
        let _ = manifest.digest();
    });
}

#[test]
fn receipts() {
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
    let text = receipt.to_text();
    Receipt::verify(&text).unwrap();
    replay("receipt", &[text.into_bytes()], |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        // Whatever verifies is what both signed: it says the same when it is written again.
        if let Ok((receipt, _)) = Receipt::verify(text) {
            assert!(Receipt::verify(&receipt.to_text()).is_ok());
        }
    });
}
