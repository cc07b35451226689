//! What users type, read and scrape: the contract's commands, fields and metrics.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use culvert_tests::node::{Pair, RunningNode, data_plane_of, signal_process};
use culvert_tests::program::{Ran, command, culvert, is_installed, is_root, run};
use culvert_tests::random::Random;
use culvert_tests::tree::make_flat;
use rustix::process::Signal;

#[test]
fn the_demo_moves_verifies_and_cleans_up() {
    let room = tempfile::tempdir().unwrap();
    let mut demo = command(&room.path().join("state"), ["demo", "--size", "200M", "--files", "30", "--json"]);
    let ran: Ran = demo.env("TMPDIR", room.path()).output().unwrap().into();
    let result = ran.exits(0).json();
    assert_eq!(result["state"], "succeeded", "{result}");
    assert!(result["bytes"].as_u64().unwrap() >= 200_000_000);
    let left: Vec<_> = fs::read_dir(room.path()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| name == "state"), "the demo leaves {left:?} behind");
}

#[test]
fn the_demo_works_without_root() {
    if !is_root() {
        // Then every other test shows this.
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let program = room.path().join("culvert");
    fs::copy(culvert(), &program).unwrap();
    let nobody = 65_534;
    for path in [room.path(), &program] {
        rustix::fs::chown(path, Some(rustix::fs::Uid::from_raw(nobody)), Some(rustix::fs::Gid::from_raw(nobody)))
            .unwrap();
    }
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"])
        .arg(&program)
        .args(["demo", "--size", "100M", "--files", "5"])
        .env("TMPDIR", room.path())
        .env("HOME", room.path())
        .env_remove("XDG_STATE_HOME")
        .current_dir(room.path())
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: setpriv (util-linux) is not installed");
        return;
    };
    let ran: Ran = output.into();
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.out.contains("verified"), "{ran:?}");
}

#[test]
fn a_result_has_every_field_of_the_contract() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    make_flat(&source, 5, 3 << 20, &mut Random::new(1));
    let result = pair.send(&source.join(""), "in", &[]).exits(0).json();
    for field in [
        "transfer",
        "state",
        "files",
        "bytes",
        "seconds",
        "goodput_bps",
        "datapath",
        "af_xdp_mode",
        "flows",
        "segment_bytes",
        "cipher",
        "segments_sent",
        "segments_resent",
        "loss",
        "rtt_ms",
        "cpu_seconds",
        "cycles_per_byte",
        "root_blake3",
        "resumed_bytes",
        "verdict",
        "errors",
        "warnings",
        "warning_count",
    ] {
        assert!(result.get(field).is_some(), "the result has no '{field}': {result}");
    }
    let limits = ["source_read", "sender_cpu", "pacing", "path", "receiver_cpu", "destination_write", "partner_credit"];
    let limit = &result["verdict"]["limited_by"];
    assert!(limit.is_null() || limits.contains(&limit.as_str().unwrap()), "{limit}");
    assert!(result["verdict"]["text"].is_string());
    for side in ["min", "p50", "p99"] {
        assert!(result["rtt_ms"][side].is_f64());
    }
    assert!(result["goodput_bps"].as_u64().unwrap() > 0 && result["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn metrics_have_the_contracts_names_and_pass_promtool() {
    let pair = Pair::new();
    let node = pair.start();
    let source = pair.path("source");
    make_flat(&source, 20, 2 << 20, &mut Random::new(1));
    pair.send(&source.join(""), "in", &[]).exits(0);
    pair.get("in/", &pair.path("back"), &[]).exits(0);
    let text = node.metrics();
    for name in [
        "culvert_build_info",
        "culvert_transfers",
        "culvert_transfer_bytes_total",
        "culvert_goodput_bits_per_second",
        "culvert_files_total",
        "culvert_segments_total",
        "culvert_segments_resent_total",
        "culvert_segments_rejected_total",
        "culvert_pacing_rate_bits_per_second",
        "culvert_rtt_seconds",
        "culvert_chunk_seconds",
        "culvert_lane_busy_ratio",
        "culvert_lane_stall_seconds_total",
        "culvert_lane_broken_invariants_total",
        "culvert_disk_bytes_total",
        "culvert_dataplane_restarts_total",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is missing in {text}");
    }
    assert!(node.metric("culvert_transfer_bytes_total{direction=\"receive\",peer=\"first\"}") > 0.0, "{text}");
    assert!(node.metric("culvert_transfer_bytes_total{direction=\"send\",peer=\"first\"}") > 0.0, "{text}");
    assert!(!text.contains("file-0"), "a file's name is in the metrics");
    if !is_installed("promtool") {
        eprintln!("skipped: promtool (package prometheus) is not installed");
        return;
    }
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let said = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned();
    // The contract's names are in bits per second, as is usual for networks; promtool would prefer
    // bytes. It must not complain about anything else.
    let unexpected: Vec<_> =
        said.lines().filter(|line| !line.contains("use base unit \"bytes\" instead of \"bits\"")).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}

/// The rows of the table of metrics in docs/operations.md: name, and what it is there with.
fn documented_metrics() -> Vec<(String, String)> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let page = fs::read_to_string(page).unwrap();
    let table = page.split("| metric | labels | meaning | with |").nth(1).expect("the page has the table");
    let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect::<Vec<_>>());
    cells.map(|cells| (cells[1].clone(), cells[4].clone())).collect()
}

/// Regression: the page named three of them.
#[test]
fn the_page_lists_the_metrics_of_a_node_and_no_others() {
    let pair = Pair::new();
    let configuration = pair.path("culvert.toml");
    let stamp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let tables = format!("[responder]\nstamp = '{stamp}'\n[archive]\nurl = 'http://127.0.0.1:1/'\n");
    fs::write(&configuration, tables).unwrap();
    let node = pair.start_with(&["--config", configuration.to_str().unwrap()]);
    let source = pair.path("source");
    fs::write(&source, Random::new(7).bytes(3 << 20)).unwrap();
    pair.send(&source, "in", &[]).exits(0);
    pair.get("in", &pair.path("back"), &[]).exits(0);
    let text = node.metrics();
    let exported: BTreeSet<&str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let documented = documented_metrics();
    let names: BTreeSet<&str> = documented.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names.len(), documented.len(), "a metric has two rows");
    let unknown: Vec<_> = exported.difference(&names).collect();
    assert!(unknown.is_empty(), "not in docs/operations.md: {unknown:?}");
    // What this node has no reason to export is at least in the program.
    let rare = ["AF_XDP", "an audit", "a path record", "a limit reached", "one turned away"];
    for (name, with) in &documented {
        let is_there = exported.contains(name.as_str());
        assert!(is_there || rare.contains(&with.as_str()), "docs/operations.md lists {name}, which no node exports");
    }
    assert_eq!(names, metrics_in_the_source().iter().map(String::as_str).collect());
}

/// The names of metrics in the source of the program.
fn metrics_in_the_source() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../control");
    let files = ["admission", "kernel_bypass", "lanes", "transfers"].map(|name| format!("node/src/metrics/{name}.rs"));
    let files = files.into_iter().chain(["node/src/metrics.rs", "path/src/metrics.rs"].map(str::to_owned));
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(root.join(&file)).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        let texts = code.split('"').skip(1).step_by(2).filter(|text| text.starts_with("culvert_"));
        names.extend(texts.map(str::to_owned));
    }
    names
}

#[test]
fn status_and_lists_tell_what_is_going_on() {
    let pair = Pair::new();
    let node = pair.start();
    let source = pair.path("file");
    fs::write(&source, "content").unwrap();
    let id = pair.send(&source, "in", &[]).exits(0).json()["transfer"].as_str().unwrap().to_owned();
    let status = run(&pair.there, ["status", "--json"]).exits(0).json();
    assert_eq!(
        status["dataplane"]["process_id"].as_u64().unwrap(),
        u64::from(data_plane_of(node.process_id()).unwrap())
    );
    let lane = &status["dataplane"]["lanes"][0];
    assert_eq!(lane["buffers_in_use"], 0, "a buffer is still in use: {status}");
    assert!(lane["received_bytes"].as_u64().unwrap() > 0);
    assert!(run(&pair.there, ["status"]).exits(0).out.contains("lane 0"));
    let list = run(&pair.there, ["transfer", "list", "--json"]).exits(0);
    assert!(list.out.contains(&id), "{list:?}");
    let shown = run(&pair.there, ["transfer", "show", &id, "--json"]).exits(0).json();
    assert_eq!(shown["state"], "succeeded");
    run(&pair.there, ["transfer", "show", &id]).exits(0);
}

#[test]
fn buffers_are_all_free_after_everything_that_can_happen_to_a_transfer() {
    let pair = Pair::new();
    let node = pair.start();
    let source = pair.path("large");
    fs::write(&source, Random::new(1).bytes(48 << 20)).unwrap();
    let destination = format!("second:{}", pair.shared.join("in").display());
    for _ in 0..4 {
        let mut sending = command(&pair.here, ["send", "--quiet", "--rate", "400M"]);
        let mut child = sending.arg(&source).arg(&destination).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(400));
        culvert_tests::node::kill(child.id());
        child.wait().unwrap();
    }
    pair.send(&source, "in", &[]).exits(0);
    culvert_tests::node::wait_for("all buffers back", || {
        let status = run(&pair.there, ["status", "--json"]).exits(0).json();
        let lanes = status["dataplane"]["lanes"].as_array().unwrap().clone();
        lanes.iter().all(|lane| lane["buffers_in_use"] == 0).then_some(())
    });
    assert_eq!(node.metric("culvert_dataplane_restarts_total"), 0.0);
}

#[test]
fn the_data_plane_has_no_capabilities_and_a_seccomp_filter() {
    let pair = Pair::new();
    let node = pair.start();
    let status = fs::read_to_string(format!("/proc/{}/status", node.data_plane())).unwrap();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
    };
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
        assert_eq!(field(set).trim_start_matches('0'), "", "{set} {status}");
    }
    assert_eq!((field("Seccomp:").as_str(), field("NoNewPrivs:").as_str()), ("2", "1"));
    // All of its threads.
    for task in fs::read_dir(format!("/proc/{}/task", node.data_plane())).unwrap().flatten() {
        let status = fs::read_to_string(task.path().join("status")).unwrap();
        assert!(status.contains("Seccomp:\t2") && status.contains("CapEff:\t0000000000000000"), "{status}");
    }
}

#[test]
fn completions_manuals_settings_and_versions() {
    let room = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(room.path(), ["completion", shell]).exits(0).out.contains("culvert"));
    }
    assert!(run(room.path(), ["version"]).exits(0).out.contains(env!("CARGO_PKG_VERSION")));
    assert!(run(room.path(), ["version", "--json"]).exits(0).json()["protocol"].is_u64());
    let mut show = command(room.path(), ["config", "show", "--origin"]);
    let ran: Ran = show.env("CULVERT_MEMORY", "256MiB").output().unwrap().into();
    let ran = ran.exits(0);
    assert!(ran.out.contains("CULVERT_MEMORY") && ran.out.contains("256"), "{}", ran.out);
    // A variable with a meaningless value is named, not ignored.
    let mut show = command(room.path(), ["config", "show"]);
    let ran: Ran = show.env("CULVERT_MEMORY", "plenty").output().unwrap().into();
    ran.exits(7).says("CULVERT_MEMORY").says("plenty");
}

/// What users of scp and rsync type used to be an unexpected argument, without advice on what to do
/// about it.
#[test]
fn habits_of_other_programs_are_answered_with_what_to_type() {
    let room = tempfile::tempdir().unwrap();
    let state = room.path().join("state");
    fs::write(room.path().join("a"), "a").unwrap();
    fs::write(room.path().join("b"), "b").unwrap();
    let table: &[(&str, &[&str])] = &[
        ("send -r a you@dtn:", &["'-r': directories are always copied whole"]),
        ("send -R a you@dtn:", &["always copied whole"]),
        ("send --recursive a you@dtn:", &["always copied whole"]),
        ("send -p a you@dtn:", &["--preserve"]),
        ("get --archive you@dtn:a .", &["--preserve"]),
        ("send -avz a you@dtn:", &["'-a': '--preserve' keeps modes", "'-z': there is no compression"]),
        ("send -n a you@dtn:", &["--dry-run"]),
        ("send -P 2222 a you@dtn:", &["ssh://HOST:PORT/PATH"]),
        ("send -p2222 a you@dtn:", &["ssh://HOST:PORT/PATH"]),
        ("send -p 2222 -r a you@dtn:", &["ssh://HOST:PORT/PATH", "always copied whole"]),
        ("send -aP a you@dtn:", &["running the same command again resumes"]),
        ("send -i key a you@dtn:", &["--ssh 'ssh -i KEY'"]),
        ("send -e ssh a you@dtn:", &["--ssh 'ssh"]),
        ("send -o Port=22 a you@dtn:", &["--ssh 'ssh"]),
        ("send -l 1000 a you@dtn:", &["--rate"]),
        ("send --bwlimit=1000 a you@dtn:", &["'--bwlimit': '--rate RATE'"]),
        ("send -C a you@dtn:", &["there is no compression"]),
        ("send --exclude=*.o a you@dtn:", &["Culvert has no --exclude"]),
        ("send --include x a you@dtn:", &["no --include"]),
        ("transfer submit --files-from list a lab:", &["Culvert has no --files-from"]),
        ("send --delete a you@dtn:", &["Culvert has no --delete"]),
        ("cp -r a you@dtn:", &["write 'send' instead of 'cp'"]),
        ("copy you@dtn:a .", &["write 'get' instead of 'copy'"]),
        ("push a you@dtn:", &["'culvert send'"]),
        ("put a you@dtn:", &["'culvert send'"]),
        ("upload a you@dtn:", &["'culvert send'"]),
        ("pull you@dtn:a .", &["'culvert get'"]),
        ("fetch you@dtn:a .", &["'culvert get'"]),
        ("download you@dtn:a .", &["'culvert get'"]),
        ("a b you@dtn:", &["did you mean 'culvert send a b you@dtn:'?"]),
        ("you@dtn:a .", &["did you mean 'culvert get you@dtn:a .'?"]),
        ("-r a you@dtn:", &["always copied whole", "did you mean 'culvert send'"]),
        ("a b", &["for copies on this host use cp"]),
        ("send a b", &["for copies on this host use cp"]),
        ("send a you@dtn", &["write you@dtn: for the home directory"]),
        ("get you@dtn .", &["or you@dtn:PATH"]),
        ("a you@dtn", &["you@dtn: with its colon"]),
    ];
    let typed = |line: &str| -> Ran {
        let mut typed = std::process::Command::new(culvert_tests::program::culvert());
        typed.args(line.split(' ')).current_dir(room.path()).env("CULVERT_STATE", &state).output().unwrap().into()
    };
    for (line, tips) in table {
        let mut ran = typed(line).exits(2);
        for tip in *tips {
            ran = ran.says(tip);
        }
        assert!(!ran.err.contains("as a value"), "{ran:?}");
    }
    // Elsewhere such an option is merely wrong.
    for line in ["node -p 22", "transfer list -n", "status -r", "stats"] {
        let ran = typed(line).exits(2);
        assert!(!ran.err.contains("--preserve") && !ran.err.contains("dry-run") && !ran.err.contains("cp"), "{ran:?}");
    }
    // A misspelled command is not a path.
    for (line, tip) in [
        ("sned ./run-42 bob@host:in", "write 'send' instead of 'sned'"),
        ("gte bob@host:in .", "write 'get' instead of 'gte'"),
        ("statsu", "'status'"),
    ] {
        let ran = typed(line).exits(2).says(tip);
        assert!(!ran.err.contains("did you mean"), "{ran:?}");
    }
    // What nobody should type is not suggested.
    for line in ["dataplan", "far-en", "farend", "rule-keepe", "--far-ports 1", "help dataplan"] {
        let ran = typed(line).exits(2);
        for hidden in ["'dataplane'", "'far-end", "'rule-keeper'"] {
            assert!(!ran.err.contains(hidden), "{ran:?}");
        }
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&state, ["completion", shell]).exits(0).out;
        for hidden in ["dataplane\n", "far-end", "far__end", "rule-keeper", "'dataplane:", "\"dataplane\""] {
            assert!(!script.contains(hidden), "{shell} offers {hidden}");
        }
        assert!(script.contains("monitor") && script.contains("overwrite"), "{shell}");
    }
}

#[test]
fn man_pages_make_their_directory_and_a_quiet_audit_says_nothing() {
    let room = tempfile::tempdir().unwrap();
    let (state, pages) = (room.path().join("state"), room.path().join("new/man"));
    run(&state, ["completion", "man", "--directory", pages.to_str().unwrap()]).exits(0);
    assert!(pages.join("culvert.1").exists());
    assert_eq!(run(&state, ["tune", "audit", "-q"]).exits(0).out, "");
    assert_eq!(run(&state, ["tune", "audit", "-q", "--fail-on", "unheard-of"]).exits(2).out, "");
}

#[test]
fn a_key_is_made_once_and_kept_from_others() {
    use std::os::unix::fs::MetadataExt as _;
    let room = tempfile::tempdir().unwrap();
    let state = room.path().join("state");
    let first = run(&state, ["identity", "--json", "init"]).exits(0).json();
    let again = run(&state, ["identity", "--json"]).exits(0).json();
    assert_eq!(first["key"], again["key"]);
    assert_eq!(fs::metadata(state.join("identity.pk8")).unwrap().mode() & 0o777, 0o600);
    fs::write(state.join("identity.pk8"), "damaged").unwrap();
    run(&state, ["identity"]).exits(7).says("identity.pk8");
}

#[test]
fn a_measurement_between_two_nodes_needs_no_files() {
    let pair = Pair::new();
    let _node = pair.start();
    let result = run(&pair.here, ["bench", "net", "second", "--size", "100M", "--json"]).exits(0).json();
    assert!(
        result["goodput_bps"].as_u64().or_else(|| result["result"]["goodput_bps"].as_u64()).unwrap() > 0,
        "{result}"
    );
}

#[test]
fn a_running_node_carries_out_its_users_transfers() {
    let pair = Pair::new();
    let _node = pair.start();
    let mut ours = command(&pair.here, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
    let _ours = RunningNode::start(&pair.here, &mut ours);
    let source = pair.path("file");
    fs::write(&source, "content").unwrap();
    let id = pair.send(&source, "in", &[]).exits(0).json()["transfer"].as_str().unwrap().to_owned();
    assert!(run(&pair.here, ["transfer", "list"]).exits(0).out.contains(&id));
    assert_eq!(fs::read(pair.shared.join("in")).unwrap(), b"content");
}

/// Regression: this was reported as a wrong number of paths.
#[test]
fn options_stand_where_they_like() {
    let pair = Pair::new();
    let _node = pair.start();
    fs::write(pair.shared.join("file"), "content").unwrap();
    let there = format!("second:{}", pair.shared.join("file").display());
    let here = pair.path("fetched").display().to_string();
    run(&pair.here, ["get", &there, "-q", &here]).exits(0);
    assert_eq!(fs::read(&here).unwrap(), b"content");
    run(&pair.here, ["get", &there, "-q"]).exits(2).says("two paths are needed");
    run(&pair.here, ["send", "-q"]).exits(2);
}

/// Regression: a firewall was blamed for a port that accepts connections.
#[test]
fn a_stopped_node_is_called_stopped() {
    let pair = Pair::new();
    let node = pair.start();
    fs::write(pair.path("file"), "content").unwrap();
    signal_process(node.process_id(), Signal::STOP);
    let ran = pair.send(&pair.path("file"), "file", &["--retries", "0"]);
    signal_process(node.process_id(), Signal::CONT);
    assert!(ran.code == 5 && ran.err.contains("accepts connections but does not answer"), "{ran:?}");
    assert!(!ran.err.contains("firewall"), "{ran:?}");
}
