//! The findings of a dry run: the outcome of every file, the space needed, and what would prevent
//! the transfer.

use culvert_protocol::control::RefusalCode;
use serde::{Deserialize, Serialize};

use crate::bounds::ERROR_BYTES_PER_TRANSFER;

/// The direction in which data would move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From this host.
    Send,
    /// To this host.
    Receive,
}

/// Numbers of files. Numbers that only newer versions report are `None` for older partners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldCounts {
    /// Files with bytes to send.
    pub sent: u64,
    /// Files that do not exist at the destination.
    pub new: Option<u64>,
    /// Files that would replace existing ones.
    pub replaced: Option<u64>,
    /// Files that an earlier attempt stored or began.
    pub resumed: Option<u64>,
    /// Files whose equal exists at the destination.
    pub skipped: u64,
    /// Entries that may not replace what exists: the transfer would be refused.
    pub collisions: Option<u64>,
    /// Entries that would be left out.
    pub left_out: u64,
}

/// The outcome for a file, a directory (its path ends in a slash) or a symlink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldFile {
    /// Its name.
    pub path: String,
    /// `new`, `replaced`, `resumed`, `skipped`, `collision` or `left_out`.
    pub action: String,
    /// The reason as a word for programs.
    pub reason: String,
    /// The reason for users; empty if there is nothing to explain.
    pub text: String,
}

/// Why the transfer would be refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldRefuse {
    /// The word for programs.
    pub code: RefusalCode,
    /// The sentence for users.
    pub text: String,
}

/// What a transfer would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Would {
    /// The direction.
    pub direction: Direction,
    /// Numbers of files.
    pub counts: WouldCounts,
    /// Bytes that would be sent.
    pub bytes: u64,
    /// Bytes that the destination needs for them.
    pub needed_bytes: Option<u64>,
    /// Bytes that the destination's file system has free, as the receiver sees it.
    pub free_bytes: Option<u64>,
    /// Files, directories and symlinks that would be created there.
    #[serde(default)]
    pub needed_inodes: Option<u64>,
    /// Inodes that the destination's file system has free, if it counts them.
    #[serde(default)]
    pub free_inodes: Option<u64>,
    /// Why the transfer would be refused; `None` if it would not be.
    pub refused: Option<WouldRefuse>,
    /// The first entries, without directories and symlinks that exist already.
    pub files: Vec<WouldFile>,
    /// The number of entries, listed or not.
    pub file_count: u64,
}

impl Would {
    /// Shortens the list for a record, of which a node keeps many.
    pub fn shorten(&mut self) {
        self.files = bounded(std::mem::take(&mut self.files).into_iter(), ERROR_BYTES_PER_TRANSFER);
    }
}

/// The first entries, as many as fit into `bytes_max`.
#[must_use]
pub fn bounded(files: impl Iterator<Item = WouldFile>, bytes_max: usize) -> Vec<WouldFile> {
    let mut bytes = 0usize;
    let fits = |file: &WouldFile| {
        bytes = bytes.saturating_add(file.path.len()).saturating_add(file.text.len()).saturating_add(64);
        bytes <= bytes_max
    };
    files.take_while(fits).collect()
}
