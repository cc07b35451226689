//! Faults of disks, sources, partners and networks, on real file systems and real networks.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use culvert_tests::api::{call, push_request};
use culvert_tests::faulty_disk::{self, BadBlocks, FaultyDisk};
use culvert_tests::journals::{is_chunk, wait_for_records};
use culvert_tests::lab::Lab;
use culvert_tests::node::{Pair, RunningNode, data_plane_of, key_of, kill, resident_kib, signal_process, wait_for};
use culvert_tests::program::{Ran, command, is_installed, is_root, run};
use culvert_tests::random::{Random, seeds};
use culvert_tests::tree::{Item, assert_same, contents, is_temporary, make_flat, temporary_files};
use rustix::process::Signal;

const MARKER: &[u8] = b"this block of the disk has gone bad";

fn has_no_faulty_disks() -> bool {
    if let Some(why) = faulty_disk::missing() {
        eprintln!("skipped: {why}");
        return true;
    }
    false
}

/// Starts sending in the background.
fn begin(pair: &Pair, source: &Path, options: &[&str]) -> Child {
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--json"]);
    sending.args(options).arg(source.join("")).arg(destination);
    sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

fn failed_names(result: &serde_json::Value) -> Vec<String> {
    let mut names: Vec<String> =
        result["errors"].as_array().unwrap().iter().map(|error| error["path"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

/// Nothing that is not the whole source has its final name.
fn assert_whole_so_far(source: &Path, destination: &Path) {
    if !destination.exists() {
        return;
    }
    let expected = contents(source);
    for (name, item) in contents(destination) {
        if matches!(item, Item::File(_)) && !is_temporary(&name) {
            assert!(expected.get(&name) == Some(&item), "{} has its final name but is incomplete", name.display());
        }
    }
}

/// Four files, two of which have a bad block: a large one and a small one.
fn make_with_bad_blocks(source: &Path) {
    for (name, bytes, is_bad) in
        [("1-good", 3 << 20, false), ("2-bad", 3 << 20, true), ("3-small", 5_000, false), ("4-small-bad", 5_000, true)]
    {
        fs::create_dir_all(source).unwrap();
        fs::write(source.join(name), Random::new(bytes as u64).bytes(bytes)).unwrap();
        if is_bad {
            fs::File::options()
                .write(true)
                .open(source.join(name))
                .unwrap()
                .write_all_at(MARKER, bytes as u64 / 2)
                .unwrap();
        }
    }
}

/// A node whose destination is a disk that cannot write the bad blocks of [`make_with_bad_blocks`].
/// Fields are dropped in order.
struct BadDestination {
    _node: RunningNode,
    pair: Pair,
    source: PathBuf,
    disk: FaultyDisk,
    _room: tempfile::TempDir,
}

impl BadDestination {
    /// Leaves out one of the files.
    fn without(left_out: &str) -> Self {
        let room = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new(room.path(), "disk", 48 << 20, None);
        let pair = Pair::with(tempfile::tempdir().unwrap(), room.path().join("there"), disk.mounted.join("shared"));
        let node = pair.start();
        let source = pair.path("source");
        make_with_bad_blocks(&source);
        fs::remove_file(source.join(left_out)).unwrap();
        disk.set_bad(BadBlocks { reads_with: None, writes_with: Some(MARKER.to_vec()) });
        Self { _node: node, pair, source, disk, _room: room }
    }
}

#[test]
fn a_bad_block_of_the_source_fails_its_file_by_name() {
    if has_no_faulty_disks() {
        return;
    }
    let pair = Pair::new();
    let _node = pair.start();
    let disk = FaultyDisk::new(pair.room.path(), "disk", 32 << 20, None);
    make_with_bad_blocks(&disk.mounted.join("source"));
    rustix::fs::syncfs(fs::File::open(&disk.mounted).unwrap()).unwrap();
    let on_disk = disk.contents();
    drop(disk);
    // Mounted again, so that nothing is in the page cache.
    let disk = FaultyDisk::with_contents(pair.room.path(), "disk", on_disk, None);
    let source = disk.mounted.join("source");
    disk.set_bad(BadBlocks { reads_with: Some(MARKER.to_vec()), writes_with: None });
    let result = finish(begin(&pair, &source, &[])).exits(6).json();
    assert_eq!(failed_names(&result), ["2-bad", "4-small-bad"], "{result}");
    assert!(result["errors"].as_array().unwrap().iter().all(|error| error["code"] == "unreadable"), "{result}");
    let stored: Vec<_> = contents(&pair.shared.join("in")).into_keys().collect();
    assert_eq!(stored, [Path::new("1-good"), Path::new("3-small")]);
    disk.set_bad(BadBlocks::default());
    finish(begin(&pair, &source, &[])).exits(0);
    assert_same(&source, &pair.shared.join("in"));
}

/// What cannot be read back from an earlier attempt is not proven, and is sent again.
#[test]
fn a_bad_block_in_what_an_earlier_attempt_left_is_sent_anew() {
    if has_no_faulty_disks() {
        return;
    }
    let room = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new(room.path(), "disk", 64 << 20, None);
    let pair = Pair::with(tempfile::tempdir().unwrap(), room.path().join("there"), disk.mounted.join("shared"));
    let node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    let mut bytes = Random::new(9).bytes(24 << 20);
    bytes[100..100 + MARKER.len()].copy_from_slice(MARKER);
    fs::write(source.join("large"), bytes).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    let child = begin(&pair, &source, &["--rate", "40M", "--retries", "0"]);
    wait_for_records(&pair.there, "chunks in the journal", |records| records.iter().any(is_chunk));
    node.kill();
    kill(child.id());
    finish(child);
    let [partial] = temporary_files(&pair.shared).try_into().unwrap();
    rustix::fs::syncfs(fs::File::open(&disk.mounted).unwrap()).unwrap();
    let on_disk = disk.contents();
    drop(disk);
    // Mounted again, so that nothing is in the page cache.
    let disk = FaultyDisk::with_contents(room.path(), "disk", on_disk, None);
    let _node = pair.start();
    disk.set_bad(BadBlocks { reads_with: Some(MARKER.to_vec()), writes_with: None });
    assert!(fs::read(pair.shared.join(partial)).is_err(), "the block is not bad");
    finish(begin(&pair, &source, &["--retries", "5"])).exits(0);
    disk.set_bad(BadBlocks::default());
    assert_same(&source, &pair.shared.join("in"));
    assert!(temporary_files(&pair.shared).is_empty());
}

#[test]
fn a_bad_block_of_the_destination_fails_its_file_by_name() {
    if has_no_faulty_disks() {
        return;
    }
    let bad = BadDestination::without("4-small-bad");
    let (pair, source) = (&bad.pair, &bad.source);
    let ran = finish(begin(pair, source, &["--retries", "0"]));
    // If the disk has direct access, the write reports it; if not, the flush does, for all files.
    if ran.code == 6 {
        assert_eq!(failed_names(&ran.json()), ["2-bad"]);
        assert!(temporary_files(&pair.shared).is_empty());
    } else {
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("durable") || ran.err.contains("written"), "{ran:?}");
    }
    assert_whole_so_far(source, &pair.shared.join("in"));
    bad.disk.set_bad(BadBlocks::default());
    finish(begin(pair, source, &[])).exits(0);
    assert_same(source, &pair.shared.join("in"));
    assert!(temporary_files(&pair.shared).is_empty());
}

#[test]
fn small_files_that_cannot_be_made_durable_are_not_called_stored() {
    if has_no_faulty_disks() {
        return;
    }
    let bad = BadDestination::without("2-bad");
    let (pair, source) = (&bad.pair, &bad.source);
    let ran = finish(begin(pair, source, &["--retries", "0"]));
    assert_eq!(ran.code, 1, "{ran:?}");
    assert!(ran.err.contains("durable"), "{ran:?}");
    assert!(!pair.shared.join("in/4-small-bad").exists(), "it has its final name but is not on the disk");
}

#[test]
fn a_disk_that_is_full_at_any_moment_costs_a_transfer_and_no_file() {
    if !is_root() {
        eprintln!("skipped: mounting a small file system needs root");
        return;
    }
    for seed in seeds(4) {
        let mut random = Random::new(seed);
        let room = tempfile::tempdir().unwrap();
        let small = room.path().join("small");
        fs::create_dir(&small).unwrap();
        let size = c"size=40m";
        rustix::mount::mount("tmpfs", &small, "tmpfs", rustix::mount::MountFlags::empty(), size).unwrap();
        // The node's state may be on the full disk too: then its journal and records find no room.
        let state_is_there = random.below(2) == 0;
        let state = if state_is_there { small.join("state") } else { room.path().join("state") };
        let pair = Pair::with(tempfile::tempdir().unwrap(), state, small.join("shared"));
        let node = pair.start();
        let source = pair.path("source");
        make_flat(&source.join("flat"), 300, 10_000, &mut random);
        make_flat(&source.join("large"), 6, 3 << 20, &mut random);
        let moment = Duration::from_millis(random.below(900));
        eprintln!("seed {seed}: full after {moment:?}, with the state on it: {state_is_there}");
        let child = begin(&pair, &source, &["--rate", "200M", "--retries", "0"]);
        std::thread::sleep(moment);
        let _ = fs::write(small.join("filler"), vec![1; 40 << 20]);
        let ran = finish(child);
        assert!([0, 1, 5, 6].contains(&ran.code), "seed {seed}: {ran:?}");
        if ran.code == 1 {
            assert!(ran.err.contains("room") || ran.err.contains("space") || ran.err.contains("full"), "{ran:?}");
        }
        assert_whole_so_far(&source, &pair.shared.join("in"));
        fs::remove_file(small.join("filler")).unwrap();
        let ran = finish(begin(&pair, &source, &["--retries", "3"]));
        assert!(ran.code == 0 || ran.code == 9, "seed {seed}: {ran:?}");
        assert_same(&source, &pair.shared.join("in"));
        assert!(temporary_files(&pair.shared).is_empty());
        drop(node);
        rustix::mount::unmount(&small, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn sources_that_are_replaced_or_rewritten_while_they_are_read_are_not_stored() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    let names = ["1-whole", "2-replaced", "3-rewritten", "4-whole"];
    fs::create_dir(&source).unwrap();
    for name in names {
        fs::write(source.join(name), Random::new(name.len() as u64).bytes(8 << 20)).unwrap();
    }
    let child = begin(&pair, &source, &["--rate", "100M"]);
    wait_for("the first data", || (!temporary_files(&pair.shared).is_empty()).then_some(()));
    fs::write(source.join("new"), Random::new(77).bytes(8 << 20)).unwrap();
    fs::rename(source.join("new"), source.join("2-replaced")).unwrap();
    // The same size, but other bytes at the end.
    let rewritten = fs::File::options().write(true).open(source.join("3-rewritten")).unwrap();
    rewritten.write_all_at(b"other", (8 << 20) - 5).unwrap();
    let result = finish(child).exits(6).json();
    // If a file was replaced, the opened version arrives, provided that it had been opened by then.
    let failed = failed_names(&result);
    let is_carried = failed == ["3-rewritten"];
    assert!(is_carried || failed == ["2-replaced", "3-rewritten"], "{result}");
    if is_carried {
        let carried = fs::read(pair.shared.join("in/2-replaced")).unwrap();
        assert!(carried == Random::new("2-replaced".len() as u64).bytes(8 << 20), "it is not the one that was opened");
        fs::remove_file(pair.shared.join("in/2-replaced")).unwrap();
    }
    let stored: Vec<_> = contents(&pair.shared.join("in")).into_keys().collect();
    assert_eq!(stored, [Path::new("1-whole"), Path::new("4-whole")]);
    finish(begin(&pair, &source, &[])).exits(0);
    assert_same(&source, &pair.shared.join("in"));
}

/// The processes of both sides stop and continue, one after the other.
fn stall(seconds: u64, retries: &str) {
    let pair = Pair::new();
    let node = pair.start();
    let source = pair.path("source");
    make_flat(&source, 8, 4 << 20, &mut Random::new(1));
    for who in ["the node", "the node's data plane", "the sender", "the sender's data plane"] {
        let _ = fs::remove_dir_all(pair.shared.join("in"));
        let child = begin(&pair, &source, &["--rate", "150M", "--retries", retries]);
        wait_for("the first data", || (!temporary_files(&pair.shared).is_empty()).then_some(()));
        let process = match who {
            "the node" => node.process_id(),
            "the node's data plane" => node.data_plane(),
            "the sender" => child.id(),
            _ => data_plane_of(child.id()).expect("the sender has a data plane"),
        };
        eprintln!("{who} stops for {seconds} s");
        signal_process(process, Signal::STOP);
        std::thread::sleep(Duration::from_secs(seconds));
        signal_process(process, Signal::CONT);
        finish(child).exits(0);
        assert_same(&source, &pair.shared.join("in"));
    }
}

#[test]
fn a_partner_that_stalls_for_a_while_is_waited_for() {
    stall(2, "0");
}

#[test]
#[ignore = "stalls for minutes: cargo xtask test injected -- --ignored"]
fn a_partner_that_stalls_for_a_minute_is_given_up_and_tried_again() {
    stall(60, "20");
}

/// Regression: the control process waited forever for a confirmation that the data plane did not
/// give, and then called the files faulty.
#[test]
fn a_data_plane_that_may_open_no_more_files_says_so_and_the_transfer_goes_on_when_it_may() {
    let pair = Pair::new();
    let node = pair.start();
    fs::write(pair.path("first"), "content").unwrap();
    pair.send(&pair.path("first"), "first", &[]).exits(0);
    let data_plane = node.data_plane();
    // Files that are already open stay open.
    let limit =
        rustix::process::Rlimit { current: Some(3), ..rustix::process::getrlimit(rustix::process::Resource::Nofile) };
    let process = rustix::process::Pid::from_raw(data_plane as i32);
    let before = rustix::process::prlimit(process, rustix::process::Resource::Nofile, limit).unwrap();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    for name in ["large-1", "large-2", "small"] {
        let bytes = if name == "small" { 900 } else { 3 << 20 };
        fs::write(source.join(name), Random::new(1).bytes(bytes)).unwrap();
    }
    let ended = finish(begin(&pair, &source, &["--retries", "0"])).exits(5);
    let whose = format!("process {data_plane} on ");
    assert!(ended.err.contains("may have 3 files open") && ended.err.contains(&whose), "{}", ended.err);
    rustix::process::prlimit(process, rustix::process::Resource::Nofile, before).unwrap();
    finish(begin(&pair, &source, &["--retries", "0"])).exits(0);
    assert_same(&source, &pair.shared.join("in"));
}

#[test]
fn a_core_that_is_taken_away_slows_a_transfer_and_no_more() {
    let pair = Pair::new();
    let node = pair.start();
    let source = pair.path("source");
    make_flat(&source, 8, 4 << 20, &mut Random::new(1));
    let child = begin(&pair, &source, &["--rate", "150M", "--retries", "0"]);
    wait_for("the first data", || (!temporary_files(&pair.shared).is_empty()).then_some(()));
    // Both data planes are moved to one core, away from where their lanes are pinned.
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    for process in [Some(node.data_plane()), data_plane_of(child.id())].into_iter().flatten() {
        for thread in fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten() {
            let id: i32 = thread.file_name().to_string_lossy().parse().unwrap();
            let _ = rustix::thread::sched_setaffinity(rustix::thread::Pid::from_raw(id), &one);
        }
    }
    finish(child).exits(0);
    assert_same(&source, &pair.shared.join("in"));
}

#[test]
fn sixty_four_transfers_at_once_all_end() {
    let pair = Pair::new();
    let node = pair.start();
    let permit = format!("{}:both", pair.shared.display());
    let (theirs, address) = (key_of(&pair.there), format!("127.0.0.1:{}", node.port));
    // Four nodes with sixteen transfers each, which is what a node carries out at once.
    let mut nodes = Vec::new();
    let mut sending = Vec::new();
    for sender in 0..4u64 {
        let name = format!("sender-{sender}");
        let state = pair.path(&name);
        run(&pair.there, ["profile", "add", &name, "--key", &key_of(&state), "--permit", &permit]).exits(0);
        run(&state, ["profile", "add", "second", "--key", &theirs, "--address", &address]).exits(0);
        let mut starting = command(&state, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
        nodes.push(RunningNode::start(&state, starting.args(["--memory", "128MiB"])));
        let source = pair.path(&format!("source-{sender}"));
        make_flat(&source, 12, 600_000, &mut Random::new(sender));
        for number in 0..16 {
            let destination = format!("second:{}", pair.shared.join(format!("in-{sender}-{number}")).display());
            let mut sender = command(&state, ["send", "--json", "--retries", "5"]);
            sender.arg(source.join("")).arg(destination);
            sending.push(sender.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        }
    }
    assert_eq!(sending.len(), 64);
    for child in sending {
        finish(child).exits(0);
    }
    for sender in 0..4 {
        for number in 0..16 {
            let copy = pair.shared.join(format!("in-{sender}-{number}"));
            assert_same(&pair.path(&format!("source-{sender}")), &copy);
        }
    }
    assert!(temporary_files(&pair.shared).is_empty());
    assert_eq!(node.metric("culvert_dataplane_restarts_total"), 0.0);
}

#[test]
fn ten_thousand_queued_transfers_leave_the_node_responsive() {
    // In memory, if there is such a place: each is recorded durably, at the disk's speed and not
    // the node's.
    let memory = Path::new("/dev/shm");
    let room = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
    let (there, shared) = (room.path().join("there"), room.path().join("shared"));
    let pair = Pair::with(room, there, shared);
    let _node = pair.start();
    let source = pair.path("file");
    fs::write(&source, Random::new(1).bytes(300_000)).unwrap();
    let mut starting =
        command(&pair.here, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "127.0.0.1:0"]);
    let ours = RunningNode::start(&pair.here, &mut starting);
    // Each takes seconds, so that nearly all of them wait.
    let request = push_request(&source, Path::new("PLACE"), Some(200_000));
    let ids: Vec<String> = (0..10_000)
        .map(|number| {
            let place = pair.shared.join(format!("in-{number}"));
            let body = request.replace("PLACE", &place.display().to_string());
            let (status, answer) = call(&pair.here, "POST", "/v1/transfers", &body);
            assert_eq!(status, 200, "{answer}");
            answer["transfer"].as_str().unwrap().to_owned()
        })
        .collect();
    let (_, listed) = call(&pair.here, "GET", "/v1/transfers", "");
    assert_eq!(listed.as_array().unwrap().len(), 10_000);
    assert!(run(&pair.here, ["transfer", "list", "--json"]).exits(0).out.contains(&ids[9_999]));
    let shown = run(&pair.here, ["transfer", "show", &ids[9_999], "--json"]).exits(0).json();
    assert_eq!(shown["state"], "queued", "{shown}");
    assert!(ours.metric("culvert_transfers{state=\"queued\"}") > 9_000.0, "{}", ours.metrics());
    for id in ids.iter().rev() {
        let (status, answer) = call(&pair.here, "POST", &format!("/v1/transfers/{id}/cancel"), "");
        // The first ones may have ended.
        assert!(status == 200 || status == 409, "{answer}");
    }
    wait_for("the end of all", || {
        (ours.metric("culvert_transfers{state=\"queued\"}") + ours.metric("culvert_transfers{state=\"active\"}") == 0.0)
            .then_some(())
    });
    let resident = resident_kib(ours.process_id());
    // What a side may use for a million files; the list of ten thousand transfers passes through it
    // several times.
    assert!(resident < 512 << 10, "the node grew to {resident} KiB");
    pair.send(&source, "afterwards", &[]).exits(0);
}

/// Two nodes in two namespaces: the first side requests, the second answers.
struct Networked {
    pair: Pair,
    _node: RunningNode,
    source: PathBuf,
    lab: Lab,
}

impl Networked {
    fn new() -> Option<Self> {
        let lab = Lab::new(1_500)?;
        if !is_installed("nft") {
            eprintln!("skipped: nft (nftables) is not installed");
            return None;
        }
        let pair = Pair::new();
        let starting = command(&pair.there, ["node", "--listen", "10.96.0.2:0", "--ports", "any", "--metrics", "off"]);
        let node = RunningNode::start(&pair.there, &mut lab.inside(1, &starting));
        pair.meet(node.port);
        let (key, address) = (key_of(&pair.there), format!("10.96.0.2:{}", node.port));
        run(&pair.here, ["profile", "edit", "second", "--key", &key, "--address", &address]).exits(0);
        let source = pair.path("source");
        make_flat(&source, 8, 4 << 20, &mut Random::new(1));
        Some(Self { pair, _node: node, source, lab })
    }

    fn begin(&self, options: &[&str]) -> Child {
        let destination = format!("second:{}", self.pair.shared.join("in").display());
        let mut sending = command(&self.pair.here, ["send", "--json"]);
        sending.args(options).arg(self.source.join("")).arg(destination);
        let mut sending = self.lab.inside(0, &sending);
        sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Drops what a side sends over a protocol.
    fn block(&self, side: usize, protocol: &str) {
        let rules = format!(
            "add table inet fault; add chain inet fault out {{ type filter hook output priority 0; }}; add rule inet fault out meta l4proto {protocol} drop"
        );
        self.lab.tool(side, "nft", &[&rules]);
    }

    fn unblock(&self, side: usize) {
        self.lab.tool(side, "nft", &["delete table inet fault"]);
    }
}

#[test]
fn udp_that_is_blocked_in_one_direction_is_named_with_its_port() {
    for side in [0, 1] {
        let Some(networked) = Networked::new() else { return };
        networked.block(side, "udp");
        let ran = finish(networked.begin(&["--retries", "0"]));
        assert_eq!(ran.code, 5, "{ran:?}");
        assert!(ran.err.contains("open UDP port"), "{ran:?}");
    }
}

#[test]
fn udp_that_is_blocked_for_a_while_in_one_direction_delays_a_transfer() {
    let Some(networked) = Networked::new() else { return };
    for side in [0, 1] {
        let _ = fs::remove_dir_all(networked.pair.shared.join("in"));
        let child = networked.begin(&["--rate", "100M", "--retries", "0"]);
        wait_for("the first data", || (!temporary_files(&networked.pair.shared).is_empty()).then_some(()));
        networked.block(side, "udp");
        std::thread::sleep(Duration::from_secs(2));
        networked.unblock(side);
        finish(child).exits(0);
        assert_same(&networked.source, &networked.pair.shared.join("in"));
    }
}

#[test]
fn udp_that_is_blocked_for_good_under_a_transfer_ends_it_with_a_reason() {
    let Some(networked) = Networked::new() else { return };
    let child = networked.begin(&["--rate", "100M", "--retries", "0"]);
    wait_for("the first data", || (!temporary_files(&networked.pair.shared).is_empty()).then_some(()));
    networked.block(0, "udp");
    let ran = finish(child);
    assert!(ran.code == 1 || ran.code == 5, "{ran:?}");
    assert!(ran.err.contains("UDP"), "{ran:?}");
    networked.unblock(0);
    finish(networked.begin(&[])).exits(0);
    assert_same(&networked.source, &networked.pair.shared.join("in"));
}

#[test]
fn a_control_connection_that_is_cut_and_comes_back_costs_nothing() {
    let Some(networked) = Networked::new() else { return };
    let child = networked.begin(&["--rate", "60M", "--retries", "0"]);
    wait_for("the first data", || (!temporary_files(&networked.pair.shared).is_empty()).then_some(()));
    // Only TCP, in both directions; then the whole link.
    networked.block(0, "tcp");
    networked.block(1, "tcp");
    std::thread::sleep(Duration::from_secs(1));
    networked.unblock(0);
    networked.unblock(1);
    let link = format!("cva{}", std::process::id());
    networked.lab.tool(0, "ip", &["link", "set", &link, "down"]);
    std::thread::sleep(Duration::from_secs(1));
    networked.lab.tool(0, "ip", &["link", "set", &link, "up"]);
    finish(child).exits(0);
    assert_same(&networked.source, &networked.pair.shared.join("in"));
}
