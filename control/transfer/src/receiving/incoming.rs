//! What is asked of the receiving side.

use std::path::PathBuf;
use std::sync::Arc;

use culvert_objects::fs::reach::Reach;
use culvert_objects::sink::ObjectSink;

use crate::events::Observer;

/// What is to be received.
#[derive(Debug)]
pub enum Incoming {
    /// Files.
    Files(FileRequest),
    /// Objects of a store.
    Objects(Arc<dyn ObjectSink>),
    /// Bytes that are verified and forgotten.
    Memory {
        /// How many.
        bytes: u64,
    },
}

/// Where files are to be stored.
#[derive(Debug)]
pub struct FileRequest {
    /// What may be reached.
    pub reach: Reach,
    /// The destination, as the user wrote it.
    pub destination: Vec<u8>,
    /// Where journals lie.
    pub journals: PathBuf,
    /// Where limits that are reached are counted.
    pub observer: Arc<dyn Observer>,
    /// In a dry run: whether obstacles to the transfer are reported instead of refusing it.
    pub foretells: bool,
}
