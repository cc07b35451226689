//! If part of a file changed, only that part is sent: `--overwrite content`.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_tests::node::Pair;
use culvert_tests::program::is_root;
use culvert_tests::random::{Random, seeds};
use culvert_tests::tree::temporary_files;
use serde_json::Value;

const CHUNK_BYTES: u64 = 4 << 20;

/// A pair whose destination holds `bytes`, and a source that holds the same.
fn pair_with(bytes: &[u8]) -> (Pair, PathBuf) {
    let pair = Pair::new();
    let source = pair.path("source");
    fs::write(&source, bytes).unwrap();
    fs::write(pair.shared.join("file"), bytes).unwrap();
    (pair, source)
}

/// Payload bytes that segments carried, including those sent again.
fn bytes_sent(result: &Value) -> u64 {
    result["segments_sent"].as_u64().unwrap() * result["segment_bytes"].as_u64().unwrap()
}

fn change(file: &Path, at: u64, bytes: &[u8]) {
    fs::File::options().write(true).open(file).unwrap().write_all_at(bytes, at).unwrap();
}

fn assert_stored(pair: &Pair, source: &Path) {
    assert!(fs::read(source).unwrap() == fs::read(pair.shared.join("file")).unwrap(), "the bytes differ");
    assert!(temporary_files(&pair.shared).is_empty());
    assert_eq!(fs::read_dir(pair.there.join("journals")).unwrap().count(), 0, "a journal remains");
}

#[test]
fn one_percent_that_changed_costs_little_more_than_that() {
    //= W-47
    //# In `Proofs` it lists the hashes of those of the new file's chunks for which the old file has
    //# bytes.
    let seed = seeds(1)[0];
    eprintln!("CULVERT_SEED={seed}");
    let mut random = Random::new(seed);
    let total = 400 << 20;
    let (pair, source) = pair_with(&random.bytes(total));
    let changed = random.bytes(total / 100);
    let at = random.below((total - changed.len()) as u64);
    change(&source, at, &changed);
    let old = fs::File::open(pair.shared.join("file")).unwrap();
    let (old_inode, old_bytes) = (old.metadata().unwrap().ino(), fs::read(pair.shared.join("file")).unwrap());
    let node = pair.start();
    let result = pair.send(&source, "file", &["--overwrite", "content"]).exits(0).json();
    assert_stored(&pair, &source);
    let (sent, total) = (bytes_sent(&result), total as u64);
    assert!(sent > 0 && sent <= total * 15 / 1_000 + CHUNK_BYTES, "{sent} of {total} bytes were sent: {result}");
    assert!(result["resumed_bytes"].as_u64().unwrap() + sent >= total, "{result}");
    assert_eq!(result["files"]["stored"], 1);
    // The old file was replaced, never written: whoever has it open still reads what was there.
    assert_ne!(fs::metadata(pair.shared.join("file")).unwrap().ino(), old_inode);
    let mut still = vec![0; old_bytes.len()];
    old.read_exact_at(&mut still, 0).unwrap();
    assert!(still == old_bytes, "the old file was written");
    drop(node);
}

#[test]
fn changes_here_and_there_cost_a_chunk_each_at_most() {
    let seed = seeds(1)[0];
    eprintln!("CULVERT_SEED={seed}");
    let mut random = Random::new(seed);
    let total = 160 << 20;
    let (pair, source) = pair_with(&random.bytes(total));
    const CHANGES: u64 = 6;
    for _ in 0..CHANGES {
        let bytes = random.bytes(16);
        change(&source, random.below(total as u64 - 16), &bytes);
    }
    let _node = pair.start();
    let result = pair.send(&source, "file", &["--overwrite", "content"]).exits(0).json();
    assert_stored(&pair, &source);
    // A change may span two chunks; the last segment of a chunk is shorter than it counts here.
    let bound = CHANGES * 2 * (CHUNK_BYTES + 64_000);
    assert!(bytes_sent(&result) <= bound, "{} bytes for {CHANGES} changes: {result}", bytes_sent(&result));
}

#[test]
fn the_same_bytes_under_another_time_are_not_sent() {
    let mut random = Random::new(5);
    let (pair, source) = pair_with(&random.bytes((20 << 20) + 77));
    let other = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
    fs::File::options().write(true).open(&source).unwrap().set_modified(other).unwrap();
    let old_inode = fs::metadata(pair.shared.join("file")).unwrap().ino();
    let _node = pair.start();
    // By size and time it is a different file.
    pair.send(&source, "file", &[]).exits(1).says("differs in size or time");
    let result = pair.send(&source, "file", &["--overwrite", "content"]).exits(0).json();
    assert_eq!(result["segments_sent"], 0, "{result}");
    assert_eq!((&result["files"]["stored"], &result["files"]["skipped"]), (&0.into(), &1.into()), "{result}");
    assert_eq!((&result["bytes"], &result["resumed_bytes"]), (&0.into(), &0.into()), "{result}");
    assert_stored(&pair, &source);
    let there = fs::metadata(pair.shared.join("file")).unwrap();
    assert_eq!(there.modified().unwrap(), other);
    // Regression: it was created anew, and counted as stored.
    assert_eq!(there.ino(), old_inode);
    // And now it is the same by size and time.
    pair.send(&source, "file", &[]).exits(0);
}

/// Regression: room for all of them was required, and a copy was made of each (wire.md W-47: "the
/// receiver may keep the old file").
#[test]
fn files_that_are_the_same_need_no_room_and_stay() {
    //= W-47
    //# If all chunks of a file of the same size are proven, the receiver may keep the old file
    if !is_root() {
        eprintln!("skipped: this needs root, to mount a small file system");
        return;
    }
    let pair = Pair::new();
    let small = Small::mount(&pair.shared);
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
        fs::write(source.join(name), Random::new(8 + number as u64).bytes(12 << 20)).unwrap();
    }
    let _node = pair.start();
    pair.send(&source.join(""), "in", &[]).exits(0);
    let inodes = || ["a", "b", "c"].map(|name| fs::metadata(pair.shared.join("in").join(name)).unwrap().ino());
    let before = inodes();
    let options = ["--overwrite", "content", "--error-on-no-transfer"];
    let result = pair.send(&source.join(""), "in", &options).exits(9).json();
    assert_eq!((&result["files"]["stored"], &result["files"]["skipped"]), (&0.into(), &3.into()), "{result}");
    assert_eq!(inodes(), before);
    // One that differs is replaced, and the others stay.
    change(&source.join("b"), 5 << 20, b"another thing");
    let result = pair.send(&source.join(""), "in", &["--overwrite", "content"]).exits(0).json();
    assert_eq!((&result["files"]["stored"], &result["files"]["skipped"]), (&1.into(), &2.into()), "{result}");
    let after = inodes();
    assert_eq!([after[0] == before[0], after[1] == before[1], after[2] == before[2]], [true, false, true]);
    for name in ["a", "b", "c"] {
        assert!(fs::read(source.join(name)).unwrap() == fs::read(pair.shared.join("in").join(name)).unwrap());
    }
    // What certainly differs does not fit, and a dry run says so, too.
    for name in ["a", "b", "c"] {
        fs::write(source.join(name), Random::new(9).bytes(13 << 20)).unwrap();
    }
    let foretold = pair.send(&source.join(""), "in", &["--overwrite", "content", "--dry-run"]).exits(1).json();
    assert_eq!(foretold["would"]["refused"]["code"], "no_space", "{foretold}");
    pair.send(&source.join(""), "in", &["--overwrite", "content"]).exits(1).says("free");
    drop(_node);
    drop(small);
}

/// Regression: the copy of a file with holes had none, and found no room on a disk that the file
/// fits.
#[test]
fn holes_stay_holes() {
    let pair = Pair::new();
    let source = pair.path("source");
    for file in [&source, &pair.shared.join("file")] {
        fs::File::create(file).unwrap().set_len(200 << 20).unwrap();
        change(file, 77, b"some");
        change(file, 90 << 20, b"bytes");
    }
    change(&source, (90 << 20) + 1, b"u");
    let _node = pair.start();
    let result = pair.send(&source, "file", &["--overwrite", "content"]).exits(0).json();
    assert_eq!(result["files"]["stored"], 1, "{result}");
    assert_stored(&pair, &source);
    let taken = fs::metadata(pair.shared.join("file")).unwrap().blocks() * 512;
    assert!(taken <= 2 * CHUNK_BYTES, "{taken} bytes are taken");
}

/// A file system of 56 MiB for one test alone, unmounted when this is dropped.
struct Small<'a>(&'a Path);

impl<'a> Small<'a> {
    fn mount(place: &'a Path) -> Self {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=56m", "tmpfs"]).arg(place).status();
        assert!(mounted.unwrap().success());
        Self(place)
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[test]
fn a_file_that_grew_or_shrank_costs_its_difference() {
    for (old, new) in [(40 << 20, (61 << 20) + 5), ((61 << 20) + 5, 40 << 20), ((9 << 20) + 1, (9 << 20) + 2)] {
        let bytes = Random::new(6).bytes(std::cmp::max(old, new));
        let (pair, source) = pair_with(&bytes[..old]);
        fs::write(&source, &bytes[..new]).unwrap();
        let _node = pair.start();
        let result = pair.send(&source, "file", &["--overwrite", "content"]).exits(0).json();
        assert_stored(&pair, &source);
        let bound = new.saturating_sub(old) as u64 + 2 * CHUNK_BYTES;
        assert!(bytes_sent(&result) <= bound, "{old} to {new}: {} bytes: {result}", bytes_sent(&result));
    }
}

#[test]
fn fetching_compares_too() {
    let bytes = Random::new(7).bytes(48 << 20);
    let (pair, _) = pair_with(&bytes);
    let here = pair.path("mine");
    fs::write(&here, &bytes).unwrap();
    change(&here, 13 << 20, b"another thing");
    let _node = pair.start();
    let result = pair.get("file", &here, &["--overwrite", "content"]).exits(0).json();
    assert!(fs::read(&here).unwrap() == bytes);
    assert!(bytes_sent(&result) <= 2 * CHUNK_BYTES, "{result}");
}

/// Whatever is written to the old file while the transfer compares it with the source, the result
/// is the source.
#[test]
fn a_destination_that_changes_meanwhile_does_not_harm_the_result() {
    let seed = seeds(1)[0];
    eprintln!("CULVERT_SEED={seed}");
    let mut random = Random::new(seed);
    let total = 120 << 20;
    let (pair, source) = pair_with(&random.bytes(total));
    change(&source, 50 << 20, &random.bytes(5 << 20));
    let old = fs::File::options().write(true).open(pair.shared.join("file")).unwrap();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let scribbler = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut written = 0u64;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                old.write_all_at(b"scribble", random.below(total as u64 - 8)).unwrap();
                written += 1;
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
            // Somebody shortens it, too.
            old.set_len(1 << 20).unwrap();
            written
        })
    };
    let _node = pair.start();
    let result = pair.send(&source, "file", &["--overwrite", "content", "--rate", "800M"]);
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(scribbler.join().unwrap() > 0);
    assert_eq!(result.exits(0).json()["state"], "succeeded");
    assert_stored(&pair, &source);
}

/// Small files travel in packs and are compared by size and time.
#[test]
fn small_files_are_compared_by_size_and_time() {
    let pair = Pair::new();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    for name in ["same", "other"] {
        fs::write(source.join(name), name).unwrap();
    }
    let _node = pair.start();
    pair.send(&source.join(""), "in", &[]).exits(0);
    fs::write(source.join("other"), "changed").unwrap();
    let result = pair.send(&source.join(""), "in", &["--overwrite", "content"]).exits(0).json();
    assert_eq!((&result["files"]["stored"], &result["files"]["skipped"]), (&1.into(), &1.into()), "{result}");
    assert_eq!(fs::read(pair.shared.join("in/other")).unwrap(), b"changed");
}

#[test]
fn comparing_without_hashes_is_refused() {
    let (pair, source) = pair_with(b"x");
    pair.send(&source, "file", &["--overwrite", "content", "--checksum", "none"]).exits(2).says("--checksum");
}
