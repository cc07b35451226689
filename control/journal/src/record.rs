//! A journal's records and their form in the file: length, check, body.
//!
//! ```text
//! length  u16, big-endian   of the body
//! check   4 bytes           the first of the body's BLAKE3
//! body                      the record in postcard's form
//! ```
//!
//! This form is the same in all versions. Every program can therefore tell whether a record is
//! intact, and, from the first record, which version wrote the journal.

use culvert_objects::fs::destination::attributes::Refused;
use culvert_objects::fs::sources::hash_of;
use culvert_protocol::manifest::FileTime;
use culvert_protocol::tree_hash::ChunkHash;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// The version that this program writes.
pub const VERSION: u32 = 2;
/// The oldest version that this program reads.
pub const VERSION_MIN: u32 = 1;
/// The length and the check in front of each body.
const RECORD_HEADER_BYTES: usize = 6;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record {
    /// The first.
    Header {
        /// The journal's version.
        version: u32,
    },
    /// A file with chunks of its own has been begun. [`Record::Chunk`]s refer to it by its number,
    /// counted from 0.
    Begun {
        /// [`hash_of`] its name.
        name: u128,
        /// Its size.
        bytes: u64,
        /// The source's modification time.
        modified: FileTime,
        /// The chunk size.
        chunk_bytes: u32,
        /// The number from which the partial file's temporary name is derived
        /// ([`temporary_name`](culvert_objects::fs::destination::temporary::temporary_name)).
        token: u128,
        /// The partial file's inode; 0 if it is not known.
        inode: u64,
        /// Its directory; empty for the destination itself, and for names longer than
        /// [`DIRECTORY_BYTES_MAX`].
        directory: Vec<u8>,
    },
    /// A chunk is durable in the partial file.
    Chunk {
        /// The file's number.
        file: u32,
        /// The index of the chunk within the file.
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
        /// The source's modification time.
        modified: FileTime,
        /// Its hash; zero if the transfer has none.
        hash: ChunkHash,
        /// The stored file's inode.
        inode: u64,
        /// The stored file's change time (`ctime`).
        changed: FileTime,
    },
    /// Everything is stored and the sender knows; only its signature may be missing.
    Complete,
    /// A directory may have been filled under a temporary name. Only version 1 writes this; its
    /// successor is [`Record::Attempt`].
    Filling {
        /// The number from which its temporary name is derived.
        staging: u128,
    },
    /// An attempt begins. This number identifies what it makes under temporary names
    /// ([`Attempt`](culvert_objects::fs::destination::temporary::Attempt)).
    Attempt {
        /// The number.
        number: u64,
        /// The smallest hashes of its files' top names, which tell whether another transfer is
        /// about the same files.
        top_names: Vec<u32>,
    },
}

/// The "hash" of a [`Record::Done`] that is about a directory made by the transfer. No file has it.
const MADE_DIRECTORY: ChunkHash = [0xd1; 32];
/// As [`MADE_DIRECTORY`], for a directory whose mode was widened.
const OPENED_DIRECTORY: ChunkHash = [0xd2; 32];
/// As [`MADE_DIRECTORY`], for an entry that is stored without some of its attributes.
const NOT_KEPT: ChunkHash = [0xd3; 32];

/// Additional information about an entry, in the form of a [`Record::Done`]: all programs of
/// version 2 can read it, and it has no effect on those that do not know it, because no entry has
/// such a name or no file such a hash.
impl Record {
    /// The directory with this name hash does not exist, and the transfer is about to make it: a
    /// directory found there later is the transfer's own.
    #[must_use]
    pub const fn made_directory(name: u128) -> Self {
        Self::aside(name, MADE_DIRECTORY, 0, 0)
    }

    /// The directory was not made after all, or somebody else made it first.
    #[must_use]
    pub fn not_made_directory(name: u128) -> Self {
        Self::aside(name, ChunkHash::default(), 0, 0)
    }

    /// The mode of a directory is about to be widened, and was this.
    #[must_use]
    pub fn opened_directory(name: &[u8], inode: u64, mode: u32) -> Self {
        Self::aside(beside(name, OPENED), OPENED_DIRECTORY, mode.into(), inode)
    }

    /// A directory has its own mode again.
    #[must_use]
    pub fn closed_directory(name: &[u8]) -> Self {
        Self::aside(beside(name, OPENED), ChunkHash::default(), 0, 0)
    }

    /// An entry is stored without these attributes.
    #[must_use]
    pub fn not_kept(name: &[u8], inode: u64, refused: Refused) -> Self {
        let number = |error: Option<Errno>| error.map_or(0, |error| u64::from(error.raw_os_error().unsigned_abs()));
        Self::aside(beside(name, ATTRIBUTES), NOT_KEPT, number(refused.mode) << 32 | number(refused.time), inode)
    }

    const fn aside(name: u128, hash: ChunkHash, bytes: u64, inode: u64) -> Self {
        let never = FileTime { seconds: 0, nanoseconds: 0 };
        Self::Done { name, bytes, modified: never, hash, inode, changed: never }
    }

    /// Whether a hash marks a directory that was made.
    #[must_use]
    pub fn is_made_directory(hash: &ChunkHash) -> bool {
        *hash == MADE_DIRECTORY
    }

    /// Whether a hash marks a directory whose mode was widened.
    #[must_use]
    pub fn is_opened_directory(hash: &ChunkHash) -> bool {
        *hash == OPENED_DIRECTORY
    }

    /// The attributes that were refused, if the hash marks such a record; `number` is its size.
    #[must_use]
    pub fn refused(hash: &ChunkHash, number: u64) -> Option<Refused> {
        let error = |number: u64| {
            let number = i32::try_from(number).ok().filter(|number| (1..4_096).contains(number))?;
            Some(Errno::from_raw_os_error(number))
        };
        (*hash == NOT_KEPT).then(|| Refused { mode: error(number >> 32), time: error(number & u64::from(u32::MAX)) })
    }
}

/// The subject of a [`beside`] record: a directory's former mode.
pub(crate) const OPENED: u8 = b'o';
/// The subject of a [`beside`] record: refused attributes.
pub(crate) const ATTRIBUTES: u8 = b'a';

/// The key of additional information about a name. No name contains a NUL byte, so no other entry
/// has this key.
#[must_use]
pub(crate) fn beside(name: &[u8], what: u8) -> u128 {
    hash_of(&[name, &[0, what]].concat())
}

/// The longest directory in a [`Record::Begun`].
pub const DIRECTORY_BYTES_MAX: usize = 255;
/// The most names in a [`Record::Attempt`].
pub const TOP_NAMES_MAX: usize = 64;

/// The hash under which a journal keeps a top name.
pub(crate) fn top_name_hash(name: &[u8]) -> u32 {
    u32::try_from(hash_of(name) & u128::from(u32::MAX)).unwrap_or_default()
}

/// A record of version 1. The variants have the same numbers as those of [`Record`].
#[derive(Serialize, Deserialize)]
enum RecordV1 {
    Header { version: u32 },
    Begun { name: u128, bytes: u64, modified: FileTime, chunk_bytes: u32 },
    Chunk { file: u32, part: u64, hash: Option<ChunkHash> },
    Done { name: u128, bytes: u64, modified: FileTime, hash: ChunkHash, inode: u64, changed: FileTime },
    Complete,
    Filling { staging: u128 },
}

impl From<RecordV1> for Record {
    fn from(record: RecordV1) -> Self {
        match record {
            RecordV1::Header { version } => Self::Header { version },
            // Version 1 derived the temporary name from the name, and did not keep the inode.
            RecordV1::Begun { name, bytes, modified, chunk_bytes } => {
                let (token, inode, directory) = (name, 0, Vec::new());
                Self::Begun { name, bytes, modified, chunk_bytes, token, inode, directory }
            }
            RecordV1::Chunk { file, part, hash } => Self::Chunk { file, part, hash },
            RecordV1::Done { name, bytes, modified, hash, inode, changed } => {
                Self::Done { name, bytes, modified, hash, inode, changed }
            }
            RecordV1::Complete => Self::Complete,
            RecordV1::Filling { staging } => Self::Filling { staging },
        }
    }
}

/// A record's bytes in the file.
///
/// # Panics
/// Never: no record is longer than a few hundred bytes.
#[must_use]
#[expect(clippy::expect_used, reason = "no record is longer than a few hundred bytes, whatever is in it")]
pub fn encode(record: &Record) -> Vec<u8> {
    let body = postcard::to_stdvec(record).expect("records have a postcard form");
    let length = u16::try_from(body.len()).expect("records are shorter than 64 KiB");
    let mut bytes = Vec::with_capacity(RECORD_HEADER_BYTES.saturating_add(body.len()));
    bytes.extend(length.to_be_bytes());
    bytes.extend(check_of(&body));
    bytes.extend(body);
    bytes
}

/// The body of the record at the start of `bytes`, and what follows it; `None` if there is no
/// intact record.
#[must_use]
pub fn whole(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let (check, rest) = rest.split_first_chunk::<4>()?;
    let (body, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    (check_of(body) == *check).then_some((body, rest))
}

/// The version in a journal's first record; `None` if that is no header.
#[must_use]
pub fn version_of(body: &[u8]) -> Option<u32> {
    // A later version may extend its header; the number comes first in all of them.
    match postcard::take_from_bytes(body) {
        Ok((RecordV1::Header { version }, _)) => Some(version),
        _ => None,
    }
}

/// Decodes a body of a journal of `version`; `None` if this program does not know the record.
#[must_use]
pub fn decode(body: &[u8], version: u32) -> Option<Record> {
    match version {
        1 => match postcard::take_from_bytes::<RecordV1>(body) {
            Ok((record, [])) => Some(record.into()),
            _ => None,
        },
        _ => match postcard::take_from_bytes(body) {
            Ok((record, [])) => Some(record),
            _ => None,
        },
    }
}

/// A record in the form of version 1, for tests of the migration; empty for records that version 1
/// did not have.
#[must_use]
#[expect(clippy::expect_used, reason = "no record is longer than a few hundred bytes, whatever is in it")]
pub fn encode_v1(record: &Record) -> Vec<u8> {
    let old = match record.clone() {
        Record::Header { .. } => RecordV1::Header { version: 1 },
        Record::Begun { name, bytes, modified, chunk_bytes, .. } => {
            RecordV1::Begun { name, bytes, modified, chunk_bytes }
        }
        Record::Chunk { file, part, hash } => RecordV1::Chunk { file, part, hash },
        Record::Done { name, bytes, modified, hash, inode, changed } => {
            RecordV1::Done { name, bytes, modified, hash, inode, changed }
        }
        Record::Complete => RecordV1::Complete,
        Record::Filling { staging } => RecordV1::Filling { staging },
        Record::Attempt { .. } => return Vec::new(),
    };
    let body = postcard::to_stdvec(&old).expect("records have a postcard form");
    let length = u16::try_from(body.len()).expect("records are shorter than 64 KiB");
    [length.to_be_bytes().as_slice(), &check_of(&body), &body].concat()
}

fn check_of(body: &[u8]) -> [u8; 4] {
    let hash = blake3::hash(body);
    let [first, second, third, fourth, ..] = *hash.as_bytes();
    [first, second, third, fourth]
}
