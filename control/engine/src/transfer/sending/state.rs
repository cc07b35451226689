//! The sending side of a transfer: each part of what it knows has one owner.

use tokio::sync::mpsc;

use crate::transfer::TransferContext;
use crate::transfer::flows::SendingFlows;
use crate::transfer::sending::announcements::Announcements;
use crate::transfer::sending::done::Done;
use crate::transfer::sending::files::OutgoingFiles;
use crate::transfer::sending::outbox::Outbox;
use crate::transfer::sending::pace::{Failures, Pace};
use crate::transfer::sending::payload::{PartnerHas, Payload};
use crate::transfer::sending::queue::{Hashing, Queue};

/// The sending side. Each part of what it knows has one owner.
pub(super) struct Sending {
    pub(super) context: TransferContext,
    pub(super) queue: Queue,
    pub(super) hashing: Hashing,
    pub(super) failures: Failures,
    pub(super) pace: Pace,
    pub(super) payload: Payload,
    pub(super) has: PartnerHas,
    pub(super) flows: SendingFlows,
    pub(super) files: OutgoingFiles,
    pub(super) outbox: Outbox,
    /// What was told of files by name; none if nobody reads that.
    pub(super) announcements: Option<Announcements>,
    pub(super) done: mpsc::UnboundedSender<Done>,
}

impl Sending {
    /// The size of a chunk.
    pub(super) fn chunk_bytes(&self, chunk: u32) -> u32 {
        match &self.payload {
            Payload::Files { chunks, .. } => chunks.content(chunk).map_or(0, |content| content.bytes()),
            Payload::Memory { bytes } => {
                let chunk_bytes = u64::from(self.context.options.chunk_bytes);
                (bytes - u64::from(chunk) * chunk_bytes).min(chunk_bytes) as u32
            }
        }
    }

    /// Whether a chunk is of a file that was given up.
    pub(super) fn is_given_up(&self, chunk: u32) -> bool {
        self.payload.file_of(chunk).is_some_and(|file| self.failures.failed.contains(&file))
    }
}
