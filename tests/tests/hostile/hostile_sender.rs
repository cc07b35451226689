//! An approved partner that sends maliciously: its manifest, its messages or its segments lie.
//!
//! In every case the transfer fails with a named reason or the lie is ignored, both of the node's
//! processes stay small, nothing outside the destination changes, and another partner's transfer,
//! begun earlier, completes.

use std::fs;

use culvert_protocol::control::{
    FileError, Message, RefusalCode, RequestedAction, SenderSummary, TransferId, encode_entry,
};
use culvert_protocol::manifest::{Entry, EntryKind};
use culvert_protocol::tree_hash::ChunkHasher;
use culvert_protocol::wire::{EPOCH_BITS, Header, SegmentKind};
use culvert_tests::hostile_sender::siege::{AttackedNode, file_of_chunks, hear_finished, say_the_end};
use culvert_tests::hostile_sender::{
    CHUNK_BYTES, HostileSender, STRIDE, hash_of_part, new_id, part_of, push_request, say_manifest,
};
use culvert_tests::node::wait_for;
use culvert_tests::program::Ran;
use culvert_tests::random::{Random, seeds};
use culvert_tests::stranger::{Stranger, file, request};
use culvert_tests::tree::temporary_files;

/// wire.md W-40: "segments of it that arrive on another flow, or after it is verified, are
/// discarded".
#[test]
fn a_verified_chunk_is_not_written_over_by_another_flow() {
    //= W-40
    //# A chunk belongs to the flow its first segment arrived on. Segments of it that arrive on
    //# another flow, or after it is verified, are discarded.
    let siege = AttackedNode::begin();
    let (good, evil) = (file_of_chunks(2, 1), file_of_chunks(2, 2));
    let mut sender = siege.attack(&[file(b"file", good.len() as u64)]);
    assert_eq!(sender.flows.len(), 2);
    sender.send_part(0, 0, &good, 0);
    sender.hear_stored();
    sender.send_part(1, 0, &evil, 0);
    sender.send_part(1, 1, &good, 1);
    say_the_end(&mut sender, &[(0, &good)]);
    hear_finished(&mut sender);
    // And again once the file has its name.
    sender.send_chunk(0, 1, part_of(&evil, 1));
    assert!(siege.stored("file").unwrap() == good, "what was verified is not what is stored");
    siege.lift();
}

#[test]
fn a_pack_that_comes_by_two_flows_is_stored_once() {
    let siege = AttackedNode::begin();
    let content = Random::new(3).bytes(9_000);
    let large = file_of_chunks(2, 4);
    let mut sender = siege.attack(&[file(b"large", large.len() as u64), file(b"small", 9_000)]);
    let hashes = || Message::PackHashes { chunk: 2, hashes: vec![*blake3::hash(&content).as_bytes()] };
    for flow in [0, 1, 0] {
        sender.stranger.say(&hashes());
        sender.send_chunk(flow, 2, &content);
    }
    sender.hear_stored();
    sender.stranger.say(&hashes());
    sender.send_chunk(1, 2, &content);
    sender.send_part(0, 0, &large, 0);
    sender.send_part(1, 1, &large, 1);
    say_the_end(&mut sender, &[(0, &large)]);
    hear_finished(&mut sender);
    assert!(siege.stored("small").unwrap() == content && siege.stored("large").unwrap() == large);
    siege.lift();
}

#[test]
fn giving_up_a_file_that_is_stored_is_refused() {
    let siege = AttackedNode::begin();
    let content = Random::new(3).bytes(9_000);
    let mut sender = siege.attack(&[file(b"other", 10), file(b"small", 9_000)]);
    let hash = |bytes: &[u8]| *blake3::hash(bytes).as_bytes();
    sender.stranger.say(&Message::PackHashes { chunk: 0, hashes: vec![hash(&[7; 10]), hash(&content)] });
    sender.send_chunk(0, 0, &[&[7; 10], content.as_slice()].concat());
    sender.hear_stored();
    for _ in 0..2 {
        let error = FileError { file: 1, code: "changed".to_owned(), text: "never mind".to_owned() };
        sender.stranger.say(&Message::FileFailed(error));
    }
    assert_eq!(sender.stranger.hear_refusal().code, RefusalCode::Protocol);
    assert!(siege.stored("small").unwrap() == content);
    siege.lift();
}

#[test]
fn a_hole_does_not_erase_what_was_verified() {
    let siege = AttackedNode::begin();
    let good = file_of_chunks(2, 5);
    let sparse = Entry { kind: EntryKind::File { bytes: good.len() as u64, is_sparse: true }, ..file(b"file", 0) };
    let mut sender = siege.attack(&[sparse]);
    sender.send_part(0, 0, &good, 0);
    sender.hear_stored();
    let zeros = vec![0; good.len()];
    sender.stranger.say(&Message::Holes(vec![(0, hash_of_part(&zeros, 0))]));
    assert_eq!(sender.stranger.hear_refusal().code, RefusalCode::Protocol);
    siege.lift();
}

/// wire.md W-39: "nothing else can be proven".
#[test]
fn a_damaged_chunk_cannot_be_proved_by_saying_so() {
    //= W-39
    //# If a sender's source has a chunk listed in `Proofs` with the same hash, it sends `Proven`
    //# instead of the chunk. Nothing else can be proven.
    let siege = AttackedNode::begin();
    let good = file_of_chunks(3, 6);
    let entries = [file(b"file", good.len() as u64)];
    let mut sender = siege.attack(&entries);
    sender.send_part(0, 0, &good, 0);
    sender.send_part(1, 1, &good, 1);
    sender.hear_stored();
    drop(sender);
    let partial = || temporary_files(&siege.pair.shared.join("in"));
    wait_for("the partial file", || (partial().len() == 1).then_some(()));
    let damaged = fs::File::options().write(true).open(siege.pair.shared.join("in").join(&partial()[0])).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&damaged, b"damage", 100).unwrap();
    // The interrupted session may still hold the journal for a moment.
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut sender = siege.attack(&entries);
    sender.stranger.say(&Message::Proven(vec![0]));
    let refusal = sender.stranger.hear_refusal();
    assert_eq!(refusal.code, RefusalCode::Protocol);
    assert!(refusal.text.contains("not stored"), "{refusal}");
    assert!(siege.stored("file").is_none());
    siege.lift();
}

/// A partial file with two of its three chunks, and the transfer begun again.
fn with_two_chunks_offered(siege: &AttackedNode, entries: &[Entry<'_>], good: &[u8]) -> HostileSender {
    let mut sender = siege.attack(entries);
    sender.send_part(0, 0, good, 0);
    sender.send_part(1, 1, good, 1);
    sender.hear_stored();
    drop(sender);
    wait_for("the partial file", || (temporary_files(&siege.pair.shared.join("in")).len() == 1).then_some(()));
    // The interrupted session may still hold the journal for a moment.
    std::thread::sleep(std::time::Duration::from_millis(300));
    siege.attack(entries)
}

/// The chunk was found undamaged when the transfer was planned; then its place was overwritten with
/// bytes of another hash.
#[test]
fn what_was_offered_is_not_proved_once_other_bytes_came_in_its_place() {
    let siege = AttackedNode::begin();
    let (good, evil) = (file_of_chunks(3, 11), file_of_chunks(3, 12));
    let mut sender = with_two_chunks_offered(&siege, &[file(b"file", good.len() as u64)], &good);
    sender.stranger.say(&Message::ChunkHashes(vec![(0, hash_of_part(&good, 0))]));
    sender.send_chunk_once(0, 0, part_of(&evil, 0));
    assert_eq!(sender.hear_send_again(), [0]);
    sender.stranger.say(&Message::Proven(vec![0]));
    let refusal = sender.stranger.hear_refusal();
    assert_eq!(refusal.code, RefusalCode::Protocol);
    assert!(refusal.text.contains("not stored"), "{refusal}");
    assert!(siege.stored("file").is_none());
    siege.lift();
}

/// wire.md W-40: "a hole is not accepted where data has arrived".
#[test]
fn a_hole_is_not_believed_where_wrong_bytes_came() {
    //= W-40
    //# A hole is not accepted where data has arrived.
    let siege = AttackedNode::begin();
    let good = file_of_chunks(2, 13);
    let sparse = Entry { kind: EntryKind::File { bytes: good.len() as u64, is_sparse: true }, ..file(b"file", 0) };
    let mut sender = siege.attack(&[sparse]);
    sender.stranger.say(&Message::ChunkHashes(vec![(0, [9; 32])]));
    sender.send_chunk_once(0, 0, part_of(&good, 0));
    assert_eq!(sender.hear_send_again(), [0]);
    sender.stranger.say(&Message::Holes(vec![(0, hash_of_part(&vec![0; good.len()], 0))]));
    assert_eq!(sender.stranger.hear_refusal().code, RefusalCode::Protocol);
    siege.lift();
}

/// The beginning of a chunk is hashed as it arrives. Then the whole chunk arrives, at another
/// stride and with other bytes (W-11).
#[test]
fn a_chunk_that_begins_anew_with_other_bytes_is_signed_as_it_is_stored() {
    //= W-11
    //# A chunk that starts over starts completely over: segments that arrived before do not count,
    //# and their bytes are not part of any hash.
    let siege = AttackedNode::begin();
    let chunk_bytes: usize = 256 << 10;
    let bytes = |seed| Random::new(seed).bytes(chunk_bytes + 100_000);
    let (first, second) = (bytes(14), bytes(15));
    let asked = push_request(&siege.pair.shared.join("in"), new_id());
    let options = culvert_protocol::control::Options { chunk_bytes: chunk_bytes as u32, ..asked.options };
    let asked = culvert_protocol::control::Request { options, ..asked };
    let entries = [file(b"file", first.len() as u64)];
    let mut sender = HostileSender::begin_request(&siege.pair.here, siege.node.port, asked, &entries);
    let part = |file: &[u8], part: usize| file[part * chunk_bytes..file.len().min((part + 1) * chunk_bytes)].to_vec();
    let hash = |file: &[u8], number: usize| {
        let mut hasher = ChunkHasher::new(file.len() as u64, (number * chunk_bytes) as u64, chunk_bytes as u32);
        hasher.update(&part(file, number));
        hasher.finish()
    };
    let send = |sender: &mut HostileSender, chunk: u32, bytes: &[u8], stride: u16, segments: std::ops::Range<u32>| {
        for index in segments {
            let datagram = sender.segment_of(0, chunk, bytes, stride, index);
            sender.send(0, &datagram);
            // Without a pacer a burst would overflow the socket.
            if index % 32 == 31 {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    // Once the lane knows where the chunk goes, what has arrived is hashed with the next segment.
    send(&mut sender, 0, &part(&first, 0), STRIDE, 0..150);
    send(&mut sender, 0, &part(&first, 0), STRIDE, 150..160);
    // What a continued hash would cover: two steps of the first bytes, then the second.
    let hashed = 128 << 10;
    let mixture = [&first[..hashed], &second[hashed..]].concat();
    sender.stranger.say(&Message::ChunkHashes(vec![(0, hash(&mixture, 0))]));
    send(&mut sender, 0, &part(&second, 0), 1_000, 0..263);
    assert_eq!(sender.hear_send_again(), [0]);
    sender.stranger.say(&Message::ChunkHashes(vec![(0, hash(&second, 0)), (1, hash(&second, 1))]));
    send(&mut sender, 0, &part(&second, 0), STRIDE, 0..256);
    send(&mut sender, 1, &part(&second, 1), STRIDE, 0..98);
    say_the_end(&mut sender, &[(0, &second)]);
    hear_finished(&mut sender);
    assert!(siege.stored("file").unwrap() == second);
    siege.lift();
}

/// wire.md W-40: "the receiver compares them with its own".
#[test]
fn hashes_that_do_not_match_fail_the_transfer_as_a_verification() {
    //= W-40
    //# The sender sends `ChunkHashes`, `PackHashes` and `Holes` as it reads; the receiver compares
    //# them with its own. It requests a chunk that differs with `SendAgain`, at most three times,
    //# and only if the chunk was sent.
    let siege = AttackedNode::begin();
    let good = file_of_chunks(2, 7);
    let mut sender = siege.attack(&[file(b"file", good.len() as u64)]);
    for _ in 0..3 {
        sender.stranger.say(&Message::ChunkHashes(vec![(0, [9; 32])]));
        sender.send_chunk(0, 0, part_of(&good, 0));
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(sender.stranger.hear_refusal().code, RefusalCode::Verification);
    assert!(siege.stored("file").is_none());
    siege.lift();
}

#[test]
fn segments_that_cannot_be_are_counted_and_the_transfer_goes_on() {
    let siege = AttackedNode::begin();
    let good = file_of_chunks(2, 8);
    let mut sender = siege.attack(&[file(b"file", good.len() as u64)]);
    let flow_id = sender.flows[0].flow_id;
    let ordinary = Header {
        kind: SegmentKind::Data,
        stride: STRIDE,
        flow_id,
        packet_number: 100_000,
        chunk: 0,
        chunk_bytes: CHUNK_BYTES,
        index: 0,
        sent_us: 0,
    };
    let payload = [1; STRIDE as usize];
    let bad = [
        ("foreign_chunk", Header { chunk: 77, ..ordinary }),
        ("foreign_chunk", Header { chunk: u32::MAX, ..ordinary }),
        ("foreign_chunk", Header { chunk_bytes: 16 << 20, ..ordinary }),
        ("malformed", Header { index: u32::MAX, ..ordinary }),
        ("malformed", Header { chunk_bytes: u32::MAX, ..ordinary }),
        ("malformed", Header { stride: 1, ..ordinary }),
        ("unknown_flow", Header { flow_id: flow_id ^ 0x0100_0000, ..ordinary }),
        // An epoch far ahead, whose key nobody holds.
        ("epoch", Header { packet_number: 50 << EPOCH_BITS, ..ordinary }),
    ];
    let count = |reason: &str| siege.node.metric(&format!("culvert_segments_rejected_total{{reason=\"{reason}\"}}"));
    for (reason, header) in bad {
        let before = count(reason);
        let datagram = sender.seal(&header, &payload);
        sender.send(0, &datagram);
        wait_for(&format!("a rejection as {reason} of {header:?}"), || (count(reason) > before).then_some(()));
    }
    // A forged one, a reflected one, and a replayed one.
    let mut forged = sender.segment(0, 0, part_of(&good, 0), 0);
    *forged.last_mut().unwrap() ^= 1;
    let honest = sender.segment(0, 0, part_of(&good, 0), 0);
    let mut reply = Header { kind: SegmentKind::ProbeReply, ..ordinary };
    reply.packet_number = 100_001;
    let reflected = sender.seal(&reply, &[]);
    for (reason, datagrams) in
        [("not_authentic", vec![forged]), ("stale", vec![honest.clone(), honest]), ("unknown_flow", vec![reflected])]
    {
        let before = count(reason);
        datagrams.iter().for_each(|datagram| sender.send(0, datagram));
        wait_for(&format!("a rejection as {reason}"), || (count(reason) > before).then_some(()));
    }
    sender.send_part(0, 0, &good, 0);
    sender.send_part(1, 1, &good, 1);
    say_the_end(&mut sender, &[(0, &good)]);
    hear_finished(&mut sender);
    assert!(siege.stored("file").unwrap() == good);
    siege.lift();
}

#[test]
fn segments_under_an_old_epoch_are_dropped() {
    let siege = AttackedNode::begin();
    let (good, evil) = (file_of_chunks(2, 8), file_of_chunks(2, 9));
    let mut sender = siege.attack(&[file(b"file", good.len() as u64)]);
    let old = sender.segment(0, 0, part_of(&evil, 0), 5);
    // Two epochs ahead, one after the other: the receiver gets each key when it has seen the
    // previous one.
    for epoch in 1..=2u64 {
        sender.skip_to(0, epoch << EPOCH_BITS);
        let first = sender.segment(0, epoch as u32 - 1, part_of(&good, epoch as usize - 1), 0);
        sender.send(0, &first);
        std::thread::sleep(std::time::Duration::from_millis(100));
        sender.send_part(0, epoch as u32 - 1, &good, epoch as usize - 1);
    }
    let count = || siege.node.metric("culvert_segments_rejected_total{reason=\"stale\"}");
    let before = count();
    wait_for("a rejection of an old segment", || {
        sender.send(0, &old);
        (count() > before).then_some(())
    });
    say_the_end(&mut sender, &[(0, &good)]);
    hear_finished(&mut sender);
    assert!(siege.stored("file").unwrap() == good);
    siege.lift();
}

/// Regression: they stayed lent to a transfer that was gone, and its flow was never closed.
#[test]
fn packs_whose_sender_goes_before_their_hashes_leave_their_buffers() {
    let mut siege = AttackedNode::begin();
    let in_use = || -> f64 {
        let metrics = siege.node.metrics();
        let lines = metrics.lines().filter(|line| line.starts_with("culvert_lane_buffers_in_use{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    };
    let honest: Ran = siege.honest.take().unwrap().wait_with_output().unwrap().into();
    honest.exits(0);
    let content = Random::new(3).bytes(9_000);
    let mut sender = siege.attack(&[file(b"small", 9_000)]);
    sender.send_chunk(0, 0, &content);
    wait_for("a pack", || (in_use() > 0.0).then_some(()));
    // The pack is complete, and waits for its hashes.
    std::thread::sleep(std::time::Duration::from_millis(300));
    drop(sender);
    wait_for("the buffers", || (in_use() == 0.0).then_some(()));
    siege.honest = Some(siege.start_honest("1G"));
    siege.lift();
}

#[test]
fn more_chunks_than_there_is_credit_for_take_no_more_buffers() {
    //= W-25
    //# It grows only when the receiver has a free buffer, which it reserves for the chunk started
    //# on that credit.
    let siege = AttackedNode::begin();
    let chunks = 5_000u32;
    let bytes = u64::from(chunks) * u64::from(CHUNK_BYTES);
    let sparse = Entry { kind: EntryKind::File { bytes, is_sparse: true }, ..file(b"file", 0) };
    let mut sender = siege.attack(&[sparse]);
    let content = vec![1; CHUNK_BYTES as usize];
    for chunk in 0..chunks {
        let datagram = sender.segment(chunk as usize % 2, chunk, &content, 0);
        sender.send(chunk as usize % 2, &datagram);
    }
    let count = || siege.node.metric("culvert_segments_rejected_total{reason=\"over_credit\"}");
    wait_for("a rejection", || (count() > 0.0).then_some(()));
    drop(sender);
    siege.lift();
}

#[test]
fn hashes_of_chunks_that_never_come_do_not_fill_the_memory() {
    let siege = AttackedNode::begin();
    let measure = culvert_protocol::control::Request {
        wish: RequestedAction::Measure { bytes: 45_000_000_000_000 >> 10 },
        ..push_request("/".as_ref(), new_id())
    };
    let mut sender = HostileSender::begin_request(&siege.pair.here, siege.node.port, measure, &[]);
    for part in 0..140u32 {
        let hashes: Vec<_> = (0..500).map(|number| (part * 500 + number, [1; 32])).collect();
        let mut frame = Vec::new();
        Message::ChunkHashes(hashes).write_frame(&mut frame);
        // The connection may already be closed: it was too much.
        let _ = sender.stranger.say_bytes(&frame);
    }
    assert_eq!(sender.stranger.hear_refusal().code, RefusalCode::Protocol);
    siege.lift();
}

#[test]
fn a_file_of_a_million_terabytes_opens_no_more_than_it_may() {
    let siege = AttackedNode::begin();
    let sparse = |bytes| Entry { kind: EntryKind::File { bytes, is_sparse: true }, ..file(b"file", 0) };
    // More chunks than a transfer may have.
    let mut stranger = Stranger::introduced(&siege.pair.here, siege.node.port);
    stranger.say(&Message::Request(push_request(&siege.pair.shared.join("in"), new_id())));
    say_manifest(&mut stranger, &[sparse(1 << 60)]);
    assert_eq!(stranger.hear_refusal().code, RefusalCode::Protocol);
    // As many as it may have, over as many flows as it may have: each would keep 32 MiB of bits.
    let mut asked = push_request(&siege.pair.shared.join("in"), new_id());
    asked.options.flows = 256;
    let entries = [sparse(u64::from(CHUNK_BYTES) << 28)];
    let sender = HostileSender::begin_request(&siege.pair.here, siege.node.port, asked, &entries);
    assert!(sender.flows.len() <= 2, "{} flows", sender.flows.len());
    drop(sender);
    siege.lift();
}

/// wire.md W-44: "the id in a `Request` must not be that of another partner's transfer".
#[test]
fn an_id_of_another_partners_transfer_is_refused() {
    //= W-44
    //# The id in a `Request` must not be that of another partner's transfer or of a running one.
    let siege = AttackedNode::begin();
    let id = wait_for("the honest transfer's record", || {
        let names = fs::read_dir(siege.pair.there.join("transfers")).ok()?;
        names.flatten().find_map(|name| name.file_name().to_str()?.strip_suffix(".json")?.parse::<TransferId>().ok())
    });
    let before = fs::read(siege.pair.there.join(format!("transfers/{id}.json"))).unwrap();
    let mut stranger = Stranger::introduced(&siege.pair.here, siege.node.port);
    stranger.say(&Message::Request(push_request(&siege.pair.shared.join("in"), id)));
    assert_eq!(stranger.hear_refusal().code, RefusalCode::Protocol);
    assert_eq!(fs::read(siege.pair.there.join(format!("transfers/{id}.json"))).unwrap(), before);
    siege.lift();
}

#[test]
fn a_slow_loris_with_a_key_leaves_room_for_others() {
    let siege = AttackedNode::begin();
    let mut frame = Vec::new();
    let mut part = Vec::new();
    encode_entry(&file(b"never ends", 1), &mut part);
    Message::ManifestPart(part).write_frame(&mut frame);
    // Each asks for a transfer, and then sends the manifest's first byte.
    let lorises: Vec<Stranger> = (0..140)
        .map(|number| {
            let mut stranger = Stranger::introduced(&siege.pair.here, siege.node.port);
            let destination = siege.pair.shared.join(format!("in-{number}"));
            stranger.say(&Message::Request(push_request(&destination, new_id())));
            let _ = stranger.say_bytes(&frame[..1]);
            stranger
        })
        .collect();
    let answers: Vec<_> = lorises.into_iter().map(|mut loris| (loris.hear(), loris)).collect();
    let busy = answers
        .iter()
        .filter(
            |(answer, _)| matches!(answer, Some(Message::Refused(refusal)) if refusal.code == RefusalCode::Temporary),
        )
        .count();
    let accepted = answers.iter().filter(|(answer, _)| matches!(answer, Some(Message::Accepted(_)))).count();
    let refused = answers.iter().find(|(answer, _)| matches!(answer, Some(Message::Refused(_))));
    assert_eq!((accepted, busy), (128, 12), "{:?}", refused.map(|(answer, _)| answer));
    // With all of them still there, the honest partner gets its turn.
    siege.lift();
    drop(answers);
}

/// The refusal quoted the path, in which each byte takes four characters, and did not fit into a
/// frame: the writing task panicked (wire.md W-35: "a path longer than 4,096 bytes").
#[test]
fn a_path_that_fills_a_frame_is_refused_with_a_sentence() {
    //= W-35
    //# A largest datagram below 560 bytes (W-4 plus overhead) and a path longer than 4,096 bytes
    //# are refused.
    let siege = AttackedNode::begin();
    let path: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(&[0xff; 250_000]);
    for wish in [
        RequestedAction::Pull { sources: vec![std::os::unix::ffi::OsStrExt::as_bytes(path).to_vec()] },
        push_request(path.as_ref(), new_id()).wish,
    ] {
        let mut stranger = Stranger::introduced(&siege.pair.here, siege.node.port);
        stranger.say(&Message::Request(culvert_protocol::control::Request {
            wish,
            ..push_request("/".as_ref(), new_id())
        }));
        let refusal = stranger.hear_refusal();
        assert_eq!(refusal.code, RefusalCode::Protocol);
        assert!(refusal.text.contains("more than 4096 bytes"), "{refusal}");
    }
    siege.lift();
}

#[test]
fn names_that_differ_by_case_or_by_form_only_are_stored_as_they_are_or_fail_by_name() {
    let siege = AttackedNode::begin();
    let names: [&[u8]; 4] = [b"File", b"file", "caf\u{e9}".as_bytes(), "cafe\u{301}".as_bytes()];
    let entries: Vec<_> = names.iter().map(|name| file(name, 3)).collect();
    let mut sender = siege.attack(&entries);
    let contents: Vec<[u8; 3]> = (0..4).map(|number| [number; 3]).collect();
    let hashes = contents.iter().map(|content| *blake3::hash(content).as_bytes()).collect();
    sender.stranger.say(&Message::PackHashes { chunk: 0, hashes });
    sender.send_chunk(0, 0, &contents.concat());
    say_the_end(&mut sender, &[]);
    hear_finished(&mut sender);
    let shared = siege.pair.shared.join("in");
    let stored = fs::read_dir(&shared).unwrap().count();
    // A file system that folds case has one of each pair; whatever exists is what was sent under
    // that name.
    assert!(stored == 4 || stored == 2, "{stored} files");
    for (name, content) in names.iter().zip(&contents).filter(|_| stored == 4) {
        let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
        assert_eq!(fs::read(shared.join(name)).unwrap(), content);
    }
    siege.lift();
}

#[test]
fn device_files_and_pipes_in_the_way_are_not_opened() {
    let siege = AttackedNode::begin();
    let shared = siege.pair.shared.join("in");
    fs::create_dir(&shared).unwrap();
    let good = file_of_chunks(2, 9);
    for name in ["pipe", "other"] {
        rustix::fs::mknodat(
            rustix::fs::CWD,
            shared.join(name),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o666),
            0,
        )
        .unwrap();
    }
    let mut asked = push_request(&shared, new_id());
    asked.options.overwrite = culvert_protocol::control::Overwrite::Always;
    let entries = [file(b"other", 3), file(b"pipe", good.len() as u64)];
    let mut sender = HostileSender::begin_request(&siege.pair.here, siege.node.port, asked, &entries);
    sender.stranger.say(&Message::PackHashes { chunk: 2, hashes: vec![*blake3::hash(b"abc").as_bytes()] });
    sender.send_chunk(0, 2, b"abc");
    sender.send_part(0, 0, &good, 0);
    sender.send_part(1, 1, &good, 1);
    say_the_end(&mut sender, &[(1, &good)]);
    hear_finished(&mut sender);
    // Replaced, not written to: whoever held the pipe open would have got the bytes.
    assert!(siege.stored("pipe").unwrap() == good && siege.stored("other").unwrap() == b"abc");
    siege.lift();
}

#[test]
fn turned_bits_in_any_message_of_any_length_do_no_harm() {
    for seed in seeds(1) {
        eprintln!("seed {seed}");
        let mut random = Random::new(seed);
        let siege = AttackedNode::begin();
        let good = file_of_chunks(2, 10);
        let entries = [file(b"file", good.len() as u64), file(b"small", 9)];
        let messages = [
            Message::ChunkHashes(vec![(0, [1; 32]), (1, [2; 32])]),
            Message::PackHashes { chunk: 2, hashes: vec![[3; 32]] },
            Message::Holes(vec![(1, [4; 32])]),
            Message::FilesComplete(vec![(0, [5; 32])]),
            Message::FileFailed(FileError { file: 0, code: "changed".to_owned(), text: "x".repeat(300) }),
            Message::AllSent(SenderSummary::default()),
            Message::Proven(vec![1, 0]),
            Message::Ping(7),
            request(RequestedAction::Measure { bytes: 5 }),
        ];
        for round in 0..60 {
            let destination = siege.pair.shared.join(format!("in-{round}"));
            let mut sender = HostileSender::begin(&siege.pair.here, siege.node.port, &destination, &entries);
            sender.send_part(0, 0, &good, 0);
            for _ in 0..4 {
                let mut frame = Vec::new();
                messages[random.below(messages.len() as u64) as usize].write_frame(&mut frame);
                for _ in 0..=random.below(3) {
                    let at = random.below(frame.len() as u64) as usize;
                    frame[at] ^= 1 << random.below(8);
                }
                frame.truncate(1 + random.below(frame.len() as u64) as usize);
                if sender.stranger.say_bytes(&frame).is_err() {
                    break;
                }
            }
        }
        siege.lift();
    }
}
