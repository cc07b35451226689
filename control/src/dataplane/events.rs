//! What the lanes tell about flows, as transfers hear it: the events of the link, owned.

use culvert_dataplane::link::commands::{ChunkTimes, DiskError};
use culvert_dataplane::link::handles::LentBuffer;
use culvert_protocol::tree_hash::ChunkHash;

/// What a sending flow reports: the events of [`culvert_dataplane::link::commands::Event`], owned.
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
    /// The flow is gone.
    Closed,
}

/// What a receiving flow reports.
#[derive(Debug)]
pub enum ReceiveEvent {
    /// Where shall this chunk go?
    Asks {
        /// The chunk.
        chunk: u32,
        /// Its bytes.
        chunk_bytes: u32,
    },
    /// A pack, whole.
    Hand {
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
    /// Most of the flow came by the kernel lately, although its lane has rings.
    Astray,
    /// The flow is gone.
    Closed,
}

/// An event with the number that its transfer gave the flow.
pub type Tagged<E> = (usize, E);
