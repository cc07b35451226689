//! Interrupted commands answer like those that fail, and leave nothing behind.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use culvert_tests::node::{Pair, RunningNode, wait_for};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::schema::assert_valid;
use rustix::process::Signal;

/// Whether a process has a handler for a signal (proc_pid_status(5), `SigCgt`).
fn handles(process: u32, signal: u32) -> Option<()> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
    (u64::from_str_radix(caught.trim(), 16).ok()? >> (signal - 1) & 1 == 1).then_some(())
}

/// Starts a command, waits for `begun`, and sends it a signal.
fn interrupted(state: &Path, arguments: &[&str], signal: &str, mut begun: impl FnMut(u32) -> Option<()>) -> Ran {
    let mut starting = command(state, arguments);
    let running = starting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the command's beginning", || begun(running.id()));
    Command::new("kill").args([&format!("-{signal}"), &running.id().to_string()]).status().unwrap();
    Ran::from(running.wait_with_output().unwrap())
}

/// Whether a line begins with a time in UTC (RFC 3339).
fn is_timed(line: &str) -> bool {
    let shape = |character: char| if character.is_ascii_digit() { '0' } else { character };
    line.chars().map(shape).collect::<String>().starts_with("0000-00-00T00:00:00.000Z culvert: ")
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

/// Regression: it died of the signal, and its data stayed where temporary files are.
#[test]
fn a_demo_that_is_interrupted_removes_its_data_and_says_so() {
    let room = tempfile::tempdir().unwrap();
    let data = room.path().join("data");
    fs::create_dir(&data).unwrap();
    let directory = data.display().to_string();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let arguments = ["demo", "--json", "--size", "400M", "--directory", &directory];
        let begun = |process| fs::read_dir(&data).unwrap().next().and(handles(process, 15));
        let document = interrupted(&room.path().join("state"), &arguments, signal, begun).exits(code).json();
        assert_valid(&document, "failure");
        assert_eq!(document["state"], "canceled", "{document}");
        assert_eq!(entries(&data), 0, "something is left behind");
    }
}

/// Its two nodes have their state there.
#[test]
fn a_net_bench_that_is_interrupted_removes_its_directory() {
    let room = tempfile::tempdir().unwrap();
    let data = room.path().join("data");
    fs::create_dir(&data).unwrap();
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let mut starting = command(&room.path().join("state"), ["bench", "net", "--json", "--size", "100G"]);
        let starting = starting.env("TMPDIR", &data).stdout(Stdio::piped()).stderr(Stdio::piped());
        let running = starting.spawn().unwrap();
        wait_for("the command's beginning", || fs::read_dir(&data).unwrap().next().and(handles(running.id(), 15)));
        Command::new("kill").args([&format!("-{signal}"), &running.id().to_string()]).status().unwrap();
        let document = Ran::from(running.wait_with_output().unwrap()).exits(code).json();
        assert_valid(&document, "failure");
        assert_eq!(entries(&data), 0, "something is left behind");
    }
}

/// Regression: its file of several gigabytes stayed.
#[test]
fn a_disk_bench_that_is_killed_leaves_no_file() {
    let room = tempfile::tempdir().unwrap();
    let data = room.path().join("data");
    fs::create_dir(&data).unwrap();
    let directory = data.display().to_string();
    let before = rustix::fs::statvfs(&data).unwrap().f_bavail;
    // Its file grows once it no longer has a name.
    let begun = |_| (rustix::fs::statvfs(&data).unwrap().f_bavail + 8_192 < before).then_some(());
    let ran = interrupted(&room.path().join("state"), &["bench", "disk", "--size", "1G", &directory], "KILL", begun);
    assert!(ran.code != 0, "it had ended before it was killed: {ran:?}");
    assert_eq!(entries(&data), 0, "something is left behind");
}

/// Regression: it died of the signal, with a progress line as its last words.
#[test]
fn who_waits_for_a_transfer_and_is_interrupted_hears_so() {
    let pair = Pair::new();
    let _node = pair.start();
    let mut starting = command(&pair.here, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
    let _ours = RunningNode::start(&pair.here, &mut starting);
    let large = pair.path("large");
    fs::write(&large, vec![7; 20 << 20]).unwrap();
    let mut submitting = command(&pair.here, ["transfer", "submit", "--json", "--rate", "1M"]);
    submitting.arg(&large).arg(format!("second:{}", pair.shared.join("large").display()));
    let id = Ran::from(submitting.output().unwrap()).exits(0).json()["transfer"].as_str().unwrap().to_owned();
    for (verb, signal, code) in [("wait", "INT", 130), ("watch", "TERM", 143)] {
        let interrupt = || {
            let begun = |process| handles(process, 2).and(handles(process, 15));
            let ran = interrupted(&pair.here, &["transfer", verb, "--json", &id], signal, begun).exits(code);
            let last = ran.out.lines().last().unwrap_or_else(|| panic!("{ran:?}"));
            let document: serde_json::Value = serde_json::from_str(last).unwrap();
            assert_valid(&document, "failure");
            (ran, document)
        };
        // One that was interrupted before the node answered knows of no transfer.
        let mut tries = (0..20).map(|_| interrupt()).filter(|(_, document)| document["transfer"] == id);
        let (ran, document) = tries.next().expect("one of twenty has heard of its transfer");
        let state = document["state"].as_str().unwrap();
        assert!(["active", "queued"].contains(&state) && document["transfer"] == id, "{document}");
        let ran = ran.says("only the waiting has ended");
        assert!(!ran.out.contains("canceled"), "{ran:?}");
    }
    let late = run(&pair.here, ["transfer", "wait", "--json", "--timeout", "0", &id]).exits(10).json();
    assert_valid(&late, "failure");
    assert!(late["state"] != "failed" && late["transfer"] == id, "{late}");
    // The transfer itself continues.
    let shown = run(&pair.here, ["transfer", "show", "--json", &id]).exits(0).json();
    assert!(["active", "queued"].contains(&shown["state"].as_str().unwrap()), "{shown}");
    run(&pair.here, ["transfer", "cancel", &id]).exits(0);
}

/// Regression: its record said that its process was killed, and the partner's that the connection
/// was cut.
#[test]
fn a_node_that_is_stopped_says_so_to_partners_and_to_itself_and_goes_on_with_its_own() {
    for is_asked in [true, false] {
        let pair = Pair::new();
        let node = pair.start();
        let large = pair.path("large");
        fs::write(&large, vec![7; 20 << 20]).unwrap();
        let destination = format!("second:{}", pair.shared.join("large").display());
        let state_of = |state: &Path, id: &str| {
            run(state, ["transfer", "show", "--json", id]).exits(0).json()["state"].as_str().unwrap().to_owned()
        };
        let is_begun = || (entries(&pair.shared) > 0).then_some(());
        if is_asked {
            let mut sending = command(&pair.here, ["send", "--json", "--rate", "1M", "--retries", "0"]);
            sending.arg(&large).arg(&destination);
            let sending = sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            wait_for("the first data", is_begun);
            let log = node.log();
            assert!(node.end_by(Signal::TERM).success());
            let ran = Ran::from(sending.wait_with_output().unwrap()).exits(5).says("second: the node was stopped");
            let id = ran.json()["transfer"].as_str().unwrap().to_owned();
            let record = run(&pair.there, ["transfer", "show", "--json", &id]).exits(0).json();
            assert_eq!((&record["state"], &record["error"]["exit_code"]), (&"failed".into(), &5.into()), "{record}");
            assert!(record["error"]["text"].as_str().unwrap().contains("the node was stopped"), "{record}");
            // Nobody else records the time of what is in the log.
            assert!(log.lines().next().is_some_and(is_timed), "{log}");
            continue;
        }
        let mut starting =
            command(&pair.here, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
        let ours = RunningNode::start(&pair.here, &mut starting);
        let mut submitting = command(&pair.here, ["transfer", "submit", "--json", "--rate", "1M"]);
        submitting.arg(&large).arg(&destination);
        let id = Ran::from(submitting.output().unwrap()).exits(0).json()["transfer"].as_str().unwrap().to_owned();
        wait_for("the first data", is_begun);
        assert!(ours.end_by(Signal::TERM).success());
        let record = wait_for("the partner's record", || {
            let record = run(&pair.there, ["transfer", "show", "--json", &id]).exits(0).json();
            (record["state"] == "failed").then_some(record)
        });
        assert!(record["error"]["text"].as_str().unwrap().contains("the node was stopped"), "{record}");
        let _again = RunningNode::start(&pair.here, &mut starting);
        wait_for("what goes on", || (state_of(&pair.here, &id) == "active").then_some(()));
        run(&pair.here, ["transfer", "cancel", &id]).exits(0);
    }
}
