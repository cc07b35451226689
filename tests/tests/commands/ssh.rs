//! `user@host:path`: ssh starts the far end, without a daemon, configuration or root there.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use culvert_tests::node::wait_for;
use culvert_tests::program::{Ran, command, culvert, is_installed};
use culvert_tests::random::Random;
use culvert_tests::tree::{assert_same, make_nasty};

/// An ssh server for this user, on loopback.
struct Server {
    child: Child,
    /// `ssh -F config`
    ssh: String,
    room: tempfile::TempDir,
}

impl Server {
    fn start() -> Option<Self> {
        for program in ["sshd", "ssh", "ssh-keygen"] {
            if !is_installed(program) {
                eprintln!("skipped: {program} is not installed");
                return None;
            }
        }
        let room = tempfile::Builder::new().prefix("culvert-ssh-").tempdir().unwrap();
        let at = |name: &str| room.path().join(name);
        for key in ["host", "user"] {
            let made =
                Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key)).status().unwrap();
            assert!(made.success());
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\n",
            at("host").display(),
            at("user.pub").display(),
        );
        fs::write(at("sshd_config"), server).unwrap();
        let client = format!(
            "Host *\nPort {port}\nIdentityFile {}\nIdentitiesOnly yes\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\nLogLevel ERROR\n",
            at("user").display(),
        );
        fs::write(at("ssh_config"), client).unwrap();
        // Far ends of this server are found by the program's name; others run at the same time.
        symlink(culvert(), at("culvert")).unwrap();
        // If sshd runs as root, it needs its directory.
        let _ = fs::create_dir("/run/sshd");
        let program = if Path::new("/usr/sbin/sshd").exists() { "/usr/sbin/sshd" } else { "sshd" };
        let child = Command::new(program)
            .args(["-D", "-f"])
            .arg(at("sshd_config"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the ssh server", || TcpStream::connect(("127.0.0.1", port)).ok());
        Some(Self { child, ssh: format!("ssh -F {}", at("ssh_config").display()), room })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    /// `verb` with sources and destination, over ssh.
    fn run(&self, verb: &str, places: &[String], options: &[&str]) -> Ran {
        let mut culvert_command = command(&self.path("state"), [verb, "--json", "--ssh", &self.ssh]);
        if !options.contains(&"--remote-program") {
            culvert_command.arg("--remote-program").arg(self.path("culvert"));
        }
        culvert_command.args(options).args(places).output().unwrap().into()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn remote(path: &Path) -> String {
    let user = std::env::var("USER").unwrap_or_else(|_| "root".to_owned());
    format!("{user}@127.0.0.1:{}", path.display())
}

#[test]
fn a_tree_goes_there_and_comes_back_over_ssh() {
    let Some(server) = Server::start() else { return };
    let (source, there, back) = (server.path("source"), server.path("there"), server.path("back"));
    fs::create_dir(&source).unwrap();
    make_nasty(&source, &mut Random::new(11));
    let sent = server.run("send", &[source.join("").display().to_string(), remote(&there)], &[]).exits(0).json();
    assert_eq!(sent["state"], "succeeded");
    assert_same(&source, &there);
    server.run("get", &[remote(&there.join("")), back.display().to_string()], &[]).exits(0);
    assert_same(&source, &back);
    // Again: there is nothing to do, and the far end is gone.
    server.run("send", &[source.join("").display().to_string(), remote(&there)], &[]).exits(0);
    let far_ends =
        Command::new("pgrep").args(["-f", &format!("{} far-end", server.path("culvert").display())]).output().unwrap();
    assert!(far_ends.stdout.is_empty(), "a far end remains: {}", String::from_utf8_lossy(&far_ends.stdout));
}

#[test]
fn what_goes_wrong_on_the_way_there_is_said() {
    let Some(server) = Server::start() else { return };
    let source = server.path("file");
    fs::write(&source, "content").unwrap();
    let places = [source.display().to_string(), remote(&server.path("there"))];
    let missing = server.run("send", &places, &["--remote-program", "/nowhere/culvert"]);
    assert_ne!(missing.code, 0);
    assert!(missing.err.contains("/nowhere/culvert"), "{missing:?}");
    let other = server.run("send", &places, &["--remote-program", "/bin/echo", "--retries", "0"]);
    assert_ne!(other.code, 0);
    assert!(other.err.contains("far end"), "{other:?}");
    server
        .run("get", &[remote(&server.path("nothing")), server.path("x").display().to_string()], &[])
        .exits(3)
        .says("nothing");
    // A server that does not exist.
    let mut gone = command(&server.path("state"), ["send", "--ssh", "ssh -p 1 -o BatchMode=yes", "--retries", "0"]);
    let ran: Ran = gone.args(&places).output().unwrap().into();
    assert_ne!(ran.code, 0);
    assert!(ran.err.contains("ssh"), "{ran:?}");
    assert!(!server.path("there").exists());
}
