//! Processes that a test starts: ended with the test, however it ends, and heard when it fails.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tempfile::TempDir;

/// How long a process may take to end before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How often a condition is looked at.
const PAUSE: Duration = Duration::from_millis(10);
/// How many lines of a process's output a failed test shows.
const SHOWN_LINES: usize = 60;

/// Reads one line. If the test process ends before it has written one, ends a process group, waits
/// for it, and removes its folder: nothing in a killed process can do that.
const GUARD: &str = r#"
trap '' HUP INT QUIT TERM
read -r dismissed && exit
kill -s "$1" -- "-$2"
tries=0
while kill -s 0 -- "-$2" && ! grep -q '^State:.Z' "/proc/$2/status" && [ $tries -lt 50 ]; do
    sleep 0.1
    tries=$((tries + 1))
done
kill -s KILL -- "-$2"
rm -rf -- "$3"
"#;

/// A process in a group of its own, which is ended when this is dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    guard: Option<Guard>,
    ending: Signal,
    outputs: [PathBuf; 2],
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a command whose output goes to files in a folder. If this process is killed, the
    /// folder is removed.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn spawn(name: &str, command: Command, folder: &TempDir) -> Self {
        Self::spawn_ended_by(Signal::TERM, name, command, folder)
    }

    /// As [`Process::spawn`], for a program that another signal than SIGTERM ends best.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn spawn_ended_by(ending: Signal, name: &str, mut command: Command, folder: &TempDir) -> Self {
        use std::os::unix::process::CommandExt as _;
        let outputs = ["out", "err"].map(|ending| folder.path().join(format!("{name}.{ending}")));
        let [out, err] = outputs.each_ref().map(|path| {
            let file = File::options().create(true).append(true).open(path);
            file.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        });
        command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
        let child = command.spawn().unwrap_or_else(|error| panic!("{name} does not start: {error}: {command:?}"));
        let guard = Some(Guard::of(&child, ending, folder.path()));
        Self { name: name.to_owned(), child, guard, ending, outputs, status: None }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed: standard output, then standard error.
    #[must_use]
    pub fn output(&self) -> String {
        let [out, err] = self.outputs.each_ref().map(|path| read(path));
        out + &err
    }

    /// Whether it has not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.status.is_none() && !has_ended(&self.child)
    }

    /// Sends a signal to it and to what it has started, unless it has ended.
    pub fn signal(&self, signal: Signal) {
        if self.status.is_none() {
            // The group is gone if all of them have ended.
            let _ = kill_process_group(group(&self.child), signal);
        }
    }

    /// Waits until it has ended. `None` if it has not within that time.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        while self.is_running() {
            if Instant::now() >= deadline {
                return None;
            }
            sleep(PAUSE);
        }
        if self.status.is_none() {
            self.guard = None;
            // Before the child is reaped: its id still names its group.
            self.signal(Signal::KILL);
            self.status = self.child.wait().ok();
        }
        self.status
    }

    /// Waits until it is as it should be.
    ///
    /// # Panics
    /// With its output, if it ends, or is not within that time.
    #[track_caller]
    pub fn until(&self, what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + patience;
        while !is_so() {
            assert!(self.is_running(), "{} has ended instead of {what}:\n{}", self.name, self.last_lines());
            let is_late = Instant::now() >= deadline;
            assert!(!is_late, "{}: {what} took more than {patience:?}:\n{}", self.name, self.last_lines());
            sleep(PAUSE);
        }
    }

    /// Ends it by a signal, or by SIGKILL if that takes too long.
    pub fn end_by(&mut self, signal: Signal) {
        self.signal(signal);
        if self.wait(GRACE).is_none() {
            self.signal(Signal::KILL);
            self.wait(GRACE);
        }
    }

    fn last_lines(&self) -> String {
        let output = self.output();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_by(self.ending);
        if std::thread::panicking() {
            eprintln!("---- {} said ----\n{}", self.name, self.last_lines());
        }
    }
}

/// The outcome of a program that ran to its end.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Ran {
    /// Makes sure that it succeeded.
    ///
    /// # Panics
    /// With everything that it printed, if it did not.
    #[track_caller]
    #[must_use]
    pub fn succeeds(self) -> Self {
        assert_eq!(self.code, 0, "out: {}\nerr: {}", self.out, self.err);
        self
    }
}

/// Runs a command to its end, in a group of its own with all that it starts.
///
/// # Panics
/// With its output, if it cannot be started or does not end within that time.
#[track_caller]
pub fn run(name: &str, command: Command, patience: Duration) -> Ran {
    run_with(name, command, &folder(), patience)
}

/// As [`run`], with the files of its output in a folder that the command uses too: it is removed
/// when this process is killed.
///
/// # Panics
/// As [`run`].
#[track_caller]
pub fn run_with(name: &str, command: Command, folder: &TempDir, patience: Duration) -> Ran {
    let mut process = Process::spawn(name, command, folder);
    let status = process.wait(patience);
    let status = status.unwrap_or_else(|| panic!("{name} runs longer than {patience:?}"));
    let [out, err] = process.outputs.each_ref().map(|path| read(path));
    Ran { code: status.code().unwrap_or(-1), out, err }
}

/// Runs a command that need not succeed, and says how it failed.
///
/// # Errors
/// If it fails: the end of what it printed.
pub fn attempt(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    let ran = Ran::from(output);
    if ran.code == 0 {
        return Ok(ran.out);
    }
    let said = [ran.out, ran.err].concat();
    Err(format!("{program} failed: {}", said.trim().lines().last().unwrap_or_default()))
}

/// Where a program is installed, for users or for root.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(program)).find(|path| path.is_file())
}

/// As [`find`], with the reason to skip a test where it is not.
///
/// # Errors
/// If it is not installed.
pub fn need(program: &str) -> Result<PathBuf, String> {
    find(program).ok_or_else(|| format!("{program} is not installed"))
}

/// Prints the reason why a test is skipped, if there is one.
#[must_use]
pub fn or_skip<T>(found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

/// Writes a file that only its owner may read, as the portal wants files with secrets.
///
/// # Panics
/// If it cannot be written.
pub fn write_secret(path: &Path, content: impl AsRef<[u8]>) {
    std::fs::write(path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(path, private).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// A temporary folder, removed when it is dropped.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn folder() -> TempDir {
    tempfile::Builder::new().prefix("culvert-").tempdir().expect("a temporary folder can be made")
}

/// Ends a process if the test process ends without having done so.
#[derive(Debug)]
struct Guard {
    shell: Child,
    line: Option<ChildStdin>,
}

impl Guard {
    fn of(child: &Child, ending: Signal, folder: &Path) -> Self {
        use std::os::unix::process::CommandExt as _;
        let mut shell = Command::new("sh");
        shell.args(["-c", GUARD, "guard"]).arg(ending.as_raw().to_string()).arg(child.id().to_string()).arg(folder);
        shell.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/").process_group(0);
        let mut shell = shell.spawn().unwrap_or_else(|error| panic!("sh does not start: {error}"));
        let line = shell.stdin.take();
        Self { shell, line }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        use std::io::Write as _;
        if let Some(mut line) = self.line.take() {
            // It has gone only if somebody killed it.
            let _ = line.write_all(b"dismissed\n");
        }
        let _ = self.shell.wait();
    }
}

/// Whether a child has ended. It is not reaped: as long as it is not, nobody else gets its id.
fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(waitid(WaitId::Pid(group(child)), options), Ok(None))
}

/// The child's group, which has its id.
fn group(child: &Child) -> Pid {
    Pid::from_child(child)
}

fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn exists(id: u32) -> bool {
        Path::new("/proc").join(id.to_string()).exists()
    }

    #[test]
    fn what_a_process_has_started_ends_with_it() {
        let folder = folder();
        let process = Process::spawn("family", shell("sleep 100 & echo $!; wait"), &folder);
        process.until("starting", GRACE, || process.output().ends_with('\n'));
        let (parent, child) = (process.id(), process.output().trim().parse().unwrap());
        assert!(exists(parent) && exists(child));
        drop(process);
        assert!(!exists(parent));
        // The child is reaped by whoever adopts it.
        let deadline = Instant::now() + GRACE;
        let is_gone = || fs::read_to_string(format!("/proc/{child}/stat")).map_or(true, |stat| stat.contains(") Z "));
        while !is_gone() && Instant::now() < deadline {
            sleep(PAUSE);
        }
        assert!(is_gone());
    }

    #[test]
    fn the_guard_ends_it_when_nobody_has_dismissed_it() {
        let folder = folder();
        let kept = folder.path().to_owned();
        let mut process = Process::spawn("orphan", shell("sleep 100"), &folder);
        // As when this process is killed.
        let mut guard = process.guard.take().unwrap();
        guard.line = None;
        drop(guard);
        assert!(!process.is_running());
        assert!(!kept.exists());
        assert_eq!(process.wait(GRACE).unwrap().code(), None);
    }

    #[test]
    fn a_process_ends_when_its_test_panics() {
        let folder = folder();
        let process = Process::spawn("left", shell("sleep 100"), &folder);
        let id = process.id();
        let panicked = std::thread::spawn(move || panic!("as a test would, with {process:?}")).join();
        assert!(panicked.is_err() && !exists(id));
    }

    #[test]
    fn a_run_has_both_outputs_and_the_exit_code() {
        let ran = run("three", shell("echo out; echo err >&2; exit 3"), GRACE);
        assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (3, "out\n", "err\n"));
        let why = attempt(&mut shell("echo first; echo last >&2; exit 1")).unwrap_err();
        assert_eq!(why, "sh failed: last");
    }
}
