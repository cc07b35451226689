//! What an incoming transfer has stored so far: an append-only file, by which an interrupted transfer goes on.
//!
//! A journal belongs to a partner and a destination. It is written only after what it says is durable, and read when the same
//! partner comes with the same destination again. A record that was cut off by a crash fails its check and ends the journal there.
//! When a transfer has stored everything the journal is removed.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_protocol::identity::{PublicKey, to_hex};
use culvert_protocol::manifest::{Entry, EntryKind, FileTime};
use culvert_protocol::tree_hash::ChunkHash;
use rustix::fs::{FlockOperation, Stat, flock};
use serde::{Deserialize, Serialize};

use crate::destination::plan::StoredBefore;
use crate::sources::hash_of;
use crate::state::sync_directory;

const VERSION: u32 = 1;
/// Length and check before each record.
const RECORD_HEADER_BYTES: usize = 6;

/// A journal that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another transfer writes it.
    #[error("another transfer from the same partner to the same destination is under way: wait for it, or cancel it")]
    InUse,
    /// The operating system refuses.
    #[error("cannot use the journal {path}: {error}")]
    Os {
        /// Which.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The first.
    Header {
        /// The journal's version.
        version: u32,
    },
    /// A file with chunks of its own has been begun; following [`Record::Chunk`]s name it by its number, which counts from 0.
    Begun {
        /// [`hash_of`] its name.
        name: u128,
        /// Its size.
        bytes: u64,
        /// The source's time of modification.
        modified: FileTime,
        /// The chunk size.
        chunk_bytes: u32,
    },
    /// A chunk is durable in the partial file.
    Chunk {
        /// The file's number.
        file: u32,
        /// Which of its chunks.
        part: u64,
        /// Its hash, if the transfer has hashes.
        hash: Option<ChunkHash>,
    },
    /// A file is durable under its final name.
    Done {
        /// [`hash_of`] its name.
        name: u128,
        /// Its size.
        bytes: u64,
        /// The source's time of modification.
        modified: FileTime,
        /// Its hash; zero if the transfer has none.
        hash: ChunkHash,
        /// The stored file's inode.
        inode: u64,
        /// When the stored file was last changed in any way.
        changed: FileTime,
    },
    /// Everything is stored, and the sender was told: only its signature may be missing.
    Complete,
    /// A directory may be filled beside its place.
    Filling {
        /// What its temporary name is made of.
        staging: u128,
    },
}

/// A file that an earlier attempt stored whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoneFile {
    bytes: u64,
    modified: FileTime,
    /// Its hash.
    pub hash: ChunkHash,
    inode: u64,
    changed: FileTime,
}

/// A file that an earlier attempt began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BegunFile {
    bytes: u64,
    modified: FileTime,
    chunk_bytes: u32,
    /// Its durable chunks with their hashes.
    pub chunks: HashMap<u64, Option<ChunkHash>>,
}

/// What earlier attempts left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Past {
    done: HashMap<u128, DoneFile>,
    begun: HashMap<u128, BegunFile>,
    filling: HashSet<u128>,
}

impl Past {
    /// What an earlier attempt stored of `entry` in a partial file, if the source is still the same.
    #[must_use]
    pub fn begun(&self, entry: &Entry<'_>, chunk_bytes: u32) -> Option<&BegunFile> {
        let begun = self.begun.get(&hash_of(entry.name))?;
        let same = is_same_source(entry, begun.bytes, begun.modified) && begun.chunk_bytes == chunk_bytes;
        (same && !begun.chunks.is_empty()).then_some(begun)
    }

    /// The file that an earlier attempt stored as `entry`.
    #[must_use]
    pub fn done(&self, entry: &Entry<'_>) -> Option<&DoneFile> {
        self.done.get(&hash_of(entry.name))
    }

    /// The hashes of the names of files that an earlier attempt began and did not end.
    pub fn begun_names(&self) -> impl Iterator<Item = u128> + '_ {
        self.begun.keys().copied()
    }

    /// What the temporary names of directories are made of that an earlier attempt may have left.
    #[must_use]
    pub const fn filling(&self) -> &HashSet<u128> {
        &self.filling
    }

    /// Whether there is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.begun.is_empty() && self.filling.is_empty()
    }
}

fn is_same_source(entry: &Entry<'_>, bytes: u64, modified: FileTime) -> bool {
    matches!(entry.kind, EntryKind::File { bytes: now, .. } if now == bytes) && entry.modified == modified
}

/// When a file was last changed in any way.
#[must_use]
pub fn change_time(stat: &Stat) -> FileTime {
    FileTime { seconds: stat.st_ctime, nanoseconds: stat.st_ctime_nsec as u32 }
}

impl StoredBefore for Past {
    fn is_stored(&self, _file: u32, entry: &Entry<'_>, stat: &Stat) -> bool {
        self.done.get(&hash_of(entry.name)).is_some_and(|done| {
            is_same_source(entry, done.bytes, done.modified)
                && stat.st_size as u64 == done.bytes
                && stat.st_ino == done.inode
                && change_time(stat) == done.changed
        })
    }
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    begun: u32,
    /// The length up to which it can be read.
    good_bytes: u64,
    was_there: bool,
}

impl Journal {
    /// Where the journal of a partner and a destination lies in a state directory's `journals`.
    #[must_use]
    pub fn path_of(directory: &Path, partner: PublicKey, destination: &[u8]) -> PathBuf {
        let mut hasher = blake3::Hasher::new_derive_key("culvert 1 journal");
        hasher.update(&partner.0).update(destination);
        directory.join(format!("{}.journal", to_hex(&hasher.finalize().as_bytes()[..16])))
    }

    /// Opens the journal, reads what earlier attempts left, and keeps others out of it.
    ///
    /// # Errors
    /// [`JournalError`].
    pub fn open(path: PathBuf) -> Result<(Self, Past), JournalError> {
        let os = |error| JournalError::Os { path: path.clone(), error };
        let mut file = File::options().read(true).append(true).create(true).mode(0o600).open(&path).map_err(os)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| JournalError::InUse)?;
        let bytes = std::fs::read(&path).map_err(os)?;
        // Whoever had the lock before may have removed the file between the two calls: then this is a file without a name.
        if std::fs::metadata(&path).ok().map(|named| named.ino()) != Some(file.metadata().map_err(os)?.ino()) {
            return Err(JournalError::InUse);
        }
        let was_there = !bytes.is_empty();
        let (past, begun, mut good_bytes) = replay(&bytes);
        if good_bytes < bytes.len() {
            file.set_len(good_bytes as u64).map_err(os)?;
        }
        if good_bytes == 0 {
            let header = encode(&Record::Header { version: VERSION });
            good_bytes = header.len();
            file.write_all(&header).map_err(os)?;
            file.sync_data().map_err(os)?;
            // A journal whose name is lost in a power failure has never been there.
            sync_directory(path.parent().unwrap_or(Path::new("."))).map_err(os)?;
        }
        Ok((Self { file, path, begun, good_bytes: good_bytes as u64, was_there }, past))
    }

    /// Removes the journals in `directory` that have nothing more to tell: those of transfers that were complete, and those that
    /// nothing was written to. Younger ones than `age` stay: a partner whose signature is missing may come again.
    pub fn sweep(directory: &Path, age: Duration) {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let is_old = modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|elapsed| elapsed >= age));
            if !is_old || entry.path().extension().is_none_or(|extension| extension != "journal") {
                continue;
            }
            // One that is in use, or cannot be read, is left alone.
            let Ok(file) = File::open(entry.path()) else { continue };
            let Ok(bytes) = std::fs::read(entry.path()) else { continue };
            let is_over = matches!(records(&bytes).last(), Some(Record::Complete | Record::Header { .. }));
            if is_over && flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// What tells this journal's transfer from those of other partners to the same place.
    #[must_use]
    pub fn seed(&self) -> u128 {
        hash_of(self.path.as_os_str().as_bytes())
    }

    /// Whether an earlier attempt has left it, even if it came to store nothing.
    #[must_use]
    pub const fn was_there(&self) -> bool {
        self.was_there
    }

    /// The number that the next [`Record::Begun`] gets.
    #[must_use]
    pub const fn next_begun(&self) -> u32 {
        self.begun
    }

    /// Appends records. They are durable when this returns.
    ///
    /// # Errors
    /// The operating system's.
    pub fn append(&mut self, records: impl IntoIterator<Item = Record>) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut begun = self.begun;
        for record in records {
            begun += u32::from(matches!(record, Record::Begun { .. }));
            bytes.extend(encode(&record));
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all(&bytes).and_then(|()| Ok(rustix::fs::fdatasync(self.file.as_fd())?));
        if let Err(error) = written {
            // Half a record would hide everything that is written after it.
            self.file.set_len(self.good_bytes)?;
            return Err(error);
        }
        self.begun = begun;
        self.good_bytes += bytes.len() as u64;
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

fn encode(record: &Record) -> Vec<u8> {
    let body = postcard::to_stdvec(record).expect("records have a postcard form");
    let mut bytes = Vec::with_capacity(RECORD_HEADER_BYTES + body.len());
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(&blake3::hash(&body).as_bytes()[..4]);
    bytes.extend(body);
    bytes
}

/// Reads records until the end or the first that is damaged: what they say, how many files were begun, and how many bytes were good.
#[must_use]
pub fn replay(bytes: &[u8]) -> (Past, u32, usize) {
    let mut past = Past::default();
    let mut begun = Vec::new();
    let mut rest = bytes;
    let mut is_first = true;
    while let Some((record, after)) = decode(rest) {
        match record {
            Record::Header { version } if is_first && version == VERSION => {}
            // Written by another version: nothing in it is understood.
            _ if is_first => return (Past::default(), 0, 0),
            Record::Header { .. } => break,
            Record::Begun { name, bytes, modified, chunk_bytes } => {
                begun.push(name);
                past.begun.insert(name, BegunFile { bytes, modified, chunk_bytes, chunks: HashMap::new() });
            }
            Record::Chunk { file, part, hash } => {
                if let Some(file) = begun.get(file as usize).and_then(|name| past.begun.get_mut(name)) {
                    file.chunks.insert(part, hash);
                }
            }
            Record::Done { name, bytes, modified, hash, inode, changed } => {
                past.begun.remove(&name);
                past.done.insert(name, DoneFile { bytes, modified, hash, inode, changed });
            }
            Record::Complete => {}
            Record::Filling { staging } => {
                past.filling.insert(staging);
            }
        }
        is_first = false;
        rest = after;
    }
    (past, begun.len() as u32, bytes.len() - rest.len())
}

/// The whole records of a journal, in order, for those who look into one.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Record> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (record, after) = decode(rest)?;
        rest = after;
        Some(record)
    })
}

fn decode(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (check, rest) = rest.split_first_chunk::<4>()?;
    let (body, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    if blake3::hash(body).as_bytes()[..4] != check[..] {
        return None;
    }
    match postcard::take_from_bytes(body) {
        Ok((record, [])) => Some((record, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records() -> Vec<Record> {
        let modified = FileTime { seconds: 5, nanoseconds: 6 };
        vec![
            Record::Begun { name: hash_of(b"a"), bytes: 10, modified, chunk_bytes: 4 },
            Record::Chunk { file: 0, part: 0, hash: Some([1; 32]) },
            Record::Begun { name: hash_of(b"b"), bytes: 20, modified, chunk_bytes: 4 },
            Record::Chunk { file: 1, part: 3, hash: None },
            Record::Chunk { file: 0, part: 2, hash: Some([2; 32]) },
            Record::Done { name: hash_of(b"c"), bytes: 1, modified, hash: [3; 32], inode: 9, changed: modified },
        ]
    }

    fn entry(name: &'static [u8], bytes: u64) -> Entry<'static> {
        Entry {
            name,
            kind: EntryKind::File { bytes, is_sparse: false },
            target: b"",
            mode: 0o644,
            modified: FileTime { seconds: 5, nanoseconds: 6 },
        }
    }

    #[test]
    fn the_next_attempt_finds_what_this_one_stored() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        let (mut journal, past) = Journal::open(path.clone()).unwrap();
        assert!(past.is_empty());
        journal.append(records()).unwrap();
        assert!(matches!(Journal::open(path.clone()), Err(JournalError::InUse)));
        drop(journal);
        let (journal, past) = Journal::open(path.clone()).unwrap();
        assert_eq!(journal.next_begun(), 2);
        let begun = past.begun(&entry(b"a", 10), 4).unwrap();
        assert_eq!(begun.chunks, HashMap::from([(0, Some([1; 32])), (2, Some([2; 32]))]));
        assert!(past.begun(&entry(b"a", 11), 4).is_none(), "the source has another size now");
        assert!(past.begun(&entry(b"a", 10), 8).is_none(), "chunks are cut differently now");
        assert_eq!(past.done(&entry(b"c", 1)).unwrap().hash, [3; 32]);
        journal.remove().unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn a_journal_of_another_version_is_begun_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("j");
        std::fs::write(&path, encode(&Record::Header { version: 99 })).unwrap();
        let (mut journal, past) = Journal::open(path.clone()).unwrap();
        assert!(past.is_empty());
        journal.append(records()).unwrap();
        drop(journal);
        assert!(!Journal::open(path).unwrap().1.is_empty());
    }

    proptest! {
        #[test]
        fn a_journal_that_was_cut_anywhere_keeps_whole_records_only(cut: prop::sample::Index) {
            let mut bytes = encode(&Record::Header { version: VERSION });
            let mut ends = vec![bytes.len()];
            for record in records() {
                bytes.extend(encode(&record));
                ends.push(bytes.len());
            }
            let cut = cut.index(bytes.len() + 1);
            let (_, _, good) = replay(&bytes[..cut]);
            let expected = ends.iter().copied().filter(|&end| end <= cut).max().unwrap_or(0);
            prop_assert_eq!(good, expected);
        }

        #[test]
        fn any_bytes_are_replayed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = replay(&bytes);
        }
    }
}
