//! What the user of a sending transfer was told of files by name.

use std::collections::HashMap;

use crate::transfer::bit_set::BitSet;

/// What has been told.
#[derive(Debug)]
pub struct Announcements {
    pub(super) told: BitSet,
    /// Chunks of files with some of their own that are not acknowledged yet, by file.
    pub(super) left: HashMap<u32, u64>,
    /// Chunks that the receiver had already, by file.
    pub(super) proven: HashMap<u32, u64>,
}

impl Announcements {
    /// Nothing yet, of so many files.
    #[must_use]
    pub fn new(files: usize) -> Self {
        Self { told: BitSet::new(files), left: HashMap::new(), proven: HashMap::new() }
    }
}
