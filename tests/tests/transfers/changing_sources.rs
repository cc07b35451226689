//! Sources that change while they are read: the file fails by name, or one version of it arrives
//! complete.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Stdio;

use culvert_tests::journals::{is_chunk, wait_for_records};
use culvert_tests::node::{Pair, kill, wait_for};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::random::Random;

const LARGE_BYTES: usize = 24 << 20;

/// Sends a tree of small files and a large one so slowly that the large one is under way when
/// `change` is called.
fn send_and_change(change: impl FnOnce(&Path)) -> (Pair, Ran) {
    let pair = Pair::new();
    let node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    for number in 0..20 {
        fs::write(source.join(format!("a small {number}")), number.to_string()).unwrap();
    }
    fs::write(source.join("large"), Random::new(4).bytes(LARGE_BYTES)).unwrap();
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--json", "--retries", "0", "--rate", "100M"]);
    sending.arg(source.join("")).arg(destination).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = sending.spawn().unwrap();
    wait_for("the large file to be on its way", || {
        let status = run(&pair.there, ["status", "--json"]).json();
        let lanes = status["dataplane"]["lanes"].as_array()?.clone();
        let received: u64 = lanes.iter().filter_map(|lane| lane["received_bytes"].as_u64()).sum();
        (received > 3_000_000).then_some(())
    });
    change(&source.join("large"));
    let ran = child.wait_with_output().unwrap().into();
    drop(node);
    (pair, ran)
}

#[track_caller]
fn fails_by_name(pair: &Pair, ran: Ran) {
    let ran = ran.exits(6);
    let result = ran.json();
    let errors = result["errors"].as_array().unwrap();
    let [error] = errors.as_slice() else { panic!("not exactly one file fails: {result}") };
    assert_eq!((error["path"].as_str(), error["code"].as_str()), (Some("large"), Some("changed")), "{result}");
    assert!(!pair.shared.join("in/large").exists());
    let stored = fs::read_dir(pair.shared.join("in")).unwrap().count();
    assert_eq!(stored, 20, "the others arrive, and nothing temporary remains");
}

#[test]
fn a_file_that_grows_fails_by_name() {
    //= W-41
    //# `FilesComplete` follows when all chunks of a file are delivered and the file has not changed
    //# since it was listed. Only then may the file get its name.
    let (pair, ran) = send_and_change(|large| {
        File::options().append(true).open(large).unwrap().write_all(b"more").unwrap();
    });
    fails_by_name(&pair, ran);
}

#[test]
fn a_file_that_shrinks_fails_by_name() {
    let (pair, ran) =
        send_and_change(|large| File::options().write(true).open(large).unwrap().set_len(5 << 20).unwrap());
    fails_by_name(&pair, ran);
}

/// The time of its content shows nothing; that of its inode does.
#[test]
fn a_file_that_is_written_over_and_has_its_time_set_back_fails_by_name() {
    let (pair, ran) = send_and_change(|large| {
        let before = fs::metadata(large).unwrap().modified().unwrap();
        let file = File::options().write(true).open(large).unwrap();
        // Both what has been sent and what has not.
        file.write_all_at(&[0; 1 << 20], 0).unwrap();
        file.write_all_at(&[0; 1 << 20], LARGE_BYTES as u64 - (1 << 20)).unwrap();
        file.set_modified(before).unwrap();
        // This alone would explain the inode's time.
        fs::set_permissions(large, fs::Permissions::from_mode(0o600)).unwrap();
    });
    fails_by_name(&pair, ran);
}

/// Only the inode's time shows it; the file is read again.
#[test]
fn a_file_that_gets_another_mode_arrives() {
    let (pair, ran) = send_and_change(|large| {
        fs::set_permissions(large, fs::Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(large, large.with_extension("link")).unwrap();
    });
    ran.exits(0);
    assert!(fs::read(pair.shared.join("in/large")).unwrap() == Random::new(4).bytes(LARGE_BYTES));
}

/// Regression: without checksums a pack was stored before its sender said which of its files could
/// not be read: zeros replaced what was there (wire.md W-55: "does not store the data in the place
/// of a failed file").
#[test]
fn small_files_that_change_store_nothing_also_without_checksums() {
    //= W-55
    //# The receiver stores a pack only after that message, and does not store the data in the place
    //# of a failed file.
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    for number in 0..400 {
        fs::write(source.join(format!("file {number}")), vec![b'x'; 3_000]).unwrap();
    }
    pair.send(&source.join(""), "in", &["--checksum", "none"]).exits(0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for number in (0..400).step_by(3) {
                    let file = File::options().write(true).open(source.join(format!("file {number}"))).unwrap();
                    file.write_all_at(b"y", 0).unwrap();
                }
            }
        });
        for _ in 0..6 {
            let ran = pair.send(&source.join(""), "in", &["--checksum", "none", "--overwrite", "always"]);
            assert!(matches!(ran.code, 0 | 6), "{ran:?}");
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    for entry in fs::read_dir(pair.shared.join("in")).unwrap() {
        let content = fs::read(entry.unwrap().path()).unwrap();
        assert!(content.len() == 3_000 && content.iter().all(|&byte| byte != 0), "zeros were stored");
    }
}

#[test]
fn a_file_that_is_replaced_arrives_as_the_version_that_was_opened() {
    let (pair, ran) = send_and_change(|large| {
        let other = large.with_extension("other");
        fs::write(&other, vec![7; LARGE_BYTES]).unwrap();
        fs::rename(other, large).unwrap();
    });
    ran.exits(0);
    assert!(fs::read(pair.shared.join("in/large")).unwrap() == Random::new(4).bytes(LARGE_BYTES));
}

/// Puts another file of the same size and time in a file's place.
fn replace(path: &Path, content: &[u8]) {
    let time = fs::metadata(path).unwrap().modified().unwrap();
    let other = path.parent().unwrap().with_extension("other");
    fs::write(&other, content).unwrap();
    File::options().write(true).open(&other).unwrap().set_modified(time).unwrap();
    fs::rename(&other, path).unwrap();
}

/// What the receiver has of the first file is offered and compared, and the second one is sent.
#[test]
fn a_file_that_is_replaced_between_two_attempts_arrives_as_the_new_one() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    let large = source.join("large");
    fs::write(&large, vec![1; LARGE_BYTES]).unwrap();
    fs::write(source.join("small"), "small").unwrap();
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--retries", "0", "--rate", "40M"]);
    sending.arg(source.join("")).arg(destination).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = sending.spawn().unwrap();
    wait_for_records(&pair.there, "chunks in the journal", |records| records.iter().any(is_chunk));
    kill(child.id());
    child.wait().unwrap();
    replace(&large, &vec![2; LARGE_BYTES]);
    let result = pair.send(&source.join(""), "in", &["--retries", "5"]).exits(0).json();
    let stored = fs::read(pair.shared.join("in/large")).unwrap();
    assert!(stored == vec![2; LARGE_BYTES], "a mixture arrived");
    let listing = format!("{}  large\n{}  small\n", blake3::hash(&stored), blake3::hash(b"small"));
    assert_eq!(result["root_blake3"], blake3::hash(listing.as_bytes()).to_hex().to_string());
}

/// Each file is opened to be compared with what is there, closed, and opened again to be sent;
/// meanwhile others of the same size and time take its place.
#[test]
fn files_that_are_replaced_again_and_again_are_of_one_version_each() {
    const FILES: usize = 24;
    const BYTES: usize = 2 << 20;
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    let path = |number: usize| source.join(format!("file {number}"));
    for number in 0..FILES {
        fs::write(path(number), vec![0; BYTES]).unwrap();
    }
    pair.send(&source.join(""), "in", &[]).exits(0);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1.. {
                for number in 0..FILES {
                    if stop.load(std::sync::atomic::Ordering::Relaxed) {
                        return;
                    }
                    replace(&path(number), &vec![version; BYTES]);
                }
            }
        });
        let options = ["--overwrite", "content", "--retries", "0"];
        let rounds: Vec<Ran> = (0..5).map(|_| pair.send(&source.join(""), "in", &options)).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for ran in rounds {
            assert!(matches!(ran.code, 0 | 6), "{ran:?}");
            for error in ran.json()["errors"].as_array().unwrap() {
                assert!(["changed", "vanished"].contains(&error["code"].as_str().unwrap()), "{error}");
            }
        }
    });
    for number in 0..FILES {
        let content = fs::read(pair.shared.join(format!("in/file {number}"))).unwrap();
        assert!(content.len() == BYTES && content.iter().all(|&byte| byte == content[0]), "{number} is a mixture");
    }
    assert_eq!(fs::read_dir(pair.shared.join("in")).unwrap().count(), FILES, "nothing temporary remains");
}

/// Files that are written just before they are sent carry the stamp that a change within the same
/// tick would have.
#[test]
fn files_that_were_written_just_now_are_sent_as_they_are() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    let writer = std::thread::spawn({
        let source = source.clone();
        move || {
            for round in 0..2_000_u32 {
                let content = round.to_string().repeat(8_000);
                fs::write(source.join(format!("file {}", round % 40)), &content.as_bytes()[..8_000]).unwrap();
            }
        }
    });
    let mut ran = pair.send(&source.join(""), "in", &["--retries", "0"]);
    writer.join().unwrap();
    if ran.code == 3 || ran.code == 9 {
        ran = pair.send(&source.join(""), "in", &["--retries", "0"]);
    }
    assert!(matches!(ran.code, 0 | 6), "{ran:?}");
    // Whatever arrived is of a single round.
    for entry in fs::read_dir(pair.shared.join("in")).unwrap() {
        let content = fs::read_to_string(entry.unwrap().path()).unwrap();
        let is_of_one_round =
            (1..=4).any(|digits| content.get(..digits).is_some_and(|round| round.repeat(8_000)[..8_000] == content));
        // A file is empty for a moment whenever it is rewritten.
        assert!(is_of_one_round || content.is_empty(), "a mixture arrived: {content}");
    }
}

/// Regression: it arrived empty and was called verified.
#[test]
fn a_file_with_content_and_no_size_fails_by_name() {
    let pair = Pair::new();
    let _node = pair.start();
    let ran = pair.send(Path::new("/proc/version"), "in/", &["--retries", "0"]).exits(6);
    assert_eq!(ran.json()["errors"][0]["code"], "unsized", "{}", ran.out);
    assert_eq!(fs::read_dir(pair.shared.join("in")).unwrap().count(), 0);
    // One that claims to have more than it has.
    let sized = Path::new("/sys/kernel/mm/transparent_hugepage/enabled");
    if fs::metadata(sized).is_ok_and(|metadata| metadata.len() == 4_096) {
        let ran = pair.send(sized, "in/", &["--retries", "0"]).exits(6);
        assert_eq!(ran.json()["errors"][0]["code"], "unsized", "{}", ran.out);
    }
}
