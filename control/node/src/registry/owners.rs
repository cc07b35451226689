//! The process that runs a transfer: the node, or a separate command with the same state directory.
//!
//! Each such process has a file in the state directory and holds its lock
//! ([`culvert_system::file_lock`]). The records of its transfers name that file. The kernel
//! releases the lock when the process ends, however it ends. A running record whose lock is not
//! held belongs to an interrupted transfer. Nobody has to write that down: reading is enough to
//! find out.
//!
//! The process id in the file's name is for people. It may belong to another process by now, or to
//! another namespace; nothing depends on it.

use std::sync::OnceLock;

use culvert_state::{StateDirectory, StateError, give_to_owner_of, is_locked};
use culvert_system::file_lock::{self, FileLock, LockError};
use tempfile::NamedTempFile;

const PREFIX: &str = "owner-";
const SUFFIX: &str = ".lock";
/// Others may look whether the lock of a new file is held just before this process takes it.
const TRIES_MAX: u32 = 100;

/// This process's file. It is removed when this is dropped.
#[derive(Debug)]
struct Own {
    name: String,
    _lock: FileLock,
    _file: NamedTempFile,
}

/// The processes that carry out transfers with one state directory.
#[derive(Debug)]
pub(super) struct Owners {
    state: StateDirectory,
    own: OnceLock<Own>,
}

/// The number of the process in an owner's name.
pub(super) fn process_in(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Names are made of these and are no longer than this, with room for what a later version may add.
const NAME_BYTES_MAX: usize = 128;

/// Whether a name is that of an owner's file, and nothing else. Records are files that anybody may
/// have edited: anything that is not such a name is never used as a path.
fn is_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let within = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(SUFFIX));
    within.is_some_and(|within| !within.is_empty()) && name.len() <= NAME_BYTES_MAX && name.bytes().all(is_plain)
}

impl Owners {
    pub(super) fn new(state: &StateDirectory) -> Self {
        Self { state: state.clone(), own: OnceLock::new() }
    }

    /// This process's name, if it has one yet.
    pub(super) fn own(&self) -> Option<&str> {
        self.own.get().map(|own| own.name.as_str())
    }

    /// Gives this process a name. It asks the disk.
    ///
    /// # Errors
    /// [`StateError`].
    pub(super) fn introduce(&self) -> Result<(), StateError> {
        if self.own.get().is_none() {
            // If another thread was faster, this one's file is removed again.
            let _ = self.own.set(self.make()?);
        }
        Ok(())
    }

    fn make(&self) -> Result<Own, StateError> {
        let directory = self.state.root().to_owned();
        let os = |error| StateError::Os { what: "make a lock in", path: directory.clone(), error };
        let prefix = format!("{PREFIX}{}-", std::process::id());
        let mut last = None;
        for _ in 0..TRIES_MAX {
            let file = tempfile::Builder::new().prefix(&prefix).suffix(SUFFIX).tempfile_in(&directory).map_err(os)?;
            give_to_owner_of(&directory, file.as_file()).map_err(os)?;
            let name = file.path().file_name().and_then(|name| name.to_str()).map(str::to_owned);
            match (file_lock::lock(file.as_file()), name) {
                // A cleanup may have come in between.
                (Ok(lock), Some(name)) if file.path().exists() => return Ok(Own { name, _lock: lock, _file: file }),
                (Err(LockError::Os(error)), _) => return Err(os(error)),
                (Err(error @ LockError::Held), _) => last = Some(error),
                (Ok(_), _) => {}
            }
        }
        Err(os(std::io::Error::other(last.unwrap_or(LockError::Held))))
    }

    /// Whether the process of an owner's name is alive. If it cannot be determined, it counts as
    /// alive: no transfer is reported as interrupted because of a missing permission.
    pub(super) fn is_alive(&self, name: &str) -> bool {
        is_name(name) && is_locked(&self.state.path(name))
    }

    /// Removes the files of processes that are gone.
    pub(super) fn sweep(&self) {
        for entry in std::fs::read_dir(self.state.root()).into_iter().flatten().flatten() {
            let is_owners = entry.file_name().to_str().is_some_and(is_name);
            if is_owners && !is_locked(&entry.path()) {
                // If another process is faster, that is as good.
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }
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
        owners.introduce().unwrap();
        owners.introduce().unwrap();
        let name = owners.own().unwrap().to_owned();
        assert_eq!(process_in(&name), Some(std::process::id()));
        // What a process that was killed has left.
        let left = "owner-1-x.lock";
        std::fs::write(state.path(left), "").unwrap();
        assert!(others.is_alive(&name) && !others.is_alive(left));
        others.sweep();
        assert!(others.is_alive(&name) && !state.path(left).exists());
        // A name of 255 bytes can be a file's, a longer one cannot; both were held forever, or
        // could be.
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
        // Nor is what could be a name, if somebody asks for the lock all the same.
        for path in ["owner-1-\0.lock", &long[3], &format!("{name}/x")] {
            assert!(!is_locked(&state.path(path)), "{path:?}");
        }
        drop(owners);
        assert!(!others.is_alive(&name) && !state.path(&name).exists());
    }
}
