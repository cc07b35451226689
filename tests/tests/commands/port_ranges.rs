//! Ports that a user names for a firewall: a range lets a free port in it be used.
//!
//! Before, a transfer used the first port of the range and failed if that was taken.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::{fs, ops::RangeInclusive};

use culvert_tests::node::Pair;
use culvert_tests::program::{Ran, command};
use culvert_tests::ssh_stand_in::FarEnd;

/// Ports that are taken, for as long as this lives.
struct Taken {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

/// A range of eight free ports, of which `taken` are then occupied.
fn range(taken: RangeInclusive<u16>) -> (String, u16, Taken) {
    // Tests in one process look at different ports.
    static LOOKED_AT: AtomicU16 = AtomicU16::new(0);
    let begins = std::process::id() as u16 % 500;
    for _ in 0..1_250 {
        let first = 20_000 + (begins + LOOKED_AT.fetch_add(1, Ordering::Relaxed)) % 1_250 * 8;
        let is_free = |port| UdpSocket::bind(("0.0.0.0", port)).is_ok() && TcpListener::bind(("0.0.0.0", port)).is_ok();
        if (first..first + 8).all(is_free) {
            let udp = taken.clone().map(|port| UdpSocket::bind(("0.0.0.0", first + port)).unwrap()).collect();
            let tcp = taken.map(|port| TcpListener::bind(("0.0.0.0", first + port)).unwrap()).collect();
            return (format!("{first}-{}", first + 7), first, Taken { udp, tcp });
        }
    }
    panic!("no eight ports in a row are free");
}

struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        let room = tempfile::Builder::new().prefix("culvert-ports-").tempdir().unwrap();
        fs::write(room.path().join("source"), "content").unwrap();
        Self(room)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn send(&self, options: &[&str]) -> Ran {
        let far = FarEnd::new(self.path(), None);
        let mut sending = far.command(&self.path().join("near"), "send", options);
        sending.arg(self.path().join("source")).arg(FarEnd::place(&self.path().join("there")));
        sending.output().unwrap().into()
    }
}

#[test]
fn a_far_end_takes_other_ports_of_the_range_than_those_in_use() {
    let room = Room::new();
    let (ports, _, _taken) = range(0..=3);
    room.send(&["--remote-ports", &ports, "--remote-cores", "0"]).exits(0);
    assert_eq!(fs::read(room.path().join("there")).unwrap(), b"content");
}

#[test]
fn a_command_takes_other_ports_of_the_range_than_those_in_use() {
    let room = Room::new();
    let (ports, _, _taken) = range(0..=6);
    room.send(&["--ports", &ports, "--cores", "0"]).exits(0);
}

#[test]
fn a_range_without_a_free_port_is_named_once_with_its_host_and_option() {
    let room = Room::new();
    for (option, cores, of, retries) in [
        ("--remote-ports", "--remote-cores", "UDP", "0"),
        ("--remote-ports", "--remote-cores", "UDP", "2"),
        ("--remote-ports", "--remote-cores", "TCP", "2"),
        ("--ports", "--cores", "UDP", "0"),
    ] {
        let (ports, _, mut taken) = range(0..=7);
        match of {
            "UDP" => taken.tcp.clear(),
            _ => taken.udp.clear(),
        }
        let ran = room.send(&[option, &ports, cores, "0", "--retries", retries]).exits(5);
        assert_eq!(ran.err.matches(&format!("no {of} port of {ports} on ")).count(), 1, "{}", ran.err);
        assert!(ran.err.contains(&format!("other ports with {option}")), "{}", ran.err);
        assert!(!ran.err.contains("being restarted"), "a restart would find the same: {}", ran.err);
    }
}

#[test]
fn too_few_free_ports_for_the_lanes_are_counted() {
    let room = Room::new();
    let (ports, _, _taken) = range(0..=6);
    let cores = "0,0";
    let ran = room.send(&["--ports", &ports, "--cores", cores, "--retries", "0"]);
    if ran.err.contains("core") {
        eprintln!("skipped: a core has no two lanes");
        return;
    }
    ran.exits(5).says("only 1 of the UDP ports");
}

/// Partners' firewalls know a node's ports.
#[test]
fn a_node_takes_its_own_ports_or_none() {
    let pair = Pair::new();
    let (_, first, _taken) = range(0..=0);
    let ports = format!("{first}-{}", first + 7);
    let mut starting = command(&pair.there, ["node", "--listen", "127.0.0.1:0", "--metrics", "off", "--cores", "0"]);
    let ran: Ran = starting.args(["--ports", &ports]).output().unwrap().into();
    let ran = ran.exits(7);
    assert_eq!(ran.err.matches(&format!("UDP port {first} ")).count(), 1, "said once: {}", ran.err);
    assert!(ran.err.contains("--ports"), "{}", ran.err);
}
