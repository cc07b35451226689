//! The interface of a store without directories, which takes objects part by part.
//!
//! For directories of this host, lanes write to descriptors, with everything that file systems
//! offer ([`crate::fs::destination`]). A store without descriptors takes the buffers that lanes
//! lend: parts of large objects, and small objects whole. `put` and `commit` return only when the
//! object is durable; only then does the partner learn that it is stored.

use std::fmt;
use std::sync::Arc;

use culvert_protocol::control::{FileError, Options, Refusal};
use culvert_protocol::dry_run::Fate;
use culvert_protocol::manifest::Manifest;
use culvert_protocol::tree_hash::ChunkHash;

/// A store that a transfer writes to. Every method may wait for the store; several threads may
/// store concurrently.
pub trait ObjectSink: fmt::Debug + Send + Sync {
    /// Decides what happens to each entry, in the manifest's order, and changes nothing. Entries
    /// that need not be sent are passed to neither [`ObjectSink::put`] nor [`ObjectSink::begin`]: a
    /// store without directories answers [`Fate::Same`] for directories.
    ///
    /// # Errors
    /// Why the store cannot take the transfer at all.
    fn plan(&self, manifest: &Manifest, options: &Options) -> Result<Vec<Fate>, Refusal>;

    /// Begins an object that arrives in parts.
    ///
    /// # Errors
    /// The error of this file.
    fn begin(&self, manifest: &Manifest, file: u32) -> Result<Arc<dyn PartWriter>, FileError>;

    /// Stores a small object, or makes a symlink or directory from its entry alone.
    ///
    /// # Errors
    /// The error of this file.
    fn put(&self, manifest: &Manifest, file: u32, bytes: &[u8]) -> Result<(), FileError>;
}

/// An object that arrives in parts. It is invisible until it is committed.
pub trait PartWriter: fmt::Debug + Send + Sync {
    /// Takes a part. Parts arrive in any order; one whose bytes were wrong arrives again.
    ///
    /// # Errors
    /// A description.
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), String>;

    /// Gives the object its name, after all parts have arrived intact. `hash` is the hash of all
    /// bytes, if the transfer has hashes.
    ///
    /// # Errors
    /// A description.
    fn commit(&self, hash: Option<ChunkHash>) -> Result<(), String>;

    /// Abandons the object and discards its parts.
    fn abandon(&self);
}
