//! A command that is killed cannot stop the processes that it started for itself: they stop when
//! the kernel closes what it held.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Stdio};

use culvert_tests::node::{children_of, kill, wait_for};
use culvert_tests::program::command;

/// The processes that a process has started, and those that they have.
fn descendants_of(process: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let mut waiting = vec![process];
    while let Some(process) = waiting.pop() {
        waiting.extend(children_of(process).into_iter().filter(|child| found.insert(*child)));
    }
    found
}

/// Whether a process runs; one that waits to be reaped does not.
fn runs(process: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn start(room: &Path, arguments: &[&str]) -> Child {
    let mut starting = command(&room.join("state"), arguments);
    starting.env("TMPDIR", room).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// Regression: the second node and its data plane went on forever.
#[test]
fn a_killed_command_leaves_no_process() {
    let commands: [&[&str]; 2] =
        [&["bench", "net", "--size", "1000G", "--rate", "100M"], &["demo", "--size", "300M", "--files", "2"]];
    for arguments in commands {
        let room = tempfile::tempdir().unwrap();
        let mut child = start(room.path(), arguments);
        // The second node, and a data plane of each.
        let started = wait_for("the processes of both nodes", || {
            let started = descendants_of(child.id());
            let is_over = child.try_wait().unwrap().is_some();
            assert!(!is_over, "{arguments:?} has ended");
            (started.len() >= 3).then_some(started)
        });
        kill(child.id());
        child.wait().unwrap();
        wait_for("the end of what it had started", || started.iter().all(|process| !runs(*process)).then_some(()));
    }
}
