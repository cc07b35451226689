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

use std::sync::Arc;

use culvert_objects::source::RangeReader;
use culvert_plane::dataplane::SendEvent;
use culvert_protocol::chunk_map::ChunkContent;

use crate::transfer::sending::files::Reading;
use crate::transfer::sending::payload::Payload;
use crate::transfer::sending::state::Sending;

impl Sending {
    /// Why an event cannot be, if it cannot.
    pub(super) fn impossible(&self, tag: usize, event: &SendEvent) -> Option<&'static str> {
        match *event {
            SendEvent::Fill { chunk, .. }
            | SendEvent::Hashed { chunk, .. }
            | SendEvent::Delivered { chunk, .. }
            | SendEvent::ReadFailed { chunk, .. }
            | SendEvent::Withdrawn { chunk }
                if chunk >= self.queue.chunk_count =>
            {
                Some("it sent an event of a chunk that the transfer does not have")
            }
            SendEvent::Fill { chunk, .. }
            | SendEvent::Hashed { chunk, .. }
            | SendEvent::Delivered { chunk, .. }
            | SendEvent::ReadFailed { chunk, .. }
            | SendEvent::Withdrawn { chunk }
                if self.queue.assigned.get(&chunk) != Some(&tag) =>
            {
                None
            }
            SendEvent::Hashed { chunk, .. } if !self.is_hashed(chunk) => Some("it hashed something it was not to hash"),
            SendEvent::Hashed { chunk, .. } if self.hashing.hashed.contains_key(&chunk) => {
                Some("it hashed a chunk twice")
            }
            SendEvent::Delivered { chunk, .. }
                if self.is_hashed(chunk) && !self.hashing.hashed.contains_key(&chunk) =>
            {
                Some("it delivered a chunk that it has not hashed")
            }
            SendEvent::Delivered { chunk, .. }
                if self.is_filled(chunk) && self.queue.filling.get(&chunk) != Some(&false) =>
            {
                Some("it delivered a chunk that is not filled")
            }
            SendEvent::ReadFailed { chunk, .. } if self.payload.file_of(chunk).is_none() => {
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

    /// Whether this process fills a chunk: packs, and what only this process can read.
    pub(super) fn is_filled(&self, chunk: u32) -> bool {
        let Payload::Files { chunks, .. } = &self.payload else { return false };
        match chunks.content(chunk) {
            Some(ChunkContent::Pack { .. }) => true,
            Some(ChunkContent::Range { file, .. }) => self.reader_of(file).is_some(),
            None => false,
        }
    }

    /// With what this process reads an open object, if lanes do not.
    pub(super) fn reader_of(&self, file: u32) -> Option<Arc<dyn RangeReader>> {
        match self.files.get(file)?.reading()? {
            Reading::Ranges(reader) => Some(reader),
            Reading::Lanes(_) => None,
        }
    }

    /// Whether lanes hash a chunk: what this process fills it hashes too.
    fn is_hashed(&self, chunk: u32) -> bool {
        self.context.options.checksum && !self.is_filled(chunk)
    }
}
