//! Sources: the files and directories to be sent.
//!
//! ```text
//! typed path ──> named, bases (open) ──> listing ──> manifest, Content ──> opening, version (per file)
//! ```
//!
//! As with rsync, a source without a trailing slash is sent under its own name, and one with a
//! trailing slash as its contents ([`named`]). A symlink that is named as a source is followed;
//! symlinks within are sent as symlinks if they stay inside ([`listing`]). Every file is later
//! opened relative to the directory that was open when it was listed ([`bases`]), never through a
//! symlink.

pub mod bases;
pub mod listing;
pub mod named;
pub mod opening;
pub mod version;

use std::borrow::Cow;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use culvert_protocol::control::RefusalCode;
use culvert_protocol::manifest::Manifest;
use culvert_system::accounts::may_not;
use culvert_system::os_error::{self, words};
use rustix::fs::{FileType, OFlags, Stat};
use rustix::io::Errno;

use crate::fs::sources::bases::Base;
pub use crate::fs::sources::bases::open_beneath;

/// What a file without a true size is, and the remedy.
pub const UNSIZED_REMEDY: &str =
    "the kernel generates it when it is read, or its file system does not know sizes; copy it to a file and send that";

/// The message to a partner whose transfers list more than this node keeps for one.
pub const TOO_MUCH_LISTED: &str =
    "the partner's transfers together list more than this node keeps in memory for one partner: split them";

/// The most sources of one request. Each may be in another directory, of which at most
/// [`HELD_MAX`](bases::HELD_MAX) stay open while the transfer runs.
pub const SOURCES_PER_REQUEST: usize = 1_024;

/// Why a source cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It does not exist.
    #[error("the source {0} does not exist")]
    NotFound(PathBuf),
    /// It cannot be opened.
    #[error("the source {path} cannot be read: {}", reading_words(*.error))]
    Unreadable {
        /// The source.
        path: PathBuf,
        /// The error.
        error: Errno,
    },
    /// It is a device, a pipe or a socket.
    #[error("the source {0} is neither a file nor a directory")]
    Special(PathBuf),
    /// Two sources would be stored under one name.
    #[error(
        "{first} and {second} would both be stored as '{name}': rename one of them, or send them to different destinations"
    )]
    Collision {
        /// The name.
        name: String,
        /// The source that has it first.
        first: PathBuf,
        /// The other source.
        second: PathBuf,
    },
    /// The partner's transfers list more than this node keeps in memory for one partner.
    #[error("{}", TOO_MUCH_LISTED)]
    TooMuchListed,
    /// The listing is no longer wanted.
    #[error("the listing is no longer wanted")]
    NotWanted,
    /// The manifest refuses an entry.
    #[error("{path}: {error}")]
    Entry {
        /// The source.
        path: PathBuf,
        /// The reason.
        error: culvert_protocol::manifest::EntryError,
    },
}

impl SourceError {
    /// The code with which it ends the transfer.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::NotFound(_) => RefusalCode::NotFound,
            Self::Collision { .. } => RefusalCode::Collision,
            Self::TooMuchListed | Self::NotWanted => RefusalCode::Temporary,
            Self::Unreadable { error, .. } => os_error::code(*error),
            Self::Special(_) | Self::Entry { .. } => RefusalCode::Failed,
        }
    }
}

/// An opened source.
#[derive(Debug)]
pub struct Source {
    /// The directory to which its names are relative.
    pub base: Arc<Base>,
    /// Its name in that directory; `None` for the directory's contents.
    pub name: Option<SourceName>,
    /// The path as the user wrote it.
    pub written: PathBuf,
}

/// The names of a source. They differ for a symlink that was followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceName {
    /// The name under which it is stored.
    pub stored: Vec<u8>,
    /// The name under which it is found.
    pub found: Vec<u8>,
}

/// Where a source's entries are found.
#[derive(Clone, Debug)]
struct Origin {
    base: Arc<Base>,
    /// The source's names, if they differ.
    alias: Option<SourceName>,
}

impl Origin {
    /// The path of an entry, relative to the base.
    fn path<'a>(&self, entry: &'a [u8]) -> Cow<'a, [u8]> {
        let below = self.alias.as_ref().and_then(|alias| Some((alias, entry.strip_prefix(alias.stored.as_slice())?)));
        match below {
            Some((alias, below)) => Cow::Owned([&alias.found, below].concat()),
            None => Cow::Borrowed(entry),
        }
    }
}

/// Where the entries of a listing are found.
#[derive(Debug, Default)]
pub struct Content {
    /// By source.
    origins: Vec<Origin>,
    /// By source: the number of its first entry.
    first_entries: Vec<u32>,
}

impl Content {
    /// Adds a source, whose entries start at `first_entry`.
    fn add(&mut self, origin: Origin, first_entry: u32) {
        // Invariant I-source-origin: sources are listed one after the other, the first from entry 0
        // on, so every entry has exactly one origin.
        assert!(
            self.first_entries.last().map_or(first_entry == 0, |&last| last <= first_entry),
            "sources are listed in order, from entry 0 on"
        );
        self.first_entries.push(first_entry);
        self.origins.push(origin);
    }

    /// Opens entry `file` for reading, as it was listed: beneath its base, through no symlink.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn open_file(&self, manifest: &Manifest, file: u32, flags: OFlags) -> Result<OwnedFd, Errno> {
        let source = self.first_entries.partition_point(|&first| first <= file) - 1;
        let origin = &self.origins[source];
        let path = origin.path(manifest.entry(file).name);
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK | flags;
        open_beneath(origin.base.open()?.as_fd(), Path::new(OsStr::from_bytes(&path)), flags)
    }
}

/// Why a source, or something below it, cannot be read.
#[must_use]
pub fn reading_words(error: Errno) -> String {
    match error {
        Errno::ACCESS | Errno::PERM => may_not("read it"),
        error => words(error),
    }
}

/// The file type in a status.
#[must_use]
pub const fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The hash of a name, for sets of millions of names: 128 bits of BLAKE3, which collide neither by
/// accident nor by intent.
#[must_use]
pub fn hash_of(name: &[u8]) -> u128 {
    let hash = blake3::hash(name);
    u128::from_le_bytes(hash.as_bytes()[..16].try_into().unwrap_or_default())
}
