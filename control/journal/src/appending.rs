//! An open journal: read once, then appended to.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use culvert_objects::fs::destination::temporary::Attempt;
use culvert_objects::fs::sources::hash_of;
use culvert_system::file_lock::{self, FileLock, LockError};
use culvert_system::regular_file::{Links, open_flags, read_opened, sync_directory};

use crate::error::JournalError;
use crate::file::{JOURNAL_BYTES_MAX, beside, directory_of, is_named, replace};
use crate::place::Place;
use crate::reading::{Contents, EarlierAttempts, End, read, records};
use crate::record::{Record, VERSION, encode};

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: File,
    _lock: FileLock,
    pub(crate) path: PathBuf,
    /// How many [`Record::Begun`]s it has.
    begun: u32,
    /// The length of its whole, durable records.
    good_bytes: u64,
    /// Whether part of a failed append may follow them.
    has_torn_tail: bool,
    /// Whether its name survives a power failure.
    has_durable_name: bool,
}

impl Journal {
    /// Opens and locks the journal, and reads what earlier attempts left. `single_name` is the
    /// name here of the transfer's only file, if the sender has it under another.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(path: PathBuf, single_name: Option<&[u8]>) -> Result<(Self, EarlierAttempts), JournalError> {
        let os = |error| JournalError::Os { path: path.clone(), error };
        // Neither a pipe without a writer nor a device blocks.
        let mut options = File::options();
        options.read(true).append(true).create(true).mode(0o600).custom_flags(open_flags(Links::Refused));
        let mut file = options.open(&path).map_err(os)?;
        if !file.metadata().map_err(os)?.is_file() {
            return Err(os(io::Error::new(io::ErrorKind::InvalidInput, "it is not a file")));
        }
        let mut lock = file_lock::lock(&file).map_err(|error| match error {
            LockError::Held => JournalError::InUse,
            error @ LockError::Os(_) => os(io::Error::other(error)),
        })?;
        let bytes = read_opened(&file, JOURNAL_BYTES_MAX).map_err(|error| os(error.into()))?;
        // The previous holder of the lock may have removed the file between open and lock: then
        // this file has no name.
        if !is_named(&file, &path).map_err(os)? {
            return Err(JournalError::InUse);
        }
        let unknown = |unknown| JournalError::Unknown { path: path.clone(), unknown };
        let mut contents = read(&bytes).map_err(unknown)?;
        let mut good_bytes = contents.good_bytes;
        if contents.end == End::Damaged {
            let aside = beside(&path, "damaged");
            replace(&aside, &aside, &bytes).map_err(os)?;
            say_aside!(
                "culvert: the journal {} is damaged at byte {good_bytes}: it was copied to {}, and \
                 the transfer continues with the part before that",
                path.display(),
                aside.display()
            );
        }
        if contents.version == 1 {
            let migrated = from_version_1(&mut contents, &bytes, single_name);
            (file, lock) = replace(&beside(&path, "migrating"), &path, &migrated).map_err(os)?;
            good_bytes = migrated.len();
        } else if good_bytes < bytes.len() {
            file.set_len(good_bytes as u64).map_err(os)?;
        }
        // A journal without records has nothing to lose yet: the first append also makes the header
        // and the name durable.
        let header = encode(&Record::Header { version: VERSION });
        let has_durable_name = good_bytes > header.len();
        if good_bytes == 0 {
            good_bytes = header.len();
            file.write_all(&header).map_err(os)?;
        }
        let journal = Self {
            file,
            _lock: lock,
            path,
            begun: contents.begun,
            good_bytes: good_bytes as u64,
            has_torn_tail: false,
            has_durable_name,
        };
        Ok((journal, contents.past))
    }

    /// Records that an attempt begins; call it before anything is made under a temporary name.
    ///
    /// # Errors
    /// [`JournalError::Os`].
    pub fn begin_attempt(&mut self, attempt: Attempt, place: &Place) -> Result<(), JournalError> {
        self.append([Record::Attempt { number: attempt.number(), top_names: place.top_names.clone() }])
            .map_err(|error| JournalError::Os { path: self.path.clone(), error })
    }

    /// The number that the next [`Record::Begun`] gets.
    #[must_use]
    pub const fn next_begun(&self) -> u32 {
        self.begun
    }

    /// Appends records. They are durable when this returns.
    ///
    /// # Errors
    /// Those of the operating system. None of the records then counts; the next append replaces
    /// whatever arrived of them.
    ///
    /// # Panics
    /// If the caller breaks the order of records.
    pub fn append(&mut self, records: impl IntoIterator<Item = Record>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut begun = self.begun;
        for record in records {
            begun = begun_after(begun, &record);
            bytes.extend(encode(&record));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.has_torn_tail {
            self.cut_tail()?;
        }
        // Invariant I-journal-tail: no record follows the rest of a failed append, which would hide
        // it from every reader.
        assert!(!self.has_torn_tail, "no record follows the rest of a failed append");
        let written = self.file.write_all(&bytes).and_then(|()| self.sync());
        if let Err(error) = written {
            // If the tail cannot be cut off now, the next append tries again first.
            let _ = self.cut_tail();
            return Err(error);
        }
        // Invariant I-journal-durable: a journal's records are reported durable only after its name
        // is.
        assert!(self.has_durable_name, "a durable record needs a durable name");
        self.begun = begun;
        self.good_bytes = self.good_bytes.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        rustix::fs::fdatasync(self.file.as_fd())?;
        if !self.has_durable_name {
            // Without this, a power failure could lose the file's name and with it the records.
            sync_directory(directory_of(&self.path))?;
            self.has_durable_name = true;
        }
        Ok(())
    }

    fn cut_tail(&mut self) -> io::Result<()> {
        self.has_torn_tail = true;
        self.file.set_len(self.good_bytes)?;
        self.has_torn_tail = false;
        Ok(())
    }

    /// Removes the journal of a transfer that is over.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// How many files a journal has begun once `record` is appended.
fn begun_after(begun: u32, record: &Record) -> u32 {
    // Invariant I-journal-header: a journal has one header, its first record.
    assert!(!matches!(record, Record::Header { .. }), "a journal has one header, its first record");
    if let Record::Chunk { file, .. } = record {
        // Invariant I-journal-order: a file is recorded as begun before any of its chunks.
        assert!(*file < begun, "a file is recorded as begun before any of its chunks");
    }
    begun.saturating_add(u32::from(matches!(record, Record::Begun { .. })))
}

/// The bytes of a version 1 journal in the current version.
fn from_version_1(contents: &mut Contents, bytes: &[u8], single_name: Option<&[u8]>) -> Vec<u8> {
    // In version 1, the temporary name of a transfer's only file was derived from its name here. A
    // journal of several files is not that of a single file.
    let only = contents.past.only_begun();
    let token_of = |name: u128| single_name.filter(|_| only == Some(name)).map_or(name, hash_of);
    contents.past.set_tokens(token_of);
    let mut migrated = Vec::new();
    for mut record in records(bytes.get(..contents.good_bytes).unwrap_or_default()) {
        match &mut record {
            Record::Header { version } => *version = VERSION,
            Record::Begun { name, token, .. } => *token = token_of(*name),
            _ => {}
        }
        migrated.extend(encode(&record));
    }
    migrated
}
