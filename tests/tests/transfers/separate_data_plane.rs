//! The data plane as a separate unit: systemd-socket-activate does here what systemd does with
//! `culvert-dataplane.socket`, and the processes run within what their units allow, as far as that
//! is possible without systemd as init.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use culvert_tests::node::{Pair, RunningNode, kill, wait_for};
use culvert_tests::program::{culvert, is_installed, is_root, run};
use culvert_tests::random::Random;
use culvert_tests::tree::{assert_same, make_nasty};
use culvert_tests::units::Unit;

/// Starts a data plane for each connection to a socket.
struct Activator {
    child: Child,
    socket: PathBuf,
}

impl Activator {
    fn start(socket: PathBuf, program: &[&str]) -> Self {
        let child = Command::new("systemd-socket-activate")
            .args(["--seqpacket", "--accept", "--inetd", "--listen"])
            .arg(&socket)
            .args(program)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("systemd-socket-activate starts");
        wait_for("the data plane's socket", || socket.exists().then_some(()));
        Self { child, socket }
    }

    fn path(&self) -> &str {
        self.socket.to_str().expect("a path of text")
    }
}

impl Drop for Activator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn data_plane_of(node: &RunningNode, pair: &Pair) -> u32 {
    assert!(node.port > 0);
    let status = run(&pair.there, ["status", "--json"]).exits(0).json();
    let id = status["dataplane"]["process_id"].as_u64().unwrap_or_else(|| panic!("no data plane in {status}"));
    u32::try_from(id).unwrap()
}

/// Moves a tree there and back.
fn move_things(pair: &Pair, name: &str, seed: u64) {
    eprintln!("seed {seed}");
    let source = pair.path(&format!("source-{name}"));
    make_nasty(&source, &mut Random::new(seed));
    fs::write(source.join("large"), Random::new(seed).bytes(9 << 20)).unwrap();
    let sent = pair.send(&source.join(""), name, &["--preserve"]).exits(0).json();
    assert_eq!(sent["state"], "succeeded");
    assert_same(&source, &pair.shared.join(name));
    let back = pair.path(&format!("back-{name}"));
    pair.get(&format!("{name}/"), &back, &[]).exits(0);
    assert_same(&source, &back);
}

#[test]
fn a_node_uses_a_data_plane_that_another_starts_and_gets_a_new_one_when_it_dies() {
    if !is_installed("systemd-socket-activate") {
        eprintln!("skipped: systemd-socket-activate is not installed");
        return;
    }
    let pair = Pair::new();
    let activator = Activator::start(pair.path("dataplane.sock"), &[culvert().to_str().unwrap(), "dataplane"]);
    let node = pair.start_with(&["--dataplane-socket", activator.path()]);
    let first = data_plane_of(&node, &pair);
    let parent = fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    assert!(parent.contains(&format!("PPid:\t{}", activator.child.id())), "it is not the activator's child: {parent}");
    move_things(&pair, "first", 1);
    kill(first);
    let second = wait_for("another data plane", || {
        let id = data_plane_of_or_none(&pair)?;
        (id != first).then_some(id)
    });
    assert_ne!(first, second);
    move_things(&pair, "second", 2);
    assert!((node.metric("culvert_dataplane_restarts_total") - 1.0).abs() < 0.5);
    // It ends with its node.
    drop(node);
    wait_for("the data plane's end", || (!Path::new(&format!("/proc/{second}/exe")).exists()).then_some(()));
}

fn data_plane_of_or_none(pair: &Pair) -> Option<u32> {
    let status = run(&pair.there, ["status", "--json"]);
    let id = serde_json::from_str::<serde_json::Value>(&status.out).ok()?["dataplane"]["process_id"].as_u64()?;
    u32::try_from(id).ok()
}

#[test]
fn a_node_whose_data_plane_cannot_be_reached_says_what_to_do() {
    let pair = Pair::new();
    let nowhere = pair.path("nowhere.sock");
    let options = ["node", "--listen", "127.0.0.1:0", "--metrics", "off", "--dataplane-socket"];
    let ran = run(&pair.there, options.iter().map(AsRef::as_ref).chain([nowhere.as_os_str()]));
    assert_ne!(ran.code, 0);
    ran.says(nowhere.to_str().unwrap()).says("culvert-dataplane.socket");
}

/// The system calls in a summary of `strace -c`.
fn calls_in(summary: &Path) -> BTreeSet<String> {
    let text = wait_for("a summary of system calls", || {
        fs::read_to_string(summary).ok().filter(|text| text.trim_end().ends_with("total"))
    });
    let names = text.lines().filter_map(|line| line.split_whitespace().last());
    names.filter(|name| !name.starts_with('-') && !["total", "syscall"].contains(name)).map(str::to_owned).collect()
}

/// A transfer there and back, and everything that the two processes ask of the kernel for it,
/// compared with their units' filters.
#[test]
fn the_units_filters_let_every_system_call_of_a_transfer_through() {
    for program in ["systemd-socket-activate", "systemd-analyze", "strace"] {
        if !is_installed(program) {
            eprintln!("skipped: {program} is not installed");
            return;
        }
    }
    let pair = Pair::new();
    let (of_node, of_plane) = (pair.path("node.calls"), pair.path("dataplane.calls"));
    let program = culvert().to_str().unwrap();
    let strace = ["strace", "-f", "-c", "-U", "name", "-o"];
    let traced: Vec<&str> = strace.into_iter().chain([of_plane.to_str().unwrap(), program, "dataplane"]).collect();
    let activator = Activator::start(pair.path("dataplane.sock"), &traced);
    let mut command = Command::new("strace");
    // The unit refuses the call that reports whether the clock is synchronized, because it can also
    // set it: things must work without it.
    command.args(&strace[1..]).arg(&of_node).args(["-e", "trace=all", "-e", "inject=clock_adjtime:error=ENOSYS"]);
    command.arg(program).arg("--state").arg(&pair.there);
    command.args(["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "127.0.0.1:0"]);
    command.args(["--dataplane-socket", activator.path()]);
    let node = RunningNode::start(&pair.there, &mut command);
    pair.meet(node.port);
    move_things(&pair, "traced", 3);
    assert!(!node.metrics().is_empty());
    let id = fs::read(pair.there.join("node.json")).unwrap();
    let id = serde_json::from_slice::<serde_json::Value>(&id).unwrap()["process_id"].as_i64().unwrap();
    let id = rustix::process::Pid::from_raw(id as i32).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();

    for (summary, unit, least) in
        [(&of_node, "culvert.service", "openat2"), (&of_plane, "culvert-dataplane@.service", "io_uring_enter")]
    {
        let (used, allowed) = (calls_in(summary), Unit::shipped(unit).allowed_system_calls());
        assert!(used.contains(least) && used.len() > 20, "{unit}: the trace is not of a transfer: {used:?}");
        let mut refused: Vec<&String> = used.difference(&allowed).collect();
        // What starts the process comes before the filter. cachestat (451) is newer than the lists
        // of many systemd versions and the name tables of many straces; it then returns ENOSYS, as
        // on an older kernel, and the lane does not ask again.
        refused.retain(|call| !["execve", "cachestat", "syscall_0x1c3", "clock_adjtime"].contains(&call.as_str()));
        // Files that root writes are given to the node's account; the node itself is not root.
        refused.retain(|&call| call != "fchown" || !is_root());
        assert!(refused.is_empty(), "{unit} refuses {refused:?}");
    }
}

/// Unprivileged accounts, a root file system that cannot be written, and no capability except the
/// unit's.
#[test]
fn node_and_data_plane_run_as_accounts_of_their_own_without_rights() {
    if !is_root() || !is_installed("systemd-socket-activate") || !is_installed("setpriv") || !is_installed("unshare") {
        eprintln!("skipped: this needs root, systemd-socket-activate, setpriv and unshare");
        return;
    }
    let pair = Pair::new();
    // IDs that nobody has.
    let (node_id, plane_id) = ("64221", "64222");
    let owned = Command::new("chown")
        .args(["-R", &format!("{node_id}:{node_id}")])
        .args([&pair.there, &pair.shared])
        .status()
        .unwrap();
    assert!(owned.success());
    fs::set_permissions(pair.room.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    // A program that anybody may run, and a socket that the node may connect to.
    let program = pair.path("culvert");
    fs::copy(culvert(), &program).unwrap();
    let setpriv = |id: &str| {
        let words = ["setpriv", "--reuid", id, "--regid", id, "--clear-groups", "--no-new-privs"];
        words.into_iter().chain(["--bounding-set=-all", "--inh-caps=-all"]).map(str::to_owned).collect::<Vec<_>>()
    };
    let plane = setpriv(plane_id).into_iter().chain([program.display().to_string(), "dataplane".into()]);
    let plane: Vec<String> = plane.collect();
    let activator =
        Activator::start(pair.path("dataplane.sock"), &plane.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(Command::new("chown").arg(node_id).arg(&activator.socket).status().unwrap().success());
    fs::set_permissions(&activator.socket, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();

    // A mount namespace like ProtectSystem=strict: everything read-only but the state and the data.
    let script = format!(
        "mount --make-rprivate / && mount --bind '{0}' '{0}' && mount --bind '{1}' '{1}' && mount -o remount,bind,ro / && exec \"$@\"",
        pair.there.display(),
        pair.shared.display()
    );
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script, "sh"]).args(setpriv(node_id)).arg(&program);
    command.arg("--state").arg(&pair.there).args(["node", "--listen", "127.0.0.1:0", "--ports", "any"]);
    command.args(["--metrics", "127.0.0.1:0", "--dataplane-socket", activator.path()]).env("HOME", &pair.there);
    let node = RunningNode::start(&pair.there, &mut command);
    pair.meet(node.port);
    let status = |process: u32| fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let plane_status = status(data_plane_of(&node, &pair));
    assert!(plane_status.contains(&format!("Uid:\t{plane_id}\t")), "{plane_status}");
    let node_status = status(node.process_id());
    assert!(node_status.contains(&format!("Uid:\t{node_id}\t")), "{node_status}");
    for status in [node_status, plane_status] {
        for set in ["CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert!(status.contains(&format!("{set}:\t0000000000000000")), "{status}");
        }
    }
    move_things(&pair, "confined", 4);
    assert!(!node.log().contains("without a part of its sandbox"), "{}", node.log());
    // What is not the node's cannot be written, and is named.
    let outside = pair.path("outside");
    fs::create_dir(&outside).unwrap();
    assert!(Command::new("chown").arg(node_id).arg(&outside).status().unwrap().success());
    // Root edits it, and the file stays the account's.
    run(&pair.there, ["profile", "edit", "first", "--permit", &format!("{}:both", pair.room.path().display())])
        .exits(0);
    let profile = fs::metadata(pair.there.join("profiles/first.toml")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&profile).to_string(), node_id);
    let source = pair.path("file");
    fs::write(&source, "x").unwrap();
    let destination = format!("second:{}", outside.join("file").display());
    let refused = run(&pair.here, ["send".as_ref(), source.as_os_str(), destination.as_ref()]);
    assert_ne!(refused.code, 0);
    refused.says("ead-only file system");
}
