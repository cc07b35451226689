//! Any of the four processes dies at any moment; the transfer goes on where it stopped.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use culvert_tests::node::{Pair, RunningNode, data_plane_of, kill, wait_for};
use culvert_tests::program::{Ran, command};
use culvert_tests::random::{Random, seeds};
use culvert_tests::tree::{assert_same, is_temporary, make_flat, make_nasty, temporary_files};

/// Slow enough that a kill meets the transfer under way: the tree takes some three seconds.
const RATE: &str = "250M";

fn make_tree(root: &Path, random: &mut Random) {
    fs::create_dir(root).unwrap();
    make_nasty(&root.join("nasty"), random);
    make_flat(&root.join("flat"), 400, 20_000, random);
    fs::write(root.join("large"), random.bytes(48 << 20)).unwrap();
}

fn begin(pair: &Pair, source: &Path) -> Child {
    let destination = format!("second:{}", pair.shared.join("in").display());
    command(&pair.here, ["send", "--json", "--rate", RATE, "--retries", "20"])
        .arg(source.join(""))
        .arg(destination)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn finish(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

fn check(pair: &Pair, source: &Path) {
    assert_same(source, &pair.shared.join("in"));
    assert!(temporary_files(&pair.shared).is_empty(), "temporary files remain: {:?}", temporary_files(&pair.shared));
    assert_eq!(fs::read_dir(pair.there.join("journals")).unwrap().count(), 0, "a journal remains");
}

/// Which process dies.
#[derive(Clone, Copy, Debug)]
enum Victim {
    SenderControl,
    SenderDataPlane,
    ReceiverControl,
    ReceiverDataPlane,
}

/// One transfer, one death, and the end.
fn round(victim: Victim, seed: u64) {
    let mut random = Random::new(seed);
    let pair = Pair::new();
    let mut node = Some(pair.start());
    let source = pair.path("source");
    make_tree(&source, &mut random);
    let after = Duration::from_millis(100 + random.below(2_500));
    eprintln!("seed {seed}: {victim:?} dies after {after:?}");
    let began = Instant::now();
    let child = begin(&pair, &source);
    std::thread::sleep(after);
    let result = match victim {
        Victim::SenderControl => {
            kill(child.id());
            finish(child);
            finish(begin(&pair, &source))
        }
        Victim::SenderDataPlane => {
            if let Some(data_plane) = data_plane_of(child.id()) {
                kill(data_plane);
            }
            finish(child)
        }
        Victim::ReceiverDataPlane => {
            kill(node.as_ref().unwrap().data_plane());
            finish(child)
        }
        Victim::ReceiverControl => {
            node.take().unwrap().kill();
            node = Some(pair.start());
            finish(child)
        }
    };
    eprintln!("seed {seed}: over after {:?}; it said: {}{}", began.elapsed(), result.err, result.out);
    let result = result.exits(0).json();
    check(&pair, &source);
    assert_eq!(result["state"], "succeeded");
    drop::<Option<RunningNode>>(node);
}

#[test]
fn the_senders_control_process_dies() {
    seeds(2).into_iter().for_each(|seed| round(Victim::SenderControl, seed));
}

#[test]
fn the_senders_data_plane_dies() {
    seeds(2).into_iter().for_each(|seed| round(Victim::SenderDataPlane, seed));
}

#[test]
fn the_receivers_control_process_dies() {
    seeds(2).into_iter().for_each(|seed| round(Victim::ReceiverControl, seed));
}

#[test]
fn the_receivers_data_plane_dies() {
    seeds(2).into_iter().for_each(|seed| round(Victim::ReceiverDataPlane, seed));
}

#[test]
fn what_was_stored_is_not_sent_again() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("large");
    let bytes = 64 << 20;
    fs::write(&source, Random::new(1).bytes(bytes)).unwrap();
    let destination = format!("second:{}", pair.shared.join("copy").display());
    let send = |rate: &str| {
        command(&pair.here, ["send", "--json", "--rate", rate])
            .arg(&source)
            .arg(&destination)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let child = send("160M");
    // Stored chunks are journaled once a second.
    let journaled = || {
        let journals = fs::read_dir(pair.there.join("journals")).ok()?;
        let bytes: u64 =
            journals.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum();
        (bytes > 300).then_some(())
    };
    wait_for("chunks in the journal", journaled);
    kill(child.id());
    finish(child);
    assert!(!pair.shared.join("copy").exists(), "a file has its name before it is whole");
    assert_eq!(temporary_files(&pair.shared).len(), 1);
    let result = finish(send("4G")).exits(0).json();
    let resumed = result["resumed_bytes"].as_u64().unwrap();
    assert!(resumed >= 4 << 20, "only {resumed} bytes were resumed");
    let sent = result["segments_sent"].as_u64().unwrap() * result["segment_bytes"].as_u64().unwrap();
    assert!(sent < bytes as u64 - resumed + (8 << 20), "{sent} bytes went although {resumed} were stored");
    assert_eq!(result["root_blake3"], blake3::hash(&fs::read(&source).unwrap()).to_hex().to_string());
    assert!(fs::read(pair.shared.join("copy")).unwrap() == fs::read(&source).unwrap());
}

#[test]
fn stored_bytes_that_were_damaged_are_sent_again() {
    use std::os::unix::fs::FileExt as _;
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("large");
    fs::write(&source, Random::new(2).bytes(64 << 20)).unwrap();
    let destination = format!("second:{}", pair.shared.join("copy").display());
    let child = command(&pair.here, ["send", "--rate", "160M"])
        .arg(&source)
        .arg(&destination)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for("a partial file", || {
        let journals = fs::read_dir(pair.there.join("journals")).ok()?;
        let bytes: u64 =
            journals.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum();
        (bytes > 300).then_some(())
    });
    kill(child.id());
    finish(child);
    let partial = pair.shared.join(&temporary_files(&pair.shared)[0]);
    // Whatever chunk comes first has been stored; a bit of it turns.
    let damaged = fs::File::options().read(true).write(true).open(partial).unwrap();
    let mut byte = [0];
    damaged.read_exact_at(&mut byte, 100).unwrap();
    damaged.write_all_at(&[byte[0] ^ 1], 100).unwrap();
    pair.send(&source, "copy", &[]).exits(0);
    assert!(fs::read(pair.shared.join("copy")).unwrap() == fs::read(&source).unwrap());
}

/// More reads ended at once than a lane looked after in a turn, one was lost, and the transfer hung: holes are read without a disk.
#[test]
fn many_holes_that_were_stored_are_proved_at_once() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    let sparse = fs::File::create(source.join("1-sparse")).unwrap();
    sparse.set_len(256 << 20).unwrap();
    // Long enough under way that the holes before it are in the journal.
    std::os::unix::fs::FileExt::write_all_at(&sparse, &Random::new(6).bytes(24 << 20), 232 << 20).unwrap();
    fs::write(source.join("2-small"), "small").unwrap();
    let destination = format!("second:{}", pair.shared.join("in").display());
    let begin = |options: &[&str]| {
        let mut sending = command(&pair.here, ["send", "--json", "--cores", "0"]);
        sending.args(options).arg(source.join("")).arg(&destination);
        // Should it hang, it ends.
        sending.env("CULVERT_PATIENCE", "20").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let child = begin(&["--rate", "40M"]);
    wait_for("holes in the journal", || {
        let journals = fs::read_dir(pair.there.join("journals")).ok()?;
        journals.flatten().any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 2_500)).then_some(())
    });
    kill(child.id());
    finish(child);
    // Each flow has several chunks proved ahead.
    let result = finish(begin(&["--flows", "8", "--retries", "0"])).exits(0).json();
    assert!(result["resumed_bytes"].as_u64().unwrap() >= 200 << 20, "{result}");
    check(&pair, &source);
}

#[test]
fn a_source_that_changed_since_is_sent_anew() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("large");
    fs::write(&source, Random::new(3).bytes(64 << 20)).unwrap();
    let destination = format!("second:{}", pair.shared.join("copy").display());
    let child = command(&pair.here, ["send", "--rate", "160M"])
        .arg(&source)
        .arg(&destination)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(1_500));
    kill(child.id());
    finish(child);
    fs::write(&source, Random::new(4).bytes(64 << 20)).unwrap();
    let result = pair.send(&source, "copy", &[]).exits(0).json();
    assert_eq!(result["resumed_bytes"], 0);
    assert!(fs::read(pair.shared.join("copy")).unwrap() == fs::read(&source).unwrap());
    assert!(temporary_files(&pair.shared).is_empty());
}

#[test]
fn a_node_goes_on_with_its_users_transfers_after_it_was_killed() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    make_flat(&source, 20, 4 << 20, &mut Random::new(5));
    let ours = RunningNode::start(
        &pair.here,
        &mut command(&pair.here, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]),
    );
    let destination = format!("second:{}", pair.shared.join("in").display());
    let submitted: Ran = command(&pair.here, ["transfer", "submit", "--rate", "150M"])
        .arg(source.join(""))
        .arg(destination)
        .output()
        .unwrap()
        .into();
    let id = submitted.exits(0).out.trim().to_owned();
    std::thread::sleep(Duration::from_millis(700));
    ours.kill();
    let _again = RunningNode::start(
        &pair.here,
        &mut command(&pair.here, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]),
    );
    let waited: Ran =
        command(&pair.here, ["transfer", "wait", &id, "--timeout", "60", "--json"]).output().unwrap().into();
    let record = waited.exits(0).json();
    assert!(record["attempts"].as_u64().unwrap() >= 2);
    check(&pair, &source);
}

#[test]
fn what_a_dead_attempt_left_of_sources_that_are_gone_is_removed() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::create_dir_all(source.join("deep")).unwrap();
    for name in ["1-gone", "deep/2-gone", "3-stays"] {
        fs::write(source.join(name), Random::new(name.len() as u64).bytes(12 << 20)).unwrap();
    }
    let child = begin(&pair, &source);
    // Partial files that the journal knows.
    wait_for("chunks in the journal", || {
        let journals = fs::read_dir(pair.there.join("journals")).ok()?;
        journals.flatten().any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 100)).then_some(())
    });
    kill(child.id());
    finish(child);
    assert!(!temporary_files(&pair.shared).is_empty());
    fs::remove_file(source.join("1-gone")).unwrap();
    fs::remove_file(source.join("deep/2-gone")).unwrap();
    let destination = "in";
    let ran = pair.send(&source.join(""), destination, &["--retries", "5"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(temporary_files(&pair.shared).is_empty(), "{:?}", temporary_files(&pair.shared));
}

#[test]
fn a_directory_that_was_being_filled_when_the_node_died_is_removed_even_if_its_source_is_gone() {
    let pair = Pair::new();
    let node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("stays"), "here").unwrap();
    for number in 0..100 {
        let name = source.join(format!("filled/{number}"));
        fs::create_dir_all(source.join("filled")).unwrap();
        fs::write(name, Random::new(number).bytes(150_000)).unwrap();
    }
    let child = begin(&pair, &source);
    let destination = pair.shared.join("in");
    let half_filled = wait_for("a directory that is being filled", || {
        let entries = fs::read_dir(&destination).ok()?.flatten();
        entries.map(|entry| entry.path()).find(|path| is_temporary(path.strip_prefix(&destination).unwrap()))
    });
    node.kill();
    kill(child.id());
    finish(child);
    assert!(half_filled.is_dir(), "the node died too late");
    assert_eq!(fs::read_dir(destination.join("filled")).unwrap().count(), 0, "nothing is there before all is");
    fs::remove_dir_all(source.join("filled")).unwrap();
    let _node = pair.start();
    pair.send(&source.join(""), "in", &["--retries", "5"]).exits(0);
    assert_eq!(temporary_files(&pair.shared), [] as [std::path::PathBuf; 0]);
    assert_eq!(fs::read(destination.join("stays")).unwrap(), b"here");
}
