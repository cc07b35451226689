//! What an incoming transfer has stored so far: an append-only file from which an interrupted
//! transfer resumes.
//!
//! A journal belongs to a partner, a destination and the names stored there ([`Place`]). Entries
//! are written only when what they record is durable, and read when the same partner repeats the
//! request. Several transfers of one partner can thus fill one directory at the same time, each
//! with its own journal; the remains of another journal of the same files are taken over
//! ([`absorb_others`]). When a transfer has stored everything, the journal is removed.
//!
//! What may be found when a journal is opened, and what is done:
//!
//! | found | done |
//! |---|---|
//! | version 1 | rewritten as the present version, in one step, with every record |
//! | a version, or a whole record, that this program does not know | refused; not a byte is changed |
//! | the rest of an append that a crash cut off | cut off: nobody was told that it was stored |
//! | bytes that are no record, and records after them | set aside as `….journal.damaged`; what comes before them goes on |
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

mod absorbing;
mod bounding;
mod reading;
mod record;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_objects::fs::destination::temporary::Attempt;
use culvert_objects::fs::sources::hash_of;
use culvert_protocol::control::{Refusal, RefusalCode};
use culvert_protocol::identity::{PublicKey, to_hex};
use culvert_system::file_lock::{self, FileLock, LockError};
use culvert_system::os_error;
use culvert_system::regular_file::{self, Links, open_flags, read_opened, sync_directory};
use rustix::io::Errno;

pub use crate::journal::absorbing::{absorb_others, glimpse};
pub use crate::journal::bounding::bound;
pub use crate::journal::reading::{BegunFile, Contents, DoneFile, End, Past, Unknown, change_time, read, records};
pub use crate::journal::record::{DIRECTORY_BYTES_MAX, Record, TOP_NAMES_MAX, VERSION, encode, encode_v1};
use crate::limits::MANIFEST_BYTES_PER_PARTNER;

/// No journal is longer: as many bytes as the manifests of a partner's transfers may take.
const JOURNAL_BYTES_MAX: u64 = MANIFEST_BYTES_PER_PARTNER;

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another transfer writes it.
    #[error(
        "another transfer of the same files from the same partner to the same destination is \
         running: wait for it, or cancel it"
    )]
    InUse,
    /// Not all of it is understood.
    #[error(
        "the journal of this transfer, {path}, was left as it is: {unknown}. A newer Culvert wrote \
         it: use that version, or remove the file; incomplete files are then sent from the beginning"
    )]
    Unknown {
        /// Which.
        path: PathBuf,
        /// What is not understood.
        unknown: Unknown,
    },
    /// The operating system refuses.
    #[error("cannot use the journal {path}: {error}{}", remedy(.error))]
    Os {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// What to do about an error of the operating system, if that is known. Only a journal that is at
/// fault is to be removed.
fn remedy(error: &io::Error) -> String {
    let errno = os_error::errno_of(error);
    match errno.map_or(RefusalCode::Failed, os_error::code) {
        RefusalCode::NoSpace => {
            "; make room in the state directory and start the transfer again: it resumes where it stopped".to_owned()
        }
        _ if errno.is_none_or(is_of_the_journal) => {
            "; remove it, or make it writable for Culvert's account: without it, incomplete files \
             are sent from the beginning"
                .to_owned()
        }
        _ => errno.and_then(os_error::remedy).map_or_else(String::new, |remedy| format!("; {remedy}")),
    }
}

/// Whether an error says that something stands in the journal's place that cannot be used as one.
const fn is_of_the_journal(errno: Errno) -> bool {
    matches!(errno, Errno::ACCESS | Errno::PERM | Errno::LOOP | Errno::ISDIR | Errno::NXIO)
}

impl JournalError {
    /// What a transfer is refused with.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::InUse => RefusalCode::Temporary,
            Self::Unknown { .. } => RefusalCode::Failed,
            Self::Os { error, .. } => code_of(error),
        }
    }
}

/// What a transfer ends with whose journal cannot be written. It is this node's own, so neither is
/// the partner's path not found nor may the partner not use it.
fn code_of(error: &io::Error) -> RefusalCode {
    match os_error::code_of(error) {
        RefusalCode::NotFound | RefusalCode::NotPermitted => RefusalCode::Failed,
        code => code,
    }
}

/// What a transfer is refused or ended with whose journal cannot be written.
#[must_use]
pub fn not_journaled(error: &io::Error) -> Refusal {
    Refusal::new(code_of(error), format!("the journal of the transfer cannot be written: {error}{}", remedy(error)))
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: File,
    _lock: FileLock,
    path: PathBuf,
    begun: u32,
    /// The length up to which it can be read.
    good_bytes: u64,
    /// Whether part of an append that failed may follow that.
    has_torn_tail: bool,
    /// Whether its name outlives a power failure.
    has_durable_name: bool,
}

/// Where journals of a partner and a destination lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    directory: PathBuf,
    /// What the names of all of them begin with: the partner's digits, then those of both.
    key: String,
    /// What they began with before the partner had digits of its own.
    former_key: String,
    /// What distinguishes them.
    names: String,
    /// Hashes of the least of those names.
    top_names: Vec<u32>,
}

/// Digits of a name that are of the partner alone.
const PARTNER_DIGITS: usize = 8;
/// Digits of [`Place::names`].
const NAMES_DIGITS: usize = 16;

impl Place {
    /// The place for what `partner` stores at `destination`. `top_names` are the first components
    /// of the names, in any order, repeated or not: as long as they are the same, so is the
    /// journal.
    #[must_use]
    pub fn new<'a>(
        directory: &Path,
        partner: PublicKey,
        destination: &[u8],
        top_names: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("culvert 1 journal");
        hasher.update(&partner.0).update(destination);
        let former_key = to_hex(&hasher.finalize().as_bytes()[..16]);
        let mut hasher = blake3::Hasher::new_derive_key("culvert 2 journal partner");
        hasher.update(&partner.0);
        let of_partner = to_hex(&hasher.finalize().as_bytes()[..PARTNER_DIGITS / 2]);
        let key = format!("{of_partner}{}", former_key.get(PARTNER_DIGITS..).unwrap_or_default());
        let top_names: BTreeSet<&[u8]> = top_names.into_iter().collect();
        let mut hasher = blake3::Hasher::new_derive_key("culvert 2 journal names");
        for name in &top_names {
            // No name contains a NUL byte.
            hasher.update(name).update(&[0]);
        }
        let names = to_hex(&hasher.finalize().as_bytes()[..NAMES_DIGITS / 2]);
        // The least of the hashes: two long lists with most names in common have most of these in
        // common too.
        let hashes: BTreeSet<u32> = top_names.iter().map(|name| top_name_hash(name)).collect();
        let top_names = hashes.into_iter().take(TOP_NAMES_MAX).collect();
        Self { directory: directory.to_owned(), key, former_key, names, top_names }
    }

    /// The journal.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(format!("{}-{}.journal", self.key, self.names))
    }

    /// Whether a file is a journal of the same partner and destination. Earlier versions had one
    /// for both, without names.
    fn has(&self, file_name: &str) -> bool {
        let rest = file_name.strip_prefix(&self.key).or_else(|| file_name.strip_prefix(&self.former_key));
        let rest = rest.and_then(|rest| rest.strip_suffix(".journal"));
        rest.is_some_and(|rest| rest.is_empty() || rest.len() == 1 + NAMES_DIGITS && rest.starts_with('-'))
    }
}

/// What a journal knows a top name by.
fn top_name_hash(name: &[u8]) -> u32 {
    u32::try_from(hash_of(name) & u128::from(u32::MAX)).unwrap_or_default()
}

impl Journal {
    /// Opens the journal, reads what earlier attempts left, and keeps others out of it.
    /// `single_name` is what the transfer's only file is called here, if that is another name than
    /// it has at the sender.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(path: PathBuf, single_name: Option<&[u8]>) -> Result<(Self, Past), JournalError> {
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
        // The previous holder of the lock may have removed the file between the two calls: then
        // this is a file without a name.
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
        if contents.version != VERSION {
            let migrated = migrate(&mut contents, &bytes, single_name);
            (file, lock) = replace(&beside(&path, "migrating"), &path, &migrated).map_err(os)?;
            good_bytes = migrated.len();
        } else if good_bytes < bytes.len() {
            file.set_len(good_bytes as u64).map_err(os)?;
        }
        // What nothing was appended to says nothing yet: the first append makes the header and the
        // name durable too.
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

    /// Removes the journals in `directory` that have no useful content: those of complete
    /// transfers, and those that were never written to. Journals younger than `age` stay: a partner
    /// whose signature is missing may come back.
    ///
    /// Journals of started transfers are also removed if nobody has come back for them for
    /// `age_begun`.
    pub fn sweep(directory: &Path, age: Duration, age_begun: Duration) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let elapsed = modified.ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default();
            let is_old = elapsed >= age;
            let path = entry.path();
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if !is_file || !is_old || path.extension().is_none_or(|extension| extension != "journal") {
                continue;
            }
            remove_unused(&path, |bytes| is_over(bytes) || elapsed >= age_begun);
        }
    }

    /// Says that an attempt begins, before it makes anything under a temporary name.
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
    /// The operating system's. The journal is as it was before, and what comes next is appended to
    /// that.
    pub fn append(&mut self, records: impl IntoIterator<Item = Record>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut begun = self.begun;
        for record in records {
            begun = begun.saturating_add(u32::from(matches!(record, Record::Begun { .. })));
            bytes.extend(encode(&record));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        if self.has_torn_tail {
            self.cut_tail()?;
        }
        let written = self.file.write_all(&bytes).and_then(|()| self.sync());
        if let Err(error) = written {
            // Half a record would hide everything that is written after it. If it cannot be cut off
            // now, it must be before the next.
            let _ = self.cut_tail();
            return Err(error);
        }
        self.begun = begun;
        self.good_bytes = self.good_bytes.saturating_add(bytes.len() as u64);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        rustix::fs::fdatasync(self.file.as_fd())?;
        if !self.has_durable_name {
            // A journal whose name is lost in a power failure has never been there.
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

    /// Removes the journal: the transfer is over.
    ///
    /// # Errors
    /// The operating system's.
    pub fn remove(self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

/// Whether a journal has no useful content: nothing has been started or stored since everything
/// was, or at all.
fn is_over(bytes: &[u8]) -> bool {
    records(bytes).fold(true, |is_over, record| match record {
        Record::Complete => true,
        Record::Header { .. } | Record::Attempt { .. } => is_over,
        Record::Begun { .. } | Record::Chunk { .. } | Record::Done { .. } | Record::Filling { .. } => false,
    })
}

/// Removes a journal if `may` permits it, unless a transfer uses it, it cannot be read, or a newer
/// program has written it.
fn remove_unused(path: &Path, may: impl FnOnce(&[u8]) -> bool) -> bool {
    let Ok(file) = regular_file::open(path, Links::Refused) else { return false };
    let Ok(_lock) = file_lock::lock(&file) else { return false };
    let may = read_opened(&file, JOURNAL_BYTES_MAX).is_ok_and(|bytes| read(&bytes).is_ok() && may(&bytes));
    may && is_named(&file, path).is_ok_and(|named| named) && std::fs::remove_file(path).is_ok()
}

/// Whether a path still names an open file.
fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let file = file.metadata()?;
    Ok(std::fs::metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (file.dev(), file.ino())))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// A name derived from a journal's.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Makes `path` a file of `bytes` in one step, durably, and locks it; it is written as `temporary`.
/// The caller keeps others out.
fn replace(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<(File, FileLock)> {
    // What a crash left under the temporary name.
    let _ = std::fs::remove_file(temporary);
    let written = (|| {
        let mut file = File::options().read(true).append(true).create_new(true).mode(0o600).open(temporary)?;
        let lock = file_lock::lock(&file).map_err(io::Error::other)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        if temporary != path {
            std::fs::rename(temporary, path)?;
        }
        sync_directory(directory_of(path))?;
        Ok((file, lock))
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(temporary);
    }
    written
}

/// A journal of version 1 as the present version has it.
fn migrate(contents: &mut Contents, bytes: &[u8], single_name: Option<&[u8]>) -> Vec<u8> {
    // A single file's temporary name followed from its name here. A journal of several files is not
    // one of a single file.
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use culvert_protocol::manifest::{Entry, EntryKind, FileTime};
    use proptest::prelude::*;

    use super::*;

    const MODIFIED: FileTime = FileTime { seconds: 5, nanoseconds: 6 };

    fn begun(name: &[u8], bytes: u64, token: u128) -> Record {
        let directory = b"d".to_vec();
        Record::Begun { name: hash_of(name), bytes, modified: MODIFIED, chunk_bytes: 4, token, inode: 77, directory }
    }

    fn records() -> Vec<Record> {
        vec![
            begun(b"a", 10, 1 << 100),
            Record::Chunk { file: 0, part: 0, hash: Some([1; 32]) },
            begun(b"b", 20, 2),
            Record::Chunk { file: 1, part: 3, hash: None },
            Record::Chunk { file: 0, part: 2, hash: Some([2; 32]) },
            Record::Done {
                name: hash_of(b"c"),
                bytes: 1,
                modified: MODIFIED,
                hash: [3; 32],
                inode: 9,
                changed: MODIFIED,
            },
            Record::Filling { staging: 5 },
        ]
    }

    fn entry(name: &'static [u8], bytes: u64) -> Entry<'static> {
        let kind = EntryKind::File { bytes, is_sparse: false };
        Entry { name, kind, target: b"", mode: 0o644, modified: MODIFIED }
    }

    fn file_of(records: &[Record], encode: impl Fn(&Record) -> Vec<u8>) -> Vec<u8> {
        std::iter::once(&Record::Header { version: VERSION }).chain(records).flat_map(encode).collect()
    }

    /// A record as a newer program may write it: whole, and of no kind that is known.
    fn unknown_record() -> Vec<u8> {
        let body = [99, 1, 2, 3];
        [&4u16.to_be_bytes()[..], &blake3::hash(&body).as_bytes()[..4], &body].concat()
    }

    fn room() -> (tempfile::TempDir, PathBuf) {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("j.journal");
        (room, path)
    }

    fn names(room: &tempfile::TempDir) -> Vec<String> {
        let names = std::fs::read_dir(room.path()).unwrap();
        let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn open(path: &Path) -> (Journal, Past) {
        Journal::open(path.to_owned(), None).unwrap()
    }

    #[test]
    fn the_next_attempt_finds_what_this_one_stored() {
        let (_room, path) = room();
        let (mut journal, past) = open(&path);
        assert!(past.is_empty());
        journal.append(records()).unwrap();
        assert!(matches!(Journal::open(path.clone(), None), Err(JournalError::InUse)));
        drop(journal);
        let (journal, past) = open(&path);
        assert_eq!(journal.next_begun(), 2);
        let begun = past.begun(&entry(b"a", 10), 4).unwrap();
        assert_eq!(begun.chunks, HashMap::from([(0, Some([1; 32])), (2, Some([2; 32]))]));
        assert_eq!((begun.token, begun.inode), (1 << 100, 77));
        assert!(past.begun(&entry(b"a", 11), 4).is_none(), "the source has another size now");
        assert!(past.begun(&entry(b"a", 10), 8).is_none(), "chunks are cut differently now");
        assert_eq!(past.done(&entry(b"c", 1)).unwrap().hash, [3; 32]);
        journal.remove().unwrap();
        assert!(!path.exists());
    }

    /// Row 18: directories of an attempt that was cut are still the transfer's own, others are not.
    #[test]
    fn the_next_attempt_knows_which_directories_are_its_own() {
        let (_room, path) = room();
        let (mut journal, _) = open(&path);
        journal.append([b"ours", b"late"].map(|name| Record::made_directory(hash_of(name)))).unwrap();
        journal.append([Record::not_made_directory(hash_of(b"late"))]).unwrap();
        journal.append(records()).unwrap();
        drop(journal);
        let (_, past) = open(&path);
        let directory = |name| Entry { kind: EntryKind::Directory, ..entry(name, 0) };
        assert!(past.has_made(&directory(b"ours")));
        for name in [&b"theirs"[..], b"late", b"c"] {
            assert!(!past.has_made(&directory(name)));
        }
    }

    /// A journal of another version was emptied, and with it what a newer program had stored.
    #[test]
    fn a_journal_of_a_newer_version_is_refused_with_a_sentence_and_left_as_it_is() {
        let mut newer = encode(&Record::Header { version: 99 });
        newer.extend(unknown_record());
        let unknown_in_the_middle = [file_of(&records(), encode), unknown_record(), encode(&records()[1])].concat();
        let unknown_at_the_end = [file_of(&records(), encode), unknown_record()].concat();
        let unknown_at_the_begin = [unknown_record(), file_of(&records(), encode)].concat();
        for bytes in [newer, unknown_in_the_middle, unknown_at_the_end, unknown_at_the_begin] {
            let (room, path) = room();
            std::fs::write(&path, &bytes).unwrap();
            let error = Journal::open(path.clone(), None).unwrap_err();
            assert_eq!(error.code(), RefusalCode::Failed);
            let text = error.to_string();
            for part in [path.to_str().unwrap(), "left as it is", "remove the file"] {
                assert!(text.contains(part), "{text}");
            }
            Journal::sweep(room.path(), Duration::ZERO, Duration::MAX);
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            assert_eq!(names(&room), ["j.journal"]);
        }
    }

    #[test]
    fn a_journal_of_version_1_is_rewritten_and_keeps_every_record() {
        let (room, path) = room();
        let old = file_of(&records(), encode_v1);
        // A crash in an earlier migration left something under the temporary name, and the last
        // append is cut.
        std::fs::write(beside(&path, "migrating"), "half").unwrap();
        std::fs::write(&path, [&old[..], &encode(&records()[0])[..20]].concat()).unwrap();
        let (mut journal, past) = open(&path);
        let mut expected = records();
        for record in &mut expected {
            if let Record::Begun { name, token, inode, directory, .. } = record {
                (*token, *inode) = (*name, 0);
                directory.clear();
            }
        }
        assert_eq!(std::fs::read(&path).unwrap(), file_of(&expected, encode));
        assert_eq!(names(&room), ["j.journal"]);
        let begun = past.begun(&entry(b"a", 10), 4).unwrap();
        assert_eq!((begun.token, begun.inode, begun.chunks.len()), (hash_of(b"a"), 0, 2));
        assert!(journal.next_begun() > 0);
        assert!(matches!(Journal::open(path.clone(), None), Err(JournalError::InUse)), "the lock went along");
        journal.append([Record::Chunk { file: 1, part: 4, hash: None }]).unwrap();
        drop(journal);
        let (_, past) = open(&path);
        assert_eq!(past.begun(&entry(b"b", 20), 4).unwrap().chunks.len(), 2);
    }

    #[test]
    fn a_single_file_of_version_1_is_found_under_the_name_that_it_has_here() {
        let (_room, path) = room();
        std::fs::write(&path, file_of(&records()[..2], encode_v1)).unwrap();
        let (_, past) = Journal::open(path.clone(), Some(b"copy")).unwrap();
        assert_eq!(past.begun(&entry(b"a", 10), 4).unwrap().token, hash_of(b"copy"));
        // It stays so when it is read again.
        assert_eq!(open(&path).1, past);
    }

    #[test]
    fn a_damaged_journal_is_set_aside_whole_and_goes_on_with_what_comes_before() {
        let (room, path) = room();
        let mut bytes = file_of(&records(), encode);
        let damaged_at = file_of(&records()[..3], encode).len() + 8;
        bytes[damaged_at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (mut journal, past) = open(&path);
        assert_eq!(names(&room), ["j.journal", "j.journal.damaged"]);
        assert_eq!(std::fs::read(beside(&path, "damaged")).unwrap(), bytes);
        assert_eq!(past.begun(&entry(b"a", 10), 4).unwrap().chunks.len(), 1);
        journal.append([Record::Chunk { file: 1, part: 4, hash: None }]).unwrap();
        drop(journal);
        assert_eq!(open(&path).1.begun(&entry(b"b", 20), 4).unwrap().chunks, HashMap::from([(4, None)]));
    }

    #[test]
    fn a_journal_that_lost_its_first_block_is_damaged() {
        let (room, path) = room();
        let mut bytes = file_of(&records(), encode);
        bytes[..40].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        assert!(open(&path).1.is_empty());
        assert_eq!(names(&room), ["j.journal", "j.journal.damaged"]);
    }

    #[test]
    fn only_journals_that_have_nothing_to_tell_are_swept() {
        let (room, path) = room();
        let write = |name: &str, records: &[Record]| {
            std::fs::write(path.with_file_name(name), file_of(records, encode)).unwrap();
        };
        write("begun.journal", &records());
        write("complete.journal", &[records(), vec![Record::Complete]].concat());
        write("empty.journal", &[]);
        write("used.journal", &[]);
        let _used = open(&path.with_file_name("used.journal"));
        Journal::sweep(room.path(), Duration::ZERO, Duration::MAX);
        assert_eq!(names(&room), ["begun.journal", "used.journal"]);
    }

    proptest! {
        #[test]
        fn a_journal_that_was_cut_anywhere_keeps_whole_records_only(cut: prop::sample::Index, is_old: bool) {
            let encode: fn(&Record) -> Vec<u8> = if is_old { encode_v1 } else { encode };
            let mut bytes = encode(&Record::Header { version: VERSION });
            let mut ends = vec![bytes.len()];
            for record in records() {
                bytes.extend(encode(&record));
                ends.push(bytes.len());
            }
            let cut = cut.index(bytes.len() + 1);
            let contents = read(&bytes[..cut]).unwrap();
            let expected = ends.iter().copied().filter(|&end| end <= cut).max().unwrap_or(0);
            prop_assert_eq!(contents.good_bytes, expected);
            prop_assert_eq!(contents.end, if cut == expected { End::Whole } else { End::Torn });
        }

        /// Whatever is found is refused and stays, or can be appended to and read again.
        #[test]
        fn whatever_a_file_holds_it_is_refused_or_goes_on(
            parts in proptest::collection::vec((0usize..9, any::<prop::sample::Index>()), 0..12),
            is_old: bool,
        ) {
            let (_room, path) = room();
            let encode_any: fn(&Record) -> Vec<u8> = if is_old { encode_v1 } else { encode };
            let mut bytes = encode_any(&Record::Header { version: VERSION });
            for (part, at) in parts {
                match part {
                    0 => bytes.truncate(at.index(bytes.len() + 1)),
                    1 if !bytes.is_empty() => { let at = at.index(bytes.len()); bytes[at] ^= 0x40; }
                    2 => bytes.extend([0; 40]),
                    part => bytes.extend(encode_any(&records()[part % 7])),
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            match Journal::open(path.clone(), None) {
                Err(_) => prop_assert_eq!(std::fs::read(&path).unwrap(), bytes),
                Ok((mut journal, past)) => {
                    journal.append([begun(b"next", 9, 4), Record::Chunk { file: journal.next_begun(), part: 0, hash: None }]).unwrap();
                    drop(journal);
                    let (_, again) = open(&path);
                    prop_assert!(again.begun(&entry(b"next", 9), 4).is_some());
                    prop_assert!(past.filling().is_subset(again.filling()));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }

    /// What a damaged journal is copied to, and what a migrated one is written as, may be anything
    /// by now: what it leads to is not changed.
    #[test]
    fn what_stands_where_a_journal_is_set_aside_leads_nowhere() {
        let damaged = {
            let mut bytes = file_of(&records(), encode);
            bytes[file_of(&records()[..3], encode).len() + 8] ^= 1;
            bytes
        };
        for (suffix, bytes) in [("damaged", damaged), ("migrating", file_of(&records(), encode_v1))] {
            let (room, path) = room();
            let victim = room.path().join("victim");
            std::fs::write(&victim, "safe").unwrap();
            for is_symlink in [true, false] {
                std::fs::write(&path, &bytes).unwrap();
                let aside = beside(&path, suffix);
                if is_symlink {
                    std::os::unix::fs::symlink(&victim, &aside).unwrap();
                } else {
                    std::fs::hard_link(&victim, &aside).unwrap();
                }
                assert!(!open(&path).1.is_empty());
                assert_eq!(std::fs::read(&victim).unwrap(), b"safe", "{suffix}");
                let _ = std::fs::remove_file(&aside);
            }
            // A directory is not ours to remove: no transfer could start that would lose the
            // journal.
            std::fs::write(&path, &bytes).unwrap();
            std::fs::create_dir(beside(&path, suffix)).unwrap();
            let error = Journal::open(path.clone(), None).unwrap_err();
            assert!(error.to_string().contains("cannot use the journal"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    /// On a file system with whole seconds, the change time is the same for everything within one.
    #[test]
    fn what_whole_seconds_cannot_show_does_not_count_as_stored() {
        use culvert_objects::fs::destination::plan::{Before, StoredBefore as _};
        let (room, path) = room();
        let stored = room.path().join("stored");
        std::fs::write(&stored, [7; 20]).unwrap();
        let mut stat = rustix::fs::stat(&stored).unwrap();
        for (nanoseconds, expected) in [(1, Before::Stored), (0, Before::Nothing)] {
            stat.st_ctime_nsec = nanoseconds;
            let _ = std::fs::remove_file(&path);
            let (mut journal, _) = open(&path);
            let done = Record::Done {
                name: hash_of(b"stored"),
                bytes: 20,
                modified: MODIFIED,
                hash: [1; 32],
                inode: stat.st_ino,
                changed: change_time(&stat),
            };
            journal.append([done]).unwrap();
            drop(journal);
            assert_eq!(open(&path).1.before(&entry(b"stored", 20), &stat), expected, "{nanoseconds} ns");
        }
    }

    #[test]
    fn what_was_opened_and_what_was_not_kept_stands_in_the_journal() {
        use culvert_objects::fs::destination::attributes::Refused;
        use culvert_objects::fs::destination::plan::{Before, StoredBefore as _};
        use rustix::io::Errno;
        let (room, path) = room();
        let stored = room.path().join("stored");
        std::fs::write(&stored, [7; 20]).unwrap();
        let mut stat = rustix::fs::stat(&stored).unwrap();
        stat.st_ctime_nsec = 1;
        let inode = stat.st_ino;
        let (name, changed) = (hash_of(b"stored"), change_time(&stat));
        let done = Record::Done { name, bytes: 20, modified: MODIFIED, hash: [1; 32], inode, changed };
        let append = |records: Vec<Record>| open(&path).0.append(records).unwrap();
        append(vec![Record::opened_directory(b"d", 5, 0o2555), Record::opened_directory(b"d/e", 6, 0), done]);
        let past = open(&path).1;
        assert!(past.has_opened());
        assert_eq!(
            [b"d".as_slice(), b"d/e", b"e"].map(|name| past.opened(name)),
            [Some((5, 0o2555)), Some((6, 0)), None]
        );
        assert!(!past.has_made(&entry(b"d", 0)) && past.done(&entry(b"d", 0)).is_none());
        append(vec![Record::closed_directory(b"d"), Record::closed_directory(b"d/e")]);
        let past = open(&path).1;
        assert!(!past.has_opened() && past.opened(b"d").is_none());
        // A refused mode is only told; a file that could not get its time is known without it.
        let file = entry(b"stored", 20);
        for (refused, before) in [
            (Refused { mode: Some(Errno::PERM), time: None }, Before::Stored),
            (Refused { mode: None, time: Some(Errno::OPNOTSUPP) }, Before::StoredAtAnotherTime),
            (Refused { mode: Some(Errno::INVAL), time: Some(Errno::NOSYS) }, Before::StoredAtAnotherTime),
        ] {
            append(vec![Record::not_kept(b"stored", inode, refused)]);
            let past = open(&path).1;
            assert_eq!((past.refused(&file), past.before(&file, &stat)), (Some(refused), before));
        }
        append(vec![Record::not_kept(b"stored", inode + 1, Refused { mode: None, time: Some(Errno::PERM) })]);
        assert_eq!(open(&path).1.refused(&file), None, "that was another file");
    }
}
