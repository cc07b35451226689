//! Locks on files of the state directory: one process holds a lock, and the kernel releases it when
//! that process ends, however it ends.
//!
//! The lock is `flock(2)` if the file system has it. Lustre without `-o flock` and some FUSE file
//! systems do not. There, the lock is an abstract socket named after the file, which only one
//! process of this host can bind. It excludes processes of this host, but not of other hosts that
//! share the directory.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

/// A lock. A socket releases it when it is dropped; `flock` releases it when the file is closed.
#[derive(Debug)]
pub struct FileLock {
    _socket: Option<UnixDatagram>,
}

/// Why a lock cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds it.
    #[error("another process holds the lock")]
    Held,
    /// Neither kind of lock works.
    #[error("neither the file system (flock) nor the host can lock it: {0}")]
    Os(#[from] io::Error),
}

/// Takes the lock of a file without waiting.
///
/// # Errors
/// [`LockError`].
pub fn lock(file: &File) -> Result<FileLock, LockError> {
    match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(FileLock { _socket: None }),
        Err(Errno::WOULDBLOCK) => Err(LockError::Held),
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => lock_by_name(file),
        Err(error) => Err(LockError::Os(error.into())),
    }
}

/// Whether a process holds the lock of a file. Any number of processes may ask at the same time.
///
/// # Errors
/// Those of the operating system, if neither kind of lock works.
pub fn is_held(file: &File) -> io::Result<bool> {
    match flock(file.as_fd(), FlockOperation::NonBlockingLockShared) {
        Ok(()) => flock(file.as_fd(), FlockOperation::Unlock).map(|()| false).map_err(Into::into),
        Err(Errno::WOULDBLOCK) => Ok(true),
        Err(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK) => match lock_by_name(file) {
            Ok(_) => Ok(false),
            Err(LockError::Held) => Ok(true),
            Err(LockError::Os(error)) => Err(error),
        },
        Err(error) => Err(error.into()),
    }
}

/// The lock of a file on a file system without `flock`.
fn lock_by_name(file: &File) -> Result<FileLock, LockError> {
    let metadata = file.metadata()?;
    let user = rustix::process::geteuid().as_raw();
    let name = format!("culvert-lock-{user}-{:x}-{:x}", metadata.dev(), metadata.ino());
    match UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?) {
        Ok(socket) => Ok(FileLock { _socket: Some(socket) }),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(LockError::Held),
        Err(error) => Err(LockError::Os(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_has_a_lock_and_it_goes_with_its_holder() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let open = || File::options().create(true).append(true).open(&path).unwrap();
        let other = directory.path().join("other");
        for take in [lock, lock_by_name] {
            let (first, second) = (open(), open());
            let held = take(&first).unwrap();
            assert!(matches!(take(&second), Err(LockError::Held)));
            assert!(take(&File::create(&other).unwrap()).is_ok(), "another file has another lock");
            // One of the two kinds shows it.
            assert!(is_held(&second).unwrap() || matches!(lock_by_name(&second), Err(LockError::Held)));
            drop((held, first));
            assert!(!is_held(&second).unwrap());
            assert!(take(&second).is_ok());
        }
    }
}
