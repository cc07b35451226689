//! A host in a directory: its own root file system and network namespace, in which commands run as
//! they would on a machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::node::wait_for;
use crate::program::{Ran, is_installed, is_root};

/// Mounts what every host has below the root `$1`, then `$2` onto `$3` and so on, and stays there.
/// The mounts exist only for this process and those that join it, and vanish with them.
const HOLDER: &str = r#"
set -e
root=$1; shift
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
while [ $# -ge 2 ]; do mount --bind "$1" "$root$2"; shift 2; done
exec chroot "$root" sleep infinity
"#;

/// A host that can be entered.
#[derive(Debug)]
pub struct HostRoot {
    holder: Child,
    root: PathBuf,
}

/// Why such hosts are not possible here, if they are not.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !is_root() {
        return Some("a root of one's own needs root");
    }
    ["ip", "unshare", "nsenter", "mount", "chroot"]
        .into_iter()
        .find(|program| !is_installed(program))
        .map(|_| "ip, unshare, nsenter, mount or chroot is not installed")
}

impl HostRoot {
    /// Makes a host from a root directory and a namespace made by `ip netns`; `binds` are
    /// directories of this host and where they appear on the other.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn start(root: &Path, namespace: &str, binds: &[(&Path, &str)]) -> Self {
        for directory in ["proc", "sys", "dev", "run", "tmp"] {
            fs::create_dir_all(root.join(directory)).expect("a directory can be made");
        }
        let mut command = Command::new("ip");
        command.args([
            "netns",
            "exec",
            namespace,
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            HOLDER,
        ]);
        command.arg("holder").arg(root);
        for (from, to) in binds {
            command.arg(from).arg(to);
        }
        let holder = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("ip starts");
        let mut host = Self { holder, root: root.to_owned() };
        // Each of them execs the next, so the process stays the same.
        let name = format!("/proc/{}/comm", host.holder.id());
        wait_for("a host", || {
            let ended = host.holder.try_wait().expect("a child can be waited for");
            assert!(ended.is_none(), "the host's root cannot be mounted");
            fs::read_to_string(&name).is_ok_and(|name| name.trim() == "sleep").then_some(())
        });
        host
    }

    /// A path of the host as seen from this one.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The process ID by which `nsenter --target` finds the host.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.holder.id()
    }

    /// A command on the host, as root with root's environment.
    #[must_use]
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.holder.id()));
        command.args(["--mount", "--net", "--root", "--wd", "--"]).args(words);
        command.env_clear().env("HOME", "/root").env("LC_ALL", "C.UTF-8").env("DEBIAN_FRONTEND", "noninteractive");
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin").stdin(Stdio::null());
        command
    }

    /// Runs a line of shell on the host.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run(&self, line: &str) -> Ran {
        self.command(&["sh", "-c", line]).output().expect("nsenter starts").into()
    }

    /// Starts a program on the host that ends with the test.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start_program(&self, words: &[&str]) -> Program {
        Program(self.command(words).stdout(Stdio::null()).spawn().expect("nsenter starts"))
    }
}

impl Drop for HostRoot {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A program running on a host.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Ends it as a service manager does.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn end(mut self) {
        crate::node::signal_process(self.0.id(), rustix::process::Signal::TERM);
        self.0.wait().expect("a child can be waited for");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            crate::node::signal_process(self.0.id(), rustix::process::Signal::TERM);
            for _ in 0..200 {
                if !matches!(self.0.try_wait(), Ok(None)) {
                    return;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
}
