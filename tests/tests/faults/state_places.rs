//! Something in the place of a file, a directory or a socket of the state directory that is of
//! another kind: the error says what it is, where, and what to do, or it is worked around with a
//! warning. Nobody waits for it.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_tests::node::{Pair, RunningNode};
use culvert_tests::program::{Ran, command, culvert, is_root};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// What can be under a name, and what it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    Directory,
    Pipe,
    Socket,
    Dangling,
    Elsewhere,
}

const ALL: [Kind; 6] = [Kind::File, Kind::Directory, Kind::Pipe, Kind::Socket, Kind::Dangling, Kind::Elsewhere];

impl Kind {
    /// Puts it there. A symlink elsewhere leads to `elsewhere`.
    fn put(self, path: &Path, elsewhere: &Path) {
        remove(path);
        match self {
            Self::File => fs::write(path, "a file").unwrap(),
            Self::Directory => fs::create_dir(path).unwrap(),
            Self::Pipe => mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
            Self::Socket => drop(UnixListener::bind(path).unwrap()),
            Self::Dangling => symlink("/nowhere/at/all", path).unwrap(),
            Self::Elsewhere => symlink(elsewhere, path).unwrap(),
        }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Directory => "a directory",
            Self::Pipe => "a pipe",
            Self::Socket => "a socket",
            Self::Dangling | Self::Elsewhere => "a symlink",
        }
    }
}

fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Runs a command, and ends it with a code that no test expects if it hangs.
fn bounded(command: &Command) -> Ran {
    let mut bounded = Command::new("timeout");
    bounded.args(["--signal=KILL", "--preserve-status", "60"]).arg(command.get_program()).args(command.get_args());
    bounded.output().unwrap().into()
}

const NODE: [&str; 7] = ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"];

struct Room {
    room: tempfile::TempDir,
    state: PathBuf,
    /// A file and a directory for symlinks to point to.
    file: PathBuf,
    directory: PathBuf,
}

impl Room {
    fn new() -> Self {
        let room = tempfile::Builder::new().prefix("culvert-places-").tempdir().unwrap();
        let at = |name: &str| room.path().join(name);
        let (state, file, directory) = (at("state"), at("file"), at("directory"));
        fs::write(&file, "elsewhere").unwrap();
        fs::create_dir(&directory).unwrap();
        let room = Self { room, state, file, directory };
        room.run(&["identity", "init"]).exits(0);
        room
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        bounded(&command(&self.state, arguments))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.state.join(name)
    }

    fn start(&self) -> RunningNode {
        RunningNode::start(&self.state, &mut command(&self.state, NODE))
    }

    /// What is elsewhere must not be touched.
    fn assert_elsewhere_is_untouched(&self, case: &str) {
        assert_eq!(fs::read_to_string(&self.file).unwrap(), "elsewhere", "{case}");
        assert_eq!(fs::read_dir(&self.directory).unwrap().count(), 0, "{case}");
    }
}

/// Regression: the error was "File exists", with the advice to check the owner and permissions.
#[test]
fn what_is_no_directory_in_a_directorys_place_is_named() {
    let room = Room::new();
    let configuration = room.room.path().join("culvert.toml");
    fs::write(&configuration, "[archive]\nurl = \"https://127.0.0.1:1/\"\n").unwrap();
    let configuration = configuration.display().to_string();
    for name in
        ["transfers", "receipts", "journals", "profiles", "paths", "tuning", "paths/spool", "tuning/transactions"]
    {
        for kind in ALL.into_iter().filter(|kind| *kind != Kind::Directory) {
            let path = room.path(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            kind.put(&path, &room.file);
            let case = format!("{name}: {kind:?}");
            let commands: &[&[&str]] = match name {
                "paths" => &[&["path", "check", "nobody"]],
                "paths/spool" => &[&["--config", &configuration, "path", "publish"]],
                "tuning" | "tuning/transactions" => &[&["tune", "rollback", "--all"]],
                _ => &[&NODE, &["transfer", "list"]],
            };
            for arguments in commands {
                let ran = room.run(arguments);
                assert_ne!(ran.code, 0, "{case}: {ran:?}");
                let what = format!("it is {} and not a directory", kind.word());
                assert!(
                    ran.err.contains(&what) && ran.err.contains(&path.display().to_string()),
                    "{case}: {}",
                    ran.err
                );
                assert!(!ran.err.contains("run as root") && !ran.err.contains("owner"), "{case}: {}", ran.err);
            }
            room.assert_elsewhere_is_untouched(&case);
            remove(&path);
        }
    }
}

/// A directory may be somewhere else.
#[test]
fn a_symlink_to_a_directory_in_a_directorys_place_is_followed() {
    let room = Room::new();
    for name in ["transfers", "receipts", "journals", "profiles"] {
        let there = room.room.path().join(format!("other {name}"));
        fs::create_dir(&there).unwrap();
        Kind::Elsewhere.put(&room.path(name), &there);
    }
    let _node = room.start();
    room.run(&["transfer", "list"]).exits(0);
}

/// Regression: the lock of a path check waited forever for whoever would read a pipe, and neither
/// error named a remedy.
#[test]
fn what_is_no_file_in_a_locks_place_is_named_and_not_waited_for() {
    let room = Room::new();
    let profile = ["profile", "add", "far", "--key", &"7".repeat(64), "--address", "127.0.0.1:1"];
    room.run(&profile).exits(0);
    fs::create_dir_all(room.path("paths")).unwrap();
    fs::create_dir_all(room.path("tuning")).unwrap();
    let locks: [(&str, &[&str]); 3] = [
        ("node.lock", &NODE),
        ("paths/check.lock", &["path", "check", "far"]),
        ("tuning/lock", &["tune", "rollback", "--all"]),
    ];
    for (name, arguments) in locks {
        for kind in ALL.into_iter().filter(|kind| *kind != Kind::File) {
            let (path, case) = (room.path(name), format!("{name}: {kind:?}"));
            kind.put(&path, &room.file);
            let ran = room.run(arguments);
            let what = format!("it is {} and not a file", kind.word());
            assert!(ran.code != 0 && ran.err.contains(&what), "{case}: {ran:?}");
            assert!(
                ran.err.contains(&path.display().to_string()) && !ran.err.contains("run as root"),
                "{case}: {ran:?}"
            );
            if name != "tuning/lock" {
                assert!(ran.code == 7 && ran.err.contains("move it away"), "{case}: {ran:?}");
            }
            room.assert_elsewhere_is_untouched(&case);
            remove(&path);
        }
    }
    // A file is a lock, whatever it contains.
    Kind::File.put(&room.path("node.lock"), &room.file);
    drop(room.start());
    assert_eq!(fs::read_to_string(room.path("node.lock")).unwrap(), "a file");
}

/// Regression: a file was removed silently, a directory was "Address already in use".
#[test]
fn what_is_no_socket_in_the_sockets_place_is_set_aside() {
    let room = Room::new();
    let (path, aside) = (room.path("api.sock"), room.path("api.sock.damaged"));
    for kind in ALL {
        let case = format!("{kind:?}");
        remove(&aside);
        kind.put(&path, &room.file);
        // No node is running yet.
        room.run(&["status"]).exits(3).says("no node is running");
        let node = room.start();
        if kind == Kind::Socket {
            assert!(!node.log().contains("set aside") && aside.symlink_metadata().is_err(), "{case}: {}", node.log());
        } else {
            let told = format!("{} is damaged (it is {} and not a socket)", path.display(), kind.word());
            assert!(node.log().contains(&told), "{case}: {}", node.log());
            assert!(aside.symlink_metadata().is_ok(), "{case}");
        }
        assert!(path.symlink_metadata().unwrap().file_type().is_socket(), "{case}");
        room.run(&["status"]).exits(0);
        // Under a running node.
        kind.put(&path, &room.file);
        if kind != Kind::Socket {
            let what = format!("{} is {}, not its socket", path.display(), kind.word());
            room.run(&["status"]).exits(7).says(&what).says("restart the node");
            room.run(&["transfer", "list"]).exits(7).says(&what);
        }
        remove(&path);
        room.run(&["status"]).exits(5).says("has no socket").says("restart the node");
        room.assert_elsewhere_is_untouched(&case);
        drop(node);
        let _ = fs::remove_file(room.path("node.log"));
    }
}

/// Regression: a node that had such a directory did not start.
#[test]
fn a_directory_in_the_place_of_what_a_node_writes_is_set_aside() {
    let room = Room::new();
    fs::create_dir_all(room.path("node.json/full")).unwrap();
    let node = room.start();
    assert!(node.log().contains("node.json is damaged (it is a directory and not a file)"), "{}", node.log());
    assert!(room.path("node.json.damaged/full").is_dir());
    room.run(&["status"]).exits(0);
    drop(node);
    // And once more, with the first one in the way.
    fs::create_dir_all(room.path("node.json/full again")).unwrap();
    let node = room.start();
    assert!(room.path("node.json.damaged-2/full again").is_dir(), "{}", node.log());
    room.run(&["status"]).exits(0);
}

/// Regression: a pin that could not be read counted as none: whatever key was presented next was
/// trusted.
#[test]
fn pins_that_cannot_be_read_are_not_taken_for_none() {
    let room = Room::new();
    fs::create_dir_all(room.path("paths")).unwrap();
    for kind in ALL.into_iter().filter(|kind| *kind != Kind::File) {
        kind.put(&room.path("paths/pins.json"), &room.file);
        let ran = room.run(&["path", "pscheduler", "https://127.0.0.1:1", "--trust", "pin"]);
        let what = format!("paths/pins.json cannot be used: it is {}", kind.word());
        assert!(ran.code == 7 && ran.err.contains(&what), "{kind:?}: {ran:?}");
    }
}

/// One that appears while a node is running.
#[test]
fn a_directory_in_the_place_of_the_table_of_keys_is_set_aside_by_who_writes_it() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::write(&source, "content").unwrap();
    let pending = pair.there.join("pending.json");
    fs::create_dir_all(pending.join("full")).unwrap();
    let stranger = pair.path("stranger");
    fs::create_dir(&stranger).unwrap();
    let address = pair.run(&pair.here, ["profile", "show", "second"]).exits(0).out;
    let address =
        address.split(|c: char| c.is_whitespace() || c == '"' || c == ',').find(|word| word.starts_with("127.0.0.1:"));
    let target = format!("culvert://{}/x", address.unwrap());
    let their_key = culvert_tests::node::key_of(&pair.there);
    let port = address.unwrap();
    pair.run(&stranger, ["profile", "add", "node", "--key", &their_key, "--address", port]).exits(0);
    let asked = bounded(&command(&stranger, ["send", "--retries", "0", source.to_str().unwrap(), &target]));
    assert_eq!(asked.code, 4, "{asked:?}");
    assert!(pair.there.join("pending.json.damaged/full").is_dir() && pending.is_file());
    pair.send(&source, "copy", &[]).exits(0);
}

/// Root can read everything, so this takes another user.
#[test]
fn what_may_not_be_read_is_named_with_its_remedy() {
    if !is_root() {
        eprintln!("skipped: it takes root to be somebody else");
        return;
    }
    let room = Room::new();
    room.run(&["profile", "list"]).exits(0);
    drop(room.start());
    let program = room.room.path().join("culvert");
    fs::copy(culvert(), &program).unwrap();
    let owned = Command::new("chown").args(["-R", "65534:65534"]).arg(room.room.path()).status().unwrap();
    assert!(owned.success());
    let as_nobody = |arguments: &[&str]| {
        let asked = command(&room.state, arguments);
        let mut nobody = Command::new("setpriv");
        nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]).arg(&program);
        bounded(nobody.args(asked.get_args()))
    };
    if Command::new("setpriv").arg("--version").output().is_err() {
        eprintln!("skipped: setpriv (util-linux) is not installed");
        return;
    }
    for name in ["transfers", "receipts", "profiles", "node.lock", "identity.pk8"] {
        let path = room.path(name);
        let before = fs::metadata(&path).unwrap().permissions();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o0)).unwrap();
        // Without profiles a node runs, but admits nobody.
        let ran = if name == "profiles" { as_nobody(&["profile", "list"]) } else { as_nobody(&NODE) };
        let is_named = ran.err.contains(&path.display().to_string()) && ran.err.contains("Permission denied");
        assert!(is_named && ran.err.contains("check its owner and permissions"), "{name}: {ran:?}");
        // As for every path to which the account has no access.
        assert_eq!(ran.code, 4, "{name}: {ran:?}");
        fs::set_permissions(&path, before).unwrap();
    }
}
