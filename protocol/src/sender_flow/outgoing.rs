//! The chunks that a sending flow is sending.

use crate::chunk_memory::BufferId;
use crate::segments::SegmentSet;

/// A chunk that the flow is sending.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) chunk: u32,
    pub(super) chunk_bytes: u32,
    pub(super) buffer: BufferId,
    /// Payload bytes of its segments except the last; the flow's stride when it was started (W-11).
    pub(super) stride: u16,
    /// Bytes from the beginning that have been read.
    pub(super) available: u32,
    /// The next segment to be sent for the first time.
    pub(super) next_index: u32,
    pub(super) lost: SegmentSet,
    pub(super) in_resend_queue: bool,
    /// Whether its first segment was sent, and so a credit used.
    pub(super) begun: bool,
    /// Whether every segment was sent at least once, at this stride or an earlier one.
    pub(super) sent_whole: bool,
}

/// One slot of the flow. The generation distinguishes records of an earlier chunk in the same slot
/// from those of the current one.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) generation: u16,
    pub(super) outgoing: Option<Outgoing>,
}
