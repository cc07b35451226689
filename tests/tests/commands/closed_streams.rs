//! Standard error that accepts nothing: its disk is full, or its reader is gone. A message that
//! cannot be written ends nothing. A result that cannot be written is an error, unless its reader
//! is gone, who wanted no more of it.

use std::fs::{self, File};
use std::process::{Command, Stdio};

use culvert_tests::node::{Pair, RunningNode};
use culvert_tests::program::{Ran, command};
use culvert_tests::random::Random;

/// Whatever is written to it finds no space.
fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

/// A pipe whose reader is gone.
fn without_reader() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

/// Regression: each ended with 101.
#[test]
fn an_error_that_cannot_be_said_keeps_its_code() {
    let room = tempfile::tempdir().unwrap();
    let state = room.path().join("state");
    for stream in [full, without_reader] {
        let code = |arguments: &[&str]| {
            command(&state, arguments).stdout(Stdio::null()).stderr(stream()).status().unwrap().code()
        };
        assert_eq!(code(&["send", "/nowhere/at/all", "nobody:/tmp/"]), Some(3));
        assert_eq!(code(&["transfer", "list"]), Some(0));
        assert_eq!(code(&["no-such-command"]), Some(2));
        assert_eq!(code(&["profile", "show", "nobody"]), Some(3));
    }
}

/// Regression: progress that could not be written ended the transfer.
#[test]
fn progress_that_nobody_reads_ends_no_transfer() {
    let pair = Pair::new();
    // A node whose log has no room.
    let asked = pair.command(&pair.there, ["node", "--listen", "127.0.0.1:0", "--ports", "any"]);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec \"$0\" \"$@\" 2> /dev/full"]).arg(asked.get_program()).args(asked.get_args());
    for (name, value) in asked.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    let mut node = RunningNode::start(&pair.there, &mut shell);
    pair.meet(node.port);
    let source = pair.path("large");
    fs::write(&source, Random::new(41).bytes(14 << 20)).unwrap();
    // Long enough for a progress line, which is printed every ten seconds.
    let destination = format!("second:{}", pair.shared.join("copy").display());
    let mut sending = command(&pair.here, ["send", "--json", "--rate", "10M"]);
    let child = sending.arg(&source).arg(destination).stdout(Stdio::piped()).stderr(without_reader()).spawn().unwrap();
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.exits(0).json()["state"], "succeeded");
    assert!(fs::read(pair.shared.join("copy")).unwrap() == fs::read(&source).unwrap());
    assert!(node.is_alive());
}

/// Regression: help, versions and completions ended with 0 although nobody had them.
#[test]
fn a_result_that_cannot_be_written_is_an_error() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("small");
    fs::write(&source, "content").unwrap();
    let (source, place) = (source.display().to_string(), format!("second:{}", pair.shared.join("in").display()));
    pair.run(&pair.here, ["send", &source, &place]).exits(0);
    let key = "7".repeat(64);
    let here: [&[&str]; 22] = [
        &["--help"],
        &["-h"],
        &["--version"],
        &["help", "send"],
        &["send", "--help"],
        &["transfer", "list", "--help"],
        &["version"],
        &["version", "--json"],
        &["completion", "bash"],
        &["completion", "zsh"],
        &["completion", "fish"],
        &["config", "show"],
        &["config", "show", "--json"],
        &["identity"],
        &["profile", "list"],
        &["profile", "show", "second", "--json"],
        &["profile", "add", "another", "--key", &key],
        &["transfer", "list", "--json"],
        &["transfer", "list"],
        &["send", "--overwrite", "always", &source, &place],
        &["send", "--overwrite", "always", "--json", &source, &place],
        &["tune", "audit", "--json"],
    ];
    let there: [&[&str]; 4] = [&["status"], &["status", "--json"], &["monitor"], &["capture", "--seconds", "0.1", "-"]];
    let all = here.iter().map(|arguments| (&pair.here, *arguments));
    for (state, arguments) in all.chain(there.iter().map(|arguments| (&pair.there, *arguments))) {
        let ran = |stream: fn() -> Stdio| {
            let child = command(state, arguments).stdout(stream()).stderr(Stdio::piped()).spawn().unwrap();
            Ran::from(child.wait_with_output().unwrap())
        };
        let full = ran(full);
        assert!(![0, 101].contains(&full.code), "{arguments:?}: {full:?}");
        assert!(full.err.contains("No space left on device"), "{arguments:?}: {full:?}");
        // The profile is there by now, and an audit may tell of findings.
        if !["add", "audit"].contains(&arguments[1 % arguments.len()]) {
            assert_eq!(ran(without_reader).code, 0, "{arguments:?}");
        }
    }
}

/// Regression: the command ended with 0, and the capture was empty.
#[test]
fn a_capture_that_cannot_be_written_is_an_error_of_a_transfer_that_succeeded() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("large");
    fs::write(&source, Random::new(5).bytes(8 << 20)).unwrap();
    let place = format!("second:{}", pair.shared.join("copy").display());
    let source_path = source.display().to_string();
    let ran = pair.run(&pair.here, ["send", "--json", "--capture", "/dev/full", &source_path, &place]);
    let ran = ran.exits(1).says("cannot write the capture to /dev/full").says("No space left on device");
    assert_eq!(ran.json()["state"], "succeeded");
    assert!(fs::read(pair.shared.join("copy")).unwrap() == fs::read(&source).unwrap());
}
