//! Accounts with limits, and file systems with less than usual: a transfer needs no more than it
//! must, and what it cannot do fails by name.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_tests::node::RunningNode;
use culvert_tests::program::{Ran, command};
use culvert_tests::random::Random;
use culvert_tests::ssh_stand_in::FarEnd;
use culvert_tests::tree::{assert_same, temporary_files};

struct Room {
    room: tempfile::TempDir,
    far: FarEnd,
}

impl Room {
    fn new(wrapper: Option<&Path>) -> Self {
        let room = tempfile::Builder::new().prefix("culvert-limits-").tempdir().unwrap();
        let far = FarEnd::new(room.path(), wrapper);
        Self { room, far }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    fn sending(&self, source: &Path) -> Command {
        let mut sending = self.far.command(&self.path("near"), "send", &["--retries", "0"]);
        sending.arg(source).arg(FarEnd::place(&self.path("there")));
        sending
    }

    /// Sends with a limit that applies to both ends, in the words of the shell's `ulimit`.
    fn send_limited(&self, limit: &str, source: &Path) -> Ran {
        let sending = self.sending(source);
        let mut shell = Command::new("sh");
        shell.arg("-c").arg(format!("ulimit {limit} && exec \"$@\"")).arg("sh");
        shell.arg(sending.get_program()).args(sending.get_args()).output().unwrap().into()
    }
}

/// Regression: shared memory is a file to the kernel, so both processes ended with a signal before
/// anything was sent.
#[test]
fn a_limit_on_file_sizes_is_one_on_the_files_that_are_stored() {
    let room = Room::new(None);
    let source = room.path("source");
    fs::create_dir(&source).unwrap();
    let mut random = Random::new(19);
    fs::write(source.join("below"), random.bytes(5 << 20)).unwrap();
    fs::write(source.join("small"), random.bytes(10_000)).unwrap();
    room.send_limited("-f 20000", &source.join("")).exits(0);
    assert_same(&source, &room.path("there"));
    // POSIX's unit is 512 bytes, bash's 1,024: 30 MB exceed the limit in both.
    fs::remove_dir_all(room.path("there")).unwrap();
    fs::write(source.join("above"), random.bytes(30 << 20)).unwrap();
    let ran = room.send_limited("-f 20000", &source.join("")).exits(6);
    assert!(ran.out.contains("above") && ran.out.contains("File too large"), "{}", ran.out);
    fs::remove_file(source.join("above")).unwrap();
    assert_same(&source, &room.path("there"));
}

#[test]
fn a_limit_that_leaves_no_room_for_shared_memory_is_named() {
    let room = Room::new(None);
    fs::write(room.path("file"), "content").unwrap();
    let ran = room.send_limited("-f 64", &room.path("file"));
    assert_ne!(ran.code, 0);
    assert!(ran.err.contains("ulimit -f"), "{}", ran.err);
}

/// Regression: more files were opened at once than the account may have open.
#[test]
fn with_few_descriptors_fewer_files_are_open_at_once() {
    let room = Room::new(None);
    let source = room.path("source");
    fs::create_dir(&source).unwrap();
    for number in 0..150_u8 {
        fs::write(source.join(format!("one chunk {number}")), vec![number; 1_100_000]).unwrap();
    }
    for number in 0..20_u8 {
        fs::write(source.join(format!("two chunks {number}")), vec![number; 5 << 20]).unwrap();
    }
    for number in 0..500 {
        fs::write(source.join(format!("small {number}")), number.to_string()).unwrap();
    }
    room.send_limited("-n 128", &source.join("")).exits(0);
    assert_same(&source, &room.path("there"));
    // Files to be compared are not kept open either.
    for number in 0..150_u8 {
        fs::write(source.join(format!("one chunk {number}")), vec![number + 1; 1_100_000]).unwrap();
    }
    let mut sending = room.far.command(&room.path("near"), "send", &["--retries", "0", "--overwrite", "content"]);
    sending.arg(source.join("")).arg(FarEnd::place(&room.path("there")));
    let mut shell = Command::new("sh");
    shell.arg("-c").arg("ulimit -n 128 && exec \"$@\"").arg("sh");
    let ran: Ran = shell.arg(sending.get_program()).args(sending.get_args()).output().unwrap().into();
    ran.exits(0);
    assert_same(&source, &room.path("there"));
    assert_eq!(temporary_files(&room.path("there")), [] as [PathBuf; 0]);
}

/// Regression: without a descriptor for the runtime's signals both commands panicked, and others
/// said "Too many open files" but not whose.
#[test]
fn without_descriptors_a_command_says_that_and_whose_limit_it_is() {
    let room = Room::new(None);
    fs::write(room.path("file"), "content").unwrap();
    let state = room.path("node");
    fs::create_dir(&state).unwrap();
    for limit in 4..=20 {
        let node = command(&state, ["node", "--listen", "127.0.0.1:0", "--ports", "any"]);
        let mut shell = Command::new("timeout");
        shell.args(["--preserve-status", "60", "sh", "-c"]).arg(format!("ulimit -n {limit} && exec \"$@\"")).arg("sh");
        let started: Ran = shell.arg(node.get_program()).args(node.get_args()).output().unwrap().into();
        let is_said = started.code == 5 && started.err.contains("ulimit -n");
        // With one more descriptor than these it may run until it is ended.
        assert!(is_said || limit == 20, "with {limit}: {} {}", started.code, started.err);
    }
    for limit in 4..=10 {
        let sent = room.send_limited(&format!("-n {limit}"), &room.path("file"));
        assert!(sent.code == 5 && sent.err.contains("ulimit -n"), "with {limit}: {} {}", sent.code, sent.err);
    }
}

/// Regression: each was a plain failure with only the system's words, or even "not found".
#[test]
fn what_keeps_a_far_end_from_its_destination_is_told_by_kind_and_with_what_to_do() {
    for (error, code, remedy) in [
        ("ENFILE", 5, "fs.file-max"),
        ("ENOMEM", 5, "short of memory"),
        ("EACCES", 4, "may not enter and read it"),
        ("EROFS", 4, "mounted read-only"),
        ("ENOSPC", 1, "No space left"),
        ("EIO", 1, "dmesg"),
        ("ENAMETOOLONG", 1, "use a shorter one"),
        ("ELOOP", 1, "symlinks form"),
    ] {
        let refused = format!("openat2={error}");
        let room = Room::new(Some(Path::new(&[env!("CARGO_BIN_EXE_culvert-refuses"), &refused].join(" "))));
        fs::write(room.path("file"), "content").unwrap();
        let ran: Ran = room.sending(&room.path("file")).output().unwrap().into();
        assert!(ran.code == code && ran.err.contains(remedy), "{error}: {} {}", ran.code, ran.err);
        assert!(!ran.err.contains("remove it") && !ran.err.contains("does not exist"), "{error}: {}", ran.err);
    }
}

/// Regression: a file system without locks was taken for one on which somebody else holds the lock.
#[test]
fn a_state_directory_without_locks_is_used_without_them() {
    let no_flock = [env!("CARGO_BIN_EXE_culvert-refuses"), "flock=ENOSYS"];
    let room = Room::new(Some(Path::new(&no_flock.join(" "))));
    fs::write(room.path("file"), "content").unwrap();
    let ran: Ran = room.sending(&room.path("file")).output().unwrap().into();
    ran.exits(0);
    assert_eq!(fs::read_to_string(room.path("there")).unwrap(), "content");
    // A second node is still kept away from the first one's state.
    let starting = |state: &Path| {
        let node = command(state, ["node", "--listen", "127.0.0.1:0", "--ports", "any"]);
        let mut without = Command::new(no_flock[0]);
        without.arg(no_flock[1]).arg(node.get_program()).args(node.get_args());
        without
    };
    let state = room.path("node");
    fs::create_dir(&state).unwrap();
    let first = RunningNode::start(&state, &mut starting(&state));
    let second: Ran = starting(&state).output().unwrap().into();
    assert_ne!(second.code, 0);
    assert!(second.err.contains("a node is already running with the state directory"), "{}", second.err);
    drop(first);
}
