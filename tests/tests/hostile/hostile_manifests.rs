//! Manifests of millions of entries, and manifests that announce more: from an approved partner
//! with malicious intent.
//!
//! What they cost the node is measured while it happens, in both of its processes.

use culvert_protocol::control::{Message, Refusal, RefusalCode, encode_entry};
use culvert_protocol::manifest::{ENTRIES_MAX, Manifest};
use culvert_tests::hostile_sender::{new_id, push_request};
use culvert_tests::memory::MemoryWatch;
use culvert_tests::node::{Pair, RunningNode};
use culvert_tests::stranger::{Stranger, file};
use culvert_tests::tree::contents;

/// Bytes of a part of the manifest, fewer than a message may have.
const PART_BYTES: usize = 200 << 10;
/// What 4,000,000 entries with short names may take in a node, with everything that it keeps for
/// each while the plan is made.
const CONTROL_KIB_MAX: u64 = 512 << 10;
/// The data plane never hears of manifests.
const DATA_PLANE_KIB_MAX: u64 = 100 << 10;

/// A transfer that is accepted and waiting for its manifest.
fn begin(pair: &Pair, node: &RunningNode) -> Stranger {
    let mut stranger = Stranger::introduced(&pair.here, node.port);
    stranger.say(&Message::Request(push_request(&pair.shared.join("in"), new_id())));
    assert!(matches!(stranger.hear(), Some(Message::Accepted(_))));
    stranger
}

/// Sends entries of tiny files, as many as wanted or as the node accepts; returns how many.
/// `manifest` gets them too.
fn say_entries(stranger: &mut Stranger, entries: usize, mut manifest: Option<&mut Manifest>) -> usize {
    let mut part = Vec::new();
    for number in 0..entries {
        let name = format!("{number:x}");
        let entry = file(name.as_bytes(), 1);
        encode_entry(&entry, &mut part);
        if let Some(manifest) = &mut manifest {
            manifest.push(&entry).expect("the entry is valid");
        }
        if part.len() > PART_BYTES || number + 1 == entries {
            let mut frame = Vec::new();
            Message::ManifestPart(std::mem::take(&mut part)).write_frame(&mut frame);
            if stranger.say_bytes(&frame).is_err() {
                return number + 1;
            }
        }
    }
    entries
}

/// Asserts that the node is alive, has nothing in its directories, and serves others.
fn assert_goes_on(pair: &Pair, mut node: RunningNode) {
    assert!(contents(&pair.shared).is_empty());
    std::fs::write(pair.path("file"), "content").unwrap();
    pair.send(&pair.path("file"), "afterwards", &[]).exits(0);
    assert!(node.is_alive() && !node.log().contains("panicked"), "{}", node.log());
    assert_eq!(node.metric("culvert_dataplane_restarts_total"), 0.0);
}

fn assert_bounded(what: &str, (control, data_plane): (u64, u64)) {
    eprintln!("{what}: the control process had {control} KiB, the data plane {data_plane} KiB");
    assert!(control < CONTROL_KIB_MAX, "{what}: the control process grew to {control} KiB");
    assert!(data_plane < DATA_PLANE_KIB_MAX, "{what}: the data plane grew to {data_plane} KiB");
}

#[test]
fn a_manifest_without_end_is_refused_at_its_limit() {
    let pair = Pair::new();
    let node = pair.start();
    // What one costs is freed before the next arrives.
    for round in 0..2 {
        let mut stranger = begin(&pair, &node);
        let watch = MemoryWatch::of(&node);
        let said = say_entries(&mut stranger, 2 * ENTRIES_MAX, None);
        let refusal = stranger.hear_refusal();
        assert_eq!(refusal.code, RefusalCode::Protocol, "{refusal}");
        assert!(refusal.text.contains(&ENTRIES_MAX.to_string()), "{refusal}");
        assert!((ENTRIES_MAX..ENTRIES_MAX + ENTRIES_MAX / 2).contains(&said), "it took {said} entries");
        assert_bounded(&format!("entries without end, round {round}"), watch.most());
    }
    assert_goes_on(&pair, node);
}

#[test]
fn as_many_entries_as_there_may_be_are_planned_in_bounded_memory() {
    let pair = Pair::new();
    let node = pair.start();
    let mut stranger = begin(&pair, &node);
    let watch = MemoryWatch::of(&node);
    let mut manifest = Manifest::default();
    let said = say_entries(&mut stranger, ENTRIES_MAX, Some(&mut manifest));
    let digest = manifest.digest();
    stranger.say(&Message::ManifestEnd { entries: said as u32, digest, allocated_bytes: 0, is_single_file: false });
    let flows = loop {
        match stranger.hear() {
            Some(Message::PlanEnd { flows, .. }) => break flows,
            Some(Message::Refused(refusal)) => panic!("the node refuses: {refusal}"),
            Some(_) => {}
            None => panic!("the node closed the connection"),
        }
    };
    assert!(!flows.is_empty());
    assert_bounded("the most entries", watch.most());
    drop(stranger);
    assert!(std::fs::read_dir(pair.shared.join("in")).unwrap().next().is_none());
    std::fs::remove_dir(pair.shared.join("in")).unwrap();
    assert_goes_on(&pair, node);
}

/// LEB128, as used in messages.
fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

/// A frame of a manifest's end that announces `entries`.
fn end_that_announces(entries: u64) -> Vec<u8> {
    let said = u32::MAX;
    let mut frame = Vec::new();
    let end = Message::ManifestEnd { entries: said, digest: [7; 32], allocated_bytes: 0, is_single_file: false };
    end.write_frame(&mut frame);
    let place = varint(said.into());
    let at = frame.windows(place.len()).position(|window| window == place).expect("the number is in the frame");
    frame.splice(at..at + place.len(), varint(entries));
    let body_bytes = frame.len() as u32 - 4;
    frame[..4].copy_from_slice(&body_bytes.to_be_bytes());
    frame
}

#[test]
fn a_manifest_that_announces_a_trillion_entries_takes_no_memory_for_them() {
    let pair = Pair::new();
    let node = pair.start();
    for announced in [ENTRIES_MAX as u64 + 1, u32::MAX.into(), 1_000_000_000_000, u64::MAX] {
        let mut stranger = begin(&pair, &node);
        let watch = MemoryWatch::of(&node);
        assert_eq!(say_entries(&mut stranger, 3, None), 3);
        stranger.say_bytes(&end_that_announces(announced)).unwrap();
        let answer = answer(&mut stranger);
        // A number that is too large for the message makes it invalid, and whoever sends no valid
        // messages gets none either.
        let is_message = announced <= u32::MAX.into();
        assert_eq!(
            answer.as_ref().map(|refusal| refusal.code),
            is_message.then_some(RefusalCode::Protocol),
            "{answer:?}"
        );
        let (control, _) = watch.most();
        assert!(control < 100 << 10, "{announced} entries: the control process grew to {control} KiB");
    }
    assert_goes_on(&pair, node);
}

/// What the node says before it closes the connection.
fn answer(stranger: &mut Stranger) -> Option<Refusal> {
    loop {
        if let Message::Refused(refusal) = stranger.hear()? {
            return Some(refusal);
        }
    }
}

#[test]
#[ignore = "takes 3 GiB of memory: cargo xtask test --release hostile_manifests -- --ignored"]
fn long_names_of_several_manifests_are_refused_at_the_partners_share() {
    let pair = Pair::new();
    let node = pair.start();
    let watch = MemoryWatch::of(&node);
    let mut held = Vec::new();
    let refusal = 'all: loop {
        let mut stranger = begin(&pair, &node);
        for number in 0..100_000 {
            let mut part = Vec::new();
            for inner in 0..48 {
                let name = format!("{}{number}-{inner}", "directory/".repeat(390));
                encode_entry(&file(name.as_bytes(), 1), &mut part);
            }
            let mut frame = Vec::new();
            Message::ManifestPart(part).write_frame(&mut frame);
            if stranger.say_bytes(&frame).is_err() {
                break 'all stranger.hear_refusal();
            }
        }
        held.push(stranger);
        assert!(held.len() < 8, "the share has no limit");
    };
    assert_eq!(refusal.code, RefusalCode::Temporary, "{refusal}");
    assert!(refusal.text.contains("split them"), "{refusal}");
    let (control, _) = watch.most();
    eprintln!("the control process had {control} KiB");
    // The share, a vector that grows by doubling, and a little more.
    assert!(control < 5 << 20, "the control process grew to {control} KiB");
    drop(held);
    assert_goes_on(&pair, node);
}
