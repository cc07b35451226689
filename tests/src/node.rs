//! Nodes: running ones that are killed at will, and the state directories of two partners that know
//! each other.

use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::program::{Ran, command_of, culvert, run};

/// How long something may take before a test gives up on it. Not a measurement, only a way to end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Two partners on this host, with a directory into which the first may store and from which it may
/// fetch.
#[derive(Debug)]
pub struct Pair {
    /// The program that both partners run.
    pub program: PathBuf,
    /// Everything is in here.
    pub room: tempfile::TempDir,
    /// The first partner's state directory; this partner makes the requests.
    pub here: PathBuf,
    /// The second's; this partner runs a node.
    pub there: PathBuf,
    /// What the second permits.
    pub shared: PathBuf,
}

impl Pair {
    /// Makes the state directories and the profiles. The node's port is made known later
    /// ([`Pair::meet`]).
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn new() -> Self {
        Self::of(culvert())
    }

    /// As [`Pair::new`], with another build.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn of(program: &Path) -> Self {
        let room = tempfile::Builder::new().prefix("culvert-test-").tempdir().expect("a directory can be made");
        let [here, there, shared] = ["here", "there", "shared"].map(|name| room.path().join(name));
        let pair = Self { program: program.to_owned(), room, here, there, shared };
        pair.introduce();
        pair
    }

    /// As [`Pair::new`], with the second's directories where the test wants them.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn with(room: tempfile::TempDir, there: PathBuf, shared: PathBuf) -> Self {
        let here = room.path().join("here");
        Self::asking_from(room, here, there, shared)
    }

    /// As [`Pair::with`], with the first's state where the test wants it too.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn asking_from(room: tempfile::TempDir, here: PathBuf, there: PathBuf, shared: PathBuf) -> Self {
        let pair = Self { program: culvert().to_owned(), room, here, there, shared };
        pair.introduce();
        pair
    }

    /// Makes the keys and the profile of the first.
    fn introduce(&self) {
        std::fs::create_dir_all(&self.shared).expect("a directory can be made");
        let (our_key, _) = (self.key_of(&self.here), self.key_of(&self.there));
        let permit = format!("{}:both", self.shared.display());
        self.run(&self.there, ["profile", "add", "first", "--key", &our_key, "--permit", &permit]).exits(0);
    }

    /// The partners' program with a state directory and arguments, not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, state: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
        command_of(&self.program, state, arguments)
    }

    /// Runs the partners' program with a state directory.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run<S: AsRef<OsStr>>(&self, state: &Path, arguments: impl IntoIterator<Item = S>) -> Ran {
        self.command(state, arguments).output().expect("the program starts").into()
    }

    fn key_of(&self, state: &Path) -> String {
        key_in(self.run(state, SHOW_KEY))
    }

    /// Starts the second's node on loopback and tells the first where it is.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(&self) -> RunningNode {
        self.start_with(&[])
    }

    /// As [`Pair::start`], with more options.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with(&self, options: &[&str]) -> RunningNode {
        self.start_changed(|starting| {
            starting.args(options);
        })
    }

    /// As [`Pair::start`], with whatever else the test wants to change in the command.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_changed(&self, change: impl FnOnce(&mut Command)) -> RunningNode {
        let arguments = ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "127.0.0.1:0"];
        let mut starting = self.command(&self.there, arguments);
        change(&mut starting);
        let node = RunningNode::start(&self.there, &mut starting);
        self.meet(node.port);
        node
    }

    /// Starts the second's node so that it gives up after `patience_s` on what makes no progress.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_impatient(&self, patience_s: u32) -> RunningNode {
        self.start_changed(|starting| {
            starting.env("CULVERT_PATIENCE", patience_s.to_string());
        })
    }

    /// Tells the first where the second listens.
    ///
    /// # Panics
    /// If that fails.
    pub fn meet(&self, port: u16) {
        let address = format!("127.0.0.1:{port}");
        let known = self.run(&self.here, ["profile", "show", "second"]).code == 0;
        let their_key = self.key_of(&self.there);
        let verb = if known { "edit" } else { "add" };
        self.run(&self.here, ["profile", verb, "second", "--key", &their_key, "--address", &address]).exits(0);
    }

    /// A path in the room.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    /// Sends `source` to `destination` below the shared directory, with output as JSON.
    pub fn send(&self, source: &Path, destination: &str, options: &[&str]) -> Ran {
        let destination = format!("second:{}", self.shared.join(destination).display());
        let mut arguments: Vec<&OsStr> =
            vec!["send".as_ref(), source.as_os_str(), destination.as_ref(), "--json".as_ref()];
        arguments.extend(options.iter().map(OsStr::new));
        self.run(&self.here, arguments)
    }

    /// Fetches `source` from below the shared directory, with output as JSON.
    pub fn get(&self, source: &str, destination: &Path, options: &[&str]) -> Ran {
        let source = format!("second:{}", self.shared.join(source).display());
        let mut arguments: Vec<&OsStr> =
            vec!["get".as_ref(), source.as_ref(), destination.as_os_str(), "--json".as_ref()];
        arguments.extend(options.iter().map(OsStr::new));
        self.run(&self.here, arguments)
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}

/// The key of a state directory, created if there is none.
///
/// # Panics
/// If that fails.
#[must_use]
pub fn key_of(state: &Path) -> String {
    key_in(run(state, SHOW_KEY))
}

/// Makes an identity, and shows it.
const SHOW_KEY: [&str; 3] = ["identity", "--json", "init"];

/// A running node.
#[derive(Debug)]
pub struct RunningNode {
    child: Child,
    log: PathBuf,
    /// Its TCP port.
    pub port: u16,
    /// The port of its metrics.
    pub metrics_port: u16,
}

impl RunningNode {
    /// Starts a node and waits until it listens.
    ///
    /// # Panics
    /// If it does not; the message has what it printed.
    pub fn start(state: &Path, command: &mut Command) -> Self {
        let log = state.join("node.log");
        let running = state.join("node.json");
        let _ = std::fs::remove_file(&running);
        let output = File::options().create(true).append(true).open(&log).expect("a log can be made");
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().expect("a node starts");
        let began = Instant::now();
        loop {
            let json =
                std::fs::read(&running).ok().and_then(|json| serde_json::from_slice::<serde_json::Value>(&json).ok());
            if let Some(json) = json {
                let port = |name: &str| json[name].as_u64().unwrap_or(0) as u16;
                return Self { child, log, port: port("port"), metrics_port: port("metrics_port") };
            }
            let ended = child.try_wait().expect("a child can be waited for");
            let text = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(ended.is_none(), "the node ended: {}", text());
            assert!(began.elapsed() < PATIENCE, "the node does not listen: {}", text());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Its control process.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// Its data plane process, once it has one.
    ///
    /// # Panics
    /// If it never has one.
    #[must_use]
    pub fn data_plane(&self) -> u32 {
        wait_for("a data plane", || data_plane_of(self.child.id()))
    }

    /// What it printed.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Whether it is alive.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Kills it outright, without a chance to do anything.
    pub fn kill(mut self) {
        kill(self.child.id());
        let _ = self.child.wait();
    }

    /// Sends it a signal, and waits for it to exit.
    ///
    /// # Panics
    /// If it cannot be waited for.
    pub fn end_by(mut self, signal: Signal) -> std::process::ExitStatus {
        signal_process(self.child.id(), signal);
        self.child.wait().expect("a child can be waited for")
    }

    /// Its metrics.
    ///
    /// # Panics
    /// If they cannot be read.
    #[must_use]
    pub fn metrics(&self) -> String {
        metrics_from(std::net::TcpStream::connect(("127.0.0.1", self.metrics_port)).expect("metrics are served"))
    }

    /// The value of a series of its metrics; 0 if there is none.
    #[must_use]
    pub fn metric(&self, series: &str) -> f64 {
        let text = self.metrics();
        text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok()).unwrap_or(0.0)
    }
}

/// A node's metrics from the socket in its state directory, which works across namespaces.
///
/// # Panics
/// If they cannot be read.
#[must_use]
pub fn metrics_of(state: &Path) -> String {
    let socket = state.join("api.sock");
    metrics_from(std::os::unix::net::UnixStream::connect(socket).expect("a node serves its API"))
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        if self.is_alive() {
            let _ = kill_process(pid(self.child.id()), Signal::TERM);
            let began = Instant::now();
            while self.is_alive() && began.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(5));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Kills a process outright.
pub fn kill(process: u32) {
    signal_process(process, Signal::KILL);
}

/// Sends a signal to a process, if it exists.
pub fn signal_process(process: u32, signal: Signal) {
    let _ = kill_process(pid(process), signal);
}

/// The data plane that a control process has started.
#[must_use]
pub fn data_plane_of(control: u32) -> Option<u32> {
    children_of(control).into_iter().find(|&child| {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        line.split(|&byte| byte == 0).any(|word| word == b"dataplane")
    })
}

/// The processes that a process has started.
#[must_use]
pub fn children_of(process: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|children| children.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<u32>>())
        .collect()
}

/// The resident memory of a process, in KiB; 0 if it is gone.
#[must_use]
pub fn resident_kib(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}

/// Waits until `look` finds something.
///
/// # Panics
/// If it never does.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The program's path, for processes that ssh starts.
#[must_use]
pub fn program_path() -> String {
    culvert().display().to_string()
}

fn key_in(shown: Ran) -> String {
    let shown = shown.exits(0).json();
    shown["key"].as_str().expect("an identity has a key").to_owned()
}

fn metrics_from(mut stream: impl std::io::Read + std::io::Write) -> String {
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("a request can be sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer can be read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    if head.to_lowercase().contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() }
}

fn unchunk(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let Ok(bytes) = usize::from_str_radix(size.trim(), 16) else { break };
        if bytes == 0 {
            break;
        }
        text.push_str(&rest[..bytes]);
        body = &rest[bytes + 2..];
    }
    text
}

fn pid(process: u32) -> Pid {
    Pid::from_raw(process as i32).expect("a process ID is above zero")
}
