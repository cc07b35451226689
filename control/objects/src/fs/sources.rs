//! What is to be sent.
//!
//! A source without a trailing slash is sent under its own name, one with a trailing slash as its
//! contents, as people know it from rsync ([`named`]). A symlink that is named as a source is
//! followed; symlinks within are sent as symlinks if they stay inside ([`listing`]). Every file is
//! later opened relative to the directory that was open when it was listed ([`bases`]), never
//! through a symlink.

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

/// What files without a true size are, and what to do about them.
pub const UNSIZED_REMEDY: &str =
    "the kernel generates it when it is read, or its file system does not know sizes; copy it to a file and send that";

/// The message to a partner whose transfers list more than this node keeps for one.
pub const TOO_MUCH_LISTED: &str =
    "the partner's transfers together list more than this node keeps in memory for one partner: split them";

/// Sources of one request. Each may be in a directory that stays open while the transfer runs, of
/// which there are at most [`HELD_MAX`](bases::HELD_MAX).
pub const SOURCES_PER_REQUEST: usize = 1_024;

/// A source that cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not there.
    #[error("the source {0} does not exist")]
    NotFound(PathBuf),
    /// It cannot be opened.
    #[error("the source {path} cannot be read: {}", reading_words(*.error))]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why not.
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
        /// The source that has it already.
        first: PathBuf,
        /// The source that has it too.
        second: PathBuf,
    },
    /// The partner's transfers list more than this node keeps for one.
    #[error("{}", TOO_MUCH_LISTED)]
    TooMuchListed,
    /// The listing is no longer wanted.
    #[error("the listing is no longer wanted")]
    NotWanted,
    /// The manifest refuses an entry.
    #[error("{path}: {error}")]
    Entry {
        /// Which.
        path: PathBuf,
        /// Why.
        error: culvert_protocol::manifest::EntryError,
    },
}

impl SourceError {
    /// The kind that a transfer ends with.
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

/// Where a source lies: the directory that its names are relative to, and what of it is wanted.
#[derive(Debug)]
pub struct Source {
    /// The directory.
    pub base: Arc<Base>,
    /// What is wanted of it; `None` for the directory's contents.
    pub name: Option<SourceName>,
    /// How the user wrote it.
    pub written: PathBuf,
}

/// What a source is called. The two names differ for a symlink that was followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceName {
    /// Where it is stored.
    pub stored: Vec<u8>,
    /// Where it is found.
    pub found: Vec<u8>,
}

/// Where a source's entries are found.
#[derive(Clone, Debug)]
struct Origin {
    base: Arc<Base>,
    /// What it is called, if it is stored under another name than it is found.
    alias: Option<SourceName>,
}

impl Origin {
    /// Where an entry is found in the base.
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
    /// For each source.
    origins: Vec<Origin>,
    /// For each source the number of its first entry.
    first_entries: Vec<u32>,
}

impl Content {
    /// The entries from `first_entry` on are found there.
    fn add(&mut self, origin: Origin, first_entry: u32) {
        self.first_entries.push(first_entry);
        self.origins.push(origin);
    }

    /// Opens entry `file` for reading, as it was listed: beneath its base, through no symlink.
    ///
    /// # Errors
    /// The operating system's.
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

/// What kind of thing was looked at.
#[must_use]
pub const fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// A name's hash, for sets of millions of names. 128 bits of BLAKE3 do not collide by accident or
/// by intent.
#[must_use]
pub fn hash_of(name: &[u8]) -> u128 {
    let hash = blake3::hash(name);
    u128::from_le_bytes(hash.as_bytes()[..16].try_into().unwrap_or_default())
}
