//! Somebody moves the directory that a transfer stores in: the transfer does not claim that files
//! are where they are not.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use culvert_tests::node::{Pair, wait_for};
use culvert_tests::program::{Ran, command};
use culvert_tests::random::Random;
use culvert_tests::tree::{assert_same, temporary_files};

/// Sends or fetches a directory of large files, slowly.
fn begin(pair: &Pair, verb: &str, source: &Path, there: &Path) -> Child {
    let mut moving = command(&pair.here, [verb, "--json", "--retries", "0", "--rate", "60M"]);
    let remote = |path: &Path| format!("second:{}", path.join("").display());
    match verb {
        "send" => moving.arg(source.join("")).arg(remote(there)),
        _ => moving.arg(remote(source)).arg(there.join("")),
    };
    moving.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn make_source(pair: &Pair) -> PathBuf {
    let source = pair.shared.join("source");
    fs::create_dir_all(&source).unwrap();
    let mut random = Random::new(31);
    for name in ["a", "b", "c"] {
        fs::write(source.join(name), random.bytes(6 << 20)).unwrap();
    }
    source
}

fn end(child: Child) -> Ran {
    child.wait_with_output().unwrap().into()
}

#[test]
fn a_destination_that_is_moved_meanwhile_is_not_called_stored() {
    for verb in ["send", "get"] {
        let pair = Pair::new();
        let _node = pair.start();
        let source = make_source(&pair);
        let (there, moved) = (pair.shared.join("there"), pair.shared.join("moved"));
        fs::create_dir(&there).unwrap();
        let child = begin(&pair, verb, &source, &there);
        wait_for("the first data", || (!temporary_files(&there).is_empty()).then_some(()));
        fs::rename(&there, &moved).unwrap();
        fs::create_dir(&there).unwrap();
        let ran = end(child);
        assert!(ran.code == 1 && ran.err.contains("was moved or removed"), "{verb}: {ran:?}");
        assert!(ran.err.contains(there.to_str().unwrap()), "{verb}: {ran:?}");
        assert_eq!(fs::read_dir(&there).unwrap().count(), 0, "{verb}");
        // Nothing of it is lost: once it is back in its place, the same command finds it.
        assert_same(&source, &moved);
        fs::remove_dir(&there).unwrap();
        fs::rename(&moved, &there).unwrap();
        let ran = end(begin(&pair, verb, &source, &there)).exits(0);
        assert_eq!(ran.json()["resumed_bytes"], 18 << 20, "{verb}: {ran:?}");
        assert_same(&source, &there);
    }
}

#[test]
fn a_destination_that_is_removed_meanwhile_is_not_called_stored() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = make_source(&pair);
    let there = pair.shared.join("there");
    fs::create_dir(&there).unwrap();
    let child = begin(&pair, "send", &source, &there);
    wait_for("the first data", || (!temporary_files(&there).is_empty()).then_some(()));
    wait_for("its removal", || fs::remove_dir_all(&there).ok());
    let ran = end(child);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(!there.exists());
    end(begin(&pair, "send", &source, &there)).exits(0);
    assert_same(&source, &there);
}

/// The owner's own symlinks are followed, and are the owner's to change.
#[test]
fn a_symlink_that_leads_elsewhere_meanwhile_is_not_called_the_place() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = make_source(&pair);
    let (first, second, there) = (pair.path("led-to"), pair.path("led-to-then"), pair.path("symlink"));
    fs::create_dir(&first).unwrap();
    fs::create_dir(&second).unwrap();
    symlink(&first, &there).unwrap();
    let child = begin(&pair, "get", &source, &there);
    wait_for("the first data", || (!temporary_files(&first).is_empty()).then_some(()));
    fs::remove_file(&there).unwrap();
    symlink(&second, &there).unwrap();
    let ran = end(child);
    assert!(ran.code == 1 && ran.err.contains("was moved or removed"), "{ran:?}");
    assert_same(&source, &first);
    assert_eq!(fs::read_dir(&second).unwrap().count(), 0);
}
