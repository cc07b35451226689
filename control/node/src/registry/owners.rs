//! The process that runs a transfer: the node, or a separate command with the same state directory.
//!
//! Each such process has a file in the state directory and holds its lock
//! ([`culvert_system::file_lock`]). The records of its transfers name that file. The kernel
//! releases the lock when the process ends, however it ends. A running record whose lock is not
//! held belongs to an interrupted transfer. Nobody has to record the interruption: it is visible to
//! every reader.
//!
//! The process id in the file's name is only shown to people. By now it may belong to another
//! process, or it may be from another PID namespace; nothing depends on it.

use std::sync::OnceLock;

use culvert_state::{StateDirectory, StateError, give_to_owner_of, is_locked};
use culvert_system::file_lock::{self, FileLock, LockError};
use tempfile::NamedTempFile;

const PREFIX: &str = "owner-";
const SUFFIX: &str = ".lock";
/// The longest name, with room for what a later version may add.
const NAME_BYTES_MAX: usize = 128;
/// Another process that tests whether the lock is held may hold it for a moment.
const TRIES_MAX: u32 = 100;

/// This process's file, which is removed on drop.
#[derive(Debug)]
struct OwnFile {
    name: String,
    _lock: FileLock,
    _file: NamedTempFile,
}

/// The processes that run transfers with one state directory.
#[derive(Debug)]
pub(super) struct Owners {
    state: StateDirectory,
    own: OnceLock<OwnFile>,
}

/// The process id in an owner's name.
pub(super) fn process_in(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

impl Owners {
    pub(super) fn new(state: &StateDirectory) -> Self {
        Self { state: state.clone(), own: OnceLock::new() }
    }

    /// This process's name, if it has one yet.
    pub(super) fn own(&self) -> Option<&str> {
        self.own.get().map(|own| own.name.as_str())
    }

    /// Creates and locks this process's file, unless it has one. Accesses the disk.
    ///
    /// # Errors
    /// [`StateError`].
    pub(super) fn register(&self) -> Result<(), StateError> {
        if self.own.get().is_none() {
            // If another thread was faster, this file is removed again.
            let _ = self.own.set(self.create()?);
        }
        Ok(())
    }

    fn create(&self) -> Result<OwnFile, StateError> {
        let directory = self.state.root().to_owned();
        let os = |error| StateError::Os { what: "make a lock in", path: directory.clone(), error };
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let mut last = None;
        for _ in 0..TRIES_MAX {
            let file = tempfile::Builder::new().prefix(&prefix).suffix(SUFFIX).tempfile_in(&directory).map_err(os)?;
            give_to_owner_of(&directory, file.as_file()).map_err(os)?;
            let name = file.path().file_name().and_then(|name| name.to_str()).map(str::to_owned);
            match (file_lock::lock(file.as_file()), name) {
                // Another process's sweep may have removed it before the lock was taken.
                (Ok(lock), Some(name)) if file.path().exists() => {
                    return Ok(OwnFile { name, _lock: lock, _file: file });
                }
                (Err(LockError::Os(error)), _) => return Err(os(error)),
                (Err(error @ LockError::Held), _) => last = Some(error),
                (Ok(_), _) => {}
            }
        }
        Err(os(std::io::Error::other(last.unwrap_or(LockError::Held))))
    }

    /// Whether the process with an owner's name is alive. If that cannot be determined, it counts
    /// as alive: a missing permission must not make a transfer look interrupted.
    pub(super) fn is_alive(&self, name: &str) -> bool {
        is_name(name) && is_locked(&self.state.path(name))
    }

    /// Removes the files of processes that are gone.
    pub(super) fn sweep(&self) {
        for entry in std::fs::read_dir(self.state.root()).into_iter().flatten().flatten() {
            let is_owners = entry.file_name().to_str().is_some_and(is_name);
            if is_owners && !is_locked(&entry.path()) {
                // Another process may have removed it already.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
}

/// Whether a name is that of an owner's file. Anybody may have edited the record it comes from, so
/// no other name is used as a path.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let within = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    within.is_some_and(|within| !within.is_empty()) && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_lives_as_long_as_it_holds_its_lock_and_its_file_goes_with_it() {
        let room = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(room.path()).unwrap();
        let (owners, others) = (Owners::new(&state), Owners::new(&state));
        assert_eq!(owners.own(), None);
        owners.register().unwrap();
        owners.register().unwrap();
        let name = owners.own().unwrap().to_owned();
        assert_eq!(process_in(&name), Some(std::process::id()));
        // Left by a process that was killed.
        let left = "owner-1-x.lock";
        std::fs::write(state.path(left), "").unwrap();
        assert!(others.is_alive(&name) && !others.is_alive(left));
        others.sweep();
        assert!(others.is_alive(&name) && !state.path(left).exists());
        // A file name has at most 255 bytes. Longer names counted as alive forever.
        let long = [200, 255, 256, 300, 5_000].map(|bytes| format!("owner-1-{}.lock", "x".repeat(bytes - 13)));
        let nonsense = [
            "",
            "owner-.lock",
            ".",
            "..",
            "/",
            "../identity.pk8",
            "owner-../../x.lock",
            "owner-1-/x.lock",
            "owner-1-\0.lock",
            "owner-1-x\0/../y.lock",
            "owner-1-ü.lock",
            "owner-2-y.lock",
            "/etc/passwd",
        ];
        for nonsense in nonsense.into_iter().chain(long.iter().map(String::as_str)) {
            assert!(!others.is_alive(nonsense), "{nonsense:?}");
        }
        // Paths that cannot exist are not locked either.
        for path in ["owner-1-\0.lock", &long[3], &format!("{name}/x")] {
            assert!(!is_locked(&state.path(path)), "{path:?}");
        }
        drop(owners);
        assert!(!others.is_alive(&name) && !state.path(&name).exists());
    }
}
