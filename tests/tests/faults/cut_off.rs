//! Transfers whose process is gone, and who knows of them: commands and nodes that share a state
//! directory, and entries in it that are not files.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use culvert_tests::node::{Pair, RunningNode, wait_for};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::random::Random;
use culvert_tests::ssh_stand_in::FarEnd;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;

/// A command that is killed if the test does not end it.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    fn end(mut self) -> i32 {
        wait_for("the end of the command", || self.0.try_wait().unwrap()).code().unwrap_or(-1)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A node of the asking side, beside its commands.
fn start_ours(state: &Path) -> RunningNode {
    let arguments = ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"];
    RunningNode::start(state, &mut command(state, arguments))
}

fn source_of(pair: &Pair, mebibytes: usize) -> PathBuf {
    let source = pair.path("source");
    fs::write(&source, Random::new(1).bytes(mebibytes << 20)).unwrap();
    source
}

/// A transfer by a separate command, at a rate at which it takes several seconds.
fn sending(pair: &Pair, source: &Path) -> Command {
    sending_at("20M", pair, source)
}

fn sending_at(rate: &str, pair: &Pair, source: &Path) -> Command {
    let mut sending = command(&pair.here, ["send", "--json", "--rate", rate]);
    sending.arg(source).arg(format!("second:{}/copy", pair.shared.display()));
    sending
}

/// What `culvert transfer list` reports, one record per line.
fn listed(state: &Path) -> Vec<Value> {
    let ran = run(state, ["transfer", "list", "--json"]).exits(0);
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The only transfer, once it is moving.
fn wait_until_active(state: &Path) -> String {
    wait_for("a transfer that is under way", || {
        let records = listed(state);
        let [record] = records.as_slice() else { return None };
        (record["state"] == "active").then(|| record["transfer"].as_str().unwrap().to_owned())
    })
}

fn show(state: &Path, id: &str) -> Value {
    run(state, ["transfer", "show", id, "--json"]).exits(0).json()
}

fn wait_for_the_journal(state: &Path) {
    wait_for("chunks in the journal", || {
        let journals = fs::read_dir(state.join("journals")).ok()?;
        journals.flatten().any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 300)).then_some(())
    });
}

/// Regression: it was called active forever.
#[test]
fn a_command_that_was_killed_is_called_interrupted_by_whoever_looks_and_goes_on() {
    let pair = Pair::new();
    let _node = pair.start();
    // Far more than is sent before it is killed.
    let source = source_of(&pair, 160);
    let sending_process = Running::start(&mut sending(&pair, &source));
    let id = wait_until_active(&pair.here);
    wait_for_the_journal(&pair.there);
    assert_eq!(show(&pair.here, &id)["state"], "active", "it lives");
    let doctor = || {
        let page = command(&pair.here, ["doctor", "--json"]).output().unwrap();
        let page: Value = serde_json::from_slice(&page.stdout).unwrap();
        let parts = page["readiness"].as_array().unwrap().clone();
        parts.into_iter().find(|part| part["name"] == "transfers").map(|part| part["why"].as_str().unwrap().to_owned())
    };
    assert_eq!(doctor(), None);
    sending_process.kill();

    let is_told = |record: &Value| {
        assert_eq!((&record["state"], &record["error"]["code"]), (&"failed".into(), &"interrupted".into()), "{record}");
        assert!(record["error"]["text"].as_str().unwrap().contains("resumes where it stopped"));
    };
    is_told(&show(&pair.here, &id));
    is_told(&listed(&pair.here)[0]);
    let told = doctor().unwrap();
    assert!(told.contains("1 transfer interrupted") && told.contains(&id), "{told}");
    // A node that starts reports it too, and records it.
    let ours = start_ours(&pair.here);
    assert!(ours.log().contains("1 transfer was cut off when its process was killed"), "{}", ours.log());
    is_told(&show(&pair.here, &id));
    let written = || fs::read(pair.here.join(format!("transfers/{id}.json"))).unwrap();
    wait_for("the record", || {
        let record: Value = serde_json::from_slice(&written()).unwrap();
        (record["state"] == "failed" && record["ended_unix_ms"].is_u64()).then_some(())
    });
    drop(ours);
    assert_eq!(doctor(), None, "it was told");
    let again: Ran = sending_at("1G", &pair, &source).output().unwrap().into();
    let again = again.exits(0).json();
    assert!(again["resumed_bytes"].as_u64().unwrap() > 0, "{again}");
    assert_eq!(fs::read(&source).unwrap(), fs::read(pair.shared.join("copy")).unwrap());
    let names = fs::read_dir(&pair.here).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<_> = names.filter(|name| name.starts_with("owner-")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Regression: the node called it failed until it was started again.
#[test]
fn a_node_that_is_started_beside_a_command_knows_whose_transfer_it_is() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = source_of(&pair, 24);
    let process = Running::start(&mut sending(&pair, &source));
    let id = wait_until_active(&pair.here);
    let ours = start_ours(&pair.here);
    assert_eq!(show(&pair.here, &id)["state"], "active");
    let status = run(&pair.here, ["status", "--json"]).exits(0).json();
    assert_eq!(status["transfers"][0]["transfer"], id.as_str());
    run(&pair.here, ["transfer", "cancel", &id]).exits(1).says(&format!("process {}", process.0.id()));
    run(&pair.here, ["transfer", "pause", &id]).exits(1).says("is run by a separate command");
    run(&pair.here, ["transfer", "restart", &id]).exits(1).says("is run by a separate command");
    assert_eq!(process.end(), 0);
    assert_eq!(show(&pair.here, &id)["state"], "succeeded");
    run(&pair.here, ["transfer", "wait", &id]).exits(0);
    assert!(!ours.log().contains("cut off"), "{}", ours.log());
}

/// Regression: a list asked only the node, which had not heard of them.
#[test]
fn transfers_over_ssh_are_listed_while_a_node_runs() {
    let room = tempfile::Builder::new().prefix("culvert-test-").tempdir().unwrap();
    let state = room.path().join("here");
    fs::create_dir(&state).unwrap();
    let far_end = FarEnd::new(room.path(), None);
    let source = room.path().join("source");
    fs::write(&source, Random::new(2).bytes(24 << 20)).unwrap();
    let _ours = start_ours(&state);
    let sending = |rate| {
        let mut sending = far_end.command(&state, "send", &["--rate", rate]);
        sending.arg(&source).arg(FarEnd::place(&room.path().join("copy")));
        sending
    };
    let process = Running::start(&mut sending("20M"));
    let id = wait_until_active(&state);
    // The far end's own list, where no node runs.
    wait_for("the far end's record", || {
        listed(&room.path().join("far")).iter().any(|record| record["state"] == "active").then_some(())
    });
    process.kill();
    assert_eq!(show(&state, &id)["error"]["code"], "interrupted");
    // It notices that its user is gone, and ends by itself.
    wait_for("the far end's end", || {
        listed(&room.path().join("far"))
            .iter()
            .all(|record| record["state"] == "canceled" || record["state"] == "failed")
            .then_some(())
    });
    let done: Ran = sending("1G").output().unwrap().into();
    let done = done.exits(0).json();
    let ids: Vec<Value> = listed(&state).iter().map(|record| record["transfer"].clone()).collect();
    assert_eq!(ids, [done["transfer"].clone(), id.into()]);
}

fn make_pipe(path: &Path) {
    let _ = fs::remove_file(path);
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap();
}

/// Regression: each of them kept the node from starting, or made it hang forever.
#[test]
fn what_is_no_file_in_the_state_directory_does_not_keep_a_node_from_starting() {
    let pair = Pair::new();
    let node = pair.start();
    let source = pair.path("source");
    fs::write(&source, "content").unwrap();
    let id = pair.send(&source, "copy", &[]).exits(0).json()["transfer"].as_str().unwrap().to_owned();
    drop(node);
    let at = |name: String| pair.there.join(name);
    let record = |number: u32| format!("transfers/01JDV{number:021}.json");
    make_pipe(&at(record(0)));
    fs::create_dir(at(record(1))).unwrap();
    std::os::unix::fs::symlink("/nowhere", at(record(2))).unwrap();
    std::os::unix::fs::symlink("/dev/zero", at(record(3))).unwrap();
    fs::File::create(at(record(4))).unwrap().set_len(1 << 40).unwrap();
    fs::write(at(record(5)), "{").unwrap();
    let receipt = format!("01JDV{:021}", 7);
    for pipe in ["pending.json", "profiles/pipe.toml", &format!("receipts/{receipt}.receipt"), "journals/pipe.journal"]
    {
        make_pipe(&at(pipe.to_owned()));
    }
    let node = pair.start();
    let log = node.log();
    for number in 0..6 {
        let name = at(record(number));
        assert!(log.contains(&format!("{} is damaged", name.display())), "{}: {log}", name.display());
        assert!(name.with_extension("json.damaged").symlink_metadata().is_ok() && name.symlink_metadata().is_err());
    }
    assert!(log.contains("it is a pipe and not a file") && log.contains("pipe.toml cannot be used"), "{log}");
    let ids: Vec<Value> = listed(&pair.there).iter().map(|record| record["transfer"].clone()).collect();
    assert_eq!(ids, [Value::from(id.as_str())]);
    pair.send(&source, "another", &[]).exits(0);
    let profiles = run(&pair.there, ["profile", "list"]).exits(7).says("profiles/pipe.toml").says("a pipe");
    assert!(profiles.out.contains("first"), "{profiles:?}");
    run(&pair.there, ["transfer", "receipt", &receipt]).exits(7).says("a pipe");
    drop(node);
    assert!(at("pending.json".to_owned()).symlink_metadata().unwrap().file_type().is_fifo(), "it was left alone");
}

/// For a key and a configuration the only remedy is somebody who fixes it: this is reported at
/// once.
#[test]
fn a_pipe_in_the_place_of_a_key_or_a_configuration_is_an_error() {
    let pair = Pair::new();
    let configuration = pair.path("culvert.toml");
    make_pipe(&configuration);
    run(&pair.here, [Path::new("--config"), &configuration, Path::new("status")]).exits(7).says("it is a pipe");
    let (key, aside) = (pair.here.join("identity.pk8"), pair.path("key"));
    fs::rename(&key, &aside).unwrap();
    make_pipe(&key);
    let node = ["node", "--listen", "127.0.0.1:0", "--metrics", "off"];
    run(&pair.here, node).exits(7).says("identity.pk8 cannot be used: it is a pipe");
    fs::remove_file(&key).unwrap();
    std::os::unix::fs::symlink(&aside, &key).unwrap();
    run(&pair.here, node).exits(7).says("it is a symlink");
    make_pipe(&key);
    make_pipe(&pair.here.join("node.lock"));
    run(&pair.here, node).exits(7).says("node.lock");
}

/// A shell's `<(…)` is a pipe, and may be read: a message says that the command waits for it.
#[test]
fn a_receipt_from_a_pipe_is_waited_for_and_it_is_said() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::write(&source, "content").unwrap();
    let id = pair.send(&source, "copy", &[]).exits(0).json()["transfer"].as_str().unwrap().to_owned();
    let text = fs::read(pair.here.join(format!("receipts/{id}.receipt"))).unwrap();
    let pipe = pair.path("pipe");
    make_pipe(&pipe);
    let mut checking = command(&pair.here, ["transfer", "receipt"]);
    let checking = checking.arg(&pipe).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    fs::File::options().write(true).open(&pipe).unwrap().write_all(&text).unwrap();
    let ran: Ran = checking.wait_with_output().unwrap().into();
    let ran = ran.exits(0).says("waiting for the end of").says("a pipe");
    assert!(ran.out.contains("valid: signed by both"), "{ran:?}");
    run(&pair.here, ["transfer", "receipt", "/dev/zero"]).exits(3).says("more than");
    run(&pair.here, ["transfer", "receipt", "/"]).exits(3).says("a directory");
}
