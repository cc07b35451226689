//! Standard error that accepts nothing: its disk is full, or its reader is gone. A message that
//! cannot be written ends nothing.

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
