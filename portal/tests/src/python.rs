//! Python with packages from PyPI, in fixed versions.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::cache::made_once;
use crate::process::{Ran, attempt, folder, need, or_skip, run_with};

/// Validates descriptions of APIs, tests a server against its description, and makes a client of
/// it.
pub const OPEN_API: &[&str] =
    &["openapi-spec-validator==0.9.0", "schemathesis==4.32.5", "openapi-python-client==0.29.1"];

/// How long a program may run.
const PATIENCE: Duration = Duration::from_secs(600);

/// A virtual environment.
#[derive(Debug, Clone)]
pub struct Python {
    program: PathBuf,
}

impl Python {
    /// With packages, each as `name==version`, kept under a name; or prints why the test is
    /// skipped.
    #[must_use]
    pub fn with(name: &str, packages: &[&str]) -> Option<Self> {
        or_skip(found(name, packages))
    }

    /// With what tests descriptions of APIs, [`OPEN_API`].
    #[must_use]
    pub fn open_api() -> Option<Self> {
        Self::with("open-api", OPEN_API)
    }

    /// A command that runs Python with arguments.
    #[must_use]
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).env_remove("PYTHONPATH").env("PYTHONUNBUFFERED", "1");
        // Programs of the packages call each other: `ruff` formats what a generator writes.
        let programs = self.program.parent().map(PathBuf::from);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = programs.into_iter().chain(std::env::split_paths(&path));
        command.env("PATH", std::env::join_paths(all).expect("folders of PATH have no colons"));
        command
    }

    /// Runs Python with arguments to its end: `["-m", "schemathesis.cli", "run", …]`. It runs in a
    /// folder that is removed afterwards, since some programs leave their files there: paths in
    /// arguments are whole.
    ///
    /// # Panics
    /// With its output, if it hangs.
    #[track_caller]
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Ran {
        let folder = folder();
        let mut command = self.command(arguments);
        command.current_dir(folder.path());
        run_with("python", command, &folder, PATIENCE)
    }
}

fn found(name: &str, packages: &[&str]) -> Result<Python, String> {
    let python = need("python3")?;
    // An environment is of one version of Python.
    let version = attempt(Command::new(&python).args(["-c", "import sys; print(sys.prefix, sys.version)"]))?;
    let contents = format!("{version}{}", packages.join("\n"));
    let folder = made_once(&format!("pypi-{name}"), &contents, |folder| {
        attempt(Command::new(&python).args(["-m", "venv"]).arg(folder))?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
        attempt(&mut pip).map(drop)
    })?;
    Ok(Python { program: folder.join("bin/python") })
}
