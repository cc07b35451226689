//! What a sending flow's lane cannot say: it is another process, and may have been taken over.
//!
//! An event of a chunk that the flow does not have (any more) is passed over. What no lane ever
//! says ends the data plane: else the transfer would wait for what does not come, or the receiver
//! would be blamed for what this host's data plane did.
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

use culvert_plane::dataplane::SendEvent;
use culvert_protocol::chunk_map::ChunkContent;

use crate::transfer::sending::{Payload, Sending};

impl Sending {
    /// Why an event cannot be, if it cannot.
    pub(super) fn impossible(&self, tag: usize, event: &SendEvent) -> Option<&'static str> {
        match *event {
            SendEvent::Fill { chunk, .. }
            | SendEvent::Hashed { chunk, .. }
            | SendEvent::Delivered { chunk, .. }
            | SendEvent::ReadFailed { chunk, .. }
            | SendEvent::Withdrawn { chunk }
                if chunk >= self.chunk_count =>
            {
                Some("it sent an event of a chunk that the transfer does not have")
            }
            SendEvent::Fill { chunk, .. }
            | SendEvent::Hashed { chunk, .. }
            | SendEvent::Delivered { chunk, .. }
            | SendEvent::ReadFailed { chunk, .. }
            | SendEvent::Withdrawn { chunk }
                if self.assigned.get(&chunk) != Some(&tag) =>
            {
                None
            }
            SendEvent::Hashed { chunk, .. } if !self.is_hashed(chunk) => Some("it hashed something it was not to hash"),
            SendEvent::Hashed { chunk, .. } if self.hashed.contains_key(&chunk) => Some("it hashed a chunk twice"),
            SendEvent::Delivered { chunk, .. } if self.is_hashed(chunk) && !self.hashed.contains_key(&chunk) => {
                Some("it delivered a chunk that it has not hashed")
            }
            SendEvent::Delivered { chunk, .. } if self.is_pack(chunk) && self.filling.get(&chunk) != Some(&false) => {
                Some("it delivered a pack that is not filled")
            }
            SendEvent::ReadFailed { chunk, .. } if self.file_of(chunk).is_none() => {
                Some("it reports a failed read that it was not to make")
            }
            // Chunks are taken back of files that were given up, and of no others.
            SendEvent::Withdrawn { chunk } if !self.is_given_up(chunk) => Some("it gave up a chunk of its own accord"),
            SendEvent::PathClosed { .. } if self.flows.was_open(tag) => Some("it reports an open path as closed"),
            // Flows are closed when they have no listener any more.
            SendEvent::Closed => Some("it closed a flow of its own accord"),
            _ => None,
        }
    }

    fn is_pack(&self, chunk: u32) -> bool {
        match &self.payload {
            Payload::Files { chunks, .. } => matches!(chunks.content(chunk), Some(ChunkContent::Pack { .. })),
            Payload::Memory { .. } => false,
        }
    }

    /// Whether lanes hash a chunk: files in packs are hashed while they are packed.
    fn is_hashed(&self, chunk: u32) -> bool {
        self.context.options.checksum && !self.is_pack(chunk)
    }
}
