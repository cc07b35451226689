//! Directories that an earlier transfer left read-only: the next one opens those that it stores in,
//! and leaves them as they were.
//!
//! Root may write everywhere, so the program runs under an unprivileged account unless the tests
//! do.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, lchown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use culvert_tests::node::{kill, signal_process, wait_for};
use culvert_tests::program::{Ran, culvert, is_heeded, is_installed, is_root};
use culvert_tests::random::Random;
use culvert_tests::ssh_stand_in::{FarEnd, far_ends_of};
use culvert_tests::tree::{assert_same, assert_same_attributes, make_flat, temporary_files};
use rustix::process::Signal;

const NOBODY: u32 = 65_534;

/// An account with a near end and far ends.
struct Account {
    room: tempfile::TempDir,
    far: FarEnd,
    program: PathBuf,
}

impl Account {
    fn new() -> Option<Self> {
        if is_root() && !is_installed("setpriv") {
            eprintln!("skipped: setpriv (util-linux) is not installed");
            return None;
        }
        let room = tempfile::Builder::new().prefix("culvert-read-only-").tempdir().unwrap();
        let far = FarEnd::new(room.path(), None);
        // That account may not be able to reach the build.
        let program = room.path().join("culvert");
        // By another process: a descriptor that this one writes with would be inherited by what
        // other tests start meanwhile.
        assert!(Command::new("cp").arg(culvert()).arg(&program).status().unwrap().success());
        let account = Self { room, far, program };
        account.give(account.room.path());
        Some(account)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    /// Makes the account the owner of everything below a directory.
    fn give(&self, root: &Path) {
        if !is_root() {
            return;
        }
        lchown(root, Some(NOBODY), Some(NOBODY)).unwrap();
        if root.symlink_metadata().unwrap().is_dir() {
            fs::read_dir(root).unwrap().for_each(|entry| self.give(&entry.unwrap().path()));
        }
    }

    fn command_by(&self, far: &FarEnd, near: &str, verb: &str, options: &[&str]) -> Command {
        let asked = far.command_that_starts(&self.program, &self.path(near), verb, options);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&self.program);
            command
        } else {
            Command::new(&self.program)
        };
        command.args(asked.get_args()).env("HOME", self.room.path()).stdin(Stdio::null());
        command
    }

    fn sending(&self, source: &str, options: &[&str]) -> Command {
        let mut sending = self.command_by(&self.far, "near", "send", options);
        sending.arg(self.path(source).join("")).arg(FarEnd::place(&self.path("there")));
        sending
    }

    fn send(&self, options: &[&str]) -> Ran {
        self.sending("source", options).output().unwrap().into()
    }

    /// Makes a source whose directory `ro` is read-only, and sends it.
    fn send_first(&self) {
        let source = self.path("source");
        fs::create_dir_all(source.join("ro/in/ner")).unwrap();
        fs::create_dir_all(source.join("open")).unwrap();
        fs::create_dir_all(source.join("ro/untouched")).unwrap();
        for name in ["ro/file", "ro/in/ner/file", "open/file", "ro/untouched/file"] {
            fs::write(source.join(name), name).unwrap();
        }
        self.close(&source);
        self.send(&["--preserve"]).exits(0);
        assert_eq!(mode_of(&self.path("there/ro")), 0o555);
    }

    /// Makes the source's read-only directories read-only again; inner ones first.
    fn close(&self, source: &Path) {
        self.give(source);
        for (name, mode) in [("ro/untouched", 0o555), ("ro/in/ner", 0o500), ("ro/in", 0o555), ("ro", 0o555)] {
            set_mode(&source.join(name), mode);
        }
    }

    fn spawn(&self, sending: &mut Command) -> Child {
        sending.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Starts sending a large file into `ro`, slowly, and waits until it has got so far that `ro`
    /// is open.
    fn spawn_slowly(&self) -> Child {
        fs::write(self.path("source/ro/large"), Random::new(21).bytes(24 << 20)).unwrap();
        self.give(&self.path("source/ro/large"));
        let child = self.spawn(&mut self.sending("source", &["--preserve", "--rate", "60M", "--retries", "0"]));
        wait_for("a chunk in the journal", || {
            let journals = culvert_tests::journals::journals(&self.path("far"));
            let has_chunk = journals.iter().any(|(_, records)| records.iter().any(culvert_tests::journals::is_chunk));
            has_chunk.then_some(())
        });
        assert_eq!(mode_of(&self.path("there/ro")), 0o755, "it is open while something is stored in it");
        child
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn changed(path: &Path) -> (i64, i64) {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.ctime(), stat.ctime_nsec())
}

/// Regression: a new file in such a directory failed.
#[test]
fn a_read_only_directory_takes_what_is_new_and_is_read_only_again() {
    let Some(account) = Account::new() else { return };
    account.send_first();
    let (source, there) = (account.path("source"), account.path("there"));
    let untouched = changed(&there.join("ro/untouched"));
    // As root if the tests run as root, as the owner otherwise.
    for name in ["ro", "ro/in", "ro/in/ner"] {
        set_mode(&source.join(name), 0o755);
    }
    fs::write(source.join("ro/large"), Random::new(20).bytes(9 << 20)).unwrap();
    fs::write(source.join("ro/empty"), "").unwrap();
    fs::write(source.join("ro/in/ner/new"), "new").unwrap();
    std::os::unix::fs::symlink("file", source.join("ro/link")).unwrap();
    make_flat(&source.join("ro/in/directory"), 20, 5_000, &mut Random::new(22));
    fs::write(source.join("open/new"), "new").unwrap();
    account.close(&source);
    let result = account.send(&["--preserve"]).exits(0).json();
    assert_eq!((&result["error_count"], &result["warning_count"]), (&0.into(), &0.into()), "{result}");
    assert_same(&source, &there);
    let modes = ["ro", "ro/in", "ro/in/ner", "ro/untouched"].map(|name| mode_of(&there.join(name)));
    assert_eq!(modes, [0o555, 0o555, 0o500, 0o555]);
    assert_eq!(changed(&there.join("ro/untouched")), untouched, "nothing was stored in it");
    // What may be replaced is replaced, and the directories get the source's modes.
    for name in ["ro", "ro/in"] {
        set_mode(&source.join(name), 0o755);
    }
    fs::write(source.join("ro/file"), "another").unwrap();
    fs::write(source.join("ro/large"), Random::new(23).bytes(9 << 20)).unwrap();
    account.close(&source);
    set_mode(&source.join("ro/in"), 0o511);
    account.send(&["--preserve", "--overwrite", "changed"]).exits(0);
    assert_same(&source, &there);
    assert_same_attributes(&source, &there);
    assert_eq!(temporary_files(&there), [] as [PathBuf; 0]);
}

/// Regression: one that may be listed but not searched was not opened.
#[test]
fn a_directory_that_may_not_be_searched_takes_what_is_new_and_is_closed_again() {
    let Some(account) = Account::new() else { return };
    account.send_first();
    for mode in [0o000, 0o100, 0o200, 0o400, 0o444, 0o600, 0o644, 0o311] {
        set_mode(&account.path("source/ro"), 0o755);
        let new = account.path("source/ro").join(format!("new-{mode:o}"));
        fs::write(&new, "new").unwrap();
        account.close(&account.path("source"));
        set_mode(&account.path("there/ro"), mode);
        let result = account.send(&["--preserve"]).exits(0).json();
        assert_eq!(result["warning_count"], 0, "{mode:o}: {result}");
        assert_eq!(mode_of(&account.path("there/ro")), mode);
        set_mode(&account.path("there/ro"), 0o555);
        assert_same(&account.path("source"), &account.path("there"));
    }
}

#[test]
fn without_preserve_a_read_only_directory_stays_closed() {
    let Some(account) = Account::new() else { return };
    account.send_first();
    set_mode(&account.path("source/ro"), 0o755);
    fs::write(account.path("source/ro/new"), "new").unwrap();
    account.close(&account.path("source"));
    let before = changed(&account.path("there/ro"));
    let result = account.send(&[]).exits(6).json();
    assert_eq!(result["errors"][0]["path"], "ro/new", "{result}");
    assert_eq!(changed(&account.path("there/ro")), before);
}

/// Only the next attempt is left to close it, whatever that one is to keep.
#[test]
fn what_a_killed_transfer_has_opened_the_next_one_closes() {
    for options in [&["--preserve"][..], &[]] {
        let Some(account) = Account::new() else { return };
        account.send_first();
        let mut child = account.spawn_slowly();
        far_ends_of(child.id()).into_iter().for_each(kill);
        child.wait().unwrap();
        assert_eq!(mode_of(&account.path("there/ro")), 0o755);
        let result = account.send(options).exits(0).json();
        assert!(result["resumed_bytes"].as_u64().unwrap() > 0, "{result}");
        assert_same(&account.path("source"), &account.path("there"));
        assert_eq!(mode_of(&account.path("there/ro")), 0o555, "{options:?}");
    }
}

/// This is how a host that shuts down ends its processes, and a login session its own.
#[test]
fn a_far_end_that_is_ended_closes_what_it_has_opened() {
    for signal in [Signal::TERM, Signal::HUP].into_iter().filter(|&signal| is_heeded(signal)) {
        let Some(account) = Account::new() else { return };
        account.send_first();
        let mut child = account.spawn_slowly();
        far_ends_of(child.id()).into_iter().for_each(|far_end| signal_process(far_end, signal));
        assert_eq!(child.wait().unwrap().code(), Some(5));
        wait_for("a closed directory", || (mode_of(&account.path("there/ro")) == 0o555).then_some(()));
    }
}

/// Even if there is nothing left to store in it, and the source no longer has the directory itself.
#[test]
fn what_a_killed_transfer_has_opened_is_closed_though_the_source_has_it_no_more() {
    let Some(account) = Account::new() else { return };
    account.send_first();
    let mut child = account.spawn_slowly();
    far_ends_of(child.id()).into_iter().for_each(kill);
    child.wait().unwrap();
    fs::rename(account.path("source/ro"), account.path("elsewhere")).unwrap();
    fs::write(account.path("source/open/new"), "new").unwrap();
    account.give(&account.path("source"));
    account.send(&["--preserve"]).exits(0);
    // With other top names the journal is another one, of another transfer; it knows `open/file`.
    assert_eq!(mode_of(&account.path("there/ro")), 0o555);
}

#[test]
fn a_transfer_that_fails_closes_what_it_has_opened() {
    let Some(account) = Account::new() else { return };
    account.send_first();
    // The sender dies; its far end does not.
    let mut child = account.spawn_slowly();
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("a closed directory", || (mode_of(&account.path("there/ro")) == 0o555).then_some(()));
    account.send(&["--preserve"]).exits(0);
    assert_same(&account.path("source"), &account.path("there"));
    assert_eq!(mode_of(&account.path("there/ro")), 0o555);
}

#[test]
fn who_interrupts_a_fetch_or_closes_its_terminal_finds_directories_closed() {
    for (signal, code) in [(Signal::INT, 130), (Signal::HUP, 129)].into_iter().filter(|&(signal, _)| is_heeded(signal))
    {
        let Some(account) = Account::new() else { return };
        account.send_first();
        fs::write(account.path("source/ro/large"), Random::new(24).bytes(24 << 20)).unwrap();
        account.give(&account.path("source/ro/large"));
        let mut getting = account.command_by(&account.far, "near", "get", &["--preserve", "--rate", "60M"]);
        getting.arg(FarEnd::place(&account.path("source/"))).arg(account.path("there"));
        let mut child = account.spawn(&mut getting);
        wait_for("a partial file", || (!temporary_files(&account.path("there")).is_empty()).then_some(()));
        assert_eq!(mode_of(&account.path("there/ro")), 0o755);
        signal_process(child.id(), signal);
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert_eq!(mode_of(&account.path("there/ro")), 0o555);
    }
}

/// One that ends closes the directory while the other is storing in it.
#[test]
fn two_transfers_into_one_read_only_directory_do_not_shut_each_other_out() {
    let Some(account) = Account::new() else { return };
    account.send_first();
    let [slow, fast] = ["slow", "fast"].map(|name| {
        let source = account.path(name);
        fs::create_dir_all(source.join("ro")).unwrap();
        make_flat(&source.join("ro").join(name), 3, 2 << 20, &mut Random::new(25));
        for file in 0..8 {
            fs::write(source.join(format!("ro/{name}-{file}")), Random::new(26 + file).bytes(3 << 20)).unwrap();
        }
        account.give(&source);
        set_mode(&source.join("ro"), 0o555);
        fs::create_dir(account.path(&format!("room-{name}"))).unwrap();
        let far = FarEnd::new(&account.path(&format!("room-{name}")), None);
        account.give(&account.path(&format!("room-{name}")));
        far
    });
    let sending = |far: &FarEnd, name: &str, options: &[&str]| {
        let mut sending = account.command_by(far, &format!("near-{name}"), "send", options);
        sending.arg(account.path(name).join("")).arg(FarEnd::place(&account.path("there")));
        sending
    };
    let mut child = account.spawn(&mut sending(&slow, "slow", &["--preserve", "--rate", "60M"]));
    wait_for("a partial file", || (!temporary_files(&account.path("there")).is_empty()).then_some(()));
    let ran: Ran = sending(&fast, "fast", &["--preserve"]).output().unwrap().into();
    ran.exits(0);
    assert!(child.try_wait().unwrap().is_none(), "the slow one has ended already");
    assert!(child.wait().unwrap().success());
    for name in ["slow", "fast"] {
        for file in 0..8 {
            let file = format!("ro/{name}-{file}");
            assert!(
                fs::read(account.path(name).join(&file)).unwrap()
                    == fs::read(account.path("there").join(&file)).unwrap()
            );
        }
    }
    assert_eq!(mode_of(&account.path("there/ro")), 0o555);
    assert_eq!(temporary_files(&account.path("there")), [] as [PathBuf; 0]);
}

#[test]
fn what_is_not_this_users_or_outside_is_not_opened() {
    if !is_root() {
        eprintln!("skipped: this needs root, to have something of another's");
        return;
    }
    let Some(account) = Account::new() else { return };
    account.send_first();
    fs::write(account.path("source/ro/new"), "new").unwrap();
    account.give(&account.path("source"));
    let place = account.path("there/ro");
    chown(&place, Some(0), Some(0)).unwrap();
    set_mode(&place, 0o555);
    let before = changed(&place);
    let result = account.send(&["--preserve"]).exits(6).json();
    assert_eq!(result["errors"][0]["path"], "ro/new", "{result}");
    assert_eq!(changed(&place), before, "another's directory");
    // A symlink to a read-only directory of this user's.
    let outside = account.path("outside");
    fs::create_dir(&outside).unwrap();
    account.give(&outside);
    set_mode(&outside, 0o555);
    fs::rename(&place, account.path("theirs")).unwrap();
    std::os::unix::fs::symlink(&outside, &place).unwrap();
    let before = changed(&outside);
    assert_ne!(account.send(&["--preserve", "--overwrite", "always"]).code, 0);
    assert_eq!((changed(&outside), fs::read_dir(&outside).unwrap().count()), (before, 0));
}
