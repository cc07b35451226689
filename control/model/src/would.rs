//! What a dry run found: the outcome for every file, what it would need, and what prevents it.

use culvert_protocol::control::RefusalCode;
use serde::{Deserialize, Serialize};

use crate::bounds::ERROR_BYTES_PER_TRANSFER;

/// Which way data would go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From this host.
    Send,
    /// To this host.
    Receive,
}

/// Numbers of files. Those that only partners of newer versions report are absent otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldCounts {
    /// Files of which bytes would be sent.
    pub sent: u64,
    /// Those of which nothing is there.
    pub new: Option<u64>,
    /// Those that would replace what is there.
    pub replaced: Option<u64>,
    /// Files that an earlier attempt stored, or began.
    pub resumed: Option<u64>,
    /// Files of which the same is there.
    pub skipped: u64,
    /// Entries that may not replace what is there: the transfer would be refused.
    pub collisions: Option<u64>,
    /// What would be left out.
    pub left_out: u64,
}

/// The outcome for a file, a directory (its path ends in a slash) or a symlink.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldFile {
    /// Its name.
    pub path: String,
    /// `new`, `replaced`, `resumed`, `skipped`, `collision` or `left_out`.
    pub action: String,
    /// A word for programs.
    pub reason: String,
    /// The reason for people; empty where there is nothing to explain.
    pub text: String,
}

/// Why the transfer would be refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WouldRefuse {
    /// A word for programs.
    pub code: RefusalCode,
    /// A sentence for people.
    pub text: String,
}

/// What a transfer would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Would {
    /// Which way.
    pub direction: Direction,
    /// How many files.
    pub counts: WouldCounts,
    /// Bytes that would be sent.
    pub bytes: u64,
    /// Bytes that the destination needs for them.
    pub needed_bytes: Option<u64>,
    /// Bytes that the destination's file system has free, as the receiver sees it.
    pub free_bytes: Option<u64>,
    /// Files, directories and symlinks that would be made there.
    #[serde(default)]
    pub needed_inodes: Option<u64>,
    /// Inodes that the destination's file system has free, if it counts them.
    #[serde(default)]
    pub free_inodes: Option<u64>,
    /// Why the transfer would be refused; none if nothing speaks against it.
    pub refused: Option<WouldRefuse>,
    /// The first of the entries; directories and symlinks that are there are not among them.
    pub files: Vec<WouldFile>,
    /// How many entries there are to list.
    pub file_count: u64,
}

impl Would {
    /// As it is kept in a record, of which there are many.
    pub fn shorten(&mut self) {
        self.files = bounded(std::mem::take(&mut self.files).into_iter(), ERROR_BYTES_PER_TRANSFER);
    }
}

/// The first of the entries, as many as have room.
#[must_use]
pub fn bounded(files: impl Iterator<Item = WouldFile>, bytes_max: usize) -> Vec<WouldFile> {
    let mut bytes = 0usize;
    let fits = |file: &WouldFile| {
        bytes = bytes.saturating_add(file.path.len()).saturating_add(file.text.len()).saturating_add(64);
        bytes <= bytes_max
    };
    files.take_while(fits).collect()
}
