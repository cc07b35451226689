//! AF_XDP on interfaces with several queues, behind VLANs, and on links that change or go away in
//! the middle of a transfer.

use std::fs;
use std::process::Child;
use std::time::Duration;

use culvert_tests::lab::Lab;
use culvert_tests::program::Ran;
use culvert_tests::sides::Sides;
use culvert_tests::tree::assert_same;
use serde_json::Value;

/// How many of a queue's packets met with a verdict.
fn verdicts(status: &Value, queue: usize, what: &str) -> u64 {
    status["dataplane"]["steering"]["queues"][queue][what].as_u64().unwrap_or_else(|| panic!("{status}"))
}

fn lane(status: &Value, lane: usize, what: &str) -> u64 {
    status["dataplane"]["lanes"][lane][what].as_u64().unwrap_or_else(|| panic!("{status}"))
}

/// Sides whose interfaces have two queues.
fn two_queues(node_cores: &str, sender_cores: &'static str) -> Option<Sides> {
    let lab = Lab::with_queues(1_500, 2)?;
    let sides = Sides::over(lab, "10.96.0.2", &["--cores", node_cores]);
    Some(Sides { sender_cores, ..sides })
}

fn ended(child: Child) -> Value {
    Ran::from(child.wait_with_output().unwrap()).exits(0).json()
}

#[test]
fn two_lanes_have_a_queue_each() {
    let Some(sides) = two_queues("0,1", "0,1") else { return };
    let source = sides.source();
    let result = sides.send(&source, &["--flows", "2"]).exits(0).json();
    assert_eq!(result["flows"], 2, "{result}");
    assert_same(&source, &sides.pair.shared.join("in"));
    let status = sides.status();
    // veth keeps the queue's number: a sender's lane reaches the lane with the same number through
    // the rings.
    for number in 0..2 {
        assert!(verdicts(&status, number, "redirected") > 500, "queue {number}: {status}");
        assert!(lane(&status, number, "ring_received") > 500, "lane {number}: {status}");
    }
    sides.account_for_frames();
}

#[test]
fn a_flow_that_arrives_on_another_lanes_queue_is_counted_and_not_lost() {
    let Some(sides) = two_queues("0,1", "1") else { return };
    let source = sides.source();
    // One lane sends, so all packets arrive on queue 0; the second flow belongs to the second lane.
    sides.send(&source, &["--flows", "2"]).exits(0);
    assert_same(&source, &sides.pair.shared.join("in"));
    let status = sides.status();
    let wrong = verdicts(&status, 0, "wrong_queue");
    assert!(wrong > 500 && lane(&status, 1, "kernel_received") > 500, "{wrong} on the wrong queue: {status}");
    assert!(verdicts(&status, 0, "redirected") > 500 && lane(&status, 0, "ring_received") > 500, "{status}");
    sides.account_for_frames();
}

#[test]
fn a_lane_with_two_queues_shares_its_memory_between_them() {
    let Some(sides) = two_queues("0", "0,1") else { return };
    let source = sides.source();
    sides.send(&source, &["--flows", "2"]).exits(0);
    assert_same(&source, &sides.pair.shared.join("in"));
    let status = sides.status();
    for number in 0..2 {
        assert!(verdicts(&status, number, "redirected") > 500, "queue {number}: {status}");
        assert_eq!(verdicts(&status, number, "wrong_queue"), 0, "queue {number}: {status}");
    }
    sides.account_for_frames();
}

#[test]
fn packets_carry_the_tag_of_a_vlan() {
    let Some(lab) = Lab::new(1_500) else { return };
    if !lab.add_vlan(7) {
        eprintln!("skipped: this kernel has no VLANs; the virtual machine's has (cargo xtask vmtest)");
        return;
    }
    let (ours, theirs) = (lab.link(0).to_owned(), lab.link(1).to_owned());
    let sides = Sides::over(lab, "10.97.7.2", &["--cores", "0", "--interface", &theirs]);
    let source = sides.source();
    sides.send(&source, &["--interface", &ours]).exits(0);
    assert_same(&source, &sides.pair.shared.join("in"));
    let status = sides.status();
    let (by_rings, by_kernel) = (lane(&status, 0, "ring_received"), lane(&status, 0, "kernel_received"));
    assert!(by_rings > 1_000 && by_kernel < 100, "received: {by_rings} by rings, {by_kernel} by the kernel");
    sides.account_for_frames();
}

#[test]
fn a_next_hop_that_gets_another_address_costs_a_pause() {
    let Some(lab) = Lab::new(1_500) else { return };
    // The receiver uses UDP sockets: its kernel ignores frames to an address that is no longer its
    // own.
    let sides = Sides::over(lab, "10.96.0.2", &["--cores", "0", "--datapath", "udp"]);
    let source = sides.large_source(32 << 20);
    let child = sides.start_sending(&source, &["--rate", "150M"]);
    sides.wait_until_received(4 << 20);
    let (ours, theirs) = (sides.lab.link(0), sides.lab.link(1));
    let new = "02:00:00:00:00:99";
    sides.lab.tool(1, "ip", &["link", "set", theirs, "address", new]);
    sides.lab.tool(0, "ip", &["neigh", "replace", "10.96.0.2", "lladdr", new, "dev", ours, "nud", "permanent"]);
    let result = ended(child);
    assert_eq!(result["datapath"], "af_xdp", "{result}");
    assert!(fs::read(&source).unwrap() == fs::read(sides.pair.shared.join("in")).unwrap());
}

#[test]
fn a_transfer_that_loses_its_interface_goes_on_over_another() {
    let Some(lab) = Lab::new(1_500) else { return };
    let second = lab.add_link();
    let (ours, theirs) = (lab.link(0).to_owned(), lab.link(1).to_owned());
    // Addresses that belong to the hosts and not to a link, as with routing on hosts.
    for (side, own, partner, gateway, link) in
        [(0, "10.99.0.1", "10.97.0.1", "10.96.0.2", &ours), (1, "10.97.0.1", "10.99.0.1", "10.96.0.1", &theirs)]
    {
        lab.tool(side, "ip", &["addr", "add", &format!("{own}/32"), "dev", "lo"]);
        lab.tool(side, "ip", &["route", "add", partner, "via", gateway, "dev", link, "src", own]);
    }
    let sides = Sides::over(lab, "10.97.0.1", &["--cores", "0", "--interface", &theirs]);
    let source = sides.large_source(32 << 20);
    let child = sides.start_sending(&source, &["--rate", "150M", "--interface", &ours]);
    sides.wait_until_received(4 << 20);
    let before = sides.status();
    for (side, own, partner, gateway) in
        [(0, "10.99.0.1", "10.97.0.1", "10.98.0.2"), (1, "10.97.0.1", "10.99.0.1", "10.98.0.1")]
    {
        let link = &second[side];
        sides.lab.tool(side, "ip", &["route", "replace", partner, "via", gateway, "dev", link, "src", own]);
    }
    sides.lab.tool(0, "ip", &["link", "set", &ours, "down"]);
    let result = ended(child);
    assert_eq!(result["datapath"], "af_xdp", "{result}");
    assert!(fs::read(&source).unwrap() == fs::read(sides.pair.shared.join("in")).unwrap());
    let after = sides.status();
    assert!(lane(&before, 0, "ring_received") > 500, "it began on the rings: {before}");
    assert!(lane(&after, 0, "kernel_received") > 1_000, "it went on without them: {after}");
}

#[test]
fn a_flow_on_another_lanes_queue_is_moved_to_its_own() {
    let Some(sides) = two_queues("0,1", "0,1") else { return };
    // From UDP sockets the kernel chooses the queue by an unknown hash: with eight flows, all are
    // right at once one time in 256.
    let source = sides.large_source(96 << 20);
    let child = sides.start_sending(&source, &["--datapath", "udp", "--flows", "8", "--rate", "120M"]);
    let began = std::time::Instant::now();
    let wrong = |status: &Value| verdicts(status, 0, "wrong_queue") + verdicts(status, 1, "wrong_queue");
    let right = |status: &Value| verdicts(status, 0, "redirected") + verdicts(status, 1, "redirected");
    let mut before = sides.status();
    let settled = loop {
        std::thread::sleep(Duration::from_millis(400));
        let now = sides.status();
        if right(&now) > right(&before) + 500 && wrong(&now) == wrong(&before) {
            break now;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "flows are still on the wrong queue: {now}");
        before = now;
    };
    let result = ended(child);
    assert_eq!(result["flows"], 8, "{result}");
    assert!(fs::read(&source).unwrap() == fs::read(sides.pair.shared.join("in")).unwrap());
    let after = sides.status();
    let (moves, on_wrong) = (after["dataplane"]["flow_moves"].as_u64().unwrap(), wrong(&settled));
    eprintln!("{moves} moves; {on_wrong} datagrams had come on the wrong queue");
    assert!(moves > 0 || on_wrong == 0, "nothing moved: {after}");
    assert!(sides.metrics().contains(&format!("culvert_xdp_flow_moves_total {moves}")), "{}", sides.metrics());
    for number in 0..2 {
        assert!(lane(&after, number, "ring_received") > 500, "lane {number}: {after}");
    }
    sides.account_for_frames();
}
