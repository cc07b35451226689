//! A data plane that was taken over, against the control process: how transfers with an honest one
//! end, single lies and what is said about them, and random scripts. What holds whatever it does is
//! in `tests/src/captured.rs`, which checks every play.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use culvert_objects::fs::sources::listing::list;
use culvert_objects::fs::sources::named::local_source;
use culvert_tests::captured::lies::Lie;
use culvert_tests::captured::{self, Ended, Kind};
use culvert_tests::memory::{ATTACKED_KIB_MAX, own_kib};
use culvert_tests::random::{Random, seeds};

/// The number of random scripts.
const SCRIPTS: usize = 300;
/// No further script begins after this time: on a machine that is slow or has much else to do.
const SCRIPTS_TIME_MAX: Duration = Duration::from_secs(35);
/// Descriptors that may be open beside those before: those of threads that are about to end.
const DESCRIPTORS_LEFT_MAX: usize = 64;

const RECEIVER: Kind = Kind { is_sender: false, checksum: true };
const SENDER: Kind = Kind { is_sender: true, checksum: true };
const RECEIVER_WITHOUT_HASHES: Kind = Kind { is_sender: false, checksum: false };
const SENDER_WITHOUT_HASHES: Kind = Kind { is_sender: true, checksum: false };

/// What is said about a flow that a lane closes of its own accord, or about what is reported of it
/// afterwards, whichever is noticed first.
const CLOSED: &str = "a flow";

/// How a lie ends.
#[derive(Clone, Copy, Debug)]
enum Expected {
    /// The data plane is blamed, in these words.
    Blamed(&'static str),
    /// Nothing comes of it: the transfer ends well.
    Well,
    /// Either it ends well, or the data plane is blamed.
    WellOrBlamed,
    /// A file fails by name, which a data plane may legitimately report.
    OneFileFails,
    /// Nothing is signed, with these words. It cannot be known whose fault it is.
    Unsigned(&'static str),
}

use Expected::{Blamed, OneFileFails, Unsigned, Well, WellOrBlamed};

/// The number of files in the transfer.
fn files() -> usize {
    captured::names().iter().filter(|name| *name != "d").count()
}

/// Why a transfer did not end well, if it did not.
fn not_well(kind: Kind, ended: &Ended) -> Option<String> {
    let receipt = match &ended.receipt {
        Ok(receipt) => receipt,
        Err(error) => return Some(error.to_string()),
    };
    let is_well = (receipt.files, receipt.files_failed) == (files() as u64, 0)
        && receipt.root_blake3.is_empty() != kind.checksum
        && (kind.is_sender || ended.stored == files());
    (!is_well).then(|| format!("{} files are stored: {receipt:?}", ended.stored))
}

/// Why a lie did not end as it should, if it did not.
fn not_as(kind: Kind, lie: Lie, expected: Expected) -> Option<String> {
    let ended = captured::with_lie(kind, lie);
    if !ended.has_lied {
        return Some(format!("there was no opportunity: {:?}", ended.receipt));
    }
    let text = ended.receipt.as_ref().err().map(ToString::to_string).unwrap_or_default();
    let is_blamed = text.contains("data plane");
    match expected {
        Blamed(words) if is_blamed && text.contains(words) => None,
        Unsigned(words) if text.contains(words) => None,
        Blamed(_) | Unsigned(_) => Some(format!("{:?}", ended.receipt)),
        WellOrBlamed if is_blamed => None,
        Well | WellOrBlamed => not_well(kind, &ended),
        OneFileFails => match &ended.receipt {
            Ok(receipt) if receipt.files_failed == 1 && (kind.is_sender || ended.stored == files() - 1) => None,
            receipt => Some(format!("{} files are stored: {receipt:?}", ended.stored)),
        },
    }
}

/// Plays all rows, and then reports which of them did not end as they should.
fn assert_all(rows: impl IntoIterator<Item = (Kind, Lie, Expected)>) {
    let wrong = rows.into_iter().filter_map(|(kind, lie, expected)| {
        let began = Instant::now();
        let wrong = not_as(kind, lie, expected);
        eprintln!("{lie:?}: {} ms", began.elapsed().as_millis());
        Some(format!("{kind:?}, {lie:?}, not {expected:?}: {}", wrong?))
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The harness assumes that it knows the order in which a sender lists.
#[test]
fn what_is_moved_is_what_a_sender_lists() {
    let room = tempfile::tempdir().unwrap();
    captured::write_files(room.path());
    let tree = list(vec![local_source(&room.path().join(".")).unwrap()], drop).unwrap();
    let listed = tree.listing.manifest.entries().map(|(_, entry)| String::from_utf8_lossy(entry.name).into_owned());
    assert_eq!(captured::names(), listed.collect::<Vec<_>>());
}

/// An adversary whose honest play does not succeed proves nothing.
#[test]
fn an_honest_data_plane_brings_every_kind_of_transfer_to_its_end() {
    for kind in Kind::ALL {
        assert_eq!(not_well(kind, &captured::honest(kind)), None, "{kind:?}");
    }
}

#[test]
fn single_lies_of_a_receiving_data_plane_are_blamed_on_it() {
    let rows = [
        (Lie::WrittenWithoutHash, Blamed("written that it was not to write")),
        (Lie::WrittenWithOtherHash, Well),
        (Lie::WrittenUnplaced, Blamed("written that it was not to write")),
        (Lie::WrittenTwice, WellOrBlamed),
        (Lie::WrittenBeyond(6), Blamed("a chunk that the transfer does not have")),
        (Lie::WrittenBeyond(u32::MAX), Blamed("a chunk that the transfer does not have")),
        (Lie::PackWritten, Blamed("written that it was not to write")),
        (Lie::PackWriteFailed, Blamed("a failed write that it was not to make")),
        (Lie::PackOfOtherBytes, Well),
        (Lie::HandedTwice, WellOrBlamed),
        (Lie::Handed(3, 1), Blamed("not a complete pack or part")),
        (Lie::Handed(3, -1), Blamed("not a complete pack or part")),
        (Lie::Handed(3, i32::MAX), Blamed("invalid event")),
        (Lie::Handed(4, 0), Blamed("invalid event")),
        (Lie::Handed(u32::MAX, 0), Blamed("invalid event")),
        (Lie::AskedByFlow(200), Blamed("a flow that it does not have")),
        (Lie::AskedByFlow(256), Blamed("invalid event")),
        (Lie::AskedByFlow(u16::MAX), Blamed("invalid event")),
        (Lie::AskedBeyond(0), Blamed("a chunk that the transfer does not have")),
        (Lie::AskedBeyond(u32::MAX), Blamed("a chunk that the transfer does not have")),
        (Lie::AskedWithBytes(0), Blamed("unless this node's data plane reports it wrongly")),
        (Lie::AskedWithBytes(65_535), Blamed("unless this node's data plane reports it wrongly")),
        (Lie::AskedWithBytes(65_537), Blamed("a chunk that the transfer does not have")),
        (Lie::AskedWithBytes(u32::MAX), Blamed("a chunk that the transfer does not have")),
        (Lie::AskedTwice, Blamed("it asks twice")),
        (Lie::ReportedTooMuch, Well),
        (Lie::OtherEnd, Blamed("a flow that it does not have")),
        (Lie::Closed, Blamed(CLOSED)),
        (Lie::Opened, Well),
        // This is reported as a lack of descriptors, and would be retried.
        (Lie::NotOpened, Unsigned("cannot open another file")),
        (Lie::Left, Blamed("it closed the link")),
        (Lie::NoEvent, Blamed("invalid event")),
        (Lie::Counted, Well),
    ];
    assert_all(rows.map(|(lie, expected)| (RECEIVER, lie, expected)));
}

#[test]
fn single_lies_of_a_sending_data_plane_are_blamed_on_it() {
    let rows = [
        (Lie::DeliveredWithoutHash, Blamed("delivered a chunk that it has not hashed")),
        (Lie::DeliveredWithOtherHash, Unsigned("does not match what this node sent")),
        (Lie::DeliveredTwice, Well),
        (Lie::DeliveredBeyond(6), Blamed("a chunk that the transfer does not have")),
        (Lie::DeliveredBeyond(u32::MAX), Blamed("a chunk that the transfer does not have")),
        (Lie::HashedTwice, Blamed("hashed a chunk twice")),
        (Lie::PackHashed, Blamed("hashed something it was not to hash")),
        (Lie::DeliveredUnfilled, Blamed("delivered a chunk that is not filled")),
        (Lie::FilledTwice, Blamed("filled that lanes read, or for one twice")),
        (Lie::FileFilled, Blamed("filled that lanes read, or for one twice")),
        (Lie::Withdrawn, Blamed("gave up a chunk of its own accord")),
        (Lie::PackUnread, Blamed("a failed read that it was not to make")),
        (Lie::FileUnread, OneFileFails),
        (Lie::PathClosed, Blamed("reports an open path as closed")),
        (Lie::OtherEnd, Blamed("a flow that it does not have")),
        (Lie::Closed, Blamed(CLOSED)),
        (Lie::Opened, Well),
        // This is reported as a lack of descriptors, and would be retried.
        (Lie::NotOpened, Unsigned("cannot open another file")),
        (Lie::Left, Blamed("it closed the link")),
        (Lie::NoEvent, Blamed("invalid event")),
        // Its counters say that this much was sent in vain.
        (Lie::Counted, WellOrBlamed),
    ];
    assert_all(rows.map(|(lie, expected)| (SENDER, lie, expected)));
}

/// Without hashes less can be known, but what is no part of a chunk's course is still recognized.
#[test]
fn single_lies_without_hashes_are_blamed_on_the_data_plane() {
    let rows = [
        (RECEIVER_WITHOUT_HASHES, Lie::WrittenWithoutHash, Blamed("written that it was not to write")),
        (RECEIVER_WITHOUT_HASHES, Lie::WrittenUnplaced, Blamed("written that it was not to write")),
        (RECEIVER_WITHOUT_HASHES, Lie::WrittenTwice, Well),
        (RECEIVER_WITHOUT_HASHES, Lie::PackWritten, Blamed("written that it was not to write")),
        (RECEIVER_WITHOUT_HASHES, Lie::Closed, Blamed(CLOSED)),
        (SENDER_WITHOUT_HASHES, Lie::DeliveredWithoutHash, Blamed("hashed something it was not to hash")),
        (SENDER_WITHOUT_HASHES, Lie::DeliveredTwice, Well),
        (SENDER_WITHOUT_HASHES, Lie::DeliveredUnfilled, Blamed("delivered a chunk that is not filled")),
        (SENDER_WITHOUT_HASHES, Lie::Withdrawn, Blamed("gave up a chunk of its own accord")),
        (SENDER_WITHOUT_HASHES, Lie::Closed, Blamed(CLOSED)),
    ];
    assert_all(rows);
}

/// A number for a step. Numbers that the step does not consume are steps themselves: these are
/// neither events nor steps that break the link at once.
fn number(random: &mut Random) -> u8 {
    loop {
        let number = random.below(230) as u8;
        if !matches!(number & 31, 11..=20 | 23 | 26 | 31) {
            return number;
        }
    }
}

/// A script of arbitrary steps (`steps.rs` has their letters): mostly honest ones and events, so
/// that there is something to lie about, and rarely any that end everything at once.
fn script(random: &mut Random) -> Vec<u8> {
    let mut script = vec![random.below(4) as u8];
    // Rarely other lanes than it was told to have, and rarely flows that are not waited for.
    script.push(if random.below(40) == 0 { 240 + random.below(16) as u8 } else { 0 });
    script.push(random.next_u64() as u8);
    for _ in 0..random.below(30) {
        match random.below(40) {
            // It asks, works, waits.
            honest @ 0..24 => script.push([0, 4, 10][honest as usize % 3]),
            // An event, mostly with valid numbers, and mostly for a pending task.
            24..34 => {
                let in_place_of_task = if random.below(4) > 0 { 64 } else { 0 };
                // Rarely of the other direction.
                let direction = if random.below(30) > 0 { script[0] & 1 } else { !script[0] & 1 };
                script.extend([11, random.next_u64() as u8 & !1 | direction | in_place_of_task]);
                let numbers = 2 + random.below(5);
                script.extend((0..numbers).map(|_| number(random)));
            }
            // A file or a buffer is written to, a chunk is done again or forgotten, something is
            // counted or reported.
            34..39 => {
                script.push([21, 22, 24, 25, 27, 30][random.below(6) as usize]);
                script.extend((0..9).map(|_| number(random)));
            }
            // Anything, in the rings and on the socket too.
            _ => script.extend(random.bytes(12)),
        }
    }
    script
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[test]
fn random_scripts_do_no_harm() {
    let (began, before, mut ends) = (Instant::now(), descriptors(), BTreeMap::new());
    for seed in seeds(SCRIPTS) {
        if !ends.is_empty() && began.elapsed() > SCRIPTS_TIME_MAX {
            break;
        }
        eprintln!("seed {seed}");
        let ended = captured::with_script(&script(&mut Random::new(seed)));
        let how = ended.receipt.map_or_else(|error| error.to_string(), |_| "with a receipt".to_owned());
        *ends.entry(how).or_insert(0) += 1;
    }
    let played: usize = ends.values().sum();
    eprintln!("{played} ended so: {ends:#?}");
    let (after, kib) = (descriptors(), own_kib(std::process::id()));
    assert!(after <= before + DESCRIPTORS_LEFT_MAX, "{before} descriptors became {after}");
    assert!(kib <= ATTACKED_KIB_MAX, "{kib} KiB");
}
