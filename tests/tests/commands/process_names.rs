//! What `ps`, `ss -p` and `top` call Culvert's processes: before, the data plane was
//! `/proc/self/exe dataplane`, and `exe`.

use std::fs;

use culvert_tests::node::{Pair, children_of, kill, wait_for};
use culvert_tests::program::culvert;

/// The words that a process was started with, and its name in the kernel.
fn names_of(process: u32) -> (String, String) {
    let read = |name: &str| fs::read_to_string(format!("/proc/{process}/{name}")).unwrap_or_default();
    (read("cmdline").trim_end_matches('\0').replace('\0', " "), read("comm").trim().to_owned())
}

#[test]
fn a_data_plane_has_its_name_and_its_lanes_theirs() {
    let pair = Pair::new();
    let node = pair.start();
    let plane = node.data_plane();
    assert_eq!(names_of(plane), ("culvert dataplane".to_owned(), "culvert-data".to_owned()));
    assert_eq!(names_of(node.process_id()).1, "culvert");
    let threads = fs::read_dir(format!("/proc/{plane}/task")).unwrap();
    let threads: Vec<_> =
        threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("comm")).unwrap()).collect();
    assert!(threads.iter().any(|name| name.trim() == "lane 0"), "{threads:?}");
    // Whatever it is called, it is the same file as its starter, even after that file was updated.
    let exe = |process: u32| fs::read_link(format!("/proc/{process}/exe")).unwrap();
    assert_eq!(exe(plane), exe(node.process_id()));
    assert_eq!(exe(plane), fs::canonicalize(culvert()).unwrap());
}

/// The second node of a demo is started in the same way.
#[test]
fn no_process_is_called_after_the_way_that_it_was_started() {
    let room = tempfile::tempdir().unwrap();
    let mut demo = culvert_tests::program::command(room.path(), ["demo", "--size", "64M", "--quiet"]);
    let mut child = demo.spawn().unwrap();
    let node = wait_for("the second node", || children_of(child.id()).into_iter().find(|&child| is_node(child)));
    wait_for("its name", || (names_of(node).1 == "culvert").then_some(()));
    let (words, _) = names_of(node);
    assert!(words.starts_with("culvert node"), "{words}");
    // Without it there is nothing left to demonstrate.
    kill(node);
    let _ = child.wait();
}

fn is_node(process: u32) -> bool {
    fs::read(format!("/proc/{process}/cmdline"))
        .is_ok_and(|words| words.split(|&byte| byte == 0).any(|word| word == b"node"))
}
