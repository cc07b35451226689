//! A node whose socket has no place left for another connection is busy, not gone.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use culvert_tests::node::{Pair, signal_process};
use culvert_tests::program::{Ran, command};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::{Resource, Signal, getrlimit, setrlimit};

/// Takes all places in the queue of a node's socket. The node is stopped, so it accepts none.
fn take_all_places(state: &Path) -> Vec<OwnedFd> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
    let address = SocketAddrUnix::new(state.join("api.sock")).unwrap();
    let mut held = Vec::new();
    loop {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        match connect(&socket, &address) {
            Ok(()) => held.push(socket),
            Err(Errno::AGAIN) => return held,
            Err(error) => panic!("after {} connections: {error}", held.len()),
        }
    }
}

/// Regression: the answer was that the socket had been removed.
#[test]
fn a_node_with_a_full_queue_is_busy() {
    let pair = Pair::new();
    let node = pair.start();
    signal_process(node.process_id(), Signal::STOP);
    let held = take_all_places(&pair.there);
    assert!(held.len() > 500, "{}", held.len());
    let ran: Ran = command(&pair.there, ["status", "--json"]).output().unwrap().into();
    let ran = ran.exits(5).says("the node is busy").says("api.sock");
    assert_eq!(ran.json()["error"]["code"], "temporary", "{ran:?}");
    for arguments in [&["transfer", "list"][..], &["capture", "/dev/null"]] {
        let ran: Ran = command(&pair.there, arguments).output().unwrap().into();
        ran.exits(5).says("the node is busy");
    }
    // Once there are places, a command that waits for one gets it.
    let asking = command(&pair.there, ["status"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(500));
    drop(held);
    signal_process(node.process_id(), Signal::CONT);
    Ran::from(asking.wait_with_output().unwrap()).exits(0);
}
