//! PostgreSQL: a server of its own cluster, with databases that are empty.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::ports::{Port, wait_for};
use crate::process::{Process, Ran, attempt, find, folder, need, or_skip, run};

/// How long a start may take, with recovery after a crash, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// The role that owns everything; it needs no password.
const ROLE: &str = "culvert";

/// A server with its cluster of databases. Ended and removed when it is dropped.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    account: Option<Account>,
    port: Port,
    // Before the folder: the server ends before its files go.
    process: Mutex<Option<Process>>,
    folder: TempDir,
}

impl Postgres {
    /// Makes a cluster and starts its server, or prints why the test is skipped.
    ///
    /// # Panics
    /// If it does not start although it is installed.
    #[must_use]
    pub fn start() -> Option<Self> {
        let (programs, account) = or_skip(installed())?;
        let folder = folder();
        let postgres = Self { programs, account, port: Port::reserve(), process: Mutex::new(None), folder };
        postgres.initialize();
        postgres.restart();
        Some(postgres)
    }

    /// The server that all tests of this process share. It ends with the process; who takes it away
    /// from the others with [`Postgres::stop`] should have started one.
    #[must_use]
    pub fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Postgres>> = OnceLock::new();
        SHARED.get_or_init(Self::start).as_ref()
    }

    /// Where it takes connections over TCP.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The address of the database that is always there, over TCP.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The same over the server's Unix socket.
    #[must_use]
    pub fn socket_url(&self) -> String {
        let folder: String = url::form_urlencoded::byte_serialize(self.socket_folder().as_bytes()).collect();
        format!("postgresql://{ROLE}@localhost/postgres?host={folder}&port={}", self.port.number())
    }

    /// Makes a fresh empty database and returns its address.
    ///
    /// # Panics
    /// If the server does not run.
    #[must_use]
    pub fn new_database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        self.psql(&format!("create database {name}"));
        self.url_of(&name)
    }

    /// Carries out SQL in the database that is always there; returns what it prints, without
    /// headings.
    ///
    /// # Panics
    /// If the server says no, or does not run.
    #[track_caller]
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in(&self.url(), sql)
    }

    /// As [`Postgres::psql`], in another database, or through a proxy.
    ///
    /// # Panics
    /// As [`Postgres::psql`].
    #[track_caller]
    pub fn psql_in(&self, url: &str, sql: &str) -> String {
        self.try_psql(url, sql).succeeds().out.trim_end().to_owned()
    }

    /// As [`Postgres::psql_in`], where it may fail.
    ///
    /// # Panics
    /// If it hangs.
    pub fn try_psql(&self, url: &str, sql: &str) -> Ran {
        let mut command = Command::new(self.programs.join("psql"));
        command.args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--set=ON_ERROR_STOP=1"]);
        command.args(["--command", sql, "--dbname", url]);
        run("psql", command, PATIENCE)
    }

    /// Runs one of its client programs: `pg_dump`, `pg_restore`.
    ///
    /// # Panics
    /// If it fails.
    #[track_caller]
    pub fn run_client<'a>(&self, program: &str, arguments: impl IntoIterator<Item = &'a str>) -> Ran {
        let mut command = Command::new(self.programs.join(program));
        command.args(arguments);
        run(program, command, PATIENCE).succeeds()
    }

    /// Ends the server as an administrator would: transactions are rolled back, connections closed.
    ///
    /// # Panics
    /// If another test has panicked meanwhile.
    pub fn stop(&self) {
        self.end_by(Signal::INT);
    }

    /// Ends the server as a crash does: nothing is finished, and the next start recovers.
    ///
    /// # Panics
    /// If another test has panicked meanwhile.
    pub fn kill(&self) {
        self.end_by(Signal::QUIT);
    }

    /// Starts the server, after it was ended if it runs. Its addresses stay the same.
    ///
    /// # Panics
    /// If it does not start.
    pub fn restart(&self) {
        self.stop();
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        let settings = [
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port.number()),
            format!("unix_socket_directories={}", self.socket_folder()),
            "max_connections=200".to_owned(),
            "shared_buffers=32MB".to_owned(),
            // The machine does not crash, only the server.
            "fsync=off".to_owned(),
            "full_page_writes=off".to_owned(),
        ];
        for setting in settings {
            command.args(["-c", &setting]);
        }
        // When this process dies, SIGQUIT ends the server's own children too, and leaves no shared
        // memory behind as SIGKILL does.
        let process = Process::spawn_ended_by(Signal::QUIT, "postgres", command, &self.folder);
        // It takes connections before it is ready to talk.
        wait_for(&process, self.address(), PATIENCE);
        let is_ready = || attempt(self.command("pg_isready").args(["--quiet", "--dbname", &self.url()])).is_ok();
        process.until("being ready", PATIENCE, is_ready);
        *self.lock_process() = Some(process);
    }

    /// What the server has logged.
    ///
    /// # Panics
    /// If another test has panicked meanwhile.
    #[must_use]
    pub fn log(&self) -> String {
        self.lock_process().as_ref().map(Process::output).unwrap_or_default()
    }

    /// The server's process id, if it runs.
    ///
    /// # Panics
    /// If another test has panicked meanwhile.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.lock_process().as_ref().map(Process::id)
    }

    fn initialize(&self) {
        if let Some(account) = &self.account {
            let owned = std::os::unix::fs::chown(self.folder.path(), Some(account.user), Some(account.group));
            owned.unwrap_or_else(|error| panic!("{}: {error}", self.folder.path().display()));
        }
        let mut command = self.command("initdb");
        command.arg("-D").arg(self.data()).args(["--username", ROLE, "--auth=trust", "--encoding=UTF8"]);
        command.args(["--locale=C", "--no-sync", "--no-instructions"]);
        attempt(&mut command).unwrap_or_else(|why| panic!("no cluster of PostgreSQL: {why}"));
    }

    fn end_by(&self, signal: Signal) {
        if let Some(mut process) = self.lock_process().take() {
            process.end_by(signal);
        }
    }

    /// A program of the server, as the account that may run it, in a folder that this may enter.
    fn command(&self, program: &str) -> Command {
        let program = self.programs.join(program);
        let mut command = match &self.account {
            None => Command::new(program),
            Some(account) => {
                let mut command = Command::new(&account.setpriv);
                command.arg(format!("--reuid={}", account.user)).arg(format!("--regid={}", account.group));
                command.arg("--clear-groups").arg(program);
                command
            }
        };
        command.current_dir(self.folder.path()).env("LC_ALL", "C");
        command
    }

    fn url_of(&self, database: &str) -> String {
        format!("postgresql://{ROLE}@{}/{database}", self.address())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn socket_folder(&self) -> String {
        self.folder.path().to_str().expect("temporary folders have names in UTF-8").to_owned()
    }

    fn lock_process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().expect("no test panics while a server starts or ends")
    }
}

/// The address of a database as it is through a proxy.
///
/// # Panics
/// If it is none of PostgreSQL over TCP.
#[must_use]
pub fn through(url: &str, proxy: SocketAddr) -> String {
    let mut url = url::Url::parse(url).expect("a database has an address");
    url.set_ip_host(proxy.ip()).expect("it has a host");
    url.set_port(Some(proxy.port())).expect("it has a port");
    url.into()
}

/// Whom root runs the server as: it refuses to run as root.
#[derive(Debug)]
struct Account {
    setpriv: PathBuf,
    user: u32,
    group: u32,
}

fn installed() -> Result<(PathBuf, Option<Account>), String> {
    let programs = programs().ok_or("PostgreSQL is not installed")?;
    if !rustix::process::geteuid().is_root() {
        return Ok((programs, None));
    }
    let (user, group) = account("postgres").or_else(|| account("nobody")).ok_or("there is no account but root")?;
    Ok((programs, Some(Account { setpriv: need("setpriv")?, user, group })))
}

/// The folder with the programs of the newest version: Debian has them outside of `PATH`.
fn programs() -> Option<PathBuf> {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let numbered = versions.filter_map(|entry| Some((entry.file_name().to_str()?.parse::<u32>().ok()?, entry.path())));
    let newest = numbered.filter(|(_, path)| path.join("bin/initdb").exists()).max();
    let in_path = || find("initdb").and_then(|path| path.parent().map(Path::to_owned));
    newest.map(|(_, path)| path.join("bin")).or_else(in_path)
}

fn account(name: &str) -> Option<(u32, u32)> {
    let accounts = fs::read_to_string("/etc/passwd").ok()?;
    let fields = accounts.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| fields[0] == name)?;
    Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
}
