//! `culvert tune`, `culvert doctor` and the node's part in tuning, as people and Prometheus see
//! them. What the engine does in every case is tested in its own crate; this tests what the program
//! adds to it: commands, exit codes, JSON, state.
//!
//! Nothing here touches the machine's settings: the tests use saved facts, or a network namespace
//! of the lab and rules that reach no further.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_tests::lab::Lab;
use culvert_tests::node::{Pair, RunningNode, wait_for};
use culvert_tests::program::{Ran, command, is_root, run};
use culvert_tests::schema::assert_valid;
use serde_json::Value;

/// A recorded host of the tuning crate.
fn facts(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tuning/tests/facts/{name}.json"));
    path.display().to_string()
}

fn room() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("culvert-test-").tempdir().unwrap()
}

/// Findings of a rule.
fn of_rule<'a>(json: &'a Value, rule: &str) -> Vec<&'a Value> {
    json["findings"].as_array().unwrap().iter().filter(|finding| finding["rule"] == rule).collect()
}

/// Rules that touch only the namespace and its link.
const RULES: [&str; 4] = ["nic.mtu", "nic.offloads", "net.tcp_buffers", "net.tcp_metrics"];

/// The first side of a lab, its link, and a site file that makes the link one for transfers.
struct Side {
    lab: Lab,
    room: tempfile::TempDir,
    link: String,
}

impl Side {
    fn new() -> Option<Self> {
        let lab = Lab::new(1_500)?;
        let links: Ran =
            lab.inside(0, Command::new("ip").args(["-j", "link", "show", "type", "veth"])).output().unwrap().into();
        let link = links.json()[0]["ifname"].as_str().unwrap().to_owned();
        let side = Self { lab, room: room(), link };
        fs::write(side.site(), format!("[links.{}]\ndata = true\nmtu = 4000\n", side.link)).unwrap();
        Some(side)
    }

    fn site(&self) -> PathBuf {
        self.room.path().join("site.toml")
    }

    fn state(&self) -> PathBuf {
        self.room.path().join("state")
    }

    fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        self.lab.inside(0, &command(&self.state(), arguments)).output().unwrap().into()
    }

    /// `culvert tune VERB` with the site file and the rules.
    fn tune(&self, arguments: &[&str]) -> Ran {
        let mut all = vec!["tune".to_owned()];
        all.extend(arguments.iter().map(ToString::to_string));
        all.extend(["--site".to_owned(), self.site().display().to_string()]);
        for rule in RULES {
            all.extend(["--rule".to_owned(), rule.to_owned()]);
        }
        self.run(all)
    }

    fn mtu(&self) -> u64 {
        let shown: Ran =
            self.lab.inside(0, Command::new("ip").args(["-j", "link", "show", &self.link])).output().unwrap().into();
        shown.json()[0]["mtu"].as_u64().unwrap()
    }

    fn states(&self) -> Vec<String> {
        let status = self.run(["tune", "status", "--json"]).exits(0).json();
        let transactions = status["transactions"].as_array().unwrap();
        transactions.iter().map(|one| one["state"].as_str().unwrap().to_owned()).collect()
    }
}

#[test]
fn an_audit_of_saved_facts_is_json_with_reasons_and_sources() {
    let room = room();
    let state = room.path().join("state");
    let audit = run(&state, ["tune", "audit", "--json", "--facts", &facts("dtn-100g-mlx5")]).exits(0).json();
    assert_eq!(audit["host"], "dtn-100g-mlx5");
    assert_eq!(audit["targets"]["profile"], "dtn-100g");
    assert!(audit["counts"]["high"].as_u64().unwrap() > 0);
    let qdisc = of_rule(&audit, "nic.qdisc")[0];
    for field in ["severity", "status", "current", "recommended", "why", "applies_when", "effect"] {
        assert!(qdisc[field].as_str().is_some_and(|text| !text.is_empty()), "{field} of {qdisc}");
    }
    assert!(qdisc["sources"][0].as_str().unwrap().contains("fasterdata"));
    // Looking creates no file.
    assert!(!state.exists());

    // What is found decides the exit code only if asked.
    let fail =
        |severity: &str| run(&state, ["tune", "audit", "--facts", &facts("dtn-100g-mlx5"), "--fail-on", severity]);
    fail("high").exits(7);
    fail("critical").exits(0);
    let named =
        run(&state, ["tune", "audit", "--json", "--profile", "measurement", "--facts", &facts("dtn-10g-ixgbe")]);
    assert_eq!(named.exits(0).json()["targets"]["profile"], "measurement");
}

#[test]
fn a_plan_of_saved_facts_is_a_difference() {
    let room = room();
    let plan = run(room.path(), ["tune", "plan", "--facts", &facts("dtn-100g-mlx5")]).exits(0);
    assert!(plan.out.contains("  - 212992\n  + 2147483647\n") || plan.out.contains("  + 2147483647\n"), "{}", plan.out);
    let json = run(room.path(), ["tune", "plan", "--json", "--facts", &facts("dtn-100g-mlx5")]).exits(0).json();
    let changes = json["changes"].as_array().unwrap();
    assert!(
        changes.iter().any(|change| change["setting"]["key"] == "net.core.rmem_max" && change["to"] == "2147483647")
    );
    let none = run(room.path(), ["tune", "plan", "--rule", "net.tcp_options", "--facts", &facts("dtn-100g-mlx5")]);
    none.exits(0);
}

#[test]
fn mistakes_are_answered_with_their_place_and_exit_code() {
    let room = room();
    let bad = room.path().join("bad.toml");
    let with_site = |text: &str, verb: &str| {
        fs::write(&bad, text).unwrap();
        run(room.path(), ["tune", verb, "--site", bad.to_str().unwrap()])
    };
    for verb in ["audit", "plan", "apply"] {
        with_site("\nstreems = 4\n", verb).exits(7).says("bad.toml: line 2: unknown field `streems`");
    }
    with_site("profile = \"dtn-1g\"\n", "audit").exits(7).says("dtn-10g, dtn-40g, dtn-100g, dtn-400g, measurement");
    run(room.path(), ["tune", "audit", "--site", "/nowhere/site.toml"]).exits(7).says("/nowhere/site.toml");
    fs::write(&bad, "{\"culvert_facts\": 1, \"cpus\": 2}").unwrap();
    run(room.path(), ["tune", "audit", "--facts", bad.to_str().unwrap()]).exits(7).says("unknown field `cpus`");
    run(room.path(), ["tune", "apply", "--rule", "nic.ring"]).exits(2).says("nic.rings");
    run(room.path(), ["tune", "apply", "--timeout", "never"]).exits(2).says("not a time between");
    run(room.path(), ["tune", "explain", "nic.rings"]).exits(0);
}

#[test]
fn apply_confirm_and_rollback_in_a_namespace() {
    let Some(side) = Side::new() else { return };
    assert_eq!(side.mtu(), 1_500);
    side.tune(&["plan"]).exits(0);
    assert_eq!(side.mtu(), 1_500);

    let applied = side.tune(&["apply", "--timeout", "10m", "--json"]).exits(0);
    // The hint is a command that works: it names the state directory.
    let hint = format!("culvert --state {} tune confirm", side.state().display());
    let json = applied.says(&hint).json();
    assert_valid(&json, "tune-apply");
    assert_eq!((&json["state"], &json["confirm_within_s"]), (&Value::from("pending"), &Value::from(600)));
    assert_eq!(side.mtu(), 4_000);
    side.tune(&["apply"]).exits(5).says("waiting to be confirmed");
    side.run(["tune", "confirm"]).exits(0);
    // Having nothing to do is not a failure.
    side.run(["tune", "confirm"]).exits(0).says("nothing waits to be confirmed");
    side.tune(&["apply"]).exits(0).says("nothing to do");
    let nothing = side.tune(&["apply", "--json"]).exits(0).json();
    assert_valid(&nothing, "tune-apply");
    assert_eq!(nothing["transaction"], Value::Null, "{nothing}");
    // What was applied for this boot cannot be made persistent on top of itself, and no file is
    // written needlessly.
    side.tune(&["apply", "--persist", "--timeout", "1"]).exits(0).says("applied without --persist");
    assert_eq!(side.states(), ["held"]);

    // Nothing is printed except results and errors.
    let quiet = side.run(["-q", "tune", "rollback"]).exits(0);
    assert!(quiet.out.contains("the host is as it was") && quiet.err.is_empty(), "{quiet:?}");
    assert_eq!(side.mtu(), 1_500);
    side.run(["tune", "rollback"]).exits(0).says("nothing is in force");
    side.tune(&["apply", "--timeout", "10m"]).exits(0);
    assert_valid(&side.run(["tune", "confirm", "--json"]).exits(0).json(), "tune-confirm");
    assert_valid(&side.run(["tune", "rollback", "--json"]).exits(0).json(), "tune-rollback");
    assert_eq!(side.states(), ["rolled_back", "rolled_back"]);
}

#[test]
fn what_nobody_confirms_is_undone_by_the_programs_own_guard() {
    let Some(side) = Side::new() else { return };
    side.tune(&["apply", "--timeout", "1"]).exits(0);
    wait_for("the guard's rollback", || (side.states() == ["rolled_back"]).then_some(()));
    assert_eq!(side.mtu(), 1_500);
    side.run(["tune", "confirm"]).exits(1).says("not confirmed in time");
}

/// The guard is started with the state directory and nothing else, so a relative one must be made
/// absolute.
#[test]
fn a_relative_state_directory_serves_the_guard_too() {
    let Some(side) = Side::new() else { return };
    let mut apply = Command::new("ip");
    let mut all: Vec<&OsStr> = Vec::new();
    let whole = side
        .lab
        .inside(0, &command(Path::new("state"), ["tune", "apply", "--timeout", "1", "--rule", "net.tcp_metrics"]));
    all.extend(whole.get_args());
    let applied: Ran = apply.args(all).current_dir(side.room.path()).output().unwrap().into();
    applied.exits(0);
    wait_for("the guard's rollback", || (side.states() == ["rolled_back"]).then_some(()));
}

#[test]
fn a_node_keeps_what_was_confirmed_and_counts_findings() {
    let Some(side) = Side::new() else { return };
    side.tune(&["apply", "--confirmed"]).exits(0);
    side.lab.tool(0, "ip", &["link", "set", &side.link, "mtu", "1500"]);
    let mut node = command(&side.state(), ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
    node = side.lab.inside(0, &node);
    let node = RunningNode::start(&side.state(), &mut node);
    wait_for("the MTU to be set again", || (side.mtu() == 4_000).then_some(()));
    wait_for("the node to say so", || {
        node.log().contains(&format!("{} MTU: it is '1500', set again to '4000'", side.link)).then_some(())
    });
    drop(node);
    side.run(["tune", "rollback"]).exits(0);
    assert_eq!(side.mtu(), 1_500);
}

#[test]
fn a_node_puts_right_what_a_dead_guard_left() {
    let Some(side) = Side::new() else { return };
    side.tune(&["apply", "--timeout", "10m"]).exits(0);
    // The guard, found by its arguments, which are unique to this test.
    let state = side.state().display().to_string();
    let guard = fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        let is_it = words.contains(&state.as_bytes()) && words.contains(&&b"guard"[..]);
        is_it.then(|| entry.file_name().to_str()?.parse::<u32>().ok()).flatten()
    });
    culvert_tests::node::kill(guard.expect("the guard runs"));
    let node = command(&side.state(), ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
    let node = RunningNode::start(&side.state(), &mut side.lab.inside(0, &node));
    wait_for("the rollback", || (side.mtu() == 1_500).then_some(()));
    wait_for("the node to say so", || node.log().contains("the guard that would undo it has died").then_some(()));
    drop(node);
    assert_eq!(side.states(), ["rolled_back"]);
}

#[test]
fn findings_are_metrics() {
    let pair = Pair::new();
    let node = pair.start();
    let audit = run(&pair.there, ["tune", "audit", "--json"]).exits(0).json();
    for severity in ["critical", "high", "warning", "info", "unknown"] {
        let series = format!("culvert_tuning_findings{{severity=\"{severity}\"}}");
        let line = format!("{series} ");
        wait_for(&series, || node.metrics().lines().any(|text| text.starts_with(&line)).then_some(()));
        assert_eq!(node.metric(&series), audit["counts"][severity].as_f64().unwrap(), "{severity}");
    }
    // Nothing was applied, so nothing is kept and no file is made for it.
    assert!(!pair.there.join("tuning").exists());
}

#[test]
fn the_doctor_tells_versions_and_what_the_data_plane_can_do() {
    let room = room();
    let ran = run(room.path(), ["doctor", "--json"]);
    assert!(matches!(ran.code, 0 | 7), "{ran:?}");
    let page = ran.json();
    assert_eq!(ran.code == 7, page["verdict"] == "no", "{page}");
    assert!(page["versions"][0][1].as_str().unwrap().starts_with(env!("CARGO_PKG_VERSION")), "{page}");
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let host = page["host"].as_array().unwrap();
    assert!(host.iter().any(|line| line[0] == "kernel" && line[1] == release.trim()), "{page}");
    let part = |name: &str| {
        let parts = page["readiness"].as_array().unwrap();
        let found: Vec<&Value> = parts.iter().filter(|part| part["name"] == name).collect();
        assert_eq!(found.len(), 1, "{name} in {page}");
        found[0].clone()
    };
    // The data plane starts on this machine, as the other tests show.
    assert_eq!(part("io_uring")["state"], "ready");
    assert!(part("udp")["why"].as_str().unwrap().contains("GSO"), "{page}");
    let severities: Vec<&str> =
        page["todo"].as_array().unwrap().iter().map(|todo| todo["severity"].as_str().unwrap()).collect();
    let rank = |severity: &str| ["critical", "high", "warning", "info"].iter().position(|known| *known == severity);
    assert!(severities.windows(2).all(|pair| rank(pair[0]) <= rank(pair[1])), "{severities:?}");
}

#[test]
fn doctor_and_audit_need_no_root() {
    if !is_root() {
        eprintln!("skipped: only root can become somebody else; the other tests run without root already");
        return;
    }
    // A user has to be able to reach the program and the state directory.
    let room = room();
    let program = room.path().join("culvert");
    fs::copy(culvert_tests::program::culvert(), &program).unwrap();
    let open = |path: &Path| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    open(room.path());
    open(&program);
    let state = room.path().join("state");
    let as_nobody = |arguments: &[&str]| -> Ran {
        use std::os::unix::process::CommandExt as _;
        let mut command = Command::new(&program);
        command.arg("--state").arg(&state).args(arguments).uid(65_534).gid(65_534).current_dir("/");
        command.output().unwrap().into()
    };
    let page = as_nobody(&["doctor"]);
    assert!(matches!(page.code, 0 | 7) && page.out.contains("most effective first"), "{page:?}");
    let audit = as_nobody(&["tune", "audit", "--json"]).exits(0).json();
    assert!(audit["findings"].as_array().unwrap().len() > 50);
    // What cannot be set is reported, with the command for whoever can set it.
    let plan = as_nobody(&["tune", "plan", "--rule", "memory.swappiness"]);
    let is_right_already = plan.code == 0 && !plan.out.contains("cannot be changed from here");
    assert!(is_right_already || plan.out.contains("on the host: sysctl -w vm.swappiness="), "{plan:?}");
    as_nobody(&["tune", "apply"]).exits(7).says("run as root");
}
