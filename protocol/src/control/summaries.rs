//! What each end reports when a transfer is over.

use serde::{Deserialize, Serialize};

use crate::verdict::{SenderTimes, Verdict};

/// What the sender knows when everything is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderSummary {
    /// Segments sent.
    pub segments_sent: u64,
    /// Those among them sent again.
    pub segments_resent: u64,
    /// Payload bytes of a full segment; 0 if none was sent.
    pub segment_bytes: u16,
    /// Where the sending lanes spent their time.
    pub times: SenderTimes,
    /// Whether the user's cap set the rate.
    pub rate_was_asked_for: bool,
    /// Minimum, median and 99th percentile of the round trips, in microseconds.
    pub rtt_us: [u32; 3],
    /// Processor time that the sending node spent, in microseconds.
    pub cpu_us: u64,
    /// Processor time in cycles of its nominal clock for each byte, in thousandths.
    pub millicycles_per_byte: u64,
    /// Entries that the sender could not list or send.
    pub problems: u64,
}

/// What the receiver knows when everything is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReceiverSummary {
    /// Files stored, those of earlier attempts included.
    pub files_stored: u64,
    /// Files that were there already.
    pub files_skipped: u64,
    /// Files that failed on either side.
    pub files_failed: u64,
    /// Bytes of the files stored.
    pub bytes_stored: u64,
    /// Those among them that were there already: stored by an earlier attempt, or the same in the
    /// file that was replaced.
    pub resumed_bytes: u64,
    /// Processor time that the receiving node spent, in microseconds.
    pub cpu_us: u64,
    /// See [`SenderSummary::millicycles_per_byte`].
    pub millicycles_per_byte: u64,
    /// What limited the transfer.
    pub verdict: Verdict,
}
