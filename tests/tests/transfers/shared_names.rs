//! Several transfers store the same names at the same time, whatever way they come. Each stores its
//! own complete files or fails by name; nothing is a mixture; and what a transfer was told is
//! stored and verified is there, unless another one that may replace it came later with its own
//! complete file.
//!
//! The rounds have a seed, which they print, and which decides ways, files, policies, rates, and
//! who is killed when. `CULVERT_SEED=n` repeats one. The long run has 200 rounds:
//!
//! ```text
//! cargo xtask test shared_names -- --ignored --nocapture
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use culvert_tests::node::{Pair, RunningNode, data_plane_of, key_of, kill};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::random::{Random, seeds};
use culvert_tests::ssh_stand_in::FarEnd;
use culvert_tests::tree::{is_temporary, temporary_files};

/// How a transfer reaches the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The first partner sends to the node.
    First,
    /// The second partner sends to the node.
    Second,
    /// Another user fetches from the node.
    Fetch,
    /// Somebody sends over ssh.
    Ssh,
}

const WAYS: [Way; 4] = [Way::First, Way::Second, Way::Fetch, Way::Ssh];
const POLICIES: [&str; 4] = ["never", "changed", "content", "always"];

/// A transfer of a round.
#[derive(Debug)]
struct Transfer {
    number: usize,
    way: Way,
    policy: &'static str,
    rate: &'static str,
    /// Milliseconds after which a part of it is killed.
    dies_after_ms: Option<u64>,
    source: PathBuf,
    files: BTreeMap<PathBuf, Vec<u8>>,
}

/// The names that transfers share, and their maximum sizes: small ones in a directory that each may
/// create, and large ones.
fn names() -> Vec<(PathBuf, u64)> {
    let mut names: Vec<(PathBuf, u64)> = (0..6).map(|number| (format!("large {number}").into(), 6 << 20)).collect();
    names.extend((0..12).map(|number| (format!("small {number}").into(), 3_000)));
    names.extend((0..24).map(|number| (format!("together/{number}").into(), 2_000)));
    names.extend((0..20).map(|number| (format!("deep/er/{number}").into(), 300_000)));
    names
}

impl Transfer {
    fn new(number: usize, room: &Path, random: &mut Random) -> Self {
        let source = room.join(format!("source-{number}"));
        let mut files = BTreeMap::new();
        let wanted = 1 + random.below(4);
        for (name, bytes) in names() {
            if random.below(4) >= wanted {
                continue;
            }
            // The bytes say whose it is, so that a mixture shows wherever it is cut.
            let bytes = 1 + random.below(bytes) as usize;
            let content = vec![b'a' + number as u8; bytes];
            let path = source.join(&name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, &content).unwrap();
            files.insert(name, content);
        }
        fs::create_dir_all(&source).unwrap();
        fs::write(source.join(format!("own {number}")), [b'a' + number as u8]).unwrap();
        files.insert(format!("own {number}").into(), vec![b'a' + number as u8]);
        let policy = if random.below(2) == 0 { "never" } else { POLICIES[random.below(4) as usize] };
        Self {
            number,
            way: WAYS[random.below(4) as usize],
            policy,
            rate: ["60M", "200M", "2G"][random.below(3) as usize],
            dies_after_ms: (random.below(4) == 0).then(|| random.below(600)),
            source,
            files,
        }
    }
}

/// A node with two partners, and others who can reach its directory.
struct Stage {
    first: Pair,
    second: PathBuf,
    fetching: PathBuf,
    far: FarEnd,
    node: RunningNode,
    destination: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let first = Pair::new();
        let (second, fetching) = (first.path("second"), first.path("fetching"));
        for (state, name) in [(&second, "other"), (&fetching, "fetching")] {
            let key = key_of(state);
            let permit = format!("{}:both", first.room.path().display());
            run(&first.there, ["profile", "add", name, "--key", &key, "--permit", &permit]).exits(0);
        }
        let node = first.start();
        let address = format!("127.0.0.1:{}", node.port);
        let their_key = key_of(&first.there);
        for state in [&second, &fetching] {
            run(state, ["profile", "add", "second", "--key", &their_key, "--address", &address]).exits(0);
        }
        let far = FarEnd::new(first.room.path(), None);
        let destination = first.shared.join("in");
        Self { first, second, fetching, far, node, destination }
    }

    fn begin(&self, transfer: &Transfer) -> Child {
        let options = ["--retries", "0", "--overwrite", transfer.policy, "--rate", transfer.rate];
        let contents = transfer.source.join("");
        let there = format!("second:{}", self.destination.display());
        let with = |state: &Path, verb: &str| {
            let mut starting = command(state, [verb, "--json"]);
            starting.args(options);
            starting
        };
        let mut starting = match transfer.way {
            Way::First => with(&self.first.here, "send"),
            Way::Second => with(&self.second, "send"),
            Way::Fetch => with(&self.fetching, "get"),
            Way::Ssh => self.far.command(&self.first.path(&format!("near-{}", transfer.number)), "send", &options),
        };
        match transfer.way {
            Way::First | Way::Second => starting.arg(&contents).arg(there),
            Way::Fetch => starting.arg(format!("second:{}", contents.display())).arg(&self.destination),
            Way::Ssh => starting.arg(&contents).arg(FarEnd::place(&self.destination)),
        };
        starting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// Kills the process that the user started, or its data plane.
fn kill_part_of(child: &Child, random: &mut Random) {
    match random.below(2) {
        0 => kill(child.id()),
        _ => data_plane_of(child.id()).into_iter().for_each(kill),
    }
}

fn run_round(seed: u64) {
    let mut random = Random::new(seed);
    let stage = Stage::new();
    let room = stage.first.room.path().join("sources");
    let transfers: Vec<Transfer> = (0..4).map(|number| Transfer::new(number, &room, &mut random)).collect();
    eprintln!("seed {seed}:");
    for Transfer { number, way, policy, rate, dies_after_ms, files, .. } in &transfers {
        eprintln!("  {number}: {way:?} {policy} {rate} {} files, dies after {dies_after_ms:?} ms", files.len());
    }
    let mut before = BTreeMap::new();
    if random.below(3) == 0 {
        for name in ["large 1", "small 3", "together/5"].map(PathBuf::from) {
            fs::create_dir_all(stage.destination.join(&name).parent().unwrap()).unwrap();
            fs::write(stage.destination.join(&name), "the old one").unwrap();
            before.insert(name, b"the old one".to_vec());
        }
    }
    let children: Vec<Child> = transfers
        .iter()
        .map(|transfer| {
            std::thread::sleep(Duration::from_millis(random.below(150)));
            stage.begin(transfer)
        })
        .collect();
    for (transfer, child) in transfers.iter().zip(&children) {
        if let Some(after_ms) = transfer.dies_after_ms {
            std::thread::sleep(Duration::from_millis(after_ms));
            kill_part_of(child, &mut random);
        }
    }
    let mut ends: Vec<Ran> = children.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
    check(seed, &stage.destination, &transfers, &ends, &before);
    // Those that were killed, or came while another of the same partner was storing the same files,
    // are continued.
    for (transfer, end) in transfers.iter().zip(&mut ends) {
        for _ in 0..20 {
            if !matches!(end.code, -1 | 5) {
                break;
            }
            *end = stage.begin(transfer).wait_with_output().unwrap().into();
        }
    }
    check(seed, &stage.destination, &transfers, &ends, &before);
    let codes: Vec<i32> = ends.iter().map(|end| end.code).collect();
    eprintln!("  they end with {codes:?}");
    assert!(codes.iter().all(|code| matches!(code, 0 | 1 | 6 | 9)), "seed {seed}: {ends:#?}");
    assert_eq!(stage.node.metric("culvert_dataplane_restarts_total"), 0.0, "seed {seed}");
    // What a transfer left that is not retried can only be found by name; all that ended have
    // removed theirs.
    if transfers.iter().all(|transfer| transfer.dies_after_ms.is_none()) {
        assert_eq!(temporary_files(&stage.destination), [] as [PathBuf; 0], "seed {seed}: {codes:?}");
    }
}

/// Asserts that every name has somebody's complete file, and that every file that was said to be
/// stored is there, or was replaced by a transfer that may do so.
fn check(seed: u64, destination: &Path, transfers: &[Transfer], ends: &[Ran], before: &BTreeMap<PathBuf, Vec<u8>>) {
    let names: BTreeSet<&PathBuf> = transfers.iter().flat_map(|transfer| transfer.files.keys()).collect();
    for name in names {
        let Ok(there) = fs::read(destination.join(name)) else {
            for (transfer, end) in transfers.iter().zip(ends).filter(|(transfer, _)| transfer.files.contains_key(name))
            {
                assert!(
                    !says_stored(end, name),
                    "seed {seed}: {} said to {} is not there",
                    name.display(),
                    transfer.number
                );
            }
            continue;
        };
        let owner = transfers.iter().find(|transfer| transfer.files.get(name) == Some(&there));
        assert!(
            owner.is_some() || before.get(name) == Some(&there),
            "seed {seed}: {} is nobody's whole file: {:?} …",
            name.display(),
            &there[..there.len().min(40)]
        );
        for (transfer, end) in transfers.iter().zip(ends) {
            let is_other = owner.is_none_or(|owner| owner.number != transfer.number);
            if is_other && transfer.files.contains_key(name) && says_stored(end, name) {
                let may_replace = owner.is_some_and(|owner| owner.policy != "never");
                assert!(
                    may_replace,
                    "seed {seed}: {} was said to {} to be stored, and is {:?}'s, who may not replace it",
                    name.display(),
                    transfer.number,
                    owner.map(|owner| owner.number)
                );
            }
        }
    }
    assert!(
        fs::read_dir(destination).is_ok_and(|mut entries| entries.any(|entry| !is_temporary(&entry.unwrap().path())))
    );
}

/// Whether a transfer's result says that a file is stored.
fn says_stored(end: &Ran, name: &Path) -> bool {
    if !matches!(end.code, 0 | 6) {
        return false;
    }
    let result = end.json();
    let errors = result["errors"].as_array().unwrap();
    assert_eq!(result["error_count"].as_u64(), Some(errors.len() as u64));
    // What was already there was not stored by it.
    let is_all = result["files"]["skipped"] == 0;
    is_all && !errors.iter().any(|error| error["path"].as_str() == name.to_str())
}

#[test]
fn six_rounds_of_transfers_share_no_file() {
    seeds(6).into_iter().for_each(run_round);
}

#[test]
#[ignore = "takes ten minutes: cargo xtask test shared_names -- --ignored --nocapture"]
fn two_hundred_rounds_of_transfers_share_no_file() {
    seeds(200).into_iter().for_each(run_round);
}

/// Regression: they wrote into one temporary file; the first was told that its file was stored and
/// verified, and it was a mixture.
#[test]
fn two_transfers_of_one_large_file_store_one_of_them_and_the_other_fails_by_name() {
    let room = tempfile::tempdir().unwrap();
    let far = FarEnd::new(room.path(), None);
    let contents = [b'1', b'2'].map(|byte| vec![byte; 20 << 20]);
    for rates in [["60M", "150M"], ["150M", "60M"]] {
        let there = room.path().join("there");
        let _ = fs::remove_dir_all(&there);
        let mut children = Vec::new();
        for ((number, content), rate) in contents.iter().enumerate().zip(rates) {
            let source = room.path().join(format!("source-{number}"));
            fs::create_dir_all(&source).unwrap();
            fs::write(source.join("large"), content).unwrap();
            let near = room.path().join(format!("near-{number}"));
            let mut sending = far.command(&near, "send", &["--retries", "0", "--rate", rate]);
            sending.arg(source.join("large")).arg(FarEnd::place(&there.join("")));
            children.push(sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
            std::thread::sleep(Duration::from_millis(700));
        }
        let ends: Vec<Ran> = children.into_iter().map(|child| child.wait_with_output().unwrap().into()).collect();
        let mut codes: Vec<i32> = ends.iter().map(|end| end.code).collect();
        let winner = codes.iter().position(|&code| code == 0).unwrap();
        assert!(fs::read(there.join("large")).unwrap() == contents[winner], "it is not the one that was verified");
        assert_eq!(ends[1 - winner].json()["errors"][0]["code"], "collision", "{ends:?}");
        codes.sort_unstable();
        assert_eq!(codes, [0, 6]);
        assert_eq!(temporary_files(&there), [] as [PathBuf; 0]);
    }
}

/// Regression: one put its filled directory in place of the empty one in which the other was about
/// to create its files.
#[test]
fn two_transfers_fill_one_new_directory() {
    let room = tempfile::tempdir().unwrap();
    let far = FarEnd::new(room.path(), None);
    for name in ["a", "b"] {
        let source = room.path().join(name).join("t");
        fs::create_dir_all(source.join("sub")).unwrap();
        for number in 0..200 {
            fs::write(source.join(format!("{name}{number}")), number.to_string()).unwrap();
            fs::write(source.join(format!("sub/{name}{number}")), number.to_string()).unwrap();
        }
    }
    let there = room.path().join("there");
    for round in 0..15 {
        let _ = fs::remove_dir_all(&there);
        let children = ["a", "b"].map(|name| {
            let mut sending = far.command(&room.path().join(format!("near-{name}")), "send", &["--retries", "0"]);
            sending.arg(room.path().join(name).join("t")).arg(FarEnd::place(&there.join("")));
            sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        });
        for child in children {
            Ran::from(child.wait_with_output().unwrap()).exits(0);
        }
        let count = |directory: &Path| fs::read_dir(directory).unwrap().count();
        assert_eq!((count(&there.join("t")), count(&there.join("t/sub"))), (401, 400), "round {round}");
    }
}

/// Regression: one journal for a partner and a directory kept all but one transfer away.
#[test]
fn transfers_of_one_partner_fill_one_directory_at_once_both_ways() {
    let pair = Pair::new();
    let node = pair.start();
    let files = [("slow", 6 << 20), ("quick", 3 << 20)];
    for (name, bytes) in files {
        fs::write(pair.path(name), vec![b'x'; bytes]).unwrap();
        fs::write(pair.shared.join(name), vec![b'y'; bytes]).unwrap();
    }
    for verb in ["send", "get"] {
        let begin = |name: &str, rate: &str| {
            let mut starting = command(&pair.here, [verb, "--json", "--retries", "0", "--rate", rate]);
            match verb {
                "send" => starting.arg(pair.path(name)).arg(format!("second:{}/", pair.shared.join("in").display())),
                _ => starting.arg(format!("second:{}", pair.shared.join(name).display())).arg(pair.path("out/")),
            };
            starting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let slow = begin("slow", "20M");
        std::thread::sleep(Duration::from_millis(500));
        Ran::from(begin("quick", "1G").wait_with_output().unwrap()).exits(0);
        Ran::from(slow.wait_with_output().unwrap()).exits(0);
        let (there, byte) = if verb == "send" { (pair.shared.join("in"), b'x') } else { (pair.path("out"), b'y') };
        for (name, bytes) in files {
            assert!(fs::read(there.join(name)).unwrap() == vec![byte; bytes], "{verb} {name}");
        }
    }
    drop(node);
    for state in [&pair.here, &pair.there] {
        assert_eq!(fs::read_dir(state.join("journals")).unwrap().count(), 0, "journals remain");
    }
}

/// Regression: the second was told that the same files were on their way to the same destination.
#[test]
fn one_file_goes_to_two_names_at_once_both_ways() {
    let pair = Pair::new();
    let _node = pair.start();
    let (ours, theirs) = (pair.path("file"), pair.shared.join("file"));
    fs::write(&ours, vec![b'x'; 6 << 20]).unwrap();
    fs::write(&theirs, vec![b'y'; 6 << 20]).unwrap();
    for name in ["out", "in"] {
        fs::create_dir_all(pair.path(name)).unwrap();
        fs::create_dir_all(pair.shared.join(name)).unwrap();
    }
    for (verb, byte) in [("send", b'x'), ("get", b'y')] {
        let copy =
            |name: &str| if verb == "send" { pair.shared.join("in").join(name) } else { pair.path("out").join(name) };
        let begin = |name: &str, rate: &str| {
            let mut starting = command(&pair.here, [verb, "--json", "--retries", "0", "--rate", rate]);
            match verb {
                "send" => starting.arg(&ours).arg(format!("second:{}", copy(name).display())),
                _ => starting.arg(format!("second:{}", theirs.display())).arg(copy(name)),
            };
            starting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let slow = begin("slow", "20M");
        std::thread::sleep(Duration::from_millis(500));
        Ran::from(begin("quick", "1G").wait_with_output().unwrap()).exits(0);
        Ran::from(slow.wait_with_output().unwrap()).exits(0);
        for name in ["slow", "quick"] {
            assert!(fs::read(copy(name)).unwrap() == vec![byte; 6 << 20], "{verb} {name}");
        }
    }
}

/// Regression: the journal was found by the destination alone: with other sources, what was stored
/// was looked for in vain, or removed.
#[test]
fn what_was_stored_is_found_again_although_the_sources_are_others() {
    let pair = Pair::new();
    let node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    let mut random = Random::new(8);
    fs::write(source.join("large"), random.bytes(32 << 20)).unwrap();
    fs::write(source.join("other"), random.bytes(10)).unwrap();
    let mut sending = command(&pair.here, ["send", "--json", "--retries", "0", "--rate", "100M"]);
    sending.arg(source.join("")).arg(format!("second:{}", pair.shared.join("in").display()));
    let child = sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(2_200));
    kill(child.id());
    let _ = child.wait_with_output();
    // Another transfer to the same place leaves it alone.
    fs::write(pair.path("third"), "third").unwrap();
    pair.send(&pair.path("third"), "in/", &["--retries", "5"]).exits(0);
    assert_eq!(temporary_files(&pair.shared.join("in")).len(), 1, "the partial file was not kept");
    fs::write(source.join("new"), "one more").unwrap();
    let sent = pair.send(&source.join(""), "in", &["--retries", "5"]).exits(0).json();
    assert!(sent["resumed_bytes"].as_u64().unwrap() >= 8 << 20, "{sent}");
    assert!(fs::read(pair.shared.join("in/large")).unwrap() == fs::read(source.join("large")).unwrap());
    assert_eq!(temporary_files(&pair.shared.join("in")), [] as [PathBuf; 0]);
    drop(node);
    assert_eq!(fs::read_dir(pair.there.join("journals")).unwrap().count(), 0);
}
