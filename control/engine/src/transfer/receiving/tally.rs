//! How far a transfer is that is being received, and what of it failed.

use std::collections::HashSet;

use culvert_objects::fs::destination::attributes::NotKept;
use culvert_protocol::control::LeftOut;
use culvert_protocol::tree_hash::ChunkHash;

use crate::transfer::bit_set::BitSet;
use crate::transfer::file_errors::ErrorList;
use crate::transfer::progress_watchdog::ProgressWatchdog;
use crate::transfer::rate_meter::RateMeter;

/// How far a transfer is, and whether it gets any further.
#[derive(Debug)]
pub(super) struct Tally {
    /// Files whose fate is not known yet.
    pub(super) files_left: u64,
    pub(super) files_stored: u64,
    pub(super) bytes_stored: u64,
    pub(super) bytes_arrived: u64,
    /// Bytes of chunks that the file to be replaced had, and the sender's has too.
    pub(super) reused_bytes: u64,
    /// Chunks of a measurement that are not verified yet.
    pub(super) memory_left: u32,
    /// Partial files that are being opened or removed. The transfer does not end before that:
    /// nothing else would remove them.
    pub(super) partials_in_motion: u32,
    /// Counts what brought the transfer further: chunks that were verified and made durable, files
    /// whose fate is known.
    pub(super) steps: u64,
    /// Files that have their names for good.
    pub(super) stored: BitSet,
    pub(super) hashes: Vec<ChunkHash>,
    pub(super) rate: RateMeter,
    pub(super) patience: ProgressWatchdog,
}

/// What is not stored, or not as it was.
#[derive(Debug)]
pub(super) struct Failures {
    pub(super) errors: ErrorList,
    pub(super) failed: HashSet<u32>,
    /// What the sender did not send at all, in its own words.
    pub(super) left_out: Vec<LeftOut>,
    /// What it would not send, in a dry run: how much, and the first of it.
    pub(super) would_leave_out: (u64, Vec<LeftOut>),
    /// What is stored without some of its attributes.
    pub(super) not_kept: NotKept,
}
