//! What a transfer reads: a listing, and the content of what is listed.
//!
//! A store that has descriptors gives them to the lanes, which read by themselves; any other gives
//! a reader of ranges, with which the buffers are filled that lanes lend. In either case whoever
//! opens an object learns which version of it is open, and can ask later whether all of what was
//! read is of that version.

use std::any::Any;
use std::fmt;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use culvert_model::result::ResultError;
use culvert_protocol::control::{FileError, Refusal};
use culvert_protocol::manifest::Manifest;
use culvert_protocol::tree_hash::ChunkHash;

/// A file below a source that is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Its name.
    pub name: String,
    /// A word for programs.
    pub code: &'static str,
    /// A sentence for people.
    pub text: String,
}

impl From<&Problem> for ResultError {
    fn from(problem: &Problem) -> Self {
        Self { path: problem.name.clone(), code: problem.code.to_owned(), text: problem.text.clone() }
    }
}

/// What a tree's owner holds for as long as there is the tree: what its entries take of the memory
/// that a partner may have, for instance.
pub trait Retained: std::fmt::Debug + Send + Sync {}

/// Everything that is to be sent.
#[derive(Debug)]
pub struct SourceTree {
    /// What there is.
    pub listing: SourceListing,
    /// Where it is read.
    pub content: Box<dyn ObjectSource>,
    /// What is held for as long as this is.
    pub held: Option<Box<dyn Retained>>,
}

/// What there is to send.
#[derive(Debug, Default)]
pub struct SourceListing {
    /// The entries.
    pub manifest: Manifest,
    /// What could not be listed or may not be sent.
    pub problems: Vec<Problem>,
    /// How many such there were, if they are more than the list holds.
    pub problem_count: u64,
    /// Bytes that the files take on disk.
    pub allocated_bytes: u64,
    /// Whether exactly one source was named and it is a regular file.
    pub is_single_file: bool,
    /// The mode of the one directory whose contents these are, if it is one.
    pub contents_mode: Option<u16>,
}

impl SourceTree {
    /// Opens an object, as it was listed. `earlier` is its version when this transfer opened it
    /// first: what was sent of it before must be of the object that is read on.
    ///
    /// # Errors
    /// What to say of it.
    pub fn open(&self, file: u32, earlier: Option<&Version>) -> Result<OpenedSource, FileError> {
        self.content.open(&self.listing.manifest, file, earlier)
    }

    /// Looks at an object once more, after its last byte was read.
    ///
    /// # Errors
    /// What to say of it if it changed.
    pub fn check(&self, file: u32, opened: Option<&OpenedSource>, hash: Option<ChunkHash>) -> Result<(), FileError> {
        self.content.check(&self.listing.manifest, file, opened, hash)
    }

    /// Reads the whole of a small object, of one version.
    ///
    /// # Errors
    /// What to say of it.
    pub fn read_whole(&self, file: u32, place: &mut [u8]) -> Result<(), FileError> {
        self.content.read_whole(&self.listing.manifest, file, place)
    }
}

/// Which version of an object it is: what only its store understands.
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

/// An object that is open to be read.
#[derive(Debug)]
pub struct OpenedSource {
    /// How it is read.
    pub content: SourceContent,
    /// Which version of it is open.
    pub version: Version,
}

/// How an object is read.
#[derive(Debug)]
pub enum SourceContent {
    /// By lanes, from descriptors.
    Descriptors {
        /// Reads through the page cache.
        buffered: OwnedFd,
        /// Reads past it, where the file system can.
        direct: Option<OwnedFd>,
        /// The file's holes, as ranges, ascending, if it is sparse.
        holes: Vec<(u64, u64)>,
    },
    /// By this process, range by range.
    Ranges(Arc<dyn RangeReader>),
}

/// Reads ranges of an object. May wait for a store; several threads may read at once.
pub trait RangeReader: fmt::Debug + Send + Sync {
    /// Fills `place` with the object's bytes from `offset` on.
    ///
    /// # Errors
    /// In words, what is the matter: the object has ended, or its store does not answer.
    fn read(&self, offset: u64, place: &mut [u8]) -> Result<(), String>;
}

/// A store of objects that a transfer reads. All of it may wait for the store.
pub trait ObjectSource: fmt::Debug + Send + Sync {
    /// As [`SourceTree::open`].
    ///
    /// # Errors
    /// What to say of the object.
    fn open(&self, manifest: &Manifest, file: u32, earlier: Option<&Version>) -> Result<OpenedSource, FileError>;

    /// As [`SourceTree::check`].
    ///
    /// # Errors
    /// What to say of the object.
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
    /// What to say of the object.
    fn read_whole(&self, manifest: &Manifest, file: u32, place: &mut [u8]) -> Result<(), FileError>;
}

/// How it is known that a file can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readable {
    /// When it is opened to be sent.
    FoundOut,
    /// The kernel is asked: this is a dry run, and nothing will be opened.
    Asked,
}

/// The terms of a listing, set by the caller.
pub struct ListingTerms<'a> {
    /// Takes encoded entries as they are found; false if no more are wanted.
    pub on_part: &'a mut dyn FnMut(Vec<u8>) -> bool,
    /// Whether there is memory for another entry, with so many bytes of a name.
    pub may_take: &'a mut dyn FnMut(usize) -> bool,
    /// Whether readability is checked now.
    pub readable: Readable,
}

impl fmt::Debug for ListingTerms<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ListingTerms").field("readable", &self.readable).finish_non_exhaustive()
    }
}

/// Sources that can be listed, once.
pub trait Sources: fmt::Debug + Send {
    /// Lists everything. May wait for a store.
    ///
    /// # Errors
    /// Why a source as such cannot be sent; what is below it and cannot is among the listing's
    /// problems.
    fn list(self: Box<Self>, terms: ListingTerms<'_>) -> Result<SourceTree, Refusal>;
}
