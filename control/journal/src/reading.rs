//! Reads a journal: what its records say, and where its intact part ends.

use std::collections::{BTreeSet, HashMap, HashSet};

use culvert_objects::fs::destination::attributes::Refused;
use culvert_objects::fs::destination::plan::{EarlierResult, StoredBefore};
use culvert_objects::fs::sources::hash_of;
use culvert_protocol::manifest::{Entry, EntryKind, FileTime};
use culvert_protocol::tree_hash::ChunkHash;
use rustix::fs::Stat;

use crate::record::{
    ATTRIBUTES, OPENED, Record, TOP_NAMES_MAX, VERSION, VERSION_MIN, beside, decode, encode, top_name_hash, version_of,
    whole,
};

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

impl DoneFile {
    /// Whether the transfer that stored it had hashes.
    #[must_use]
    pub fn has_hash(&self) -> bool {
        self.hash != ChunkHash::default()
    }
}

/// A file that an earlier attempt began.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BegunFile {
    bytes: u64,
    modified: FileTime,
    chunk_bytes: u32,
    /// The number from which the partial file's temporary name is derived.
    pub token: u128,
    /// The partial file's inode; 0 if it is not known.
    pub inode: u64,
    /// Its directory, as in [`Record::Begun`].
    pub directory: Vec<u8>,
    /// Its durable chunks with their hashes.
    pub chunks: HashMap<u64, Option<ChunkHash>>,
}

/// What earlier attempts left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EarlierAttempts {
    done: HashMap<u128, DoneFile>,
    begun: HashMap<u128, BegunFile>,
    filling: HashSet<u128>,
    attempts: HashSet<u64>,
    top_names: BTreeSet<u32>,
    /// Whether the transfer signs hashes, so that a file stored without one is not enough.
    needs_hashes: bool,
}

impl EarlierAttempts {
    /// The partial file of `entry` that an earlier attempt left, if the source has not changed.
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

    /// Whether an earlier attempt made the directory that `entry` is.
    #[must_use]
    pub fn has_made(&self, entry: &Entry<'_>) -> bool {
        self.done(entry).is_some_and(|done| Record::is_made_directory(&done.hash))
    }

    /// The inode and former mode of a directory whose mode an earlier attempt widened and has not
    /// restored.
    #[must_use]
    pub fn opened(&self, name: &[u8]) -> Option<(u64, u32)> {
        let opened = self.done.get(&beside(name, OPENED)).filter(|done| Record::is_opened_directory(&done.hash))?;
        Some((opened.inode, u32::try_from(opened.bytes).ok().filter(|&mode| mode <= 0o7777)?))
    }

    /// Whether there is any such directory.
    #[must_use]
    pub fn has_opened(&self) -> bool {
        self.done.values().any(|done| Record::is_opened_directory(&done.hash))
    }

    /// The attributes that the destination refused when an earlier attempt stored `entry`.
    #[must_use]
    pub fn refused(&self, entry: &Entry<'_>) -> Option<Refused> {
        let done = self.done(entry)?;
        let noted = self.done.get(&beside(entry.name, ATTRIBUTES)).filter(|noted| noted.inode == done.inode)?;
        Record::refused(&noted.hash, noted.bytes)
    }

    /// The files that an earlier attempt began and did not finish, by the hashes of their names.
    pub fn begun_files(&self) -> impl Iterator<Item = (u128, &BegunFile)> + '_ {
        self.begun.iter().map(|(&name, begun)| (name, begun))
    }

    /// The hash of the name of the only unfinished file; `None` if there are several or none.
    pub(crate) fn only_begun(&self) -> Option<u128> {
        let mut names = self.begun.keys().copied();
        names.next().filter(|_| names.next().is_none())
    }

    /// Sets the numbers of partial files' temporary names, by the hashes of the files' names.
    pub(crate) fn set_tokens(&mut self, token_of: impl Fn(u128) -> u128) {
        for (&name, begun) in &mut self.begun {
            begun.token = token_of(name);
        }
    }

    /// Says that the transfer signs hashes: files stored without one are not enough.
    pub const fn need_hashes(&mut self) {
        self.needs_hashes = true;
    }

    /// Whether an earlier attempt may have had this top name. A journal keeps [`TOP_NAMES_MAX`] of
    /// them; with as many, any name may have been among the rest.
    #[must_use]
    pub fn may_have_top_name(&self, name: &[u8]) -> bool {
        self.top_names.len() >= TOP_NAMES_MAX || self.top_names.contains(&top_name_hash(name))
    }

    /// The numbers of temporary directory names that an attempt of version 1 may have left.
    #[must_use]
    pub const fn filling(&self) -> &HashSet<u128> {
        &self.filling
    }

    /// The numbers of attempts that may have left temporary names.
    #[must_use]
    pub const fn attempts(&self) -> &HashSet<u64> {
        &self.attempts
    }

    /// Whether an attempt had one of these top names, or a file whose name has one of these hashes
    /// was begun or stored.
    #[must_use]
    pub fn is_about(&self, top_names: &[u32], mut names: impl Iterator<Item = u128>) -> bool {
        top_names.iter().any(|name| self.top_names.contains(name))
            || names.any(|name| self.begun.contains_key(&name) || self.done.contains_key(&name))
    }

    /// Whether earlier attempts left nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.done.is_empty() && self.begun.is_empty() && self.filling.is_empty() && self.attempts.is_empty()
    }

    /// Takes over what another journal says about files that this one does not know.
    pub(crate) fn absorb(&mut self, other: Self) {
        let Self { done, begun, filling, attempts, top_names, needs_hashes: _ } = other;
        for (name, file) in begun {
            self.begun.entry(name).or_insert(file);
        }
        for (name, file) in done {
            self.begun.remove(&name);
            self.done.entry(name).or_insert(file);
        }
        self.filling.extend(filling);
        self.attempts.extend(attempts);
        self.top_names.extend(top_names);
    }

    /// The same as records, for a journal that has begun `begun_before` files.
    pub(crate) fn to_records(&self, begun_before: u32) -> Vec<Record> {
        let mut records: Vec<Record> = Vec::new();
        let top_names: Vec<u32> = self.top_names.iter().copied().take(TOP_NAMES_MAX).collect();
        records.extend(self.attempts.iter().map(|&number| Record::Attempt { number, top_names: top_names.clone() }));
        records.extend(self.filling.iter().map(|&staging| Record::Filling { staging }));
        for ((&name, file), number) in self.begun.iter().zip(begun_before..) {
            let &BegunFile { bytes, modified, chunk_bytes, token, inode, ref directory, ref chunks } = file;
            let directory = directory.clone();
            records.push(Record::Begun { name, bytes, modified, chunk_bytes, token, inode, directory });
            records.extend(chunks.iter().map(|(&part, &hash)| Record::Chunk { file: number, part, hash }));
        }
        records.extend(self.done.iter().map(|(&name, file)| {
            let &DoneFile { bytes, modified, hash, inode, changed } = file;
            Record::Done { name, bytes, modified, hash, inode, changed }
        }));
        records
    }
}

/// A file's change time (`ctime`).
#[must_use]
pub fn change_time(stat: &Stat) -> FileTime {
    let nanoseconds = u32::try_from(stat.st_ctime_nsec).unwrap_or_default();
    FileTime { seconds: stat.st_ctime, nanoseconds }
}

impl StoredBefore for EarlierAttempts {
    fn before(&self, entry: &Entry<'_>, stat: &Stat) -> EarlierResult {
        let done = self.done.get(&hash_of(entry.name)).filter(|done| {
            is_same_source(entry, done.bytes, done.modified)
                && stat.st_size as u64 == done.bytes
                && stat.st_ino == done.inode
                && change_time(stat) == done.changed
                // A file system with timestamps of whole seconds hides changes within one.
                && done.changed.nanoseconds != 0
        });
        match done {
            None => EarlierResult::Nothing,
            Some(done) if self.needs_hashes && !done.has_hash() => EarlierResult::StoredWithoutHash,
            Some(_) if self.refused(entry).is_some_and(|refused| refused.time.is_some()) => {
                EarlierResult::StoredAtAnotherTime
            }
            Some(_) => EarlierResult::Stored,
        }
    }
}

/// How a journal ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// With its last record.
    Whole,
    /// With an append that a crash cut short: nothing in it was ever reported as durable.
    Torn,
    /// With bytes that are no record, and records after them: a disk has lost or altered durable
    /// data.
    Damaged,
}

/// A journal's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// The version that wrote it; the current one if it is empty.
    pub version: u32,
    /// What earlier attempts left.
    pub past: EarlierAttempts,
    /// How many files were begun.
    pub begun: u32,
    /// The length in bytes of its whole records, from the first on.
    pub good_bytes: usize,
    /// What follows them.
    pub end: End,
}

/// What this program does not understand in a journal. The journal must be left as it is, for the
/// program that wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// Its version is not one that this program reads.
    #[error("it has version {0}, but this program reads versions {VERSION_MIN} to {VERSION}")]
    Version(u32),
    /// The record at this byte is intact, but of an unknown kind.
    #[error("the record at byte {0} is intact but of a kind that this program does not know")]
    Record(usize),
}

/// Reads a journal.
///
/// # Errors
/// [`Unknown`].
pub fn read(bytes: &[u8]) -> Result<Contents, Unknown> {
    let mut past = EarlierAttempts::default();
    let mut begun = Vec::new();
    let mut rest = bytes;
    let mut version = None;
    while let Some((body, after)) = whole(rest) {
        let Some(version) = version else {
            let found = version_of(body).ok_or(Unknown::Record(0))?;
            if !(VERSION_MIN..=VERSION).contains(&found) {
                return Err(Unknown::Version(found));
            }
            // In these versions, a header contains nothing else.
            decode(body, found).ok_or(Unknown::Record(0))?;
            (version, rest) = (Some(found), after);
            continue;
        };
        let at = bytes.len().saturating_sub(rest.len());
        let record = decode(body, version).ok_or(Unknown::Record(at))?;
        // Nothing appends a second header: what follows is damage.
        if matches!(record, Record::Header { .. }) {
            break;
        }
        note(record, &mut past, &mut begun);
        rest = after;
    }
    let good_bytes = bytes.len().saturating_sub(rest.len());
    // JOURNAL_BYTES_MAX allows far fewer.
    let begun = u32::try_from(begun.len()).unwrap_or(u32::MAX);
    let end = end_of(rest, version);
    Ok(Contents { version: version.unwrap_or(VERSION), past, begun, good_bytes, end })
}

/// Bytes after the last whole record that are searched for another. A longer torn append counts as
/// damage, which costs only the space for a copy.
const LOOKED_THROUGH_MAX: usize = 1 << 20;
/// The longest record of any version, and so the most that is hashed at each byte of that search.
const BODY_BYTES_MAX: u16 = 512;

/// The intact records of a journal, in order and in the current format, for tools that inspect one.
pub fn records(bytes: &[u8]) -> impl Iterator<Item = Record> + '_ {
    let mut rest = bytes;
    let version = whole(bytes).and_then(|(body, _)| version_of(body)).unwrap_or(VERSION);
    std::iter::from_fn(move || {
        let (body, after) = whole(rest)?;
        rest = after;
        decode(body, version)
    })
}

fn is_same_source(entry: &Entry<'_>, bytes: u64, modified: FileTime) -> bool {
    matches!(entry.kind, EntryKind::File { bytes: now, .. } if now == bytes) && entry.modified == modified
}

fn note(record: Record, past: &mut EarlierAttempts, begun: &mut Vec<u128>) {
    match record {
        Record::Header { .. } | Record::Complete => {}
        Record::Begun { name, bytes, modified, chunk_bytes, token, inode, directory } => {
            begun.push(name);
            let chunks = HashMap::new();
            past.begun.insert(name, BegunFile { bytes, modified, chunk_bytes, token, inode, directory, chunks });
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
        Record::Filling { staging } => {
            past.filling.insert(staging);
        }
        Record::Attempt { number, top_names } => {
            past.attempts.insert(number);
            past.top_names.extend(top_names);
        }
    }
}

/// Judges the bytes after the last whole record.
fn end_of(rest: &[u8], version: Option<u32>) -> End {
    if rest.is_empty() {
        return End::Whole;
    }
    // The header is durable before anything follows it.
    let longest =
        if version.is_none() { encode(&Record::Header { version: VERSION }).len() } else { LOOKED_THROUGH_MAX };
    let begins_record = |at: &[u8]| {
        let is_short = at.first_chunk().is_some_and(|&length| u16::from_be_bytes(length) <= BODY_BYTES_MAX);
        is_short && whole(at).is_some()
    };
    let has_record = || (0..rest.len()).any(|at| rest.get(at..).is_some_and(begins_record));
    if rest.len() > longest || has_record() { End::Damaged } else { End::Torn }
}
