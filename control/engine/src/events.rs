//! What the engine tells whoever watches it: metrics, records of paths, a portal's status.
//!
//! The engine keeps no metrics and knows none of its observers. An observer is called from
//! the tasks of transfers, a few times for each chunk, and must not wait.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use culvert_link::commands::ChunkTimes;
use culvert_model::result::TransferResult;

use crate::limits::Limit;

/// The stages of a chunk's way.
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

/// Something that has happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A partner has reached a limit of this node.
    LimitReached(Limit),
    /// An attempt failed, and another will be made.
    AttemptFailed,
    /// A report of the receiver has come, and the flow's rate follows from it.
    Reported {
        /// The partner's name.
        partner: &'a str,
        /// The flow's round trip.
        round_trip: Duration,
        /// The pacing rate of all flows, in bits per second.
        pacing_bits_per_second: u64,
    },
    /// A report of a receiving flow goes to the partner.
    ReportSent {
        /// Whether it waited in this process for more than two of its intervals.
        is_late: bool,
    },
    /// A lane has delivered a chunk, or written one to a file. Of chunks that helpers store there
    /// is [`Event::StageTook`] only.
    ChunkMoved {
        /// How long it had it, on each part of its way.
        times: ChunkTimes,
        /// Whether it was sent.
        is_sender: bool,
    },
    /// A part of a chunk's way, which this process went.
    StageTook {
        /// Which.
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

/// Somebody who watches.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// Takes notice. Must not wait: transfers do in the meantime.
    fn note(&self, event: Event<'_>);

    /// What is to be held for as long as a transfer runs: what keeps processors awake, for
    /// instance.
    fn hold_for_transfer(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

/// Nobody watches.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn note(&self, _event: Event<'_>) {}
}
