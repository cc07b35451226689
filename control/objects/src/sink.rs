//! What a transfer writes to, where it has no directory: a store that takes objects part by part.
//!
//! Directories of this host are stored into by descriptors that lanes write to, with all that file
//! systems can do ([`crate::fs::destination`]). A store that has no descriptors takes the buffers
//! that lanes lend: parts of large objects, and small objects whole. `put` and `commit` return only
//! when the object is durable; only then is the partner told that it is stored.

use std::fmt;
use std::sync::Arc;

use culvert_protocol::control::{FileError, Options, Refusal};
use culvert_protocol::dry_run::Fate;
use culvert_protocol::manifest::Manifest;
use culvert_protocol::tree_hash::ChunkHash;

/// A store that a transfer writes to. All of it may wait for the store; several threads may store
/// at once.
pub trait ObjectSink: fmt::Debug + Send + Sync {
    /// What would happen to each entry, in the manifest's order. Nothing is changed yet. An entry
    /// whose fate is not to be sent is passed to neither [`ObjectSink::put`] nor
    /// [`ObjectSink::begin`]: a store without directories answers [`Fate::Same`] for them.
    ///
    /// # Errors
    /// Why the transfer cannot be stored here at all.
    fn plan(&self, manifest: &Manifest, options: &Options) -> Result<Vec<Fate>, Refusal>;

    /// Begins an object that comes in parts.
    ///
    /// # Errors
    /// What to say of it.
    fn begin(&self, manifest: &Manifest, file: u32) -> Result<Arc<dyn PartWriter>, FileError>;

    /// Stores a small object, or makes what is no file (a symlink, a directory) from its entry
    /// alone.
    ///
    /// # Errors
    /// What to say of it.
    fn put(&self, manifest: &Manifest, file: u32, bytes: &[u8]) -> Result<(), FileError>;
}

/// An object that comes in parts. Nobody sees it before it is committed.
pub trait PartWriter: fmt::Debug + Send + Sync {
    /// Takes a part, which may come in any order and, if its bytes were wrong, again.
    ///
    /// # Errors
    /// In words, what is the matter.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), String>;

    /// All parts are there, and right: the object gets its name. `hash` is that of all of its
    /// bytes, if the transfer has hashes.
    ///
    /// # Errors
    /// In words, what is the matter.
    fn commit(&self, hash: Option<ChunkHash>) -> Result<(), String>;

    /// Nothing becomes of the object: its parts go.
    fn abandon(&self);
}
