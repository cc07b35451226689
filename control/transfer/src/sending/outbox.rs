//! Messages of a sending transfer that are gathered before they go.

use culvert_connection::MessageWriter;
use culvert_protocol::control::Message;
use culvert_protocol::tree_hash::ChunkHash;

use crate::error::TransferError;

/// Hashes gathered in one message.
const HASHES_PER_MESSAGE: usize = 512;

/// Messages that are gathered before they go.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) chunk_hashes: Vec<(u32, ChunkHash)>,
    pub(super) holes: Vec<(u32, ChunkHash)>,
    pub(super) proven: Vec<u32>,
    pub(super) complete: Vec<(u32, ChunkHash)>,
    pub(super) others: Vec<Message>,
}

impl Outbox {
    /// Sends what was gathered.
    pub(super) async fn send(&mut self, writer: &MessageWriter) -> Result<(), TransferError> {
        let outbox = std::mem::take(self);
        // Hashes before what depends on them, the end last.
        for hashes in outbox.chunk_hashes.chunks(HASHES_PER_MESSAGE) {
            writer.send(Message::ChunkHashes(hashes.to_vec())).await?;
        }
        for holes in outbox.holes.chunks(HASHES_PER_MESSAGE) {
            writer.send(Message::Holes(holes.to_vec())).await?;
        }
        for proven in outbox.proven.chunks(HASHES_PER_MESSAGE) {
            writer.send(Message::Proven(proven.to_vec())).await?;
        }
        let (ends, others): (Vec<_>, Vec<_>) =
            outbox.others.into_iter().partition(|message| matches!(message, Message::AllSent(_)));
        for message in others {
            writer.send(message).await?;
        }
        for complete in outbox.complete.chunks(HASHES_PER_MESSAGE) {
            writer.send(Message::FilesComplete(complete.to_vec())).await?;
        }
        for message in ends {
            writer.send(message).await?;
        }
        Ok(())
    }
}
