//! Whose node a command is about: with real accounts, and the test's own `/var/lib` (decision
//! 0076).

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use culvert_tests::node::wait_for;
use culvert_tests::program::{Ran, culvert, is_installed, is_root};

/// The node's account, and somebody else's: every Debian has both.
const NODE: (&str, u32) = ("daemon", 1);
const USER: (&str, u32) = ("nobody", 65_534);

/// A host with a state directory of the system's node.
struct HostRoom {
    room: tempfile::TempDir,
}

impl HostRoom {
    fn new() -> Option<Self> {
        if !is_root() {
            eprintln!("skipped: accounts and mounts need root");
            return None;
        }
        for program in ["unshare", "setpriv", "mount"] {
            if !is_installed(program) {
                eprintln!("skipped: {program} is not installed");
                return None;
            }
        }
        let room = tempfile::Builder::new().prefix("culvert-test-").tempdir().unwrap();
        let host = Self { room };
        for (directory, uid) in [("", 0), ("lib", 0), ("lib/culvert", NODE.1), ("home-0", 0), ("home-1", NODE.1)] {
            host.make(directory, uid);
        }
        host.make("home-65534", USER.1);
        host.make("data", NODE.1);
        fs::set_permissions(host.path("lib/culvert"), fs::Permissions::from_mode(0o700)).unwrap();
        // Placed where every account may read it.
        fs::copy(culvert(), host.path("culvert")).unwrap();
        Some(host)
    }

    fn make(&self, name: &str, uid: u32) {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        std::os::unix::fs::chown(&path, Some(uid), Some(uid)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    /// The program as run by an account of the host, without any option of its own.
    fn command(&self, uid: u32, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c"]);
        command.arg(r#"mount --bind "$0" /var/lib && cd "$1" && shift && exec "$@""#);
        command.arg(self.path("lib")).arg(self.path("data"));
        if uid != 0 {
            let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
            command.args(["setpriv", &user, &group, "--clear-groups", "--"]);
        }
        command.arg(self.path("culvert")).args(arguments).env_clear().env("HOME", self.path(&format!("home-{uid}")));
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
        command
    }

    fn run(&self, uid: u32, arguments: &[&str]) -> Ran {
        self.command(uid, arguments).output().unwrap().into()
    }

    fn key(&self, uid: u32, arguments: &[&str]) -> String {
        self.run(uid, arguments).exits(0).json()["key"].as_str().unwrap().to_owned()
    }

    /// Starts the node as its account.
    fn start(&self) -> RunningNode {
        let arguments = ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"];
        let child = self.command(NODE.1, &arguments).stderr(Stdio::null()).spawn().unwrap();
        let node = RunningNode(child);
        wait_for("the node", || self.path("lib/culvert/node.json").exists().then_some(()));
        node
    }
}

struct RunningNode(Child);

impl Drop for RunningNode {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn assert_owned(directory: &Path, uid: u32) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let found = entry.metadata().unwrap();
        assert_eq!(found.uid(), uid, "{} belongs to somebody else", entry.path().display());
        if found.is_dir() {
            assert_owned(&entry.path(), uid);
        }
    }
}

/// Regression: what root typed created root's files in the node's directory, or showed root's own
/// key.
#[test]
fn root_administers_the_systems_node_as_its_account() {
    let Some(host) = HostRoom::new() else { return };
    let own = host.path("home-0/.local/state/culvert").display().to_string();
    let roots = host.key(0, &["--state", &own, "identity", "--json", "init"]);
    let shown = host.run(0, &["identity", "--json", "init"]).exits(0).says(&format!("--state {own} identity"));
    let nodes = shown.json()["key"].as_str().unwrap().to_owned();
    assert_ne!(nodes, roots);
    assert_eq!(shown.json()["file"], "/var/lib/culvert/identity.pk8");
    // The account itself needs no option either, whatever its home is.
    assert_eq!(host.key(NODE.1, &["identity", "--json"]), nodes);

    let permit = format!("{}:write", host.path("data").display());
    host.run(0, &["profile", "add", "lab-a", "--key", &roots, "--permit", &permit]).exits(0);
    host.run(0, &["transfer", "list"]).exits(0);
    // Naming the directory makes no difference.
    host.run(0, &["--state", "/var/lib/culvert", "profile", "edit", "lab-a", "--address", "a.example.org"]).exits(0);
    assert_owned(&host.path("lib/culvert"), NODE.1);
    // What the node may not reach is not permitted by root's privileges.
    fs::create_dir(host.path("closed")).unwrap();
    fs::create_dir(host.path("closed/in")).unwrap();
    fs::set_permissions(host.path("closed"), fs::Permissions::from_mode(0o700)).unwrap();
    let permit = format!("{}:write", host.path("closed/in").display());
    host.run(0, &["profile", "edit", "lab-a", "--permit", &permit]).exits(4).says("Permission denied");

    // Root's own transfers are root's, and say where else there are profiles.
    let sent = host.run(0, &["send", "culvert", "lab-a:/x"]);
    assert_ne!(sent.code, 0);
    let _ = sent.says("no profile 'lab-a'").says("sudo -u daemon culvert --state /var/lib/culvert profile list");
    assert_owned(&host.path("lib/culvert"), NODE.1);
}

/// Regression: it ran with root's own state and key, while `culvert identity` showed root the
/// system's.
#[test]
fn root_starts_no_node_of_its_own_by_mistake() {
    let Some(host) = HostRoom::new() else { return };
    let node = ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"];
    let refused = host.run(0, &node).exits(7).says("systemctl start culvert").says("sudo -u daemon culvert node");
    let _ = refused.says("/var/lib/culvert, which belongs to daemon").says("--state");
    assert!(!host.path("home-0/.local").exists(), "nothing is made");
    // One that is named is intended.
    let own = host.path("own");
    let mut command = host.command(0, &[&node[..], &["--state", own.to_str().unwrap()]].concat());
    let _running = RunningNode(command.stderr(Stdio::null()).spawn().unwrap());
    wait_for("root's node", || own.join("node.json").exists().then_some(()));
    // Nor does root's node get in the way of the account itself.
    let _systems = host.start();
}

#[test]
fn who_has_no_node_is_told_of_the_systems() {
    let Some(host) = HostRoom::new() else { return };
    let nodes = host.key(NODE.1, &["identity", "--json", "init"]);
    let shown = host.run(USER.1, &["identity"]).exits(3).says("'culvert identity init' creates one");
    let _ = shown.says("sudo -u daemon culvert --state /var/lib/culvert identity");
    // One left by a transfer over ssh.
    let own = host.run(USER.1, &["identity", "--json", "init"]).exits(0).says("the system's node has another");
    assert_ne!(own.json()["key"].as_str().unwrap(), nodes);
    host.run(USER.1, &["status"])
        .exits(3)
        .says("no node is running")
        .says("sudo -u daemon culvert --state /var/lib/culvert");
    host.run(USER.1, &["profile", "show", "x"]).exits(3).says("sudo -u daemon");
    for command in [&["identity"][..], &["profile", "list"], &["status"], &["transfer", "list"], &["path", "history"]] {
        let ran = host.run(USER.1, &[&["--state", "/var/lib/culvert"], command].concat()).exits(4);
        let _ = ran
            .says("Permission denied")
            .says("belongs to daemon")
            .says("sudo -u daemon culvert --state /var/lib/culvert");
    }
    // The directory that was named, not one above it.
    let locked = host.path("locked");
    fs::create_dir(&locked).unwrap();
    fs::set_permissions(&locked, fs::Permissions::from_mode(0o700)).unwrap();
    let state = locked.join("x").display().to_string();
    for command in [&["identity"][..], &["identity", "init"], &["status"], &["profile", "list"]] {
        let ran = host.run(USER.1, &[&["--state", &state], command].concat()).exits(4);
        let _ = ran.says(&format!("culvert --state {state} "));
    }
    let pages = locked.join("pages").display().to_string();
    host.run(USER.1, &["completion", "man", "--directory", &pages]).exits(4).says("Permission denied");
}

#[test]
fn a_node_that_runs_is_found_by_root_and_denied_to_nobody() {
    let Some(host) = HostRoom::new() else { return };
    let _node = host.start();
    let status = host.run(0, &["status", "--json"]).exits(0).json();
    let nodes = host.key(NODE.1, &["identity", "--json"]);
    assert_eq!(host.key(0, &["identity", "--json"]), nodes);
    assert!(status["dataplane"]["process_id"].as_u64().is_some(), "{status}");
    // Root's file, where the node's account may not write.
    let capture = host.path("home-0/capture.pcap");
    host.run(0, &["capture", "--seconds", "1", capture.to_str().unwrap()]).exits(0);
    assert_eq!(fs::metadata(&capture).unwrap().uid(), 0);
    let unwritable = host.path("lib/culvert/no/capture.pcap");
    host.run(0, &["capture", "--seconds", "1", unwritable.to_str().unwrap()]).exits(3).says("cannot write the capture");
    let ran = host.run(USER.1, &["--state", "/var/lib/culvert", "status"]).exits(4).says("Permission denied");
    assert!(!ran.err.contains("no node is running"), "{ran:?}");
    // A socket that can be seen but not used.
    fs::set_permissions(host.path("lib/culvert"), fs::Permissions::from_mode(0o755)).unwrap();
    let ran = host.run(USER.1, &["--state", "/var/lib/culvert", "status"]).exits(4).says("sudo -u daemon");
    assert!(!ran.err.contains("no node is running"), "{ran:?}");
    assert_owned(&host.path("lib/culvert"), NODE.1);
}
