//! The `culvert` program under test, and what it prints.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use rustix::process::Signal;

/// The program: `CULVERT_BIN`, or the one that cargo builds beside these tests.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn culvert() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("CULVERT_BIN") {
            return path.into();
        }
        // A test is target/PROFILE/deps/test, a benchmark target/PROFILE/benchmark; the program is
        // target/PROFILE/culvert.
        let this = std::env::current_exe().expect("a program knows its own file");
        let directory = this.parent().expect("a program lies in a directory");
        let profile = if directory.ends_with("deps") {
            directory.parent().expect("deps lies in a profile's directory")
        } else {
            directory
        };
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "culvert"]);
        match profile.file_name().and_then(OsStr::to_str) {
            None | Some("debug") => {}
            Some(name) => {
                build.args(["--profile", name]);
            }
        }
        let built = build.status().expect("cargo runs");
        assert!(built.success(), "the program under test does not build");
        profile.join("culvert")
    })
}

/// The outcome of a run of the program.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code.
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
    /// Its standard output as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in the output of {self:?}"))
    }

    /// Checks the exit code.
    ///
    /// # Panics
    /// If it is another one; the message has everything that was printed.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        self
    }

    /// Checks that standard error contains a text.
    ///
    /// # Panics
    /// If it does not.
    #[track_caller]
    pub fn says(self, text: &str) -> Self {
        assert!(self.err.contains(text), "'{text}' is not in: {}", self.err);
        self
    }
}

/// Runs the program with a state directory.
///
/// # Panics
/// If it cannot be started.
pub fn run<S: AsRef<OsStr>>(state: &Path, arguments: impl IntoIterator<Item = S>) -> Ran {
    command(state, arguments).output().expect("the program starts").into()
}

/// The program with a state directory and arguments, not started yet. `CULVERT_` variables of the
/// environment do not reach it.
pub fn command<S: AsRef<OsStr>>(state: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    command_of(culvert(), state, arguments)
}

/// As [`command`], with another build.
pub fn command_of<S: AsRef<OsStr>>(program: &Path, state: &Path, arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CULVERT_")) {
        command.env_remove(name);
    }
    command.arg("--state").arg(state).args(arguments);
    command
}

/// Whether a program is installed.
#[must_use]
pub fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(["/usr/sbin".into()]).any(|directory| directory.join(name).is_file())
}

/// Whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether programs that this one starts react to a signal: under `nohup` a closed terminal ends
/// none, and what a script starts with `&` is not ended by SIGINT or SIGQUIT.
///
/// # Panics
/// If the kernel does not report it.
#[must_use]
pub fn is_heeded(signal: Signal) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").expect("a process may read its own status");
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).expect("it lists ignored signals");
    let ignored = u64::from_str_radix(ignored.trim(), 16).expect("a mask");
    let is_heeded = ignored & (1 << (signal.as_raw() - 1)) == 0;
    if !is_heeded {
        eprintln!("skipped: {signal:?} is ignored by whoever started the tests (nohup, &)");
    }
    is_heeded
}
