//! Receive rules in the NIC and the process that removes them: without such a NIC, and with one
//! that is simulated in front of ethtool's ioctl.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use culvert_dataplane::datapath::af_xdp::rules::spec::Spec;
use culvert_dataplane::keeper::COMMAND;
use culvert_link::kernel_bypass::{Family, Rule};
use culvert_tests::lab::Lab;
use culvert_tests::node::wait_for;
use culvert_tests::rule_table::PlayedTable;
use culvert_tests::sides::Sides;
use culvert_tests::tree::assert_same;
use culvert_tests::units::Unit;
use serde_json::Value;

/// The keeper processes in the second side's namespace.
fn keepers(lab: &Lab) -> Vec<u32> {
    let output = Command::new("ip").args(["netns", "pids", &lab.names()[1]]).output().expect("ip runs");
    let pids = String::from_utf8_lossy(&output.stdout).into_owned();
    let is_keeper = |pid: &u32| {
        let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        words.split(|&byte| byte == 0).any(|word| word == COMMAND.as_bytes())
    };
    pids.lines().filter_map(|line| line.trim().parse().ok()).filter(is_keeper).collect()
}

fn signal(signal: &str, pid: u32) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// What a process has open.
fn held_by(pid: &str) -> BTreeSet<String> {
    let targets = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    targets.filter_map(|fd| Some(fs::read_link(fd.path()).ok()?.to_string_lossy().into_owned())).collect()
}

/// The node's data plane, and the rules that it reports to be in place.
fn told(sides: &Sides) -> (u32, Vec<Value>) {
    let plane = &sides.status()["dataplane"];
    let rules = plane["steering"]["rules"].as_array().unwrap_or_else(|| panic!("{plane}")).clone();
    (plane["process_id"].as_u64().unwrap() as u32, rules)
}

/// The rules that the second side's two lanes need.
fn needed(sides: &Sides) -> Vec<Rule> {
    let lanes = sides.status()["dataplane"]["lanes"].clone();
    let ports: Vec<u16> = lanes.as_array().unwrap().iter().map(|lane| lane["port"].as_u64().unwrap() as u16).collect();
    assert_eq!(ports.len(), 2, "{lanes}");
    let of = |family| (0u32..).zip(&ports).map(move |(queue, &port)| Rule { family, port, queue });
    of(Family::Udp4).chain(of(Family::Udp6)).collect()
}

fn has_exactly(table: &PlayedTable, rules: &[Rule]) -> bool {
    let found: Vec<Option<Rule>> = table.rules().iter().map(Spec::rule).collect();
    found.len() == rules.len() && rules.iter().all(|&rule| found.contains(&Some(rule)))
}

/// Sides with two queues, the second of which sees a NIC with rules.
fn played() -> Option<(Sides, PlayedTable, tempfile::TempDir)> {
    let lab = Lab::with_queues(1_500, 2)?;
    let room = tempfile::tempdir().unwrap();
    let table = PlayedTable::new(room.path())?;
    let sides = Sides::with_environment(lab, "10.96.0.2", &["--cores", "0,1"], &table.environment());
    Some((sides, table, room))
}

#[test]
fn without_rules_in_hardware_it_is_said_and_nobody_keeps_any() {
    let lab = Lab::with_queues(1_500, 2);
    let Some(lab) = lab else { return };
    let sides = Sides::over(lab, "10.96.0.2", &["--cores", "0,1"]);
    let source = sides.source();
    sides.send(&source, &["--flows", "2"]).exits(0);
    assert_same(&source, &sides.pair.shared.join("in"));
    let steering = &sides.status()["dataplane"]["steering"];
    assert_eq!(steering["rules"], serde_json::json!([]), "{steering}");
    let why = steering["rules_missing"][0].as_str().unwrap();
    assert!(why.contains("has no receive rules in its hardware"), "{steering}");
    assert_eq!(keepers(&sides.lab), [0u32; 0]);
}

#[test]
fn rules_live_and_end_with_the_data_plane() {
    let Some((sides, table, _room)) = played() else { return };
    let rules = needed(&sides);
    let (plane, said) = told(&sides);
    assert!(has_exactly(&table, &rules), "{:?}", table.rules());
    for rule in &rules {
        let is_it = |said: &Value| {
            said["port"] == rule.port && said["family"] == rule.family.name() && said["queue"] == rule.queue
        };
        let said: Vec<&Value> = said.iter().filter(|said| is_it(said)).collect();
        assert!(matches!(said[..], [one] if one["location"].is_u64()), "{rule:?}: {said:?}");
    }
    let source = sides.source();
    sides.send(&source, &["--flows", "2"]).exits(0);
    assert_same(&source, &sides.pair.shared.join("in"));

    // What the keeper has and does not have.
    let [keeper] = keepers(&sides.lab)[..] else { panic!("{:?}", keepers(&sides.lab)) };
    let status = fs::read_to_string(format!("/proc/{keeper}/status")).unwrap();
    let has = |line: &str| assert!(status.lines().any(|found| found == line), "{line:?} is not in {status}");
    // CAP_NET_ADMIN alone.
    has("CapPrm:\t0000000000001000");
    has("CapEff:\t0000000000001000");
    has("CapInh:\t0000000000000000");
    has("CapAmb:\t0000000000000000");
    has("Seccomp:\t2");
    has("Threads:\t1");
    has(&format!("PPid:\t{plane}"));
    let stat = fs::read_to_string(format!("/proc/{keeper}/stat")).unwrap();
    let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap();
    assert_eq!(session, keeper.to_string(), "it has a session of its own");
    // Nothing of the data plane's is kept open: the link, the memory, the lanes' sockets, the
    // program on the interface.
    let (held, by_plane, by_this) = (held_by(&keeper.to_string()), held_by(&plane.to_string()), held_by("self"));
    let is_thing = |held: &&String| ["socket:", "anon_inode:", "memfd:"].iter().any(|kind| held.contains(kind));
    let shared: Vec<&String> = held.intersection(&by_plane).filter(|held| !by_this.contains(*held)).collect();
    assert!(by_plane.iter().filter(is_thing).count() > 5, "{by_plane:?}");
    assert!(!shared.iter().copied().any(|held| is_thing(&held)), "{shared:?}");
    for request in ["-TERM", "-INT", "-HUP", "-QUIT"] {
        signal(request, keeper);
    }
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(keepers(&sides.lab), [keeper], "it does not end because somebody asks");
    assert!(has_exactly(&table, &rules));

    // Once killed, the data plane comes back with its own rules and keeper.
    signal("-KILL", plane);
    wait_for("another data plane's rules", || {
        let now = keepers(&sides.lab);
        (now.len() == 1 && now[0] != keeper && has_exactly(&table, &rules)).then_some(())
    });
    assert_ne!(told(&sides).0, plane);
    // The end of the node ends all of them.
    let Sides { lab, node, pair, .. } = sides;
    drop(node);
    wait_for("the rules' end", || (table.rules().is_empty() && keepers(&lab).is_empty()).then_some(()));
    drop(pair);
}

#[test]
fn rules_of_a_killed_keeper_are_taken_over_and_those_of_others_stay() {
    let Some((sides, table, _room)) = played() else { return };
    let rules = needed(&sides);
    let (plane, said) = told(&sides);
    let [keeper] = keepers(&sides.lab)[..] else { panic!("{:?}", keepers(&sides.lab)) };
    // Somebody else's rule, on another port.
    let others = Spec::of(Rule { family: Family::Udp4, port: 53, queue: 0 }, 0);
    table.put(&others);
    signal("-KILL", keeper);
    signal("-KILL", plane);
    wait_for("another data plane's rules", || {
        let has_new = keepers(&sides.lab).iter().any(|&now| now != keeper);
        (has_new && table.rules().len() == rules.len() + 1).then_some(())
    });
    for rule in &rules {
        assert!(table.rules().iter().any(|spec| spec.rule() == Some(*rule)), "{:?}", table.rules());
    }
    // An admin changes one of them: it is the admin's now.
    wait_for("the status", || (told(&sides).1.len() == said.len()).then_some(()));
    let changed = told(&sides).1[0]["location"].as_u64().unwrap() as u32;
    let changed = Spec::of(Rule { family: Family::Udp4, port: 9_999, queue: 1 }, changed);
    table.put(&changed);
    let Sides { lab, node, pair, .. } = sides;
    drop(node);
    wait_for("the rules' end", || (table.rules().len() == 2 && keepers(&lab).is_empty()).then_some(()));
    assert!(table.rules().contains(&others) && table.rules().contains(&changed), "{:?}", table.rules());
    drop(pair);
}

#[test]
fn a_keeper_by_itself_says_that_it_is_of_no_use() {
    let ran = culvert_tests::program::run(Path::new("/"), [COMMAND]);
    assert_ne!(ran.code, 0);
    ran.says("not meant to be run directly");
}

#[test]
fn the_units_let_the_keeper_live_and_act() {
    let unit = Unit::shipped("culvert-dataplane@.service");
    for setting in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        assert!(unit.one(setting).split(' ').any(|one| one == "CAP_NET_ADMIN"), "{setting}");
    }
    // The whole group is asked to end, which a keeper ignores; it goes away by itself long before
    // the group is killed.
    assert!(unit.all("KillMode").iter().all(|mode| *mode == "control-group"));
    assert!(unit.all("TimeoutStopSec").is_empty() && unit.all("SendSIGKILL").is_empty());
    assert!(unit.one("RestrictAddressFamilies").split(' ').any(|family| family == "AF_INET"));
    if !culvert_tests::program::is_installed("systemd-analyze") {
        eprintln!("skipped in part: systemd-analyze is not installed");
        return;
    }
    let allowed = unit.allowed_system_calls();
    for call in
        ["execve", "clone", "vfork", "pipe2", "setsid", "rt_sigaction", "socket", "ioctl", "prctl", "capset", "seccomp"]
    {
        assert!(allowed.contains(call), "{call} is not allowed");
    }
}
