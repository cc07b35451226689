//! Far ends that ssh starts, and that do not live as long as their transfer.

use std::fs;
use std::path::PathBuf;
use std::process::Stdio;

use culvert_tests::node::{kill, wait_for};
use culvert_tests::program::Ran;
use culvert_tests::random::Random;
use culvert_tests::ssh_stand_in::{FarEnd, far_ends_of};
use culvert_tests::tree::temporary_files;

/// The dead far end's port was dialed again, in vain, and a firewall was blamed.
#[test]
fn a_far_end_that_dies_is_started_again() {
    let room = tempfile::Builder::new().prefix("culvert-ssh-").tempdir().unwrap();
    let far = FarEnd::new(room.path(), None);
    let source = room.path().join("source");
    fs::write(&source, Random::new(3).bytes(24 << 20)).unwrap();
    let there = room.path().join("there");
    let mut sending = far.command(&room.path().join("near"), "send", &["--rate", "60M"]);
    sending.arg(&source).arg(FarEnd::place(&there));
    let child = sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the first data", || (!temporary_files(room.path()).is_empty()).then_some(()));
    let far_ends = far_ends_of(child.id());
    assert!(!far_ends.is_empty());
    far_ends.into_iter().for_each(kill);
    let ran: Ran = child.wait_with_output().unwrap().into();
    let ran = ran.exits(0);
    assert!(ran.err.contains("is started again"), "{}", ran.err);
    assert!(ran.json()["resumed_bytes"].as_u64().is_some());
    assert!(fs::read(there).unwrap() == fs::read(source).unwrap());
    assert_eq!(temporary_files(room.path()), [] as [PathBuf; 0]);
}
