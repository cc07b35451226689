//! When what is there counts as the same: by size, by time as far as the file system keeps it, and
//! a symlink by where it leads.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_tests::node::{Pair, kill, wait_for};
use culvert_tests::program::{command, is_installed, is_root};
use culvert_tests::random::Random;

/// Regression: a symlink that leads elsewhere was left as it was, and the sender was told that
/// there was nothing to do.
#[test]
fn a_symlink_that_leads_elsewhere_is_not_the_same() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("v1"), "one").unwrap();
    fs::write(source.join("v2"), "two").unwrap();
    symlink("v1", source.join("current")).unwrap();
    pair.send(&source.join(""), "in", &[]).exits(0);
    pair.send(&source.join(""), "in", &[]).exits(0);
    fs::remove_file(source.join("current")).unwrap();
    symlink("v2", source.join("current")).unwrap();
    let there = pair.shared.join("in/current");
    pair.send(&source.join(""), "in", &[]).exits(1).says("leads elsewhere");
    assert_eq!(fs::read_link(&there).unwrap(), Path::new("v1"));
    for policy in ["changed", "content", "always"] {
        pair.send(&source.join(""), "in", &["--overwrite", policy]).exits(0);
        assert_eq!(fs::read_link(&there).unwrap(), Path::new("v2"), "{policy}");
        let nothing = if policy == "always" { 0 } else { 9 };
        pair.send(&source.join(""), "in", &["--overwrite", policy, "--dry-run", "--error-on-no-transfer"])
            .exits(nothing);
        fs::remove_file(&there).unwrap();
        symlink("v1", &there).unwrap();
        pair.send(&source.join(""), "in", &["--overwrite", policy, "--dry-run"]).exits(0);
    }
    assert_eq!(fs::read_dir(pair.shared.join("in")).unwrap().count(), 3, "nothing temporary remains");
}

/// A file system on a loop device, for as long as the test runs.
struct Mounted(PathBuf);

impl Mounted {
    fn new(room: &Path, make: &[&str]) -> Option<Self> {
        let (image, place) = (room.join("image"), room.join("mounted"));
        fs::create_dir(&place).unwrap();
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        let made = Command::new(make[0]).args(&make[1..]).arg(&image).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let mounted = Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&place).output().unwrap();
        if !mounted.status.success() {
            eprintln!("skipped: {} cannot be mounted: {}", make[0], String::from_utf8_lossy(&mounted.stderr).trim());
            return None;
        }
        Some(Self(place))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Regression: files on a file system that keeps whole seconds were sent again each time.
#[test]
fn files_whose_nanoseconds_the_destination_cannot_keep_are_recognised() {
    if !is_root() || !is_installed("mkfs.ext4") || !is_installed("losetup") {
        eprintln!("skipped: it takes root, mkfs.ext4 and loop devices");
        return;
    }
    let room = tempfile::Builder::new().prefix("culvert-times-").tempdir().unwrap();
    // Inodes of 128 bytes have no room for nanoseconds.
    let Some(mounted) = Mounted::new(room.path(), &["mkfs.ext4", "-q", "-I", "128"]) else { return };
    let there = room.path().join("there");
    let pair = Pair::with(tempfile::tempdir().unwrap(), there, mounted.0.join("shared"));
    let node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    for number in 1..=3u32 {
        let file = source.join(format!("file {number}"));
        fs::write(&file, number.to_string()).unwrap();
        let time = std::time::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 123_456_789 * number);
        fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
    }
    pair.send(&source.join(""), "in", &[]).exits(0);
    pair.send(&source.join(""), "in", &[]).exits(0);
    pair.send(&source.join(""), "in", &["--overwrite", "changed"]).exits(0);
    // Another second is another time.
    let file = source.join("file 2");
    let later = fs::metadata(&file).unwrap().modified().unwrap() + std::time::Duration::from_secs(1);
    fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    let sent = pair.send(&source.join(""), "in", &["--overwrite", "changed"]).exits(0).json();
    assert_eq!(sent["files"]["stored"], 1, "{sent}");
    drop(node);
}

/// Regression: what an earlier attempt had stored was taken for the source's by size and time, even
/// for those who want every file sent or compared by content.
#[test]
fn an_interrupted_transfer_that_replaces_everything_takes_no_file_for_the_same_by_its_time() {
    for policy in ["always", "content"] {
        let pair = Pair::new();
        let _node = pair.start();
        let source = pair.path("source");
        fs::create_dir(&source).unwrap();
        let mut random = Random::new(5);
        for (name, bytes) in [("a", 3 << 20), ("b", 24 << 20)] {
            fs::write(source.join(name), random.bytes(bytes)).unwrap();
        }
        let there = pair.shared.join("in");
        let destination = format!("second:{}", there.display());
        let mut sending = command(&pair.here, ["send", "--retries", "0", "--rate", "60M", "--overwrite", policy]);
        sending.arg(source.join("")).arg(destination).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = sending.spawn().unwrap();
        wait_for("the first file", || there.join("a").exists().then_some(()));
        kill(child.id());
        child.wait().unwrap();
        let time = fs::metadata(source.join("a")).unwrap().modified().unwrap();
        fs::write(source.join("a"), random.bytes(3 << 20)).unwrap();
        fs::File::options().write(true).open(source.join("a")).unwrap().set_modified(time).unwrap();
        pair.send(&source.join(""), "in", &["--overwrite", policy, "--retries", "5"]).exits(0);
        for name in ["a", "b"] {
            assert!(fs::read(there.join(name)).unwrap() == fs::read(source.join(name)).unwrap(), "{policy}: {name}");
        }
    }
}
