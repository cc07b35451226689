//! The guard: a separate process that rolls a transaction back unless it is confirmed in time.
//!
//! `apply` starts it before the first write, so that nothing depends on the terminal, the ssh
//! connection, the node, or the applying process. If that process dies midway, the guard restores
//! everything at once. The guard leaves its parent's session and holds a lock on its own file, by
//! which other processes see that it is alive.

use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use culvert_host::Host;
use culvert_system::regular_file::{self, Links, open_flags};
use rustix::fs::{FlockOperation, flock};

use crate::transaction::{State, Store, StoreError, TransactionError, roll_back};

/// The line that the guard prints when it is ready.
const READY: &str = "ready";
/// How often the guard checks the transaction.
const PERIOD: Duration = Duration::from_millis(200);
/// Attempts at a failing rollback, one second apart.
const TRIES_MAX: u32 = 600;
/// The reason of a rollback when the time is up.
const TIME_IS_UP: &str = "it was not confirmed in time";

/// How to start a guard: this program with arguments that lead to [`watch_over`].
#[derive(Clone, Debug)]
pub struct GuardLauncher {
    /// The program.
    pub program: PathBuf,
    /// The arguments before `guard ID`.
    pub arguments: Vec<String>,
    /// The state directory.
    pub state_directory: PathBuf,
}

impl GuardLauncher {
    /// Starts the guard of a transaction and waits until it reports that it is ready.
    ///
    /// # Errors
    /// A message with the reason why it did not start.
    pub fn start(&self, id: &str) -> Result<(), String> {
        let failed = |why: &dyn std::fmt::Display| format!("{}: {why}", self.program.display());
        let log_path = self.state_directory.join("guard.log");
        let mut options = OpenOptions::new();
        options.create(true).append(true).mode(0o600).custom_flags(open_flags(Links::Refused));
        let log = options.open(&log_path);
        let log = log.map_err(|why| format!("{}: {why}", log_path.display()))?;
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args(["guard", id])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|why| failed(&why))?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            // Returns when the guard prints its line or exits.
            BufReader::new(out).read_line(&mut line).map_err(|why| failed(&why))?;
        }
        if line.trim() == READY {
            return Ok(());
        }
        let _ = child.kill();
        let status = child.wait().map_or_else(|why| why.to_string(), |status| status.to_string());
        Err(failed(&format!("it ended ({status}); {} may say why", log_path.display())))
    }
}

/// Whether the guard of a transaction is alive.
#[must_use]
pub fn lives(state_directory: &Path, id: &str) -> bool {
    let Ok(file) = regular_file::open(&lock_path(state_directory, id), Links::Refused) else { return false };
    // On a file system without locks, the guard counts as dead.
    flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// The guard's main loop: waits until the transaction has ended, was confirmed, or must be rolled
/// back, and then rolls it back.
///
/// `out` receives one message when the guard is ready. Returns what it did, for the log.
///
/// # Errors
/// [`TransactionError`] if rolling back failed for ten minutes.
pub fn watch_over(
    state_directory: &Path,
    id: &str,
    host: &mut dyn Host,
    out: &mut dyn Write,
) -> Result<String, TransactionError> {
    let path = lock_path(state_directory, id);
    let error = |source: std::io::Error| StoreError::File { path: path.display().to_string(), source };
    let mut options = OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    let file = regular_file::open_to_write(&path, &mut options).map_err(|source| error(source.into()))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|why| error(why.into()))?;
    // In a new session, the end of the terminal or of ssh does not send it a signal. This fails for
    // a process that already leads a session.
    let _ = rustix::process::setsid();
    let _ = std::env::set_current_dir("/");
    writeln!(out, "{READY}").and_then(|()| out.flush()).map_err(error)?;

    let mut store = Store::at(state_directory);
    let done = wait_and_act(&mut store, id, host);
    let _ = fs::remove_file(&path);
    done
}

fn lock_path(state_directory: &Path, id: &str) -> PathBuf {
    state_directory.join(format!("guard-{id}"))
}

fn wait_and_act(store: &mut Store, id: &str, host: &mut dyn Host) -> Result<String, TransactionError> {
    let mut tries = 0;
    loop {
        std::thread::sleep(PERIOD);
        match look(store, id, host) {
            Ok(Some(done)) => return Ok(done),
            Ok(None) => {}
            Err(error) if tries >= TRIES_MAX => return Err(error),
            Err(_) => {
                tries += 1;
                std::thread::sleep(Duration::from_secs(1));
            }
        }
    }
}

/// Checks the transaction once; `Some` when the guard has nothing left to do.
fn look(store: &mut Store, id: &str, host: &mut dyn Host) -> Result<Option<String>, TransactionError> {
    let Some(transaction) = store.transaction(id)? else { return Ok(Some(format!("{id} is gone"))) };
    let due = |deadline: Option<u64>| deadline.is_some_and(|deadline| host.now_boot_ms() >= deadline);
    let (wait_for_lock, reason) = match transaction.state {
        State::Held | State::RolledBack | State::Ended => return Ok(Some(format!("{id} has ended or was confirmed"))),
        State::Pending if due(transaction.deadline_boot_ms) => (true, TIME_IS_UP),
        State::Pending if transaction.attended => (false, "the process that watched over it died"),
        State::Pending => return Ok(None),
        State::Applying => (false, "the process that applied it died before it had finished"),
        State::RollingBack => (false, "rolling back was interrupted"),
    };
    // A process that applies, confirms or rolls back holds the lock.
    let _lock = match store.lock(wait_for_lock) {
        Err(StoreError::Locked { .. }) => return Ok(None),
        other => other?,
    };
    // The transaction may have changed while this waited for the lock.
    match store.transaction(id)? {
        Some(now) if now.state == transaction.state => {}
        _ => return Ok(None),
    }
    let recovered = roll_back(store, host, Some(id), reason)?;
    Ok(Some(format!("{}: {}", recovered.id, recovered.text)))
}

#[cfg(test)]
mod tests {
    use culvert_host::fake::FakeHost;
    use culvert_host::setting::{Setting, Value};

    use super::*;
    use crate::transaction::{ApplyOptions, Intent, apply, confirm};

    fn applied(state: &Path, host: &mut FakeHost, within: Duration) -> String {
        let mut store = Store::at(state);
        let _lock = store.lock(false).unwrap();
        let intent = Intent { rule: "test".to_owned(), setting: Setting::sysctl("a.b"), to: Value::new("2") };
        let options = ApplyOptions { confirm_within: Some(within), ..ApplyOptions::default() };
        apply(&mut store, host, vec![intent], &options, &mut |_| Ok(())).unwrap().id
    }

    fn host() -> FakeHost {
        let mut host = FakeHost::default();
        host.put(Setting::sysctl("a.b"), "1");
        host
    }

    #[test]
    fn it_rolls_back_when_the_time_is_up() {
        let state = tempfile::tempdir().unwrap();
        let mut host = host();
        let id = applied(state.path(), &mut host, Duration::ZERO);
        assert!(!lives(state.path(), &id));
        let mut said = Vec::new();
        let done = watch_over(state.path(), &id, &mut host, &mut said).unwrap();
        assert!(done.contains(TIME_IS_UP), "{done}");
        assert_eq!(said, b"ready\n");
        assert_eq!(host.settings()[&Setting::sysctl("a.b")], Value::new("1"));
        assert!(!lives(state.path(), &id));
    }

    #[test]
    fn it_ends_when_somebody_confirms() {
        let state = tempfile::tempdir().unwrap();
        let mut host = host();
        let id = applied(state.path(), &mut host, Duration::from_secs(3600));
        confirm(&mut Store::at(state.path()), &mut host).unwrap();
        watch_over(state.path(), &id, &mut host, &mut Vec::new()).unwrap();
        assert_eq!(host.settings()[&Setting::sysctl("a.b")], Value::new("2"));
    }

    #[test]
    fn a_guard_is_seen_alive_while_it_lives() {
        let state = tempfile::tempdir().unwrap();
        let mut host = host();
        let id = applied(state.path(), &mut host, Duration::from_secs(3600));
        let folder = state.path().to_owned();
        let (name, mut other) = (id.clone(), host.clone());
        let thread = std::thread::spawn(move || watch_over(&folder, &name, &mut other, &mut Vec::new()));
        while !lives(state.path(), &id) {
            std::thread::sleep(Duration::from_millis(5));
        }
        confirm(&mut Store::at(state.path()), &mut host).unwrap();
        thread.join().unwrap().unwrap();
        assert!(!lives(state.path(), &id));
    }

    #[test]
    fn a_program_that_does_not_start_is_named() {
        let state = tempfile::tempdir().unwrap();
        let launcher = |program: &str| GuardLauncher {
            program: program.into(),
            arguments: Vec::new(),
            state_directory: state.path().to_owned(),
        };
        assert!(launcher("/nonexistent").start("x").unwrap_err().contains("/nonexistent"));
        assert!(launcher("/bin/false").start("x").unwrap_err().contains("it ended"));
    }
}
