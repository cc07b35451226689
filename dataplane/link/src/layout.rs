//! Where the parts of each lane lie in the link's memory.
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

use crate::ring::{RECORD_BYTES_MAX, RingPlace};

/// Words of a lane's counters, with room to grow.
pub const LANE_WORDS: usize = 64;
/// Words of a flow block: two cache lines.
pub const FLOW_WORDS: usize = 16;
/// Flows that a lane can send at once, and as many that it can receive.
pub const FLOWS_PER_LANE: u16 = 256;
/// Files that can be open in the data plane at once.
pub const FILES_MAX: u32 = 4_096;
/// Bytes of a lane's command ring: a transfer's chunk commands and its partner's reports for many
/// milliseconds.
const COMMAND_RING_BYTES: usize = 512 << 10;
/// Bytes of a lane's event ring.
const EVENT_RING_BYTES: usize = 1 << 20;
// A ring that is nearly full must still take a record of the longest kind once its reader has gone
// on.
const _: () = assert!(COMMAND_RING_BYTES >= 4 * RECORD_BYTES_MAX && EVENT_RING_BYTES >= 4 * RECORD_BYTES_MAX);

/// Where a lane's parts lie in the link's memory.
#[derive(Clone, Copy, Debug)]
pub struct LaneLayout {
    /// [`crate::counters::LaneCounters`].
    pub counters: usize,
    /// [`crate::counters::FlowBlock`]s of the lane's sending flows.
    pub flow_blocks: usize,
    /// From the control process to the lane.
    pub commands: RingPlace,
    /// From the lane to the control process.
    pub events: RingPlace,
    end: usize,
}

impl LaneLayout {
    /// The layout of lane number `lane`.
    #[must_use]
    #[expect(clippy::arithmetic_side_effects, reason = "a few megabytes for each of a host's cores at most")]
    pub const fn of(lane: usize) -> Self {
        let first = Self::at(0);
        Self::at(lane * first.end.next_multiple_of(4096))
    }

    #[expect(clippy::arithmetic_side_effects, reason = "a few megabytes, known when this is compiled")]
    const fn at(base: usize) -> Self {
        let counters = base;
        let flow_blocks = counters + LANE_WORDS * 8;
        let commands = flow_blocks + FLOWS_PER_LANE as usize * FLOW_WORDS * 8;
        let commands = RingPlace { offset: commands.next_multiple_of(64), data_bytes: COMMAND_RING_BYTES };
        let events = commands.offset + commands.bytes();
        let events = RingPlace { offset: events.next_multiple_of(64), data_bytes: EVENT_RING_BYTES };
        Self { counters, flow_blocks, commands, events, end: events.offset + events.bytes() }
    }

    /// Bytes of memory for `lanes` lanes.
    #[must_use]
    pub const fn memory_bytes(lanes: usize) -> usize {
        Self::of(lanes).counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_do_not_overlap() {
        let (first, second) = (LaneLayout::of(0), LaneLayout::of(1));
        assert!(first.flow_blocks >= first.counters + LANE_WORDS * 8);
        assert!(first.commands.offset >= first.flow_blocks + usize::from(FLOWS_PER_LANE) * FLOW_WORDS * 8);
        assert!(first.events.offset >= first.commands.offset + first.commands.bytes());
        assert!(second.counters >= first.events.offset + first.events.bytes());
        assert_eq!(LaneLayout::memory_bytes(2), LaneLayout::of(2).counters);
    }
}
