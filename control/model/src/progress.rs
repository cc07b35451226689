//! The progress of a transfer.

use serde::{Deserialize, Serialize};

/// What a transfer is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for its turn.
    #[default]
    Queued,
    /// Connecting to the partner.
    Connecting,
    /// Listing the sources.
    Listing,
    /// Waiting for the receiver's plan, or making it.
    Planning,
    /// Moving data.
    Moving,
    /// Giving the last files their names, and signing the receipt.
    Finishing,
    /// Waiting before the next attempt.
    Waiting,
}

/// The progress of a transfer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes moved, or found at the destination.
    pub bytes_done: u64,
    /// Bytes in all, as far as they are known.
    pub bytes_total: u64,
    /// Files stored, or found at the destination.
    pub files_done: u64,
    /// Files in all, as far as they are known.
    pub files_total: u64,
    /// Payload moved in the last second, in bits per second.
    pub rate_bits_per_second: u64,
    /// The pacing rate of all flows, in bits per second; 0 on the receiving side.
    pub pacing_bits_per_second: u64,
    /// The newest round trip, in microseconds.
    pub rtt_us: u32,
    /// What holds the transfer up, if anything: a blocked path, or the last attempt's error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}
