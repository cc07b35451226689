//! What does not change while a transfer is received: its terms, its plan, its chunks, and the
//! channel on which its helpers report.
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

use std::future::Future;
use std::sync::Arc;

use culvert_connection::MessageWriter;
use culvert_link::commands::{FileRange, FileSlot};
use culvert_objects::fs::sources::TOO_MUCH_LISTED;
use culvert_plane::DataPlane;
use culvert_protocol::chunk_map::{ChunkContent, ChunkMap};
use culvert_protocol::control::RefusalCode;
use tokio::sync::mpsc::UnboundedSender;

use crate::TransferContext;
use crate::error::TransferError;
use crate::events::Event;
use crate::limits::Limit;
use crate::measurement::memory_chunks;
use crate::receiving::done::Done;
use crate::receiving::intake::Intake;

/// A transfer's terms, its plan and chunks, and the channel on which its helpers report.
pub(super) struct Job {
    pub(super) context: TransferContext,
    pub(super) intake: Arc<Intake>,
    pub(super) chunks: Arc<ChunkMap>,
    pub(super) chunk_count: u32,
    done: UnboundedSender<Done>,
}

impl Job {
    /// # Errors
    /// [`TransferError`] if the transfer has more chunks than can be numbered, or than the
    /// partner's share permits.
    pub(super) fn new(
        mut context: TransferContext,
        intake: Intake,
        done: UnboundedSender<Done>,
    ) -> Result<Self, TransferError> {
        let chunk_bytes = context.options.chunk_bytes;
        let chunks = ChunkMap::new(&intake.manifest, chunk_bytes, |file| intake.is_sent(file))
            .map_err(|error| TransferError::here(RefusalCode::Protocol, error.to_string()))?;
        let chunk_count = match intake.memory_bytes {
            Some(bytes) => memory_chunks(bytes, chunk_bytes),
            None => chunks.chunk_count(),
        };
        // A bit here, and one in the one flow that there is at least.
        if !context.share.take_bytes(u64::from(chunk_count) / 4) {
            context.observer.note(Event::LimitReached(Limit::ManifestBytes));
            return Err(TransferError::here(RefusalCode::Temporary, TOO_MUCH_LISTED));
        }
        Ok(Self { context, intake: Arc::new(intake), chunks: Arc::new(chunks), chunk_count, done })
    }

    pub(super) fn plane(&self) -> &Arc<DataPlane> {
        &self.context.plane
    }

    pub(super) fn writer(&self) -> &MessageWriter {
        &self.context.connection.writer
    }

    pub(super) fn where_helpers_report(&self) -> UnboundedSender<Done> {
        self.done.clone()
    }

    /// Whether the transfer measures the path, and stores nothing.
    pub(super) fn is_measurement(&self) -> bool {
        self.intake.memory_bytes.is_some()
    }

    /// The size of a chunk.
    pub(super) fn chunk_bytes(&self, chunk: u32) -> u32 {
        match self.intake.memory_bytes {
            Some(bytes) => {
                let chunk_bytes = u64::from(self.context.options.chunk_bytes);
                let before = u64::from(chunk).saturating_mul(chunk_bytes);
                u32::try_from(bytes.saturating_sub(before).min(chunk_bytes)).unwrap_or(u32::MAX)
            }
            None => self.chunks.content(chunk).map_or(0, |content| content.bytes()),
        }
    }

    /// The file with chunks of its own that a chunk is a part of, if it is one.
    pub(super) fn file_of(&self, chunk: u32) -> Option<u32> {
        match self.chunks.content(chunk) {
            Some(ChunkContent::Range { file, .. }) => Some(file),
            _ => None,
        }
    }

    /// The size of a file; 0 for what is none.
    pub(super) fn file_bytes(&self, file: u32) -> u64 {
        self.intake.manifest.file_bytes(file).unwrap_or(0)
    }

    /// Whether an entry is a file that the sender sends.
    pub(super) fn is_sent_file(&self, file: u32) -> bool {
        (file as usize) < self.intake.manifest.len()
            && self.intake.manifest.file_bytes(file).is_some()
            && self.intake.is_sent(file)
    }

    /// Where a chunk lies in its file, which lanes have in `slot`, and its size.
    pub(super) fn range_of(&self, chunk: u32, slot: FileSlot) -> Option<(FileRange, u32)> {
        let Some(ChunkContent::Range { file, offset, bytes, .. }) = self.chunks.content(chunk) else { return None };
        Some((FileRange { file: slot, offset, file_bytes: self.file_bytes(file) }, bytes))
    }

    /// # Errors
    /// [`TransferError`] if the transfer has no chunk of this number, which the sender named.
    pub(super) fn check_chunk_number(&self, chunk: u32) -> Result<(), TransferError> {
        if chunk < self.chunk_count {
            return Ok(());
        }
        Err(TransferError::protocol(format!("it names a chunk {chunk} that the transfer does not have")))
    }

    /// The data plane reported something impossible, which ends it.
    pub(super) fn nonsense(&self, what: &'static str) -> TransferError {
        self.context.plane.nonsense(what).into()
    }

    /// Starts a helper that does not block. Its outcome comes back as an event of the transfer.
    pub(super) fn help(&self, work: impl Future<Output = Done> + Send + 'static) {
        let done = self.done.clone();
        tokio::spawn(async move {
            // The transfer may have ended meanwhile.
            let _ = done.send(work.await);
        });
    }

    /// Starts a helper that blocks its thread: files and hashes.
    pub(super) fn help_blocking(&self, work: impl FnOnce() -> Done + Send + 'static) {
        let done = self.done.clone();
        tokio::task::spawn_blocking(move || {
            // The transfer may have ended meanwhile.
            let _ = done.send(work());
        });
    }
}
