//! The thread that carries feedback never waits for a disk: neither for the one with the node's
//! state, nor for the destination's.
//!
//! The disk is the test's ([`StateDisk`]). The kernel tells it which thread asks for what, so
//! "never" is counted, not timed. In addition, the node itself counts reports that wait in it for
//! more than two of their intervals, once with a disk that takes 200 ms for each flush and once
//! with one that takes no time, while transfers begin and end all the time.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use culvert_tests::api::{call, push_request};
use culvert_tests::node::{Pair, RunningNode, metrics_of, wait_for};
use culvert_tests::program::command;
use culvert_tests::random::Random;
use culvert_tests::state_disk::{StateDisk, missing};
use culvert_tests::tree::{assert_same, make_flat};
use culvert_tests::wan::WanConfig;
use culvert_tests::wan::table::WanPair;

/// How long a flush of the slow disk takes.
const FLUSH_TAKES: Duration = Duration::from_millis(200);
/// Transfers that begin and end beside the one that is measured.
const OTHERS: usize = 24;

fn room() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("culvert-test-").tempdir().unwrap()
}

/// The result of a run.
#[derive(Debug)]
struct Counted {
    reports: u64,
    late: u64,
    /// What the thread asked the disk for.
    asked: Vec<String>,
}

/// A transfer over a long path, and others that begin and end; the node's state is on a disk whose
/// flushes take this long.
fn count(flush_takes: Duration) -> Option<Counted> {
    let room = room();
    let disk = StateDisk::new();
    let state = disk.mounted.join("state");
    let pair = WanPair::with(&WanConfig::clean(100_000_000, 80.0), room, &state)?;
    let here = pair.room().join("here");
    let asking = ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"];
    let asking = RunningNode::start(&here, &mut pair.wan.inside(0, &command(&here, asking)));
    let file = pair.room().join("file");
    fs::write(&file, "content").unwrap();
    disk.set_flush_takes(flush_takes);
    disk.watch(pair.node().process_id());
    std::thread::scope(|scope| {
        let others = scope.spawn(|| push_many(&here, &file, &pair.room().join("in")));
        // About six seconds.
        let measured = pair.measure(15 << 20, &["--rate", "20M"]);
        assert!(measured.goodput_bits_per_second > 0.0);
        others.join().unwrap();
    });
    let asked = disk.asked();
    let metrics = metrics_of(&state);
    let counted = |result: &str| {
        let series = format!("culvert_reports_total{{result=\"{result}\"}} ");
        metrics.lines().find_map(|line| line.strip_prefix(&*series)?.parse().ok()).unwrap_or(0)
    };
    let (late, in_time): (u64, u64) = (counted("late"), counted("in_time"));
    // They have written their state by the time they end.
    drop((asking, pair));
    Some(Counted { reports: late + in_time, late, asked })
}

/// Makes the node with state `here` push a file to many places, and waits for all of them to end.
fn push_many(here: &Path, file: &Path, to: &Path) {
    let ids: Vec<String> = (0..OTHERS)
        .map(|number| {
            let place = to.join(number.to_string());
            fs::create_dir_all(&place).unwrap();
            let request = push_request(file, &place.join("file"), None);
            let (status, answer) = call(here, "POST", "/v1/transfers", &request);
            assert_eq!(status, 200, "{answer}");
            answer["transfer"].as_str().unwrap().to_owned()
        })
        .collect();
    for id in ids {
        wait_for("the end of a transfer", || {
            let (_, record) = call(here, "GET", &format!("/v1/transfers/{id}"), "");
            assert_ne!(record["state"], "failed", "{record}");
            (record["state"] == "succeeded").then_some(())
        });
    }
}

#[test]
fn no_report_waits_for_a_slow_disk_under_the_state() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let Some(fast) = count(Duration::ZERO) else { return };
    let Some(slow) = count(FLUSH_TAKES) else { return };
    for (what, counted) in [("no time", &fast), ("200 ms", &slow)] {
        eprintln!("flushes that take {what}: {} reports, {} of them late", counted.reports, counted.late);
    }
    assert_eq!(slow.asked, [] as [String; 0], "the thread asked the disk itself");
    assert!(slow.reports > 100, "{slow:?}");
    // Usually none, but a machine that gives the thread no time makes reports late whatever the
    // disk does. When the thread wrote the records itself, 574 of 1,604 were late.
    let excused = fast.late + slow.reports / 100;
    assert!(slow.late <= excused, "{} late reports, and {} without a slow disk", slow.late, fast.late);
}

/// Everything that is done to a destination, and to the state, by a transfer of all kinds of files,
/// by one that fails, and by other requests to the node.
#[test]
fn the_thread_asks_no_disk_for_anything() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let room = room();
    let disk = StateDisk::new();
    let (state, shared) = (disk.mounted.join("state"), disk.mounted.join("shared"));
    let pair = Pair::with(room, state, shared);
    let node = pair.start();
    let source = pair.path("source");
    let mut random = Random::new(1);
    make_flat(&source.join("flat"), 40, 2_000, &mut random);
    make_flat(&source.join("large"), 3, 3 << 20, &mut random);
    fs::write(source.join("empty"), "").unwrap();
    let sparse = fs::File::create(source.join("sparse")).unwrap();
    sparse.set_len(24 << 20).unwrap();
    sparse.write_all_at(b"an island", 13 << 20).unwrap();
    disk.watch(node.process_id());
    pair.send(&source, "in", &["--rate", "100M"]).exits(0);
    assert_same(&source, &pair.shared.join("in/source"));
    // Compared by content, replaced in part.
    fs::write(source.join("large/file-000000"), random.bytes(5 << 20)).unwrap();
    pair.send(&source, "in", &["--overwrite", "content"]).exits(0);
    assert_same(&source, &pair.shared.join("in/source"));
    // Fetched, refused, and looked at.
    pair.get("in/source", &pair.path("back"), &[]).exits(0);
    assert_same(&source, &pair.path("back/source"));
    pair.get("not there", &pair.path("back"), &[]).exits(3);
    for path in ["/v1/status", "/v1/transfers"] {
        assert_eq!(call(&pair.there, "GET", path, "").0, 200);
    }
    assert!(!node.metrics().is_empty());
    assert_eq!(disk.asked(), [] as [String; 0], "the thread asked the disk itself");
}
