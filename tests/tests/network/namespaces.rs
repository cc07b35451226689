//! Transfers between two network namespaces: families, packet sizes, and paths that do not carry
//! everything.

use std::fs;
use std::path::{Path, PathBuf};

use culvert_tests::lab::Lab;
use culvert_tests::node::{Pair, RunningNode};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::random::Random;
use culvert_tests::tree::{assert_same, make_flat};

/// A pair whose second node runs on the lab's second side.
struct Sides {
    lab: Lab,
    pair: Pair,
    node: RunningNode,
}

impl Sides {
    fn start(mtu: u32, address: &str) -> Option<Self> {
        let lab = Lab::new(mtu)?;
        let pair = Pair::new();
        let listen = ["node", "--listen", "[::]:7272", "--metrics", "off"];
        let node = RunningNode::start(&pair.there, &mut lab.inside(1, &command(&pair.there, listen)));
        pair.meet(node.port);
        run(&pair.here, ["profile", "edit", "second", "--address", &format!("{address}:7272")]).exits(0);
        Some(Self { lab, pair, node })
    }

    fn send(&self, source: &Path, options: &[&str]) -> Ran {
        let destination = format!("second:{}", self.pair.shared.join("in").display());
        let mut sending = command(&self.pair.here, ["send", "--json"]);
        sending.args(options).arg(source).arg(destination);
        self.lab.inside(0, &sending).output().unwrap().into()
    }

    fn source(&self) -> PathBuf {
        let source = self.pair.path("source");
        make_flat(&source, 40, 2 << 20, &mut Random::new(1));
        source.join("")
    }
}

#[test]
fn both_families_and_both_packet_sizes() {
    for (mtu, address) in [(1_500, "10.96.0.2"), (1_500, "[fd96::2]"), (9_000, "10.96.0.2"), (9_000, "[fd96::2]")] {
        let Some(sides) = Sides::start(mtu, address) else { return };
        let source = sides.source();
        let result = sides.send(&source, &[]).exits(0).json();
        assert_same(&source, &sides.pair.shared.join("in"));
        let headers = if address.contains(':') { 40 + 8 } else { 20 + 8 };
        assert_eq!(
            result["segment_bytes"].as_u64().unwrap() + headers + 48,
            u64::from(mtu),
            "{mtu} {address}: {result}"
        );
        assert_eq!(result["datapath"], "udp");
    }
}

#[test]
fn a_path_that_carries_less_than_the_interfaces_is_measured() {
    let Some(sides) = Sides::start(9_000, "10.96.0.2") else { return };
    // The far interface accepts less than the near one sends: a black hole without a message.
    sides.lab.tool(1, "sh", &["-c", "ip link set $(ip -o link show type veth | cut -d' ' -f2 | cut -d@ -f1) mtu 4000"]);
    let source = sides.source();
    let result = sides.send(&source, &[]).exits(0).json();
    assert_same(&source, &sides.pair.shared.join("in"));
    let segment = result["segment_bytes"].as_u64().unwrap();
    assert!(segment < 4_000 && segment > 2_000, "segments of {segment} bytes on a path of 4000");
}

#[test]
fn blocked_udp_is_named_with_the_port_to_open() {
    let Some(sides) = Sides::start(1_500, "10.96.0.2") else { return };
    // TCP passes, UDP does not, as with firewalls. A blackhole needs no netfilter.
    sides.lab.tool(0, "ip", &["rule", "add", "ipproto", "udp", "blackhole", "prio", "1"]);
    let ran = sides.send(&sides.source(), &["--retries", "0"]);
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.err.contains("UDP") && ran.err.contains("7273"), "the port is named: {}", ran.err);
    sides.lab.tool(0, "ip", &["rule", "del", "ipproto", "udp", "prio", "1"]);
    let source = sides.source();
    sides.send(&source, &[]).exits(0);
    assert_same(&source, &sides.pair.shared.join("in"));
}

#[test]
fn a_cable_pulled_for_a_moment_costs_a_pause() {
    let Some(sides) = Sides::start(1_500, "10.96.0.2") else { return };
    let source = sides.pair.path("large");
    fs::write(&source, Random::new(2).bytes(64 << 20)).unwrap();
    let destination = format!("second:{}", sides.pair.shared.join("in").display());
    let mut sending = command(&sides.pair.here, ["send", "--json", "--rate", "200M"]);
    sending.arg(&source).arg(destination);
    let child = sides
        .lab
        .inside(0, &sending)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(800));
    sides.lab.tool(0, "ip", &["rule", "add", "to", "10.96.0.2", "blackhole", "prio", "1"]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    sides.lab.tool(0, "ip", &["rule", "del", "to", "10.96.0.2", "prio", "1"]);
    let ran: Ran = child.wait_with_output().unwrap().into();
    ran.exits(0);
    assert!(fs::read(&source).unwrap() == fs::read(sides.pair.shared.join("in")).unwrap());
    drop(sides.node);
}
