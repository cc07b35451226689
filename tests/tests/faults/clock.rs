//! Somebody sets a host's clock by a day, forwards and back, while a transfer is under way; and
//! which code asks for that clock at all.
//!
//! `libfaketime` shows the processes of both sides another wall clock, and moves it when a file
//! says so. The monotonic clock keeps running, as it does when an admin sets the time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use culvert_tests::node::{Pair, wait_for};
use culvert_tests::program::{Ran, command};
use culvert_tests::random::Random;
use culvert_tests::sources::of_product;
use culvert_tests::tree::{assert_same, make_flat, temporary_files};

const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

/// The library, where its package installs it.
fn library() -> Option<PathBuf> {
    let directories = fs::read_dir("/usr/lib").ok()?.flatten().map(|entry| entry.path().join("faketime"));
    let directories = directories.chain(["/usr/lib/faketime".into(), "/usr/lib64/faketime".into()]);
    directories.map(|directory| directory.join("libfaketimeMT.so.1")).find(|library| library.is_file())
}

/// Runs a command under the clock that `offset` describes.
fn under_clock(command: &mut Command, library: &Path, offset: &Path) {
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_TIMESTAMP_FILE", offset)
        .env("FAKETIME_NO_CACHE", "1")
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("DONT_FAKE_MONOTONIC", "1");
}

/// Sets a clock's offset, at once.
fn set_off(offset: &Path, days: i32) {
    let next = offset.with_extension("next");
    fs::write(&next, format!("{days:+}d\n")).unwrap();
    fs::rename(next, offset).unwrap();
}

#[test]
fn clocks_that_jump_by_a_day_under_a_transfer_change_nothing_but_what_is_recorded() {
    let Some(library) = library() else {
        eprintln!("skipped: libfaketime is not installed");
        return;
    };
    // The receiver's clock, or the sender's, forwards and then back past where it was.
    for who in ["receiver", "sender"] {
        let pair = Pair::new();
        let offsets = [pair.path("receiver's clock"), pair.path("sender's clock")];
        offsets.iter().for_each(|offset| set_off(offset, 0));
        let _node = pair.start_changed(|starting| under_clock(starting, &library, &offsets[0]));
        let source = pair.path("source");
        make_flat(&source, 8, 4 << 20, &mut Random::new(1));
        let destination = format!("second:{}", pair.shared.join("in").display());
        let mut sending = command(&pair.here, ["send", "--json", "--rate", "60M", "--retries", "0"]);
        sending.arg(source.join("")).arg(destination).stdout(Stdio::piped()).stderr(Stdio::piped());
        under_clock(&mut sending, &library, &offsets[1]);
        let child = sending.spawn().unwrap();
        wait_for("the first data", || (!temporary_files(&pair.shared).is_empty()).then_some(()));
        let (offset, state) = if who == "receiver" { (&offsets[0], &pair.there) } else { (&offsets[1], &pair.here) };
        for days in [1, -1, 1] {
            set_off(offset, days);
            std::thread::sleep(Duration::from_millis(400));
        }
        let ran: Ran = child.wait_with_output().unwrap().into();
        let result = ran.exits(0).json();
        assert_same(&source, &pair.shared.join("in"));
        // The duration was measured by the other clock.
        let seconds = result["seconds"].as_f64().unwrap();
        assert!((0.0..3_600.0).contains(&seconds), "the {who}'s clock: {seconds} s");
        let record = fs::read_dir(state.join("transfers")).unwrap().flatten().next().unwrap().path();
        let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
        let time = |name: &str| record[name].as_i64().unwrap();
        let recorded = time("ended_unix_ms") - time("created_unix_ms");
        assert!((DAY_MS..DAY_MS + 3_600_000).contains(&recorded), "the {who}'s clock did not jump: {recorded} ms");
    }
}

/// Timers that follow the wall clock would fire, or never fire, when somebody sets it. So only
/// records may ask for it.
#[test]
fn the_wall_clock_is_asked_for_records_and_nothing_else() {
    // What each of them does with it.
    let permitted = [
        // When a transfer began and ended, for people and receipts; ids sort by it.
        "control/transfer/src/clock.rs",
        // Whether a source has just changed: file systems stamp their inodes with it.
        "control/system/src/settling.rs",
        // When a path was measured, and what a schedule says.
        "perfsonar/src/clock.rs",
        // What Wireshark shows for a packet.
        "control/node/src/capture/pcap.rs",
        // When a line of the log was written, where no journal notes it.
        "control/node/src/log_lines.rs",
        // What the portal's clock is: everything there asks it, and tests move it.
        "portal/seams/src/clock.rs",
        // Seeds of the portal's random tests.
        "portal/tests",
        // When a host was looked at or changed.
        "tuning/host/src/collect.rs",
        "tuning/src/measure.rs",
        "tuning/src/transaction/apply.rs",
    ];
    let mut found = 0;
    for source in of_product() {
        let asks = [
            "SystemTime::now",
            "Timestamp::now",
            "Zoned::now",
            ".elapsed().is_ok",
            "ClockId::Realtime",
            "CLOCK_REALTIME",
        ];
        if asks.iter().any(|ask| source.code().contains(ask)) {
            found += 1;
            assert!(
                permitted.iter().any(|place| source.path.starts_with(place)),
                "{} asks for the wall clock",
                source.path.display()
            );
        }
    }
    assert!(found >= 2, "the search finds nothing any more");
}
