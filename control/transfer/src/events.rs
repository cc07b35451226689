//! Events that a transfer reports to its observer: for metrics, records of paths, a portal's
//! status.
//!
//! A transfer keeps no metrics and does not know who observes it. An observer is called from the
//! tasks of transfers, a few times per chunk, and must not wait.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use culvert_link::commands::ChunkTimes;
use culvert_model::result::TransferResult;

use crate::limits::Limit;

/// The stages through which a chunk passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// From the source into a buffer.
    Read,
    /// Hashing at the sender.
    Hash,
    /// From the buffer to the receiver.
    Send,
    /// From the first segment to the last.
    Receive,
    /// Hashing at the receiver.
    Verify,
    /// From the buffer to the destination.
    Write,
}

impl Stage {
    /// All of them, for metrics.
    pub const ALL: [Self; 6] = [Self::Read, Self::Hash, Self::Send, Self::Receive, Self::Verify, Self::Write];

    /// The contract's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Hash => "hash",
            Self::Send => "send",
            Self::Receive => "receive",
            Self::Verify => "verify",
            Self::Write => "write",
        }
    }
}

/// An event.
#[derive(Debug)]
pub enum Event<'a> {
    /// A partner has reached a limit of this node.
    LimitReached(Limit),
    /// An attempt failed, and another will be made.
    AttemptFailed,
    /// A report of the receiver has arrived and set the flow's rate.
    Reported {
        /// The partner's name.
        partner: &'a str,
        /// The flow's round-trip time.
        round_trip: Duration,
        /// The pacing rate of all flows, in bits per second.
        pacing_bits_per_second: u64,
    },
    /// A report of a receiving flow goes to the partner.
    ReportSent {
        /// Whether it waited in this process for more than two report intervals.
        is_late: bool,
    },
    /// A lane has delivered a chunk, or written one to a file. Chunks that helper threads store
    /// cause only [`Event::StageTook`].
    ChunkMoved {
        /// How long the lane spent on each stage.
        times: ChunkTimes,
        /// Whether it was sent.
        is_sender: bool,
    },
    /// This process has completed one stage of a chunk.
    StageTook {
        /// The stage.
        stage: Stage,
        /// How long it took.
        time: Duration,
    },
    /// A transfer has ended with a result.
    Succeeded {
        /// The result.
        result: &'a TransferResult,
        /// The partner's name.
        partner: &'a str,
        /// Whether this node sent.
        is_sender: bool,
    },
    /// A transfer has ended without one.
    Failed,
}

/// A receiver of events.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// Takes an event. Must not wait: the transfer would wait with it.
    fn note(&self, event: Event<'_>);

    /// A guard that the engine holds while a transfer runs, for instance one that keeps processors
    /// out of deep sleep states.
    fn hold_for_transfer(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

/// An observer that ignores all events.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn note(&self, _event: Event<'_>) {}
}
