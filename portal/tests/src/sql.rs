//! SQL in a portal's database, past the portal: what somebody does who has the database, and what a
//! test looks at itself. SQLite's by Python's own library, so that it is another implementation.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::postgres::Postgres;
use crate::process::{Process, Ran, folder, run};

const PATIENCE: Duration = Duration::from_secs(60);

/// Carries out a statement; prints the rows of a question as `psql` does.
const EXECUTE: &str = "
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=30)
with database:
    for row in database.execute(sys.argv[2]):
        print('|'.join('' if value is None else str(value) for value in row))
";

/// Takes the lock of writers and frees it, over and over.
const LOCK: &str = "
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
print('begun', flush=True)
while True:
    database.execute('BEGIN IMMEDIATE')
    time.sleep(float(sys.argv[2]))
    database.execute('COMMIT')
    time.sleep(float(sys.argv[2]))
";

/// A portal's database.
#[derive(Debug, Clone)]
pub enum Sql {
    /// The file of an SQLite database.
    File(std::path::PathBuf),
    /// The address of a PostgreSQL database of the server that tests share.
    Server(String),
}

impl Sql {
    /// The database of a state directory, or the one at an address.
    #[must_use]
    pub fn of(state: &Path, database: Option<&str>) -> Self {
        database.map_or_else(|| Self::File(state.join("portal.db")), |url| Self::Server(url.to_owned()))
    }

    /// Carries out SQL, and gives the rows of its answer, a line each, with `|` between columns.
    ///
    /// # Panics
    /// If the database says no.
    #[track_caller]
    pub fn run(&self, sql: &str) -> String {
        let ran = match self {
            Self::File(path) => python(EXECUTE, &[&path.display().to_string(), sql]),
            Self::Server(url) => Postgres::shared().expect("PostgreSQL runs").try_psql(url, sql),
        };
        ran.succeeds().out.trim_end().to_owned()
    }

    /// A copy that can be spoiled.
    ///
    /// # Panics
    /// If it cannot be made: somebody is connected to the database of a server.
    #[must_use]
    pub fn copied(&self, file: &Path) -> Self {
        match self {
            Self::File(path) => {
                std::fs::copy(path, file).expect("a database's file can be copied");
                Self::File(file.to_owned())
            }
            Self::Server(url) => {
                let server = Postgres::shared().expect("PostgreSQL runs");
                let copy = server.new_database();
                let [from, to] = [url, &copy].map(|url| url.rsplit('/').next().expect("a database's name").to_owned());
                server.psql(&format!("drop database {to}"));
                server.psql(&format!("create database {to} template {from}"));
                Self::Server(copy)
            }
        }
    }
}

/// A process that takes an SQLite database's lock and frees it, over and over, until it is dropped.
#[derive(Debug)]
pub struct Locker {
    process: Process,
    _folder: tempfile::TempDir,
}

impl Locker {
    /// Starts it.
    ///
    /// # Panics
    /// If Python cannot be started.
    #[must_use]
    pub fn start(file: &Path, hold: Duration) -> Self {
        let folder = folder();
        let mut command = Command::new("python3");
        command.args(["-c", LOCK]).arg(file).arg(hold.as_secs_f64().to_string());
        let process = Process::spawn("locker", command, &folder);
        process.until("taking the lock", PATIENCE, || process.output().contains("begun"));
        Self { process, _folder: folder }
    }

    /// Whether it still does.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_running()
    }
}

/// Runs a script of Python, which needs nothing but Python's own library.
///
/// # Panics
/// If Python cannot be started, or the script does not end.
#[track_caller]
pub fn python(script: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new("python3");
    command.args(["-c", script]).args(arguments);
    run("python3", command, PATIENCE)
}
