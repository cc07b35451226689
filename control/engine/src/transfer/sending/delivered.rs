//! What of files and chunks is delivered.

use culvert_protocol::tree_hash::{ChunkHash, TreeHash};

/// A file with chunks of its own, on its way.
#[derive(Debug)]
pub struct OutgoingProgress {
    pub(super) left: u64,
    pub(super) tree: TreeHash,
}

impl OutgoingProgress {
    pub(super) fn new(chunks: u64) -> Self {
        Self { left: chunks, tree: TreeHash::new(chunks) }
    }

    /// Counts a chunk; whether it was the last.
    pub(super) fn count(&mut self, part: u64, hash: Option<ChunkHash>) -> bool {
        let Some(left) = self.left.checked_sub(1) else { return false };
        self.left = left;
        if let Some(hash) = hash {
            self.tree.add(part, hash);
        }
        left == 0
    }
}

/// A chunk that the receiver wanted again.
#[derive(Clone, Copy, Debug)]
pub struct ResendRequest {
    pub(super) times: u32,
    /// It is still on its way for the time before.
    pub(super) waits: bool,
    /// It was delivered before.
    pub(super) is_counted: bool,
}
