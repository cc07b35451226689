//! What does not change while a transfer is sent: its terms, its payload, and the channel on which
//! its helpers report.

use std::future::Future;

use tokio::sync::mpsc::UnboundedSender;

use crate::TransferContext;
use crate::sending::done::Done;
use crate::sending::payload::Payload;

/// A transfer's terms, its payload, and the channel on which its helpers report.
pub(super) struct Job {
    pub(super) context: TransferContext,
    pub(super) payload: Payload,
    done: UnboundedSender<Done>,
}

impl Job {
    pub(super) const fn new(context: TransferContext, payload: Payload, done: UnboundedSender<Done>) -> Self {
        Self { context, payload, done }
    }

    /// The size of a chunk.
    pub(super) fn chunk_bytes(&self, chunk: u32) -> u32 {
        self.payload.chunk_bytes(chunk, self.context.options.chunk_bytes)
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
