//! The real program `culvert`, as somebody types it who uses a portal: with a state directory of
//! their own, in which it keeps the tokens.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::{Process, Ran, folder, run};
use crate::program::built;

/// Longer than any command takes on a loaded host.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program: `CULVERT_BIN`, or the one that cargo builds beside these tests.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn culvert() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built("culvert", "CULVERT_BIN"))
}

/// Somebody who types commands.
#[derive(Debug)]
pub struct CommandLine {
    home: TempDir,
}

impl Default for CommandLine {
    fn default() -> Self {
        Self::new()
    }
}

impl CommandLine {
    /// With an empty home directory.
    #[must_use]
    pub fn new() -> Self {
        Self { home: folder() }
    }

    /// Something in their home directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    /// Writes a file of their home directory; gives its path.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
        self.path(name).display().to_string()
    }

    /// Where the tokens are kept.
    #[must_use]
    pub fn kept_file(&self) -> PathBuf {
        self.path("state/culvert/portals.json")
    }

    /// What is kept.
    ///
    /// # Panics
    /// If that is no JSON.
    #[must_use]
    pub fn kept(&self) -> Value {
        let text = fs::read_to_string(self.kept_file()).unwrap_or_else(|_| "{\"portals\":[]}".to_owned());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The portals that they are logged in to, the one that is used last.
    #[must_use]
    pub fn portals(&self) -> Vec<String> {
        let kept = self.kept();
        let portals = kept["portals"].as_array().cloned().unwrap_or_default();
        portals.iter().filter_map(|login| login["url"].as_str().map(str::to_owned)).collect()
    }

    /// A command that is not started yet.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(culvert());
        self.dress(&mut command);
        command.args(arguments);
        command
    }

    /// Gives a command their home directory, and no settings from elsewhere.
    pub fn dress(&self, command: &mut Command) {
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CULVERT_")) {
            command.env_remove(name);
        }
        command.env("HOME", self.home.path()).env("XDG_STATE_HOME", self.path("state"));
        command.env("XDG_CONFIG_HOME", self.path("configuration")).current_dir(self.home.path());
    }

    /// Runs a command to its end.
    ///
    /// # Panics
    /// If it does not end.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        run("culvert", self.command(arguments), PATIENCE)
    }

    /// Starts a command that waits for somebody.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>, outputs: &TempDir) -> Process {
        Process::spawn("culvert", self.command(arguments), outputs)
    }
}

impl Ran {
    /// Makes sure that it failed with an exit code, and said something on standard error.
    ///
    /// # Panics
    /// With everything that it printed, if not.
    #[track_caller]
    pub fn fails(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "'{word}' is not in: {}", self.err);
        }
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
