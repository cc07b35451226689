//! The queues through which transfers receive the lanes' events about their flows.
//!
//! The task that drains the lanes' rings must never wait for a transfer, so sending does not block.
//! The queue is bounded by bytes instead: an event without room is lost, and the transfer ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use culvert_link::commands::{ChunkTimes, DiskError};
use culvert_link::handles::LentBuffer;
use culvert_protocol::tree_hash::ChunkHash;
use tokio::sync::mpsc;

use crate::error::DataPlaneError;

/// What a sending flow reports: the events of [`culvert_link::commands::Event`], owned.
#[derive(Debug)]
pub enum SendEvent {
    /// The path is open for segments of this size.
    PathOpen {
        /// Payload bytes of a segment.
        stride: u16,
        /// The first probe's round trip.
        rtt_us: u32,
    },
    /// No probe was answered.
    PathClosed {
        /// The last refusal to send, 0 if none.
        errno: i32,
    },
    /// A buffer to be filled.
    Fill {
        /// The chunk.
        chunk: u32,
        /// The buffer.
        buffer: LentBuffer,
    },
    /// A chunk's hash.
    Hashed {
        /// The chunk.
        chunk: u32,
        /// Its hash.
        hash: ChunkHash,
    },
    /// The receiver has a chunk.
    Delivered {
        /// The chunk.
        chunk: u32,
        /// How long it took.
        times: ChunkTimes,
    },
    /// A chunk could not be read.
    ReadFailed {
        /// The chunk.
        chunk: u32,
        /// Why.
        error: DiskError,
    },
    /// A chunk was given up, as ordered.
    Withdrawn {
        /// The chunk.
        chunk: u32,
    },
    /// The partner's flows hold more than their part of the lane's buffers, and others wait.
    OthersWait {
        /// Buffers that this flow holds.
        held: u32,
    },
    /// The flow is gone.
    Closed,
}

/// What a receiving flow reports.
#[derive(Debug)]
pub enum ReceiveEvent {
    /// The lane asks where a chunk is to be written.
    PlacementNeeded {
        /// The chunk.
        chunk: u32,
        /// Its bytes.
        chunk_bytes: u32,
    },
    /// A whole pack, lent for reading.
    Lend {
        /// The chunk.
        chunk: u32,
        /// Its bytes.
        buffer: LentBuffer,
    },
    /// A chunk is written.
    Written {
        /// The chunk.
        chunk: u32,
        /// Its hash.
        hash: Option<ChunkHash>,
        /// How long it took.
        times: ChunkTimes,
    },
    /// A chunk could not be written.
    WriteFailed {
        /// The chunk.
        chunk: u32,
        /// Why.
        error: DiskError,
    },
    /// A report for the partner.
    Report(Vec<u8>),
    /// Most of the flow arrived through the kernel lately, although its lane has rings.
    Astray,
    /// The partner's flows hold more than their part of the lane's buffers, and others wait.
    OthersWait {
        /// Chunks that this flow has begun and not brought to their end.
        incomplete: u32,
        /// Whole chunks that it has.
        whole: u32,
    },
    /// The flow is gone.
    Closed,
}

/// An event with the number that its transfer gave the flow.
pub type Tagged<E> = (usize, E);

/// Bytes of events that may wait for a transfer. A transfer takes events as they come, except while
/// its partner does not read; the reports of a hundred flows take a minute to add up to this.
const WAITING_BYTES_MAX: usize = 64 << 20;

/// An event whose memory is counted while it waits.
pub trait Queued {
    /// Bytes that the event occupies in the queue.
    fn waiting_bytes(&self) -> usize;
}

impl Queued for SendEvent {
    fn waiting_bytes(&self) -> usize {
        size_of::<Tagged<Self>>()
    }
}

impl Queued for ReceiveEvent {
    fn waiting_bytes(&self) -> usize {
        let report = if let Self::Report(bytes) = self { bytes.len() } else { 0 };
        size_of::<Tagged<Self>>() + report
    }
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    has_lost: AtomicBool,
}

/// The sending end of a transfer's queue. Clones send into the same queue.
#[derive(Debug)]
pub struct EventSender<E> {
    queue: mpsc::UnboundedSender<Tagged<E>>,
    waiting: Arc<Waiting>,
}

impl<E> Clone for EventSender<E> {
    fn clone(&self) -> Self {
        Self { queue: self.queue.clone(), waiting: self.waiting.clone() }
    }
}

/// The receiving end, which the transfer has.
#[derive(Debug)]
pub struct EventReceiver<E> {
    queue: mpsc::UnboundedReceiver<Tagged<E>>,
    waiting: Arc<Waiting>,
}

/// A transfer's queue.
#[must_use]
pub fn event_queue<E: Queued>() -> (EventSender<E>, EventReceiver<E>) {
    let (sender, queue) = mpsc::unbounded_channel();
    let waiting = Arc::<Waiting>::default();
    (EventSender { queue: sender, waiting: waiting.clone() }, EventReceiver { queue, waiting })
}

impl<E: Queued> EventSender<E> {
    /// Adds an event. If there is no room the event is lost, and the transfer ends when it takes
    /// its next one.
    pub(super) fn send(&self, event: Tagged<E>) {
        let bytes = event.1.waiting_bytes();
        if self.waiting.bytes.load(Ordering::Acquire) + bytes > WAITING_BYTES_MAX {
            self.waiting.has_lost.store(true, Ordering::Release);
            return;
        }
        self.waiting.bytes.fetch_add(bytes, Ordering::AcqRel);
        // This fails only if the transfer has ended.
        let _ = self.queue.send(event);
    }
}

impl<E: Queued> EventReceiver<E> {
    /// Waits for the next event. Canceling the future loses nothing.
    ///
    /// # Errors
    /// [`DataPlaneError::Overrun`] if events were lost.
    pub async fn next(&mut self) -> Result<Tagged<E>, DataPlaneError> {
        match self.queue.recv().await {
            Some(event) => self.taken(event),
            None => std::future::pending().await,
        }
    }

    /// The next event, if one waits.
    ///
    /// # Errors
    /// As [`EventReceiver::next`].
    pub fn next_waiting(&mut self) -> Result<Option<Tagged<E>>, DataPlaneError> {
        self.queue.try_recv().ok().map(|event| self.taken(event)).transpose()
    }

    fn taken(&self, event: Tagged<E>) -> Result<Tagged<E>, DataPlaneError> {
        let bytes = event.1.waiting_bytes();
        let waiting = self.waiting.bytes.fetch_sub(bytes, Ordering::AcqRel);
        // Invariant I-plane-event-bytes: The byte count of a transfer's event queue covers every
        // event in it.
        assert!(waiting >= bytes, "an event of {bytes} bytes was taken from a queue of {waiting}");
        if self.waiting.has_lost.load(Ordering::Acquire) { Err(DataPlaneError::Overrun) } else { Ok(event) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a lane that repeats an event endlessly, or a transfer that waits for a partner
    /// that does not read, used up all memory.
    #[test]
    fn waiting_events_are_bounded_and_a_lost_event_ends_the_transfer() {
        let report = || (0, ReceiveEvent::Report(vec![0; 8_000]));
        let (sender, mut receiver) = event_queue();
        let fits = WAITING_BYTES_MAX / report().1.waiting_bytes();
        for _ in 0..fits {
            sender.send(report());
        }
        while receiver.next_waiting().expect("nothing was lost").is_some() {}
        for _ in 0..3 * fits {
            sender.send(report());
        }
        assert!(receiver.queue.len() <= fits, "{} wait", receiver.queue.len());
        assert!(matches!(receiver.next_waiting(), Err(DataPlaneError::Overrun)));
    }
}
