//! Transfers that make no progress although everything around them is alive: they are given up by
//! name, and continue from what is stored.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use culvert_protocol::control::{Message, RefusalCode};
use culvert_tests::hostile_sender::HostileSender;
use culvert_tests::node::{PATIENCE, Pair, signal_process, wait_for};
use culvert_tests::program::{Ran, command};
use culvert_tests::random::Random;
use culvert_tests::stranger::file;
use culvert_tests::tree::{assert_same, make_flat, temporary_files};
use rustix::process::Signal;

/// Both control processes are alive and talk to each other all the while.
#[test]
fn a_transfer_that_gets_nowhere_is_given_up_and_goes_on_from_what_is_stored() {
    let pair = Pair::new();
    let node = pair.start_impatient(3);
    let source = pair.path("source");
    make_flat(&source, 8, 4 << 20, &mut Random::new(1));
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--json", "--rate", "60M", "--retries", "20"]);
    let child = sending.arg(source.join("")).arg(destination).stdout(Stdio::piped()).spawn().unwrap();
    wait_for("the first data", || (!temporary_files(&pair.shared).is_empty()).then_some(()));
    let data_plane = node.data_plane();
    signal_process(data_plane, Signal::STOP);
    wait_for("the end of the first try", || node.log().contains("the transfer made no progress").then_some(()));
    signal_process(data_plane, Signal::CONT);
    let ran: Ran = child.wait_with_output().unwrap().into();
    ran.exits(0);
    assert_same(&source, &pair.shared.join("in"));
    assert!(temporary_files(&pair.shared).is_empty());
}

#[test]
fn a_sender_that_only_says_that_it_lives_is_given_up() {
    let pair = Pair::new();
    let node = pair.start_impatient(3);
    let mut sender = HostileSender::begin(&pair.here, node.port, &pair.shared.join("in"), &[file(b"file", 1 << 20)]);
    let began = Instant::now();
    let mut frame = Vec::new();
    Message::Ping(1).write_frame(&mut frame);
    while sender.stranger.say_bytes(&frame).is_ok() {
        assert!(began.elapsed() < PATIENCE, "the node waits forever");
        std::thread::sleep(Duration::from_millis(50));
    }
    let refusal = sender.stranger.hear_refusal();
    assert_eq!(refusal.code, RefusalCode::Temporary, "{refusal}");
    assert!(refusal.text.contains("1 file and 0 chunks are outstanding"), "{refusal}");
    // The next one is answered.
    fs::write(pair.path("file"), "content").unwrap();
    pair.send(&pair.path("file"), "next", &[]).exits(0);
}
