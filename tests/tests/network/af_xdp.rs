//! Transfers through AF_XDP between two network namespaces: families, packet sizes, killed
//! processes, links that go down.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use culvert_tests::lab::Lab;
use culvert_tests::node::{kill, wait_for};
use culvert_tests::program::{Ran, command};
use culvert_tests::sides::{Sides, link_of};
use culvert_tests::tree::assert_same;

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
            // And the other way: the node sends what it has received.
            let pulled = sides.pair.path("pulled");
            let stored = format!("second:{}/", sides.pair.shared.join("in").display());
            let mut getting = command(&sides.pair.here, ["get", "--json", "--datapath", "af_xdp", "--cores", "1"]);
            getting.arg(stored).arg(&pulled);
            Ran::from(sides.lab.inside(0, &getting).output().unwrap()).exits(0);
            assert_same(&source, &pulled);
            let lane = &sides.status()["dataplane"]["lanes"][0];
            let (by_rings, by_kernel) = (lane["ring_sent"].as_u64().unwrap(), lane["kernel_sent"].as_u64().unwrap());
            assert!(by_rings > 1_000 && by_kernel < 100, "sent: {by_rings} by rings, {by_kernel} by the kernel");
            sides.account_for_frames();
        }
    }
}

#[test]
fn what_af_xdp_counts_is_in_metrics_and_status() {
    let Some(sides) = Sides::start(1_500, "10.96.0.2") else { return };
    let source = sides.source();
    sides.send(&source, &[]).exits(0);
    sides.account_for_frames();
    let status = sides.status();
    let counted = &status["dataplane"]["steering"]["queues"][0];
    let redirected = counted["redirected"].as_u64().unwrap();
    let by_rings = status["dataplane"]["lanes"][0]["ring_received"].as_u64().unwrap();
    assert!(redirected >= by_rings && by_rings > 1_000, "{redirected} redirected, {by_rings} received: {counted}");
    assert!(counted["passed"].as_u64().unwrap() > 0, "the control connection passes: {counted}");
    // What belongs to no flow is dropped and counted with its source.
    let port = status["dataplane"]["lanes"][0]["port"].as_u64().unwrap();
    let script = format!("for i in $(seq 40); do echo rubbish > /dev/udp/10.96.0.2/{port}; done");
    sides.lab.tool(0, "bash", &["-c", &script]);
    let status = sides.status();
    let steering = &status["dataplane"]["steering"];
    assert_eq!(steering["queues"][0]["malformed"], 40, "{steering}");
    assert_eq!(steering["sources"][0], serde_json::json!(["10.96.0.1", 40]), "{steering}");
    let metrics = sides.metrics();
    let series = |name: &str| -> f64 {
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
        line.unwrap_or_else(|| panic!("{name} is not in {metrics}"))
    };
    assert!(series("culvert_xdp_frames_total{queue=\"0\",result=\"redirected\"}") >= by_rings as f64);
    assert!(series("culvert_xdp_frames_total{queue=\"0\",result=\"malformed\"}") == 40.0);
    assert!(series("culvert_xdp_datagrams_total{direction=\"receive\",lane=\"0\",way=\"rings\"}") >= by_rings as f64);
    assert!(series("culvert_xdp_packet_memory_frames{lane=\"0\",place=\"held\",purpose=\"receive\"}") == 0.0);
    assert!(series("culvert_xdp_mode{mode=\"copy\"}") == 1.0 && series("culvert_xdp_mode{mode=\"zerocopy\"}") == 0.0);
    // The sources' addresses are in the status only: labels of metrics are bounded.
    assert!(!metrics.contains("10.96.0.1"), "{metrics}");
}

#[test]
fn a_mode_that_is_asked_for_is_the_only_one_tried() {
    let Some(sides) = Sides::start(1_500, "10.96.0.2") else { return };
    let source = sides.source();
    let result = sides.send(&source, &["--af-xdp-mode", "skb"]).exits(0).json();
    assert_eq!((&result["datapath"], &result["af_xdp_mode"]), (&"af_xdp".into(), &"skb".into()), "{result}");
    let ran = sides.send(&source, &["--af-xdp-mode", "zerocopy", "--overwrite", "always"]).exits(0);
    assert!(
        ran.err.contains("zerocopy mode: the driver has no zerocopy mode")
            && !ran.err.contains("copy mode: the driver has no copy"),
        "{ran:?}"
    );
    assert_eq!(ran.json()["datapath"], "udp");
}

#[test]
fn the_raw_limit_over_rings_leaves_no_frame_behind() {
    let Some(sides) = Sides::start(1_500, "10.96.0.2") else { return };
    let Sides { lab, node, pair, .. } = sides;
    drop(node);
    // The kernel detaches the program once the node's data plane is gone, which takes a moment.
    let mut link = Command::new("ip");
    link.args(["link", "show", "dev", lab.link(1)]);
    wait_for("an interface without a program", || {
        let shown = lab.inside(1, &link).output().unwrap().stdout;
        (!String::from_utf8_lossy(&shown).contains("xdp")).then_some(())
    });
    for plain in [&["--plain"][..], &[]] {
        let both = ["bench", "limit", "--datapath", "af_xdp", "--json", "--datagram", "1472", "--seconds", "0.5"];
        let end = |side, more: &[&str]| {
            let arguments: Vec<&str> = [&both[..], more, plain].concat();
            lab.inside(side, &command(&pair.here, arguments))
        };
        let receiving = end(1, &["--receive", "10.96.0.2:7999"]);
        let receiving = std::thread::scope(|scope| {
            let mut receiving = receiving;
            let receiver = scope.spawn(move || Ran::from(receiving.output().unwrap()));
            std::thread::sleep(Duration::from_millis(500));
            Ran::from(end(0, &["--send", "10.96.0.2:7999"]).output().unwrap()).exits(0);
            receiver.join().unwrap()
        });
        // An end that misses a frame fails.
        let result = receiving.exits(0).json();
        assert_eq!(result["af_xdp_mode"], "copy", "{result}");
        assert!(result["datagrams"].as_u64().unwrap() > 1_000, "{result}");
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
    let Sides { lab, node, pair, .. } = sides;
    drop(node);
    let patience = Instant::now() + Duration::from_secs(20);
    while link_of(&lab, 1).contains("prog/xdp") {
        assert!(Instant::now() < patience, "the program outlived its process: {}", link_of(&lab, 1));
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(pair);
}

#[test]
fn an_interface_that_is_taken_down_costs_a_pause() {
    let Some(sides) = Sides::start(1_500, "10.96.0.2") else { return };
    let source = sides.large_source(48 << 20);
    let child = sides.start_sending(&source, &["--rate", "200M"]);
    sides.wait_until_received(4 << 20);
    let name = sides.lab.link(0);
    sides.lab.tool(0, "ip", &["link", "set", name, "down"]);
    std::thread::sleep(Duration::from_secs(1));
    sides.lab.tool(0, "ip", &["link", "set", name, "up"]);
    let ran: Ran = child.wait_with_output().unwrap().into();
    ran.exits(0);
    assert!(fs::read(&source).unwrap() == fs::read(sides.pair.shared.join("in")).unwrap());
}

#[test]
fn without_capabilities_the_missing_one_is_named_and_udp_is_used() {
    let Some(sides) = Sides::start(1_500, "10.96.0.2") else { return };
    let source = sides.source();
    let sending = sides.sending(&source, &[]);
    // ip netns exec SIDE setpriv … PROGRAM: the capability is dropped after the namespace is
    // entered.
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
    // The node has the interface of its side; another data plane there goes without.
    let source = sides.source();
    let destination = format!("second:{}", sides.pair.shared.join("in").display());
    let mut sending = command(&sides.pair.here, ["send", "--json", "--datapath", "af_xdp", "--cores", "1"]);
    // The partner is on this host, so no interface leads there.
    sending.args(["--interface", sides.lab.link(1)]).arg(&source).arg(destination);
    let ran: Ran = sides.lab.inside(1, &sending).output().unwrap().into();
    // Other interfaces of this host may have a program of the same name: this interface's is meant.
    let link = sides.link(1);
    let id = link.split("prog/xdp id ").nth(1).and_then(|rest| rest.split_whitespace().next()).expect("an id");
    let named = format!("already has an XDP program, steer (id {id}, driver mode): ");
    assert!(ran.err.contains(&named) && !ran.err.replace(&named, "").contains("(id "), "{named}: {ran:?}");
    assert_eq!(ran.exits(0).json()["datapath"], "udp");
}

/// The kernel releases a queue and an interface some time after the process that had them.
#[test]
fn a_data_plane_that_was_killed_comes_back_on_its_rings() {
    let Some(lab) = Lab::with_queues(1_500, 2) else { return };
    let sides = Sides::over(lab, "10.96.0.2", &["--cores", "0,1"]);
    for round in 0..6 {
        let plane = sides.status()["dataplane"].clone();
        assert_eq!((&plane["datapath"], &plane["af_xdp_mode"]), (&"af_xdp".into(), &"copy".into()), "{round}: {plane}");
        let old = plane["process_id"].as_u64().unwrap();
        kill(old as u32);
        wait_for("another data plane", || {
            let now = sides.status()["dataplane"]["process_id"].as_u64();
            now.is_some_and(|now| now != old).then_some(())
        });
    }
}
