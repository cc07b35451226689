//! The interface of a store to read from: a listing, and the content of the listed objects.
//!
//! A store with descriptors gives them to the lanes, which read by themselves. Any other store
//! gives a reader of ranges, which fills the buffers that lanes lend. Either way, opening an object
//! also returns its version, and a later check tells whether everything that was read belongs to
//! that version.

use std::any::Any;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use culvert_model::result::ResultError;
use culvert_protocol::control::{FileError, Refusal};
use culvert_protocol::manifest::Manifest;
use culvert_protocol::tree_hash::ChunkHash;

/// A file below a source that cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its name.
    pub name: String,
    /// The word for programs.
    pub code: &'static str,
    /// The sentence for users.
    pub text: String,
}

impl From<&Problem> for ResultError {
    fn from(problem: &Problem) -> Self {
        Self { path: problem.name.clone(), code: problem.code.to_owned(), text: problem.text.clone() }
    }
}

/// A guard held for as long as the tree exists, for instance the memory that its entries take of a
/// partner's share.
pub trait Retained: std::fmt::Debug + Send + Sync {}

/// Everything to be sent.
#[derive(Debug)]
pub struct SourceTree {
    /// The list.
    pub listing: SourceListing,
    /// The store that reads it.
    pub content: Box<dyn ObjectSource>,
    /// A guard held with the tree.
    pub held: Option<Box<dyn Retained>>,
}

/// A listing of sources.
#[derive(Debug, Default)]
pub struct SourceListing {
    /// The entries.
    pub manifest: Manifest,
    /// The first files that cannot be listed or sent.
    pub problems: Vec<Problem>,
    /// The number of such files, listed or not.
    pub problem_count: u64,
    /// Bytes that the files take on disk.
    pub allocated_bytes: u64,
    /// Whether the only source is a regular file.
    pub is_single_file: bool,
    /// The directory's mode, if the manifest is the contents of one directory.
    pub contents_mode: Option<u16>,
}

impl SourceTree {
    /// Opens an object as it was listed. `earlier` is the version that this transfer opened before:
    /// everything sent must be of one version.
    ///
    /// # Errors
    /// The error of this file.
    pub fn open(&self, file: u32, earlier: Option<&Version>) -> Result<OpenedSource, FileError> {
        self.content.open(&self.listing.manifest, file, earlier)
    }

    /// Checks an object again after its last byte was read.
    ///
    /// # Errors
    /// The error of this file if it changed.
    pub fn check(&self, file: u32, opened: Option<&OpenedSource>, hash: Option<ChunkHash>) -> Result<(), FileError> {
        self.content.check(&self.listing.manifest, file, opened, hash)
    }

    /// Reads a small object whole, from one version.
    ///
    /// # Errors
    /// The error of this file.
    pub fn read_whole(&self, file: u32, place: &mut [u8]) -> Result<(), FileError> {
        self.content.read_whole(&self.listing.manifest, file, place)
    }
}

/// A version of an object, opaque to all but its store.
#[derive(Clone)]
pub struct Version(Arc<dyn Any + Send + Sync>);

impl Version {
    /// A store's mark of a version.
    #[must_use]
    pub fn new(mark: impl Any + Send + Sync) -> Self {
        Self(Arc::new(mark))
    }

    /// The mark, for the store that made it.
    #[must_use]
    pub fn mark<T: Any>(&self) -> Option<&T> {
        self.0.downcast_ref()
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Version")
    }
}

/// An object opened for reading.
#[derive(Debug)]
pub struct OpenedSource {
    /// The way to read it.
    pub content: SourceContent,
    /// The version that is open.
    pub version: Version,
}

/// The way to read an object.
#[derive(Debug)]
pub enum SourceContent {
    /// By lanes, from descriptors.
    Descriptors {
        /// Reads through the page cache.
        buffered: OwnedFd,
        /// Bypasses it, if the file system supports that.
        direct: Option<OwnedFd>,
        /// The holes of a sparse file, as ascending ranges (begin, end).
        holes: Vec<(u64, u64)>,
    },
    /// By this process, range by range.
    Ranges(Arc<dyn RangeReader>),
}

/// Reads ranges of an object. May wait for a store; several threads may read concurrently.
pub trait RangeReader: fmt::Debug + Send + Sync {
    /// Fills `place` with the object's bytes from `offset` on.
    ///
    /// # Errors
    /// A description: for instance, the object has ended, or its store does not respond.
    fn read(&self, offset: u64, place: &mut [u8]) -> Result<(), String>;
}

/// A store of objects to read. Every method may wait for the store.
pub trait ObjectSource: fmt::Debug + Send + Sync {
    /// As [`SourceTree::open`].
    ///
    /// # Errors
    /// The error of this file.
    fn open(&self, manifest: &Manifest, file: u32, earlier: Option<&Version>) -> Result<OpenedSource, FileError>;

    /// As [`SourceTree::check`].
    ///
    /// # Errors
    /// The error of this file.
    fn check(
        &self,
        manifest: &Manifest,
        file: u32,
        opened: Option<&OpenedSource>,
        hash: Option<ChunkHash>,
    ) -> Result<(), FileError>;

    /// As [`SourceTree::read_whole`].
    ///
    /// # Errors
    /// The error of this file.
    fn read_whole(&self, manifest: &Manifest, file: u32, place: &mut [u8]) -> Result<(), FileError>;
}

/// When it is checked that a file can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// When it is opened for sending.
    FoundOut,
    /// While listing, by asking the kernel: a dry run opens nothing later.
    Asked,
}

/// The caller's terms for a listing.
pub struct ListingTerms<'a> {
    /// Takes encoded entries as they are found; returns false to stop the listing.
    pub on_part: &'a mut dyn FnMut(Vec<u8>) -> bool,
    /// Takes memory for another entry, given the bytes of its name; returns false if there is none.
    pub may_take: &'a mut dyn FnMut(usize) -> bool,
    /// When readability is checked.
    pub readable: Readable,
}

impl fmt::Debug for ListingTerms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListingTerms").field("readable", &self.readable).finish_non_exhaustive()
    }
}

/// Sources that can be listed once.
pub trait Sources: fmt::Debug + Send {
    /// Lists everything. May wait for a store.
    ///
    /// # Errors
    /// Why a source cannot be sent at all. Files below it that cannot be sent are among the
    /// listing's problems instead.
    fn list(self: Box<Self>, terms: ListingTerms<'_>) -> Result<SourceTree, Refusal>;
}
