//! Very many files: bounded memory, progress that can be queried, and a resume that does not start
//! over.
//!
//! The default run has 20,000 files. The million takes several minutes and 15 GB of disk for each
//! side's tree, and is best run in release:
//!
//! ```text
//! cargo xtask test --release scale -- --ignored --nocapture
//! ```
//!
//! `CULVERT_FILES=n` changes the number; the files go below `TMPDIR`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use culvert_tests::api::call;
use culvert_tests::history::History;
use culvert_tests::node::{Pair, RunningNode, wait_for};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::random::Random;
use culvert_tests::tree::temporary_files_of;

/// Both processes of a side together, shared memory counted once.
const SIDE_KIB_MAX: u64 = 512 << 10;

/// How long the first tenth may take; a million files are listed first.
const SUBMITTED_TO_TENTH_MAX: Duration = Duration::from_secs(300);

/// Where file number `number` is: a tenth in one wide directory, a few far down, the rest in
/// directories of a thousand.
fn place(number: usize) -> PathBuf {
    match number % 10 {
        0 => format!("wide/file-{number:07}").into(),
        1 if number.is_multiple_of(101) => {
            (0..40).map(|level| format!("level-{level:02}")).collect::<PathBuf>().join(format!("file-{number:07}"))
        }
        _ => format!("a{:02}/b{:02}/c{}/file-{number:07}", number / 100_000, number / 10_000 % 10, number / 1_000 % 10)
            .into(),
    }
}

/// Nine of ten have 4 KiB, the tenth up to 64 KiB.
fn content(number: usize) -> Vec<u8> {
    let mut random = Random::new(number as u64);
    let bytes = if random.below(10) < 9 { 4_096 } else { 4_096 + random.below(60 << 10) as usize };
    random.bytes(bytes)
}

fn make(root: &Path, files: usize) -> u64 {
    let mut bytes = 0;
    for number in 0..files {
        let path = root.join(place(number));
        let mut file = match fs::File::create(&path) {
            Ok(file) => file,
            Err(_) => {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::File::create(&path).unwrap()
            }
        };
        let content = content(number);
        bytes += content.len() as u64;
        file.write_all(&content).unwrap();
    }
    bytes
}

/// The most memory that a side's processes have had: the control process without what it shares,
/// and the data plane with it.
fn peak_kib(control: u32, data_plane: u32) -> u64 {
    let field = |process: u32, name: &str| -> u64 {
        let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
    };
    let shared = field(control, "RssShmem:");
    field(control, "VmHWM:").saturating_sub(shared) + field(data_plane, "VmHWM:")
}

/// `rate` slows the transfer down, so that it is surely under way when it is looked at.
fn transfer_of(files: usize, rate: Option<&str>) {
    let pair = Pair::new();
    let mut node = Some(pair.start());
    let source = pair.path("source");
    let began = Instant::now();
    let bytes = make(&source, files);
    eprintln!("{files} files with {bytes} bytes made in {:?}", began.elapsed());
    let mut starting = command(&pair.here, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
    let ours = RunningNode::start(&pair.here, &mut starting);
    let destination = format!("second:{}", pair.shared.join("in").display());
    let began = Instant::now();
    let mut submitting = command(&pair.here, ["transfer", "submit"]);
    submitting.args(rate.into_iter().flat_map(|rate| ["--rate", rate]));
    let submitted: Ran = submitting.arg(source.join("")).arg(destination).output().unwrap().into();
    let id = submitted.exits(0).out.trim().to_owned();
    let shown = || call(&pair.here, "GET", &format!("/v1/transfers/{id}"), "").1;
    // Progress is reported while the transfer goes on.
    let history = History::new(&pair.there, pair.path("kept"));
    let at_kill = loop {
        let shown = shown();
        let progress = shown["progress"].clone();
        let done = progress["files_done"].as_u64().unwrap_or(0);
        let is_journaled = history.stored_now().files.len() > files / 10;
        if done > files as u64 / 10 && is_journaled {
            let told = run(&pair.here, ["transfer", "show", &id, "--json"]).exits(0).json();
            assert!(told["progress"]["files_done"].as_u64() >= Some(done), "{told}");
            assert_eq!(progress["files_total"].as_u64(), Some(files as u64), "{progress}");
            assert_eq!(progress["bytes_total"].as_u64(), Some(bytes), "{progress}");
            break done;
        }
        let is_under_way = shown["state"] == "queued" || shown["state"] == "active";
        assert!(is_under_way, "over before it could be interrupted: {shown}");
        assert!(began.elapsed() < SUBMITTED_TO_TENTH_MAX, "no progress: {shown}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let receiver = node.take().unwrap();
    let peak_before = peak_kib(receiver.process_id(), receiver.data_plane());
    receiver.kill();
    let stored = history.stored_now();
    eprintln!("killed after {:?} with {at_kill} files done, {} journaled", began.elapsed(), stored.files.len());
    let node = pair.start();
    let resumed = Instant::now();
    wait_for("the transfer to go on", || {
        let shown = shown();
        let goes_on = shown["state"] != "active" && shown["state"] != "queued"
            || shown["attempts"].as_u64() > Some(1) && shown["progress"]["phase"] == "moving";
        goes_on.then_some(())
    });
    eprintln!("data moved again {:?} after the node was back", resumed.elapsed());
    let waited: Ran =
        command(&pair.here, ["transfer", "wait", &id, "--timeout", "3600", "--json"]).output().unwrap().into();
    let record = waited.exits(0).json();
    eprintln!("done after {:?}", began.elapsed());
    let result = &record["result"];
    assert_eq!(result["files"]["total"].as_u64(), Some(files as u64), "{result}");
    assert_eq!(result["files"]["failed"].as_u64(), Some(0), "{result}");
    assert!(result["resumed_bytes"].as_u64().unwrap() >= stored.bytes(), "{result}");
    for (what, peak) in [
        ("sender", peak_kib(ours.process_id(), ours.data_plane())),
        ("receiver", peak_before.max(peak_kib(node.process_id(), node.data_plane()))),
    ] {
        eprintln!("the {what} had {} MiB at most", peak >> 10);
        assert!(peak <= SIDE_KIB_MAX, "the {what} had {peak} KiB");
    }
    let copy = pair.shared.join("in");
    for number in 0..files {
        assert!(fs::read(copy.join(place(number))).unwrap() == content(number), "{}", place(number).display());
    }
    assert!(temporary_files_of(&copy).is_empty());
    assert_eq!(fs::read_dir(pair.there.join("journals")).unwrap().count(), 0);
}

#[test]
fn twenty_thousand_files_are_resumed_in_bounded_memory() {
    transfer_of(20_000, Some("200M"));
}

#[test]
#[ignore = "a million files: cargo xtask test --release scale -- --ignored --nocapture"]
fn a_million_files_are_resumed_in_bounded_memory() {
    let files = std::env::var("CULVERT_FILES").ok().and_then(|files| files.parse().ok()).unwrap_or(1_000_000);
    transfer_of(files, None);
}
