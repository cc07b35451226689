//! Transfers through AF_XDP between two network namespaces: families, packet sizes, processes that are killed, links that go down.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use culvert_tests::lab::Lab;
use culvert_tests::node::{Pair, RunningNode};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::random::Random;
use culvert_tests::tree::{assert_same, make_flat};

/// A node on the lab's second side whose lane is on AF_XDP, and what a sender on the first needs.
struct Sides {
    lab: Lab,
    pair: Pair,
    node: RunningNode,
}

impl Sides {
    fn start(mtu: u32, address: &str) -> Option<Self> {
        let lab = Lab::new(mtu)?;
        let pair = Pair::new();
        let listen = ["node", "--listen", "[::]:7272", "--metrics", "off", "--datapath", "af_xdp", "--cores", "0"];
        let node = RunningNode::start(&pair.there, &mut lab.inside(1, &command(&pair.there, listen)));
        pair.meet(node.port);
        run(&pair.here, ["profile", "edit", "second", "--address", &format!("{address}:7272")]).exits(0);
        Some(Self { lab, pair, node })
    }

    fn sending(&self, source: &Path, options: &[&str]) -> Command {
        let destination = format!("second:{}", self.pair.shared.join("in").display());
        let mut sending = command(&self.pair.here, ["send", "--json", "--datapath", "af_xdp", "--cores", "1"]);
        sending.args(options).arg(source).arg(destination);
        self.lab.inside(0, &sending)
    }

    fn send(&self, source: &Path, options: &[&str]) -> Ran {
        self.sending(source, options).output().unwrap().into()
    }

    fn start_sending(&self, source: &Path, options: &[&str]) -> Child {
        self.sending(source, options).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn source(&self) -> PathBuf {
        let source = self.pair.path("source");
        make_flat(&source, 40, 2 << 20, &mut Random::new(1));
        source.join("")
    }

    fn large_source(&self, bytes: usize) -> PathBuf {
        let source = self.pair.path("large");
        fs::write(&source, Random::new(2).bytes(bytes)).unwrap();
        source
    }

    /// What `ip` says of a side's veth.
    fn link(&self, side: usize) -> String {
        let output = self.lab.inside(side, Command::new("ip").args(["-d", "link", "show", "type", "veth"])).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    }

    fn link_name(&self, side: usize) -> String {
        self.link(side).split(": ").nth(1).unwrap().split('@').next().unwrap().to_owned()
    }

    /// What the second node says of its data plane.
    fn status(&self) -> serde_json::Value {
        self.lab.inside(1, &command(&self.pair.there, ["status", "--json"])).output().map(Ran::from).unwrap().json()
    }
}

#[test]
fn both_families_and_three_packet_sizes() {
    for mtu in [1_500, 3_498, 9_000] {
        for address in ["10.96.0.2", "[fd96::2]"] {
            let Some(sides) = Sides::start(mtu, address) else { return };
            let source = sides.source();
            let result = sides.send(&source, &[]).exits(0).json();
            assert_same(&source, &sides.pair.shared.join("in"));
            assert_eq!((&result["datapath"], &result["af_xdp_mode"]), (&"af_xdp".into(), &"copy".into()), "{result}");
            let headers = if address.contains(':') { 40 + 8 } else { 20 + 8 };
            assert_eq!(result["segment_bytes"].as_u64().unwrap() + headers + 48, u64::from(mtu), "{mtu} {address}");
            let plane = &sides.status()["dataplane"];
            assert_eq!((&plane["datapath"], &plane["af_xdp_mode"]), (&"af_xdp".into(), &"copy".into()), "{plane}");
            let by_rings = plane["lanes"][0]["ring_received"].as_u64().unwrap();
            let by_kernel = plane["lanes"][0]["kernel_received"].as_u64().unwrap();
            assert!(by_rings > 1_000 && by_kernel < 100, "received: {by_rings} by rings, {by_kernel} by the kernel");
            // And the other way: the node sends what it received.
            let pulled = sides.pair.path("pulled");
            let stored = format!("second:{}/", sides.pair.shared.join("in").display());
            let mut getting = command(&sides.pair.here, ["get", "--json", "--datapath", "af_xdp", "--cores", "1"]);
            getting.arg(stored).arg(&pulled);
            Ran::from(sides.lab.inside(0, &getting).output().unwrap()).exits(0);
            assert_same(&source, &pulled);
            let lane = &sides.status()["dataplane"]["lanes"][0];
            let (by_rings, by_kernel) = (lane["ring_sent"].as_u64().unwrap(), lane["kernel_sent"].as_u64().unwrap());
            assert!(by_rings > 1_000 && by_kernel < 100, "sent: {by_rings} by rings, {by_kernel} by the kernel");
        }
    }
}

#[test]
fn a_killed_node_leaves_nothing_on_the_interface() {
    let Some(sides) = Sides::start(1_500, "10.96.0.2") else { return };
    assert!(sides.link(1).contains("xdp"), "no program is attached: {}", sides.link(1));
    let plane = sides.status()["dataplane"]["process_id"].as_u64().unwrap();
    assert!(Command::new("kill").args(["-9", &plane.to_string()]).status().unwrap().success());
    // The node starts another data plane, which finds the interface free again.
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let status = sides.status();
        let dataplane = &status["dataplane"];
        if dataplane["process_id"].as_u64().is_some_and(|id| id != plane) {
            assert_eq!(dataplane["datapath"], "af_xdp", "{dataplane}");
            break;
        }
        assert!(Instant::now() < patience, "no data plane came back: {status}");
        std::thread::sleep(Duration::from_millis(100));
    }
    let source = sides.source();
    sides.send(&source, &[]).exits(0);
    assert_same(&source, &sides.pair.shared.join("in"));
    let Sides { lab, node, pair } = sides;
    drop(node);
    let link = || {
        let output = lab.inside(1, Command::new("ip").args(["-d", "link", "show", "type", "veth"])).output();
        String::from_utf8(output.unwrap().stdout).unwrap()
    };
    let patience = Instant::now() + Duration::from_secs(20);
    while link().contains("prog/xdp") {
        assert!(Instant::now() < patience, "the program outlived its process: {}", link());
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(pair);
}

#[test]
fn an_interface_that_is_taken_down_costs_a_pause() {
    let Some(sides) = Sides::start(1_500, "10.96.0.2") else { return };
    let source = sides.large_source(48 << 20);
    let child = sides.start_sending(&source, &["--rate", "200M"]);
    std::thread::sleep(Duration::from_millis(900));
    let name = sides.link_name(0);
    sides.lab.tool(0, "ip", &["link", "set", &name, "down"]);
    std::thread::sleep(Duration::from_secs(1));
    sides.lab.tool(0, "ip", &["link", "set", &name, "up"]);
    let ran: Ran = child.wait_with_output().unwrap().into();
    ran.exits(0);
    assert!(fs::read(&source).unwrap() == fs::read(sides.pair.shared.join("in")).unwrap());
}

#[test]
fn without_capabilities_the_missing_one_is_named_and_udp_is_used() {
    let Some(sides) = Sides::start(1_500, "10.96.0.2") else { return };
    let source = sides.source();
    let sending = sides.sending(&source, &[]);
    // ip netns exec SIDE setpriv … PROGRAM: the capability goes after the namespace is entered.
    let arguments: Vec<_> = sending.get_args().map(ToOwned::to_owned).collect();
    let mut without = Command::new(sending.get_program());
    without.args(&arguments[..3]).args(["setpriv", "--bounding-set", "-bpf", "--inh-caps", "-bpf"]);
    without.args(&arguments[3..]);
    for (name, value) in sending.get_envs() {
        value.map(|value| without.env(name, value));
    }
    let ran: Ran = without.output().unwrap().into();
    assert!(ran.err.contains("CAP_BPF missing"), "{ran:?}");
    let result = ran.exits(0).json();
    assert_eq!((&result["datapath"], &result["af_xdp_mode"]), (&"udp".into(), &serde_json::Value::Null), "{result}");
    assert_same(&source, &sides.pair.shared.join("in"));
}

#[test]
fn a_second_program_on_the_interface_is_named() {
    let Some(sides) = Sides::start(1_500, "10.96.0.2") else { return };
    // The node has the interface of its side; another data plane there does without.
    let source = sides.source();
    let destination = format!("second:{}", sides.pair.shared.join("in").display());
    let mut sending = command(&sides.pair.here, ["send", "--json", "--datapath", "af_xdp", "--cores", "1"]);
    sending.arg(&source).arg(destination);
    let ran: Ran = sides.lab.inside(1, &sending).output().unwrap().into();
    assert!(ran.err.contains("has an XDP program already") && ran.err.contains("steer (id"), "{ran:?}");
    assert_eq!(ran.exits(0).json()["datapath"], "udp");
}
