//! The state directory: the journals and the lock.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use culvert_system::regular_file::{self, Links};
use rustix::fs::{FlockOperation, flock};

use super::error::{StoreError, TransactionError};
use super::journal::{self, Record};
use super::state::Transaction;

/// The folder of the journals.
const JOURNALS: &str = "transactions";
/// The suffix of a journal's name.
const EXTENSION: &str = ".jsonl";
/// The largest journal that is read; a host with thousands of interrupts stays far below.
const JOURNAL_BYTES_MAX: u64 = 64 << 20;
/// The number of finished transactions whose journals are kept.
const FINISHED_KEPT: usize = 32;

/// Storage of journals: [`FolderDisk`], or in tests one that crashes.
pub trait Disk: std::fmt::Debug + Send {
    /// The names of all files, sorted.
    ///
    /// # Errors
    /// The disk's.
    fn names(&self) -> io::Result<Vec<String>>;

    /// The content of a file.
    ///
    /// # Errors
    /// The disk's.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;

    /// Truncates a file to `offset` bytes, appends, and returns once the data is durable. Creates
    /// the file if it does not exist.
    ///
    /// # Errors
    /// The disk's; the file then has its first `offset` bytes and perhaps some of the others.
    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// The disk's.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// The path of a file, for messages.
    fn place(&self, name: &str) -> String;
}

/// Files in a folder of the file system.
#[derive(Clone, Debug)]
pub struct FolderDisk {
    folder: PathBuf,
}

impl Disk for FolderDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.extend(entry?.file_name().into_string().ok());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(regular_file::read(&self.folder.join(name), JOURNAL_BYTES_MAX, Links::Refused)?)
    }

    fn write_at(&mut self, name: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let path = self.folder.join(name);
        regular_file::make_directory(&self.folder)?;
        // Snapshots reveal how a host is set up; only root needs to read them.
        let mut options = OpenOptions::new();
        options.append(true).create(true).mode(0o600);
        let mut file = regular_file::open_to_write(&path, &mut options)?;
        file.set_len(offset)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        if offset == 0 {
            File::open(&self.folder)?.sync_all()?;
        }
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        fs::remove_file(self.folder.join(name))
    }

    fn place(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }
}

/// The lock: its holder may change settings. It is released when it is dropped, or when the process
/// dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// The state directory.
#[derive(Debug)]
pub struct Store {
    disk: Box<dyn Disk>,
    folder: Option<PathBuf>,
}

impl Store {
    /// The state directory at a path; the first write creates it.
    #[must_use]
    pub fn at(folder: &Path) -> Self {
        let disk = Box::new(FolderDisk { folder: folder.join(JOURNALS) });
        Self { disk, folder: Some(folder.to_owned()) }
    }

    /// A store on another disk, without a lock.
    #[must_use]
    pub fn on(disk: Box<dyn Disk>) -> Self {
        Self { disk, folder: None }
    }

    /// The path of the directory.
    #[must_use]
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Takes the lock, which the caller holds while it changes settings. With `wait`, waits for
    /// another process to finish.
    ///
    /// # Errors
    /// [`StoreError::Locked`], or [`StoreError::File`] if the directory cannot be created.
    pub fn lock(&self, wait: bool) -> Result<Option<Lock>, StoreError> {
        let Some(folder) = &self.folder else { return Ok(None) };
        let path = folder.join("lock");
        let error = |source: io::Error| StoreError::File { path: path.display().to_string(), source };
        for directory in [folder.clone(), folder.join(JOURNALS)] {
            regular_file::make_directory(&directory)
                .map_err(|source| StoreError::File { path: directory.display().to_string(), source: source.into() })?;
        }
        let mut options = OpenOptions::new();
        options.create(true).truncate(false).write(true).mode(0o600);
        let file = regular_file::open_to_write(&path, &mut options).map_err(|source| error(source.into()))?;
        let operation = if wait { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
        match flock(&file, operation) {
            Ok(()) => Ok(Some(Lock { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Locked { path: path.display().to_string() }),
            Err(why) => Err(error(why.into())),
        }
    }

    fn error(&self, name: &str, source: io::Error) -> StoreError {
        StoreError::File { path: self.disk.place(name), source }
    }

    /// Every transaction, the oldest first, without journals that lack a complete first line.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn transactions(&self) -> Result<Vec<Transaction>, StoreError> {
        let names = self.disk.names().map_err(|error| self.error("", error))?;
        // Invariant I-tuning-newest-first: Transactions are listed in the order in which they were
        // made, so the reverse of the list rolls back the newest first.
        assert!(names.is_sorted(), "the disk lists journals out of order");
        let ids = names.iter().filter_map(|name| name.strip_suffix(EXTENSION));
        let transactions = ids.map(|id| self.transaction(id));
        transactions.filter_map(Result::transpose).collect()
    }

    /// One transaction.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn transaction(&self, id: &str) -> Result<Option<Transaction>, StoreError> {
        let name = format!("{id}{EXTENSION}");
        match self.disk.read(&name) {
            Ok(bytes) => journal::read(id, &self.disk.place(&name), &bytes),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error(&name, error)),
        }
    }

    /// Begins a journal under a new name.
    pub(super) fn begin(&mut self, record: &Record, began_unix_s: u64) -> Result<Transaction, TransactionError> {
        self.remove_oldest_finished()?;
        // The number orders the journals, since clocks may be set back; the time is for people.
        let names = self.disk.names().map_err(|error| self.error("", error))?;
        let last = names.iter().filter_map(|name| name.split('-').next()?.parse::<u64>().ok()).max().unwrap_or(0);
        let id = format!("{:06}-{}", last + 1, utc_stamp(began_unix_s));
        let name = format!("{id}{EXTENSION}");
        self.disk.write_at(&name, 0, &record.to_line()).map_err(|error| self.error(&name, error))?;
        let begun = self.transaction(&id)?;
        begun.ok_or(TransactionError::NoSuchTransaction(id))
    }

    /// Appends a record to the journal and updates the transaction.
    ///
    /// A journal that has vanished is an error: the write creates the file again, but without the
    /// first records, so nothing could roll the transaction back, and it must not change the host
    /// any further.
    pub(super) fn append(&mut self, transaction: &mut Transaction, record: &Record) -> Result<(), StoreError> {
        // Invariant I-tuning-over-is-final: Nothing is appended to the journal of a transaction
        // that has been rolled back or has ended.
        assert!(!transaction.is_over(), "{} is over, but its journal would be continued", transaction.id);
        let name = format!("{}{EXTENSION}", transaction.id);
        let write = self.disk.write_at(&name, transaction.journal_bytes, &record.to_line());
        write.map_err(|error| self.error(&name, error))?;
        let read = self.transaction(&transaction.id)?;
        *transaction = read.ok_or_else(|| self.error(&name, io::ErrorKind::NotFound.into()))?;
        Ok(())
    }

    fn remove_oldest_finished(&mut self) -> Result<(), StoreError> {
        let finished: Vec<String> = self
            .transactions()?
            .into_iter()
            .filter(|transaction| transaction.is_over() && transaction.left.is_empty())
            .map(|transaction| format!("{}{EXTENSION}", transaction.id))
            .collect();
        for name in finished.iter().take(finished.len().saturating_sub(FINISHED_KEPT)) {
            self.disk.remove(name).map_err(|error| self.error(name, error))?;
        }
        Ok(())
    }
}

/// A time as `20261121T021900Z`, which sorts by time.
pub(super) fn utc_stamp(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Converts days to a date in the Gregorian calendar, in years that begin in March.
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", second / 3600, second / 60 % 60, second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_dates() {
        assert_eq!(utc_stamp(0), "19700101T000000Z");
        assert_eq!(utc_stamp(951_782_400), "20000229T000000Z");
        assert_eq!(utc_stamp(1_795_229_728), "20261121T025528Z");
        assert_eq!(utc_stamp(4_102_444_799), "20991231T235959Z");
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::at(&folder.path().join("state"));
        let lock = store.lock(false).unwrap();
        assert!(lock.is_some());
        assert!(matches!(Store::at(&folder.path().join("state")).lock(false), Err(StoreError::Locked { .. })));
        drop(lock);
        assert!(store.lock(false).is_ok());
    }

    #[test]
    fn a_directory_that_is_not_there_is_empty() {
        assert!(Store::at(Path::new("/nonexistent/culvert")).transactions().unwrap().is_empty());
    }
}
