//! What the accounts of both ends may not read or write is reported before the first byte moves, by
//! a dry run as well as by the transfer.
//!
//! Root may do everything, so one end runs under an unprivileged account.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_tests::node::Pair;
use culvert_tests::program::{Ran, command, culvert, is_installed, is_root, run};
use culvert_tests::ssh_stand_in::FarEnd;
use serde_json::Value;

const NOBODY: u32 = 65_534;
const AS_NOBODY: &str = "setpriv --reuid=65534 --regid=65534 --clear-groups";

/// A far end that runs under an unprivileged account.
struct Room {
    room: tempfile::TempDir,
    far: FarEnd,
}

impl Room {
    fn new() -> Option<Self> {
        if !is_root() || !is_installed("setpriv") {
            eprintln!("skipped: this needs root and setpriv (util-linux), to run an end as another account");
            return None;
        }
        let room = tempfile::Builder::new().prefix("culvert-rights-").tempdir().unwrap();
        // If started by nobody, it is nobody already.
        let wrapper = room.path().join("as-nobody");
        fs::write(&wrapper, format!("#!/bin/sh\n[ $(id -u) = 0 ] && exec {AS_NOBODY} \"$@\"\nexec \"$@\"\n")).unwrap();
        set_mode(&wrapper, 0o755);
        let far = FarEnd::new(room.path(), Some(&wrapper));
        // That account may not be able to reach the build.
        assert!(Command::new("cp").arg(culvert()).arg(room.path().join("culvert")).status().unwrap().success());
        set_mode(room.path(), 0o755);
        let made = Self { room, far };
        for name in ["far", "near-of-nobody", "open"] {
            made.make(name, NOBODY);
        }
        for name in ["source", "closed"] {
            made.make(name, 0);
        }
        for name in ["a", "b", "c"] {
            fs::write(made.path("source").join(name), name).unwrap();
        }
        Some(made)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    fn make(&self, name: &str, owner: u32) {
        fs::create_dir(self.path(name)).unwrap();
        chown(self.path(name), Some(owner), Some(owner)).unwrap();
    }

    /// Run by root here, and by nobody there.
    fn run(&self, verb: &str, options: &[&str], paths: &[String]) -> Ran {
        let mut command = self.far.command_that_starts(&self.path("culvert"), &self.path("near"), verb, options);
        command.args(paths).env("HOME", self.path("open")).stdin(Stdio::null()).output().unwrap().into()
    }

    /// Run by nobody at both ends.
    fn run_as_nobody(&self, verb: &str, options: &[&str], paths: &[String]) -> Ran {
        let program = self.path("culvert");
        let asked = self.far.command_that_starts(&program, &self.path("near-of-nobody"), verb, options);
        let mut words = AS_NOBODY.split(' ');
        let mut command = Command::new(words.next().unwrap());
        command.args(words).arg(&program).args(asked.get_args()).args(paths);
        command.env("HOME", self.path("open")).stdin(Stdio::null()).output().unwrap().into()
    }

    fn there(&self, name: &str) -> String {
        FarEnd::place(&self.path(name))
    }

    fn here(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Asserts that it is refused before anything is sent: by a dry run and by the transfer.
fn refused(run: impl Fn(&[&str]) -> Ran, texts: &[&str]) {
    for options in [&["--dry-run"][..], &[]] {
        let ran = run(options).exits(4);
        for text in texts {
            assert!(ran.err.contains(text), "{options:?}: {text}: {}", ran.err);
        }
        assert_eq!(ran.json()["error"]["code"], "not_permitted", "{options:?}: {}", ran.out);
    }
}

/// Regression: a dry run foretold that everything would be sent; a single file was sent whole and
/// then ended with 6.
#[test]
fn a_destination_that_may_not_be_written_to_is_told_before_the_first_byte() {
    let Some(room) = Room::new() else { return };
    let closed = room.here("closed");
    let may_not = ["the account nobody may not write to", closed.as_str()];
    let cases = [
        // A directory, a file, a file under another name, and contents for a directory that is to
        // be created.
        ("source", "closed"),
        ("source/a", "closed"),
        ("source/a", "closed/renamed"),
        ("source/", "closed/new/deeper"),
        ("source/", "closed"),
    ];
    for (source, destination) in cases {
        refused(|options| room.run("send", options, &[room.here(source), room.there(destination)]), &may_not);
        // Here this end, which is nobody's, receives.
        let fetch =
            |options: &[&str]| room.run_as_nobody("get", options, &[room.there(source), room.here(destination)]);
        refused(fetch, &may_not);
    }
    assert_eq!(fs::read_dir(room.path("closed")).unwrap().count(), 0);
    set_mode(&room.path("closed"), 0o744);
    refused(
        |options| room.run("send", options, &[room.here("source/a"), room.there("closed")]),
        &["cannot look at 'a' in", "Permission denied"],
    );
}

/// Regression: a directory that may be entered but not read was refused on the way, although
/// mkdir(1) passes through it, and a dry run said that it could be used.
#[test]
fn a_directory_on_the_way_need_not_be_readable() {
    let Some(room) = Room::new() else { return };
    set_mode(&room.path("closed"), 0o711);
    room.make("closed/mine", NOBODY);
    for (destination, stored) in
        [("closed/mine/new", "closed/mine/new"), ("closed/mine/deep/er/", "closed/mine/deep/er/a")]
    {
        for receive in ["send", "get"] {
            let run = |options: &[&str]| match receive {
                "send" => room.run("send", options, &[room.here("source/a"), room.there(destination)]),
                _ => room.run_as_nobody("get", options, &[room.there("source/a"), room.here(destination)]),
            };
            run(&["--dry-run"]).exits(0);
            run(&[]).exits(0);
            assert_eq!(fs::read(room.path(stored)).unwrap(), b"a", "{receive}");
            fs::remove_file(room.path(stored)).unwrap();
        }
    }
    // The directory in which something is created need not be readable either.
    set_mode(&room.path("closed"), 0o733);
    let into = [room.here("source/"), room.there("closed/in")];
    room.run("send", &["--dry-run"], &into).exits(0);
    room.run("send", &[], &into).exits(0);
    assert_eq!(fs::read(room.path("closed/in/a")).unwrap(), b"a");
    // Where files are stored it must be; the directory that keeps this account out is named.
    for (mode, action, destination) in [(0o733, "read", "closed/new"), (0o700, "enter", "closed/mine/new")] {
        set_mode(&room.path("closed"), mode);
        let named = format!("the account nobody may not {action} {}\n", room.here("closed"));
        let paths = [room.here("source/a"), room.there(destination)];
        refused(|options| room.run("send", options, &paths), &[&named]);
    }
}

/// What is the same already, or goes into directories that are open, needs no rights in the
/// destination itself.
#[test]
fn only_what_is_to_be_made_needs_rights() {
    let Some(room) = Room::new() else { return };
    room.make("closed/source", NOBODY);
    let paths = [room.here("source"), room.there("closed")];
    room.run("send", &["--dry-run"], &paths).exits(0);
    room.run("send", &[], &paths).exits(0);
    assert_eq!(fs::read(room.path("closed/source/c")).unwrap(), b"c");
    // Nothing to do where nothing may be done.
    set_mode(&room.path("closed/source"), 0o555);
    chown(room.path("closed/source"), Some(0), Some(0)).unwrap();
    room.run("send", &["--dry-run"], &paths).exits(0);
    room.run("send", &[], &paths).exits(0);
}

/// Regression: the dry run did not mention them.
#[test]
fn files_of_closed_directories_fail_by_name_and_a_dry_run_foretells_them() {
    let Some(room) = Room::new() else { return };
    room.make("source/sub", 0);
    fs::write(room.path("source/sub/inner"), "inner").unwrap();
    room.make("open/sub", 0);
    let paths = [room.here("source/"), room.there("open")];
    let foretold = room.run("send", &["--dry-run"], &paths).exits(6).json();
    let would = &foretold["would"];
    assert_eq!((&would["counts"]["sent"], &would["counts"]["left_out"]), (&3.into(), &1.into()), "{would}");
    let of_inner = |list: &Value| list.as_array().unwrap().iter().find(|file| file["path"] == "sub/inner").cloned();
    let told = of_inner(&would["files"]).unwrap();
    assert_eq!((&told["action"], &told["reason"]), (&"left_out".into(), &"unwritable".into()));
    assert!(of_inner(&foretold["errors"]).is_some() && foretold["error_count"] == 1, "{foretold}");
    let result = room.run("send", &[], &paths).exits(6).json();
    assert_eq!((&result["files"]["stored"], &result["files"]["failed"]), (&3.into(), &1.into()), "{result}");
    // A directory that cannot be created ends the transfer, so it is not begun.
    room.make("source/sub/more", 0);
    refused(|options| room.run("send", options, &paths), &["cannot make 'more' in", "open/sub", "may not write to it"]);
    // One that the account itself has closed is opened by a transfer that keeps modes, and by no
    // other.
    chown(room.path("open/sub"), Some(NOBODY), Some(NOBODY)).unwrap();
    set_mode(&room.path("open/sub"), 0o555);
    refused(|options| room.run("send", options, &paths), &["may not write to it"]);
    room.run("send", &["--preserve", "--dry-run"], &paths).exits(0);
    room.run("send", &["--preserve"], &paths).exits(0);
    assert_eq!(fs::read(room.path("open/sub/inner")).unwrap(), b"inner");
}

#[test]
fn a_file_system_that_is_mounted_read_only_is_told_before_the_first_byte() {
    let Some(room) = Room::new() else { return };
    if !is_installed("unshare") || !is_installed("mount") {
        eprintln!("skipped: this needs unshare and mount (util-linux)");
        return;
    }
    room.make("mounted", NOBODY);
    // A separate mount for the far end.
    let wrapper = room.path("wrapper");
    let mounted = room.here("mounted");
    let script = format!(
        "#!/bin/sh\nexec unshare --mount --propagation private sh -c 'mount -t tmpfs -o ro none {mounted} && exec \"$@\"' sh \"$@\"\n"
    );
    fs::write(&wrapper, script).unwrap();
    set_mode(&wrapper, 0o755);
    let far = FarEnd::new(room.room.path(), Some(&wrapper));
    for destination in ["mounted", "mounted/new/deeper"] {
        let run = |options: &[&str]| -> Ran {
            let mut command = far.command_that_starts(&room.path("culvert"), &room.path("near"), "send", options);
            command.arg(room.path("source")).arg(room.there(destination)).stdin(Stdio::null());
            command.output().unwrap().into()
        };
        refused(run, &["Read-only file system", "mount it so that it can be written"]);
    }
}

/// Regression: it ended with 6 after a transfer of nothing.
#[test]
fn a_single_source_that_may_not_be_read_is_refused_and_one_of_several_is_left_out() {
    let Some(room) = Room::new() else { return };
    for name in ["source/secret", "source/empty-secret"] {
        fs::write(room.path(name), if name.contains("empty") { "" } else { "secret" }).unwrap();
        set_mode(&room.path(name), 0o600);
    }
    room.make("source/locked", 0);
    set_mode(&room.path("source/locked"), 0o700);
    for name in ["source/secret", "source/empty-secret", "source/locked", "source/locked/"] {
        let may_not = ["the account nobody may not read it", name.trim_end_matches('/')];
        refused(|options| room.run_as_nobody("send", options, &[room.here(name), room.there("open")]), &may_not);
        refused(|options| room.run("get", options, &[room.there(name), room.here("closed")]), &may_not);
    }
    let several = |verb: &str, paths: [String; 3]| {
        // Regression: what could be read was not foretold.
        let foretold = room.run_as_nobody(verb, &["--dry-run"], &paths).exits(6).json();
        let counts = &foretold["would"]["counts"];
        assert_eq!((&counts["sent"], &counts["left_out"]), (&1.into(), &1.into()), "{foretold}");
        let result = room.run_as_nobody(verb, &[], &paths).exits(6).json();
        assert_eq!((&result["files"]["stored"], &result["files"]["failed"]), (&1.into(), &1.into()), "{result}");
        let why = result["errors"][0]["text"].as_str().unwrap();
        assert!(why.contains("the account nobody may not read it") && !why.contains("os error"), "{result}");
    };
    several("send", [room.here("source/a"), room.here("source/secret"), room.there("open")]);
    several("get", [room.there("source/b"), room.there("source/secret"), room.here("open")]);
}

/// Regression: only a directory that did not exist was named.
#[test]
fn verify_names_what_the_account_may_not_use_for_others() {
    let Some(room) = Room::new() else { return };
    let pair = Pair::new();
    let _node = pair.start();
    room.make("locked", 0);
    set_mode(&room.path("locked"), 0o700);
    let (closed, locked, open) = (room.here("closed"), room.here("locked"), room.here("open"));
    for (path, permission) in [(&closed, "both"), (&locked, "read"), (&open, "write")] {
        run(&pair.here, ["profile", "edit", "second", "--permit", &format!("{path}:{permission}")]).exits(0);
    }
    set_mode(&pair.path(""), 0o755);
    let owner = NOBODY.to_string();
    assert!(Command::new("chown").arg("-R").arg(owner).arg(&pair.here).status().unwrap().success());
    let verify = command(&pair.here, ["profile", "verify", "second"]);
    let mut words = AS_NOBODY.split(' ');
    let mut as_nobody = Command::new(words.next().unwrap());
    as_nobody.args(words).arg(room.path("culvert")).args(verify.get_args());
    as_nobody.envs(verify.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let ran: Ran = as_nobody.output().unwrap().into();
    let text = ran.exits(0).out;
    for part in [
        format!("{closed} is permitted to 'second' and cannot be stored in: the account nobody may not write to it"),
        format!("--permit {closed}:read"),
        format!("{locked} is permitted to 'second' and cannot be used: the account nobody may not enter it"),
        format!("--forbid {locked}"),
    ] {
        assert!(text.contains(&part), "{part}: {text}");
    }
    assert!(!text.contains(&open), "{text}");
}
