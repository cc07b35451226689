//! Accounts that may have only a few files open, at either end: a transfer ends well, or it says
//! whose limit is in the way and continues when that is lifted. Nothing that is merely out of reach
//! is called missing, and nobody is told to remove anything sound.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_tests::node::{Pair, wait_for};
use culvert_tests::program::Ran;
use culvert_tests::random::Random;
use culvert_tests::ssh_stand_in::FarEnd;
use culvert_tests::tree::assert_same;

/// From a limit at which nothing starts to one at which everything works.
const LIMITS: std::ops::RangeInclusive<u32> = 6..=40;
/// Not a measurement, only a way to end what hangs. It ends with the code of a signal, which no
/// test expects.
const PATIENCE: [&str; 4] = ["timeout", "--signal=KILL", "--preserve-status", "60"];

/// Files with chunks of their own, some in packs, and an empty one, in directories.
fn make_source(source: &Path) {
    fs::create_dir_all(source.join("deep/er")).unwrap();
    let mut random = Random::new(23);
    for (name, bytes) in
        [("big", 3 << 20), ("one", 1_300_000), ("small", 1_000), ("deep/a", 500), ("deep/er/b", 1_200_000)]
    {
        fs::write(source.join(name), random.bytes(bytes)).unwrap();
    }
    fs::write(source.join("deep/empty"), "").unwrap();
}

/// A command with a limit, which the shell sets; unchanged without one.
fn limited(command: &Command, limit: Option<u32>) -> Command {
    let mut shell = Command::new(PATIENCE[0]);
    shell.args(&PATIENCE[1..]).args(["sh", "-c"]);
    shell.arg(limit.map_or("exec \"$@\"".to_owned(), |limit| format!("ulimit -n {limit} && exec \"$@\""))).arg("sh");
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

/// Checks that `limit` is attributed to whoever has it, and that nothing false is said.
fn assert_says_whose(said: &str, limit: u32, case: &str) {
    assert!(said.contains("ulimit -n"), "{case}: {said}");
    let told: Vec<&str> = said.split(" may have ").skip(1).filter_map(|rest| rest.split(' ').next()).collect();
    // The other end may have thousands.
    assert!(!told.is_empty() && told.iter().all(|told| *told == limit.to_string()), "{case}: {told:?} {said}");
    for wrong in
        ["panicked", "does not exist", "not found", "remove it", "firewall", "install", "check its owner", "choose"]
    {
        assert!(!said.contains(wrong), "{case}: '{wrong}' {said}");
    }
}

/// Runs `moving` with a limit somewhere, then without one.
fn try_both(case: &str, limit: u32, source: &Path, stored: &Path, mut moving: impl FnMut(bool) -> Ran) {
    let _ = fs::remove_dir_all(stored);
    let ran = moving(true);
    match ran.code {
        0 => assert_same(source, stored),
        5 => assert_says_whose(&ran.err, limit, case),
        code => panic!("{case}: {code} {} {}", ran.out, ran.err),
    }
    let again = moving(false);
    assert_eq!(again.code, 0, "{case}: {} {}", again.out, again.err);
    if ran.code == 0 {
        assert_eq!(again.json()["files"]["stored"], 0, "{case}: something was left to do");
    }
    assert_same(source, stored);
}

/// A transfer over ssh, one end of which has the limit.
fn by_ssh(is_far: bool) {
    let room = tempfile::Builder::new().prefix("culvert-limits-").tempdir().unwrap();
    let (source, stored) = (room.path().join("source"), room.path().join("stored"));
    make_source(&source);
    let wrapper = room.path().join("wrapper");
    let far = FarEnd::new(room.path(), Some(Path::new(&format!("sh {}", wrapper.display()))));
    let transfer = |is_push: bool| {
        let mut moving =
            far.command(&room.path().join("near"), if is_push { "send" } else { "get" }, &["--retries", "0"]);
        let from = source.join("");
        if is_push {
            moving.arg(from).arg(FarEnd::place(&stored));
        } else {
            moving.arg(FarEnd::place(&from)).arg(&stored);
        }
        moving
    };
    for limit in LIMITS {
        for is_push in [true, false] {
            let case = format!("limit {limit}, far end {is_far}, push {is_push}");
            try_both(&case, limit, &source, &stored, |is_limited| {
                let there = if is_limited && is_far { format!("ulimit -n {limit}\n") } else { String::new() };
                fs::write(&wrapper, format!("{there}exec \"$@\"\n")).unwrap();
                let here = (is_limited && !is_far).then_some(limit);
                limited(&transfer(is_push), here).output().unwrap().into()
            });
        }
    }
}

/// Regression: it was "not found", a plain failure, or a part of the files; and the limit was said
/// to be the near end's.
#[test]
fn a_far_end_with_few_descriptors_says_so() {
    by_ssh(true);
}

/// Regression: the advice was to install the ssh client, open a firewall, or remove a journal.
#[test]
fn a_near_end_with_few_descriptors_says_so() {
    by_ssh(false);
}

fn transfer_with(pair: &Pair, is_push: bool, source: &Path, stored: &Path, limit: Option<u32>) -> Ran {
    let at = |path: PathBuf| format!("second:{}", path.display());
    let verb = if is_push { "send" } else { "get" };
    let mut moving = pair.command(&pair.here, [verb, "--json", "--retries", "0"]);
    if is_push {
        moving.arg(source.join("")).arg(at(stored.to_owned()));
    } else {
        moving.arg(at(source.join(""))).arg(stored);
    }
    limited(&moving, limit).output().unwrap().into()
}

#[test]
fn a_command_with_few_descriptors_says_so() {
    let pair = Pair::new();
    let (source, stored) = (pair.shared.join("source"), pair.shared.join("stored"));
    make_source(&source);
    let _node = pair.start();
    for limit in LIMITS {
        for is_push in [true, false] {
            let case = format!("limit {limit}, push {is_push}");
            try_both(&case, limit, &source, &stored, |is_limited| {
                transfer_with(&pair, is_push, &source, &stored, is_limited.then_some(limit))
            });
        }
    }
}

/// Starts a node with a limit, runs `act` if it listens, and ends it. Returns what it said if it
/// did not get that far.
fn with_limited_node(pair: &Pair, limit: u32, act: impl FnOnce()) -> Option<Ran> {
    let (log, running) = (pair.path("limited.log"), pair.there.join("node.json"));
    let _ = fs::remove_file(&running);
    let node = pair.command(&pair.there, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("ulimit -n {limit} && exec \"$@\"")).arg("sh").arg(node.get_program());
    let mut child = shell
        .args(node.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let port = wait_for("a node that listens, or its end", || {
        let json = fs::read(&running).ok().and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
        match json.and_then(|json| json["port"].as_u64()) {
            Some(port) => Some(Ok(port as u16)),
            None => child.try_wait().unwrap().map(Err),
        }
    });
    match port {
        Ok(port) => {
            pair.meet(port);
            act();
            let _ = child.kill();
            let _ = child.wait();
            None
        }
        Err(status) => {
            let err = fs::read_to_string(&log).unwrap();
            Some(Ran { code: status.code().unwrap_or(-1), out: String::new(), err })
        }
    }
}

#[test]
fn a_node_with_few_descriptors_says_so() {
    let pair = Pair::new();
    let (source, stored) = (pair.shared.join("source"), pair.shared.join("stored"));
    make_source(&source);
    for is_push in [true, false] {
        let mut began_at = None;
        for limit in LIMITS {
            let case = format!("limit {limit}, push {is_push}");
            let _ = fs::remove_dir_all(&stored);
            let mut code = None;
            let ended = with_limited_node(&pair, limit, || {
                let ran = transfer_with(&pair, is_push, &source, &stored, None);
                match ran.code {
                    0 => assert_same(&source, &stored),
                    5 => assert_says_whose(&ran.err, limit, &case),
                    code => panic!("{case}: {code} {} {}", ran.out, ran.err),
                }
                code = Some(ran.code);
            });
            match ended {
                Some(ran) => {
                    assert_eq!(ran.code, 5, "{case}: {}", ran.err);
                    assert_says_whose(&ran.err, limit, &case);
                }
                None => began_at = began_at.or(Some(limit)),
            }
            if code == Some(5) {
                let _node = pair.start();
                transfer_with(&pair, is_push, &source, &stored, None).exits(0);
                assert_same(&source, &stored);
            }
        }
        assert!(began_at.is_some_and(|limit| limit < *LIMITS.end()), "no node has listened");
    }
}
