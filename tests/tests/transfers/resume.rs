//! Any of the four processes dies at any moment; the transfer continues where it stopped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use culvert_engine::journal::Record;
use culvert_tests::journals::{is_done, journals};
use culvert_tests::node::{Pair, RunningNode, data_plane_of, kill, wait_for};
use culvert_tests::program::{Ran, command};
use culvert_tests::random::{Random, seeds};
use culvert_tests::tree::{assert_same, is_temporary, make_flat, make_nasty, temporary_files};

/// Slow enough that a kill hits the transfer while it is under way: the tree takes about three
/// seconds.
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

/// One transfer, one death, and the outcome.
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
    assert!(!pair.shared.join("copy").exists(), "a file has its name before it is complete");
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
    // Whichever chunk comes first has been stored; one of its bits is flipped.
    let damaged = fs::File::options().read(true).write(true).open(partial).unwrap();
    let mut byte = [0];
    damaged.read_exact_at(&mut byte, 100).unwrap();
    damaged.write_all_at(&[byte[0] ^ 1], 100).unwrap();
    pair.send(&source, "copy", &[]).exits(0);
    assert!(fs::read(pair.shared.join("copy")).unwrap() == fs::read(&source).unwrap());
}

/// Regression: more reads ended at once than a lane handled in one turn, one was lost, and the
/// transfer hung: holes are read without a disk.
#[test]
fn many_holes_that_were_stored_are_proved_at_once() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    let sparse = fs::File::create(source.join("1-sparse")).unwrap();
    sparse.set_len(256 << 20).unwrap();
    // Under way long enough that the holes before it are in the journal.
    std::os::unix::fs::FileExt::write_all_at(&sparse, &Random::new(6).bytes(24 << 20), 232 << 20).unwrap();
    fs::write(source.join("2-small"), "small").unwrap();
    let destination = format!("second:{}", pair.shared.join("in").display());
    let begin = |options: &[&str]| {
        let mut sending = command(&pair.here, ["send", "--json", "--cores", "0"]);
        sending.args(options).arg(source.join("")).arg(&destination);
        // If it hangs, it ends.
        sending.env("CULVERT_PATIENCE", "20").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let child = begin(&["--rate", "40M"]);
    wait_for("holes in the journal", || {
        let journals = fs::read_dir(pair.there.join("journals")).ok()?;
        journals.flatten().any(|entry| entry.metadata().is_ok_and(|metadata| metadata.len() > 2_500)).then_some(())
    });
    kill(child.id());
    finish(child);
    // Each flow has several chunks proven ahead.
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

/// The root of a directory of files, as in a receipt.
fn root_of(directory: &Path) -> String {
    let mut names: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    let mut listing = blake3::Hasher::new();
    for path in names {
        let (hash, name) = (blake3::hash(&fs::read(&path).unwrap()), path.file_name().unwrap().to_str().unwrap());
        listing.update(format!("{hash}  {name}\n").as_bytes());
    }
    listing.finalize().to_hex().to_string()
}

/// Partners in memory: making a whole disk durable takes as long as others have written to it, and
/// until then no small file is called stored.
fn pair_in_memory() -> Pair {
    let room = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let (there, shared) = (room.path().join("there"), room.path().join("shared"));
    Pair::with(room, there, shared)
}

/// An attempt that stores small files, and usually a large one, and dies with another one half
/// done: which of the large ones is opened first is chance. It is so slow that even a busy disk has
/// got that far before everything has arrived. Returns how many files it stored.
fn interrupt_with_some_stored(pair: &Pair, source: &Path, options: &[&str]) -> usize {
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--json", "--retries", "0", "--rate", "40M"]);
    sending.args(options).arg(source.join("")).arg(destination).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = sending.spawn().unwrap();
    let done = |records: &[Record]| records.iter().filter(|record| is_done(record)).count();
    let is_enough = |records: &[Record]| done(records) >= 5 && has_file_half_there(records);
    let mut last = Vec::new();
    wait_for("files that are stored, and a part of another", || {
        if let Some(ended) = child.try_wait().unwrap() {
            let said = std::io::read_to_string(child.stderr.take().unwrap()).unwrap();
            panic!("it ended too early ({ended}, {said}), when the journal said {last:?}");
        }
        last = journals(&pair.there);
        last.iter().any(|(_, records)| is_enough(records)).then_some(())
    });
    kill(child.id());
    child.wait().unwrap();
    journals(&pair.there).iter().map(|(_, records)| done(records)).sum()
}

/// More than fits into a pack.
const WHOLE_BYTES: usize = 1_200_000;

/// Whether part of a file is stored, but not all of it.
fn has_file_half_there(records: &[Record]) -> bool {
    let named = |record: &Record| match record {
        Record::Begun { name, .. } => Some(*name),
        _ => None,
    };
    let begun: Vec<u128> = records.iter().filter_map(named).collect();
    let is_stored = |of: u128| records.iter().any(|record| matches!(record, Record::Done { name, .. } if *name == of));
    records.iter().any(|record| match record {
        Record::Chunk { file, .. } => begun.get(*file as usize).is_some_and(|&name| !is_stored(name)),
        _ => false,
    })
}

fn make_small_and_large(source: &Path, random: &mut Random) {
    make_flat(source, 5, 3_000, random);
    fs::write(source.join("g-whole"), random.bytes(WHOLE_BYTES)).unwrap();
    fs::write(source.join("h-half"), random.bytes(24 << 20)).unwrap();
}

/// Regression: what was stored without a hash was left out of what is signed, as if it had been
/// there before.
#[test]
fn what_was_stored_without_a_hash_is_signed_by_the_hash_of_what_is_stored() {
    for policy in ["never", "changed", "content", "always"] {
        let pair = pair_in_memory();
        let _node = pair.start();
        let source = pair.path("source");
        make_small_and_large(&source, &mut Random::new(11));
        // Comparing contents requires hashes.
        let first_policy = if policy == "content" { "changed" } else { policy };
        interrupt_with_some_stored(&pair, &source, &["--checksum", "none", "--overwrite", first_policy]);
        let options = ["--checksum", "blake3", "--overwrite", policy, "--retries", "5"];
        let result = pair.send(&source.join(""), "in", &options).exits(0).json();
        check(&pair, &source);
        assert_eq!(result["root_blake3"], root_of(&pair.shared.join("in")), "{policy}: {result}");
        assert_eq!((&result["files"]["stored"], &result["files"]["skipped"]), (&7.into(), &0.into()), "{policy}");
        // No hash proves it, so none of it was continued from where it was.
        let resumed = result["resumed_bytes"].as_u64().unwrap();
        assert!(resumed <= WHOLE_BYTES as u64, "{policy}: {resumed} bytes count as resumed, and were sent");
    }
}

/// Files that somebody has touched since belong to no sender: a policy decides about them.
#[test]
fn what_was_stored_without_a_hash_and_changed_since_is_not_replaced_unless_it_may_be() {
    let pair = pair_in_memory();
    let _node = pair.start();
    let source = pair.path("source");
    make_small_and_large(&source, &mut Random::new(12));
    interrupt_with_some_stored(&pair, &source, &["--checksum", "none"]);
    let changed = pair.shared.join("in/file-000000");
    assert!(changed.is_file(), "a small file was stored");
    fs::write(&changed, "somebody's").unwrap();
    pair.send(&source.join(""), "in", &["--retries", "5"]).exits(1).says("file-000000");
    assert_eq!(fs::read(&changed).unwrap(), b"somebody's");
    pair.send(&source.join(""), "in", &["--overwrite", "changed", "--retries", "5"]).exits(0);
    check(&pair, &source);
}

#[test]
fn what_was_stored_with_a_hash_goes_on_in_a_transfer_without() {
    for policy in ["never", "always"] {
        let pair = pair_in_memory();
        let _node = pair.start();
        let source = pair.path("source");
        make_small_and_large(&source, &mut Random::new(13));
        let stored = interrupt_with_some_stored(&pair, &source, &["--overwrite", policy]);
        let options = ["--checksum", "none", "--overwrite", policy, "--retries", "5"];
        let result = pair.send(&source.join(""), "in", &options).exits(0).json();
        check(&pair, &source);
        assert_eq!(result["root_blake3"], "", "{policy}: it reports a hash that nobody computed");
        assert_eq!(result["files"]["stored"], 7, "{policy}: {stored} were stored before: {result}");
    }
}
