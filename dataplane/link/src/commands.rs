//! What travels in a lane's two rings.
//!
//! Flows and files are named by slots, small numbers that the control process hands out. A slot is
//! reused only after the lane has confirmed that it is free ([`Event::SendClosed`],
//! [`Event::ReceiveClosed`]).
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use culvert_protocol::tree_hash::ChunkHash;
use serde::{Deserialize, Serialize};

use crate::layout::{FILES_MAX, FLOWS_PER_LANE};
use crate::ring::RECORD_BYTES_MAX;

/// Chunks that may be assigned to a flow and not in hand yet; the control process keeps to it.
pub const ASSIGNED_MAX: usize = 64;
/// Bytes of IP and UDP headers that pacing counts with each datagram (IPv4; twenty more on IPv6 are
/// neglected).
pub const IP_UDP_BYTES: usize = 28;

/// A lane's sending flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SendSlot(pub u16);

/// A lane's receiving flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReceiveSlot(pub u16);

/// A file that is open in the data plane: its slot in the table modulo [`FILES_MAX`], and above
/// that which of the slot's files it is.
///
/// A lane may learn late that a file is closed. What it still wants to write to that file must not
/// reach the slot's next file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FileSlot(pub u32);

impl FileSlot {
    /// The place in the table.
    #[must_use]
    pub const fn place(self) -> usize {
        (self.0 % FILES_MAX) as usize
    }

    /// The same place, for its next file.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(FILES_MAX))
    }
}

/// A range of a file, as chunks are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRange {
    /// The file.
    pub file: FileSlot,
    /// Where the chunk begins.
    pub offset: u64,
    /// Bytes of the whole file, which decide how the chunk is hashed.
    pub file_bytes: u64,
}

/// Where a chunk's bytes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// From a file.
    File(FileRange),
    /// From the control process, which fills the buffer that the lane offers ([`Event::Fill`]).
    Fill,
    /// From memory: whatever the buffer holds, stamped with the chunk's number. For measuring.
    Memory,
}

/// Where a chunk's bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sink {
    /// Into a file.
    File(FileRange),
    /// To the control process, which takes the buffer over ([`Event::Lend`]).
    Lend,
    /// Nowhere. For measuring, and for chunks of files that were given up.
    Discard,
}

/// From the control process to a lane.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// Send a chunk. The lane takes it in hand when it has a buffer.
    Send {
        /// The flow.
        flow: SendSlot,
        /// The chunk.
        chunk: u32,
        /// Its bytes.
        chunk_bytes: u32,
        /// Where from.
        source: Source,
    },
    /// The buffer of [`Event::Fill`] is filled.
    Filled {
        /// The flow.
        flow: SendSlot,
        /// The chunk.
        chunk: u32,
    },
    /// Give up a chunk, whatever its state; answered by [`Event::Withdrawn`] if the flow had it.
    Withdraw {
        /// The flow.
        flow: SendSlot,
        /// The chunk.
        chunk: u32,
    },
    /// A report of the partner on a sending flow, proved by the control process.
    Report {
        /// The flow.
        flow: SendSlot,
        /// [`culvert_protocol::feedback`].
        bytes: &'a [u8],
    },
    /// Where a chunk goes, in answer to [`Event::PlacementNeeded`].
    Place {
        /// The flow.
        flow: ReceiveSlot,
        /// The chunk.
        chunk: u32,
        /// Where to.
        sink: Sink,
    },
    /// The buffer of [`Event::Lend`] is free again.
    Return {
        /// The flow.
        flow: ReceiveSlot,
        /// The buffer.
        buffer: u32,
    },
    /// Give a chunk up that its sender gave up: incomplete, it is dropped and ignored from now on;
    /// whole, it is discarded.
    Abandon {
        /// The flow.
        flow: ReceiveSlot,
        /// The chunk.
        chunk: u32,
    },
    /// Receive a chunk once more.
    Reopen {
        /// The flow.
        flow: ReceiveSlot,
        /// The chunk.
        chunk: u32,
    },
    /// How often the flow reports.
    Interval {
        /// The flow.
        flow: ReceiveSlot,
        /// Microseconds between reports.
        interval_us: u32,
    },
    /// The flow's sender was asked to send from another port.
    ExpectFrom {
        /// The flow.
        flow: ReceiveSlot,
        /// The port.
        port: u16,
    },
    /// Read a range of a file and hash it; answered by [`Event::Checked`].
    Check {
        /// Returned with the answer.
        token: u32,
        /// What.
        range: FileRange,
        /// How many bytes.
        bytes: u32,
        /// The transfer's chunk size.
        chunk_bytes: u32,
    },
    /// Close a sending flow; answered by [`Event::SendClosed`] when nothing of it is left.
    CloseSend {
        /// The flow.
        flow: SendSlot,
    },
    /// Close a receiving flow; answered by [`Event::ReceiveClosed`] when nothing of it is left.
    CloseReceive {
        /// The flow.
        flow: ReceiveSlot,
    },
}

/// How long a chunk spent in a lane, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkTimes {
    /// Between disk and buffer: reading on the sending side, writing on the receiving side.
    pub disk_us: u32,
    /// Hashing.
    pub hash_us: u32,
    /// Between buffer and network: from the first byte that could be sent to the receiver's word
    /// that all arrived, or from the first segment to the last.
    pub network_us: u32,
}

/// Why a disk operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskError {
    /// The operating system's error number.
    Os(i32),
    /// The file ended before the range did.
    Short,
}

impl std::fmt::Display for DiskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Os(number) => std::io::Error::from_raw_os_error(*number).fmt(f),
            Self::Short => f.write_str("the file is shorter than it was"),
        }
    }
}

/// From a lane to the control process.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event<'a> {
    /// The path was probed: the flow may send segments of this size.
    PathOpen {
        /// The flow.
        flow: SendSlot,
        /// Payload bytes of a full segment.
        stride: u16,
        /// The round trip of the probe that was answered first.
        rtt_us: u32,
    },
    /// No probe was answered.
    PathClosed {
        /// The flow.
        flow: SendSlot,
        /// The operating system's last refusal to send, 0 if it never refused.
        errno: i32,
    },
    /// The lane has a buffer for a chunk whose source is [`Source::Fill`].
    Fill {
        /// The flow.
        flow: SendSlot,
        /// The chunk.
        chunk: u32,
        /// The buffer, the control process's until [`Command::Filled`].
        buffer: u32,
    },
    /// A chunk's hash, on the sending side.
    Hashed {
        /// The flow.
        flow: SendSlot,
        /// The chunk.
        chunk: u32,
        /// Its hash.
        hash: ChunkHash,
    },
    /// The receiver has all of a chunk.
    Delivered {
        /// The flow.
        flow: SendSlot,
        /// The chunk.
        chunk: u32,
        /// How long it took.
        times: ChunkTimes,
    },
    /// A chunk's bytes could not be read; the flow no longer has it.
    ReadFailed {
        /// The flow.
        flow: SendSlot,
        /// The chunk.
        chunk: u32,
        /// Why.
        error: DiskError,
    },
    /// In answer to [`Command::Withdraw`].
    Withdrawn {
        /// The flow.
        flow: SendSlot,
        /// The chunk.
        chunk: u32,
    },
    /// A chunk's first segment has come: where shall it go?
    PlacementNeeded {
        /// The flow.
        flow: ReceiveSlot,
        /// The chunk.
        chunk: u32,
        /// Its bytes, as its segments announce them.
        chunk_bytes: u32,
    },
    /// A chunk whose sink is [`Sink::Lend`] is whole.
    Lend {
        /// The flow.
        flow: ReceiveSlot,
        /// The chunk.
        chunk: u32,
        /// The buffer, the control process's until [`Command::Return`].
        buffer: u32,
        /// Its bytes.
        chunk_bytes: u32,
    },
    /// A chunk is written (not yet on stable storage), or discarded.
    Written {
        /// The flow.
        flow: ReceiveSlot,
        /// The chunk.
        chunk: u32,
        /// Its hash, if the transfer has hashes.
        hash: Option<ChunkHash>,
        /// How long it took.
        times: ChunkTimes,
    },
    /// A chunk could not be written; its buffer is free again.
    WriteFailed {
        /// The flow.
        flow: ReceiveSlot,
        /// The chunk.
        chunk: u32,
        /// Why.
        error: DiskError,
    },
    /// Most of a flow arrived through the kernel lately, although the lane has rings.
    Astray {
        /// The flow.
        flow: ReceiveSlot,
    },
    /// A report for the partner.
    Report {
        /// The flow.
        flow: ReceiveSlot,
        /// [`culvert_protocol::feedback`].
        bytes: &'a [u8],
    },
    /// In answer to [`Command::Check`].
    Checked {
        /// The command's token.
        token: u32,
        /// The hash, or why there is none.
        result: Result<ChunkHash, DiskError>,
    },
    /// A sending flow is gone; its slot is free.
    SendClosed {
        /// The flow.
        flow: SendSlot,
    },
    /// A receiving flow is gone; its slot is free.
    ReceiveClosed {
        /// The flow.
        flow: ReceiveSlot,
    },
    /// A partner's flows hold more than their part of the buffers, and others wait.
    OthersWaitForSend {
        /// One of those flows.
        flow: SendSlot,
        /// The buffers that it holds.
        held: u32,
    },
    /// As [`Event::OthersWaitForSend`].
    OthersWaitForReceive {
        /// One of those flows.
        flow: ReceiveSlot,
        /// Chunks that it has begun and not brought to their end.
        incomplete: u32,
        /// Whole chunks that it has.
        whole: u32,
    },
}

impl Event<'_> {
    /// Whether the flow that it names, if it names one, can be.
    #[must_use]
    pub const fn names_a_slot(&self) -> bool {
        match self {
            Self::PathOpen { flow, .. }
            | Self::PathClosed { flow, .. }
            | Self::Fill { flow, .. }
            | Self::Hashed { flow, .. }
            | Self::Delivered { flow, .. }
            | Self::ReadFailed { flow, .. }
            | Self::Withdrawn { flow, .. }
            | Self::SendClosed { flow }
            | Self::OthersWaitForSend { flow, .. } => flow.0 < FLOWS_PER_LANE,
            Self::PlacementNeeded { flow, .. }
            | Self::Lend { flow, .. }
            | Self::Written { flow, .. }
            | Self::WriteFailed { flow, .. }
            | Self::Astray { flow }
            | Self::Report { flow, .. }
            | Self::ReceiveClosed { flow }
            | Self::OthersWaitForReceive { flow, .. } => flow.0 < FLOWS_PER_LANE,
            Self::Checked { .. } => true,
        }
    }
}

/// The longest event but a report.
pub const EVENT_BYTES_MAX: usize = 96;

/// Writes a command or event into `scratch`.
///
/// # Panics
/// If it does not fit: no command or event but a report is longer than 200 bytes, and a report is
/// at most half a record.
#[expect(
    clippy::expect_used,
    reason = "nothing from outside makes them longer; a report is cut to its room by its writer"
)]
pub fn encode<'a>(value: &impl Serialize, scratch: &'a mut [u8; RECORD_BYTES_MAX]) -> &'a [u8] {
    postcard::to_slice(value, scratch).expect("commands and events fit a record")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_and_events_survive_the_ring() {
        let mut scratch = Box::new([0; RECORD_BYTES_MAX]);
        let report = [7u8; culvert_protocol::feedback::REPORT_BYTES_MAX];
        let command = Command::Report { flow: SendSlot(3), bytes: &report };
        let bytes = encode(&command, &mut scratch).to_vec();
        assert_eq!(postcard::from_bytes::<Command<'_>>(&bytes), Ok(command));
        let times = ChunkTimes { disk_us: u32::MAX, hash_us: u32::MAX, network_us: u32::MAX };
        let flow = ReceiveSlot(u16::MAX);
        let longest = Event::Written { flow, chunk: u32::MAX, hash: Some([0xff; 32]), times };
        assert!(encode(&longest, &mut scratch).len() <= EVENT_BYTES_MAX);
        let event = Event::Checked { token: 9, result: Err(DiskError::Os(5)) };
        let bytes = encode(&event, &mut scratch).to_vec();
        assert_eq!(postcard::from_bytes::<Event<'_>>(&bytes), Ok(event));
    }

    proptest! {
        #[test]
        fn any_bytes_are_decoded_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = postcard::from_bytes::<Command<'_>>(&bytes);
            let _ = postcard::from_bytes::<Event<'_>>(&bytes);
        }
    }
}
