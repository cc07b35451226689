//! What is secret stays in the memory of the processes that need it, no longer than they need it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};

use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk};
use culvert_protocol::control::Message;
use culvert_protocol::keys::{Direction, Secret};
use culvert_tests::hostile_sender::{CHUNK_BYTES, HostileSender, hash_of_part};
use culvert_tests::node::{Pair, RunningNode, wait_for};
use culvert_tests::program::{command, is_heeded};
use culvert_tests::random::Random;
use culvert_tests::stranger::file;
use rustix::process::Signal;

/// The private memory that a process can write, piece by piece.
fn private_memory(process: u32) -> Vec<Vec<u8>> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let piece = |line: &str| {
        let mut words = line.split_whitespace();
        let (range, access) = (words.next()?, words.next()?);
        // Shared memory holds packets and chunks, which are what is sent.
        if !access.starts_with("rw") || access.ends_with('s') {
            return None;
        }
        let (begin, end) = range.split_once('-')?;
        let [begin, end] = [begin, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; (end - begin) as usize];
        // Some of it may be gone by now.
        let read = memory.read_at(&mut bytes, begin).unwrap_or(0);
        bytes.truncate(read);
        Some(bytes)
    };
    maps.lines().filter_map(piece).collect()
}

/// Which of the secrets are in a process's memory, and how often.
fn found_in(process: u32, secrets: &[(&'static str, [u8; 32])]) -> BTreeMap<&'static str, usize> {
    // Most places are skipped by their first two bytes alone.
    let mut begins = vec![false; 1 << 16];
    for (_, secret) in secrets {
        begins[usize::from(u16::from_le_bytes([secret[0], secret[1]]))] = true;
    }
    let mut found = BTreeMap::new();
    for piece in private_memory(process) {
        for window in piece.windows(32).filter(|window| begins[usize::from(u16::from_le_bytes([window[0], window[1]]))])
        {
            for (what, _) in secrets.iter().filter(|(_, secret)| secret == window) {
                *found.entry(*what).or_default() += 1;
            }
        }
    }
    found
}

/// HKDF-Expand as in docs/wire.md (W-7), which turns a flow's secret into a key.
fn expanded(secret: &[u8; 32], label: &[u8]) -> [u8; 32] {
    struct KeyBytes;
    impl KeyType for KeyBytes {
        fn len(&self) -> usize {
            32
        }
    }
    let info = [b"culvert 1 ".as_slice(), &[label.len() as u8], label, &[0]];
    let mut key = [0; 32];
    Prk::new_less_safe(HKDF_SHA256, secret).expand(&info, KeyBytes).unwrap().fill(&mut key).unwrap();
    key
}

/// The secrets that a transfer's ends share, with their names.
fn secrets_of(transfer: &Secret, flow_id: u32) -> Vec<(&'static str, [u8; 32])> {
    let mut secrets = vec![("the transfer's secret", *transfer.expose())];
    for direction in [Direction::Forward, Direction::Reverse] {
        let mut secret = *transfer.for_flow(flow_id, direction).expose();
        for _ in 0..3 {
            secrets.push(("a flow's secret", secret));
            secrets.push(("a packet key", expanded(&secret, b"key")));
            secret = expanded(&secret, b"next");
        }
    }
    secrets
}

/// Row "cores and memory hold none": the key material of a transfer is in neither process once the
/// transfer has ended, well or not.
#[test]
fn no_secret_of_a_transfer_outlives_it() {
    let pair = Pair::new();
    let node = pair.start();
    let content = Random::new(1).bytes(CHUNK_BYTES as usize);
    let entries = [file(b"file", content.len() as u64)];
    let mut sender = HostileSender::begin(&pair.here, node.port, &pair.shared.join("in"), &entries);
    sender.stranger.say(&Message::ChunkHashes(vec![(0, hash_of_part(&content, 0))]));
    sender.send_chunk(0, 0, &content);
    let secrets: Vec<_> =
        sender.flows.iter().flat_map(|flow| secrets_of(&sender.stranger.secret(), flow.flow_id)).collect();
    let processes = [("control process", node.process_id()), ("data plane", node.data_plane())];
    let found = || {
        let each = processes.iter().flat_map(|&(who, process)| {
            found_in(process, &secrets)
                .into_iter()
                .map(move |(what, count)| format!("{what} in the {who}, {count} times"))
        });
        each.collect::<Vec<String>>()
    };
    // To show that the search works: they must be found while they are needed.
    let during = found();
    for needed in ["the transfer's secret in the control process", "a packet key in the data plane"] {
        assert!(during.iter().any(|found| found.starts_with(needed)), "{needed} is not found: {during:?}");
    }
    drop(sender);
    wait_for("the end of the transfer", || {
        let (_, list) = culvert_tests::api::call(&pair.there, "GET", "/v1/transfers", "");
        let ended = |record: &serde_json::Value| record["ended_unix_ms"].is_u64();
        list.as_array().is_some_and(|records| records.iter().all(ended)).then_some(())
    });
    // The lanes release their flows after the transfer's task has ended.
    let mut left = Vec::new();
    for _ in 0..40 {
        left = found();
        if left.is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(left, [] as [String; 0]);
}

/// Starts a program under an account without privileges, and without a limit on cores.
fn unlimited(program: &Command) -> Command {
    let mut starting = Command::new("setpriv");
    starting.args([
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "sh",
        "-c",
        "ulimit -c unlimited; exec \"$@\"",
        "sh",
    ]);
    starting.arg(program.get_program()).args(program.get_args());
    for (name, value) in program.get_envs() {
        starting.env(name, value.unwrap_or_default());
    }
    starting
}

/// Neither process leaves a core, whatever the host's limits and patterns say, and other processes
/// of the same account cannot read them.
#[test]
fn no_core_is_left_and_no_neighbour_reads_the_memory() {
    if !is_heeded(Signal::QUIT) {
        return;
    }
    let room = tempfile::Builder::new().prefix("culvert-test-").tempdir().unwrap();
    let mut sleeping = unlimited(Command::new("sleep").arg("100")).current_dir(room.path()).spawn().unwrap();
    wait_for("a sleeper", || {
        let name = fs::read_to_string(format!("/proc/{}/comm", sleeping.id())).unwrap();
        (name.trim() == "sleep").then_some(())
    });
    let reads = |process: u32| {
        let neighbour = ["--reuid=65534", "--regid=65534", "--clear-groups", "cat", &format!("/proc/{process}/maps")];
        Command::new("setpriv").args(neighbour).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap().success()
    };
    assert!(reads(sleeping.id()), "a neighbour cannot read an ordinary process");
    sleeping.kill().unwrap();
    sleeping.wait().unwrap();
    let state = room.path().join("state");
    fs::create_dir(&state).unwrap();
    for path in [room.path(), &state] {
        std::os::unix::fs::chown(path, Some(65_534), Some(65_534)).unwrap();
    }
    let node = command(&state, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
    // That account may not be able to reach the build.
    let program = room.path().join("culvert");
    fs::copy(node.get_program(), &program).unwrap();
    let mut copied = Command::new(&program);
    copied.args(node.get_args()).envs(node.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let node = RunningNode::start(&state, &mut unlimited(&copied));
    for process in [node.process_id(), node.data_plane()] {
        assert!(!reads(process), "a neighbour reads the node");
        let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
        let cores = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
        assert_eq!(cores.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"]);
    }
    let status = node.end_by(Signal::QUIT);
    assert_eq!(status.signal(), Some(libc::SIGQUIT));
    assert!(!status.core_dumped(), "the node left a core");
}
