//! The ordered list of a transfer's files.
//!
//! The sender makes it from its sources, the receiver checks it and plans with it, and both derive
//! the same chunks from it ([`crate::chunk_map`]). A million entries are an ordinary manifest, so
//! [`Manifest`] keeps names in one allocation and an entry in 56 bytes.

use serde::{Deserialize, Serialize};

use crate::names::{NameError, check_relative, printable, symlink_stays_inside};

/// The most entries that a manifest may have: they take half a gigabyte of memory.
pub const ENTRIES_MAX: usize = 4_000_000;
/// The largest file: beyond it, offsets no longer fit the kernel's signed 64 bits with room for a
/// chunk.
pub const FILE_BYTES_MAX: u64 = 1 << 62;

/// A point in time of a file, as the file system keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTime {
    /// Seconds since 1970, negative before.
    pub seconds: i64,
    /// Nanoseconds of the second.
    pub nanoseconds: u32,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Its size.
        bytes: u64,
        /// Whether it has holes: then no room is reserved for it.
        is_sparse: bool,
    },
    /// A directory.
    Directory,
    /// A symlink; the entry's target says where to.
    Symlink,
}

/// One entry, as it travels.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// The name below the destination.
    #[serde(borrow)]
    pub name: &'a [u8],
    /// The kind of entry.
    pub kind: EntryKind,
    /// The target of a symlink, else empty.
    #[serde(borrow)]
    pub target: &'a [u8],
    /// Permission bits (the lowest nine; never setuid, setgid or sticky).
    pub mode: u16,
    /// When it was last modified.
    pub modified: FileTime,
}

/// Why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Its name.
    #[error("the name '{name}' is refused: {reason}")]
    Name {
        /// The name, printable.
        name: String,
        /// The rule.
        reason: NameError,
    },
    /// A symlink that leads outside.
    #[error("the symlink '{name}' leads outside the transfer (to '{target}')")]
    SymlinkLeaves {
        /// The name, printable.
        name: String,
        /// The target, printable.
        target: String,
    },
    /// A size, mode or time that no file system has.
    #[error("'{name}' has {what} beyond what file systems support")]
    OutOfRange {
        /// The name, printable.
        name: String,
        /// Which field.
        what: &'static str,
    },
    /// One entry too many.
    #[error("the manifest has more than {ENTRIES_MAX} entries: split the transfer")]
    TooMany,
}

impl Entry<'_> {
    /// Checks everything that can be checked of an entry alone.
    ///
    /// # Errors
    /// [`EntryError`] names the entry and the rule.
    pub fn check(&self) -> Result<(), EntryError> {
        //= W-36
        //# The receiver checks every entry by itself and against the earlier ones.
        let name = || printable(self.name);
        check_relative(self.name).map_err(|reason| EntryError::Name { name: name(), reason })?;
        let out_of_range = |what| Err(EntryError::OutOfRange { name: name(), what });
        //= W-36
        //# Modes have nine bits.
        if self.mode > 0o777 {
            return out_of_range("a mode");
        }
        if self.modified.nanoseconds >= 1_000_000_000 {
            return out_of_range("a time");
        }
        match self.kind {
            EntryKind::File { bytes, .. } if bytes > FILE_BYTES_MAX => out_of_range("a size"),
            EntryKind::Symlink if !symlink_stays_inside(self.name, self.target) => {
                Err(EntryError::SymlinkLeaves { name: name(), target: printable(self.target) })
            }
            EntryKind::File { .. } | EntryKind::Directory if !self.target.is_empty() => {
                out_of_range("a symlink target")
            }
            _ => Ok(()),
        }
    }
}

/// An entry in memory: where its name is, and the rest.
#[derive(Clone, Copy, Debug)]
struct Record {
    name_at: u64,
    bytes: u64,
    seconds: i64,
    nanoseconds: u32,
    name_bytes: u16,
    target_bytes: u16,
    mode: u16,
    kind: RecordKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordKind {
    File,
    SparseFile,
    Directory,
    Symlink,
}

/// A transfer's files, in the order in which the sender listed them.
#[derive(Debug)]
pub struct Manifest {
    names: Vec<u8>,
    records: Vec<Record>,
    file_count: u64,
    total_bytes: u64,
    digest: blake3::Hasher,
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            records: Vec::new(),
            file_count: 0,
            total_bytes: 0,
            digest: blake3::Hasher::new_derive_key("culvert 1 manifest"),
        }
    }
}

impl Manifest {
    /// Checks an entry and appends it; returns its number.
    ///
    /// # Errors
    /// [`EntryError`], and the manifest is as before.
    pub fn push(&mut self, entry: &Entry<'_>) -> Result<u32, EntryError> {
        entry.check()?;
        if self.records.len() >= ENTRIES_MAX {
            return Err(EntryError::TooMany);
        }
        let number = u32::try_from(self.records.len()).map_err(|_| EntryError::TooMany)?;
        let (bytes, kind) = match entry.kind {
            EntryKind::File { bytes, is_sparse: false } => (bytes, RecordKind::File),
            EntryKind::File { bytes, is_sparse: true } => (bytes, RecordKind::SparseFile),
            EntryKind::Directory => (0, RecordKind::Directory),
            EntryKind::Symlink => (0, RecordKind::Symlink),
        };
        let total = self.total_bytes.checked_add(bytes).filter(|&total| total <= FILE_BYTES_MAX);
        let out_of_range = || EntryError::OutOfRange { name: printable(entry.name), what: "a size" };
        self.total_bytes = total.ok_or_else(out_of_range)?;
        self.file_count = self.file_count.saturating_add(u64::from(matches!(entry.kind, EntryKind::File { .. })));
        // Invariant I-manifest-names: The names and targets in a manifest were checked, so their
        // lengths fit 16 bits.
        assert!(entry.name.len().max(entry.target.len()) <= usize::from(u16::MAX), "an unchecked name");
        let name_at = self.names.len() as u64;
        self.names.extend_from_slice(entry.name);
        self.names.extend_from_slice(entry.target);
        self.digest_entry(entry);
        self.records.push(Record {
            name_at,
            bytes,
            seconds: entry.modified.seconds,
            nanoseconds: entry.modified.nanoseconds,
            name_bytes: length_of(entry.name),
            target_bytes: length_of(entry.target),
            mode: entry.mode,
            kind,
        });
        Ok(number)
    }

    fn digest_entry(&mut self, entry: &Entry<'_>) {
        let mut fixed = [0u8; 33];
        let (kind, bytes) = match entry.kind {
            EntryKind::File { bytes, is_sparse } => (if is_sparse { 3 } else { 0 }, bytes),
            EntryKind::Directory => (1, 0),
            EntryKind::Symlink => (2, 0),
        };
        fixed[0] = kind;
        fixed[1..9].copy_from_slice(&bytes.to_be_bytes());
        fixed[9..17].copy_from_slice(&entry.modified.seconds.to_be_bytes());
        fixed[17..21].copy_from_slice(&entry.modified.nanoseconds.to_be_bytes());
        fixed[21..23].copy_from_slice(&entry.mode.to_be_bytes());
        fixed[23..25].copy_from_slice(&length_of(entry.name).to_be_bytes());
        fixed[25..27].copy_from_slice(&length_of(entry.target).to_be_bytes());
        self.digest.update(&fixed).update(entry.name).update(entry.target);
    }

    /// The number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many of the entries are regular files.
    #[must_use]
    pub const fn file_count(&self) -> u64 {
        self.file_count
    }

    /// The sizes of all files together.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.total_bytes
    }

    /// Entry number `at`.
    ///
    /// # Panics
    /// If there is no such entry: code that gets a number from a partner must compare it with
    /// [`Manifest::len`] first.
    #[must_use]
    #[expect(
        clippy::indexing_slicing,
        reason = "the number is the caller's duty; names are as long as their records say"
    )]
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "places within the names in memory"
    )]
    pub fn entry(&self, at: u32) -> Entry<'_> {
        let record = &self.records[at as usize];
        let name_end = record.name_at as usize + usize::from(record.name_bytes);
        Entry {
            name: &self.names[record.name_at as usize..name_end],
            kind: match record.kind {
                RecordKind::File => EntryKind::File { bytes: record.bytes, is_sparse: false },
                RecordKind::SparseFile => EntryKind::File { bytes: record.bytes, is_sparse: true },
                RecordKind::Directory => EntryKind::Directory,
                RecordKind::Symlink => EntryKind::Symlink,
            },
            target: &self.names[name_end..name_end + usize::from(record.target_bytes)],
            mode: record.mode,
            modified: FileTime { seconds: record.seconds, nanoseconds: record.nanoseconds },
        }
    }

    /// The size of entry `at` if it is a regular file.
    ///
    /// # Panics
    /// If there is no such entry: code that gets a number from a partner must compare it with
    /// [`Manifest::len`] first.
    #[must_use]
    #[expect(clippy::indexing_slicing, reason = "the number is the caller's duty")]
    pub fn file_bytes(&self, at: u32) -> Option<u64> {
        let record = &self.records[at as usize];
        matches!(record.kind, RecordKind::File | RecordKind::SparseFile).then_some(record.bytes)
    }

    /// All entries with their numbers.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (u32, Entry<'_>)> {
        // There are at most ENTRIES_MAX.
        (0..u32::try_from(self.records.len()).unwrap_or(u32::MAX)).map(|at| (at, self.entry(at)))
    }

    /// A digest of all entries, by which both ends make sure that they have the same manifest.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        *self.digest.finalize().as_bytes()
    }
}

/// The length of a name or target; [`Entry::check`] has refused anything longer than 64 KiB.
fn length_of(name: &[u8]) -> u16 {
    u16::try_from(name.len()).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file<'a>(name: &'a [u8], bytes: u64) -> Entry<'a> {
        Entry {
            name,
            kind: EntryKind::File { bytes, is_sparse: false },
            target: b"",
            mode: 0o644,
            modified: FileTime::default(),
        }
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let mut manifest = Manifest::default();
        let link = Entry { kind: EntryKind::Symlink, target: b"a/\xff", ..file(b"link", 0) };
        let directory = Entry { kind: EntryKind::Directory, mode: 0o755, ..file(b"a", 0) };
        for entry in [&directory, &file(b"a/\xff", 77), &link] {
            manifest.push(entry).unwrap();
        }
        assert_eq!(manifest.entry(0), directory);
        assert_eq!(manifest.entry(1), file(b"a/\xff", 77));
        assert_eq!(manifest.entry(2), link);
        assert_eq!((manifest.file_count(), manifest.total_bytes()), (1, 77));
        assert_eq!(manifest.file_bytes(0), None);
    }

    #[test]
    fn the_digest_tells_manifests_apart() {
        let digest = |entries: &[Entry<'_>]| {
            let mut manifest = Manifest::default();
            for entry in entries {
                manifest.push(entry).unwrap();
            }
            manifest.digest()
        };
        let link = |name, target| Entry { kind: EntryKind::Symlink, target, ..file(name, 0) };
        let all = [
            digest(&[]),
            digest(&[file(b"a", 1)]),
            digest(&[file(b"a", 2)]),
            digest(&[file(b"a", 1), file(b"b", 1)]),
            digest(&[Entry { mode: 0o600, ..file(b"a", 1) }]),
            digest(&[link(b"ab", b"c")]),
            digest(&[link(b"a", b"bc")]),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }

    #[test]
    fn lies_are_refused_by_name() {
        //= W-36
        //# The receiver checks every entry by itself
        let mut manifest = Manifest::default();
        let refused = |manifest: &mut Manifest, entry: Entry<'_>| manifest.push(&entry).unwrap_err().to_string();
        assert!(refused(&mut manifest, file(b"../x", 1)).contains("'../x'"));
        assert!(refused(&mut manifest, file(b"big", u64::MAX)).contains("a size"));
        assert!(refused(&mut manifest, Entry { mode: 0o4755, ..file(b"suid", 1) }).contains("a mode"));
        let link = Entry { kind: EntryKind::Symlink, target: b"/etc", ..file(b"l", 0) };
        assert!(refused(&mut manifest, link).contains("/etc"));
        manifest.push(&file(b"half", FILE_BYTES_MAX / 2 + 1)).unwrap();
        assert!(refused(&mut manifest, file(b"half too", FILE_BYTES_MAX / 2 + 1)).contains("a size"));
        assert_eq!(manifest.len(), 1, "refused entries leave no trace");
        assert_eq!(manifest.total_bytes(), FILE_BYTES_MAX / 2 + 1);
    }
}
