use proptest::prelude::*;

use super::*;
use crate::manifest::{Entry, EntryKind, FileTime};
use crate::verdict::Verdict;

fn messages() -> Vec<Message> {
    vec![
        Message::Hello { version_min: 1, version_max: 1, software: "culvert".into(), name: "a".into() },
        Message::Refused(Refusal::new(RefusalCode::NotPermitted, "no")),
        Message::Proofs(vec![(3, [9; 32])]),
        Message::Stored(runs([1, 2, 3, 7])),
        Message::AllSent(SenderSummary::default()),
        Message::NotKept {
            count: 7,
            first: vec![FileError { file: 3, code: "time".into(), text: "utimensat: Operation not permitted".into() }],
        },
        Message::Ping(u64::MAX),
    ]
}

#[test]
fn messages_survive_any_cut_of_the_stream() {
    //= W-31
    //# A frame is a 32-bit big-endian length followed by that many bytes, at most 256 KiB. It
    //# contains exactly one message in postcard encoding.
    let mut stream = Vec::new();
    for message in messages() {
        message.write_frame(&mut stream);
    }
    for step in [1, 2, 3, 7, 1000] {
        let mut reader = FrameReader::default();
        let mut got = Vec::new();
        for piece in stream.chunks(step) {
            reader.push(piece);
            while let Some(message) = reader.next_message().unwrap() {
                got.push(message);
            }
        }
        assert_eq!(got, messages());
    }
}

#[test]
fn a_message_of_four_gigabytes_is_refused_at_its_length() {
    //= W-31
    //# A longer frame ends the connection before memory is allocated for it.
    let mut reader = FrameReader::default();
    reader.push(&u32::MAX.to_be_bytes());
    assert_eq!(reader.next_message(), Err(FrameError::TooLong(u32::MAX)));
}

#[test]
fn messages_keep_their_numbers() {
    //= W-32
    //# Messages are variants of one enumeration. Variants are only ever appended
    let permits = Message::Permits { store: PermissionAnswer::Yes, fetch: PermissionAnswer::No };
    for (message, number) in [
        (Message::Hello { version_min: 1, version_max: 8, software: String::new(), name: String::new() }, 0),
        (Message::Refused(Refusal::new(RefusalCode::Failed, "no")), 3),
        (Message::ManifestPart(Vec::new()), 4),
        (Message::PlanPart { skipped: Vec::new() }, 6),
        (Message::Proven(Vec::new()), 10),
        (Message::Feedback(Vec::new()), 11),
        (Message::Stored(Vec::new()), 18),
        (Message::SendAgain(Vec::new()), 19),
        (Message::AllSent(SenderSummary::default()), 20),
        (Message::Ping(1), 23),
        (Message::Path(crate::path::PathMessage::End), 26),
        (Message::MoveFlow { flow_id: 1, source_port: 50_000 }, 27),
        (Message::NotKept { count: 0, first: Vec::new() }, 28),
        (Message::DryRun(crate::dry_run::Finding::Fates(Vec::new())), 29),
        (Message::ContentsOf { mode: 0o755 }, 30),
        (permits, 31),
        (Message::RefusedHere, 32),
    ] {
        assert_eq!(postcard::to_allocvec(&message).unwrap()[0], number, "{message:?}");
    }
}

#[test]
fn a_refusal_that_quotes_a_whole_frame_fits_one() {
    let refusal = Refusal::new(RefusalCode::NotFound, "ü".repeat(FRAME_BYTES_MAX));
    assert!(refusal.text.len() <= crate::foreign_text::TEXT_BYTES_MAX && refusal.text.contains("left out"));
    let mut frame = Vec::new();
    Message::Refused(refusal).write_frame(&mut frame);
    assert_eq!(Refusal::new(RefusalCode::NotFound, "no").text, "no");
}

#[test]
fn a_message_that_exceeds_a_frame_goes_as_a_refusal() {
    let mut frame = b"before".to_vec();
    Message::ManifestPart(vec![0xff; FRAME_BYTES_MAX]).write_frame(&mut frame);
    let mut reader = FrameReader::default();
    reader.push(&frame[6..]);
    let heard = reader.next_message().unwrap();
    let Some(Message::Refused(refusal)) = heard else { panic!("{heard:?}") };
    assert!(refusal.text.contains("the limit is 262144"), "{refusal}");
    assert_eq!(reader.next_message(), Ok(None));
}

/// Row 12 and 20: what a partner writes into any text of a message comes out plain and bounded.
#[test]
fn every_text_of_a_message_is_plain_where_it_is_decoded() {
    let evil = || "\u{1b}[2J\nculvert: forged\u{202e}".repeat(2_000);
    let error = || FileError { file: 1, code: evil(), text: evil() };
    let verdict = Verdict { limited_by: crate::verdict::Limit::Path, share: 0.5, text: evil() };
    let summary = ReceiverSummary {
        files_stored: 0,
        files_skipped: 0,
        files_failed: 0,
        bytes_stored: 0,
        resumed_bytes: 0,
        cpu_us: 0,
        millicycles_per_byte: 0,
        verdict,
    };
    for message in [
        Message::Hello { version_min: 1, version_max: 1, software: evil(), name: evil() },
        Message::Refused(Refusal { code: RefusalCode::Failed, text: evil() }),
        Message::FileFailed(error()),
        Message::FileRefused(error()),
        Message::LeftOut(vec![LeftOut { name: evil(), code: evil(), text: evil() }]),
        Message::NotKept { count: 1, first: vec![error()] },
        Message::DryRun(crate::dry_run::Finding::LeftOut {
            count: 1,
            first: vec![LeftOut { name: evil(), code: evil(), text: evil() }],
        }),
        Message::Path(crate::path::PathMessage::Report(crate::path::PathReport::Failed(evil()))),
        Message::Finished { line: String::new(), signature: Vec::new(), summary },
    ] {
        let body = postcard::to_allocvec(&message).unwrap();
        let text = format!("{:?}", Message::parse(&body).unwrap());
        // `Debug` escapes what it prints, so an existing escape has two backslashes.
        for raw in ["\\u{1b}", "\\u{202e}", "\\n"] {
            assert!(!text.replace(&format!("\\{raw}"), "").contains(raw), "{text:.300}");
        }
        assert!(text.len() < 8 << 10, "{} bytes of {text:.100}", text.len());
    }
}

#[test]
fn ids_are_written_as_ulids() {
    let id = TransferId::new(1_700_000_000_000, 12345);
    let text = id.to_string();
    assert_eq!(text.len(), 26);
    assert_eq!(text.parse(), Ok(id));
    assert_eq!(text.to_lowercase().parse(), Ok(id));
    assert!("ZZZZZZZZZZZZZZZZZZZZZZZZZZ".parse::<TransferId>().is_err());
    assert!("".parse::<TransferId>().is_err());
    assert!("01J".parse::<TransferId>().is_err());
}

proptest! {
    #[test]
    fn any_body_is_parsed_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Message::parse(&body);
        let _ = decode_entries(&body).count();
    }

    #[test]
    fn a_damaged_message_is_refused_or_another_message(which: prop::sample::Index, at: prop::sample::Index, byte: u8) {
        let all = messages();
        let mut frame = Vec::new();
        all[which.index(all.len())].write_frame(&mut frame);
        let at = at.index(frame.len());
        frame[at] = byte;
        let mut reader = FrameReader::default();
        reader.push(&frame);
        let _ = reader.next_message();
    }

    #[test]
    fn entries_come_back(names in proptest::collection::vec(proptest::collection::vec(1..255u8, 1..40), 0..20)) {
        let mut part = Vec::new();
        let entry = |name| Entry { name, kind: EntryKind::File { bytes: 5, is_sparse: true }, target: b"", mode: 0o644,
                                   modified: FileTime { seconds: -1, nanoseconds: 5 } };
        for name in &names {
            encode_entry(&entry(name), &mut part);
        }
        let decoded: Result<Vec<_>, _> = decode_entries(&part).collect();
        let expected: Vec<_> = names.iter().map(|name| entry(name)).collect();
        prop_assert_eq!(decoded, Ok(expected));
    }
}
