//! What became of a datagram that a flow received.

use crate::chunk_memory::BufferId;
use crate::wire::Header;

/// Why a datagram of the flow was dropped. Counted by reason, never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// Its packet number was decided before: a replay, a duplicate of the network, or very late.
    Stale,
    /// Sealed under an epoch whose key is not held.
    Epoch,
    /// Does not authenticate.
    NotAuthentic,
    /// Names a chunk that the transfer does not have, or one of another size.
    ForeignChunk,
    /// Begins a chunk for which no credit was given, or no buffer is free.
    OverCredit,
    /// A kind that does not travel in this direction.
    Direction,
}

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Received {
    /// The first segment of a chunk, which is not whole yet.
    Began {
        /// The chunk.
        chunk: u32,
        /// The buffer that it got.
        buffer: BufferId,
        /// Bytes of the whole chunk.
        chunk_bytes: u32,
    },
    /// A segment of a chunk that starts over at another stride (W-11) and is not complete yet.
    /// Nothing received before counts: every place in the buffer will be written again,
    /// and anything computed from its bytes applies to other bytes.
    BeganAnew {
        /// The chunk.
        chunk: u32,
        /// The buffer that it has, and keeps.
        buffer: BufferId,
    },
    /// Placed, or known already; its chunk is not whole yet.
    Placed {
        /// The chunk that it belongs to; `None` for a repeated segment of a complete chunk.
        chunk: Option<u32>,
    },
    /// The last missing segment of a chunk: the buffer now belongs to the caller, who returns it to
    /// the memory and notifies the flow with [`release`](super::ReceiverFlow::release).
    Completed(CompletedChunk),
    /// An authentic probe; answer it with
    /// [`seal_probe_reply`](super::ReceiverFlow::seal_probe_reply).
    Probe(Header),
    /// Dropped.
    Rejected(Rejected),
}

/// When a chunk began whose last missing segment has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkStart {
    /// With an earlier segment.
    Earlier,
    /// With this one: no [`Received::Began`] came before.
    Now,
    /// With this one, for which it started over: no [`Received::BeganAnew`] came before.
    Anew,
}

/// A chunk of which every segment has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletedChunk {
    /// The chunk.
    pub chunk: u32,
    /// Where its bytes are.
    pub buffer: BufferId,
    /// How many they are.
    pub chunk_bytes: u32,
    /// When it began.
    pub beginning: ChunkStart,
}
