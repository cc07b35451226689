//! Numbers that a lane keeps in shared memory for the control process to read, and the rates that
//! it reads there.
//!
//! Each word has one writer, so "add" is a load and a store, without a locked instruction.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::layout::{FLOW_WORDS, LANE_WORDS, LaneLayout};
use crate::shared_memory::SharedMemory;

/// What a lane counts. All but the last group only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum LaneCounter {
    /// Datagrams that arrived, of any kind.
    DatagramsReceived,
    /// Data segments that authenticated.
    SegmentsReceived,
    /// Data segments sent.
    SegmentsSent,
    /// Those among them sent again.
    SegmentsResent,
    /// Bytes of payload received.
    PayloadReceived,
    /// Bytes of payload sent.
    PayloadSent,
    /// Datagrams without a well-formed header.
    RejectedMalformed,
    /// Datagrams of flows that this lane does not have.
    RejectedUnknownFlow,
    /// Replays and very late segments.
    RejectedStale,
    /// Segments under an epoch whose key is not held.
    RejectedEpoch,
    /// Segments that do not authenticate.
    RejectedNotAuthentic,
    /// Segments of chunks that the transfer does not have.
    RejectedForeignChunk,
    /// Segments beyond credit.
    RejectedOverCredit,
    /// Segments of the wrong direction.
    RejectedDirection,
    /// Datagrams that the socket dropped because its buffer was full.
    SocketDrops,
    /// Sends that the network refused (`EMSGSIZE`, unreachable).
    SendErrors,
    /// Bytes read from disk.
    DiskRead,
    /// Bytes written to disk.
    DiskWritten,
    /// Nanoseconds in turns that moved something.
    BusyNs,
    /// Nanoseconds in turns that did not, and asleep.
    IdleNs,
    /// Nanoseconds in which a flow waited for its source.
    StallReadingNs,
    /// Nanoseconds in which a flow waited for its pacer.
    StallPacingNs,
    /// Nanoseconds in which a flow waited for credit or reports.
    StallCreditNs,
    /// Nanoseconds in which a receiving flow waited for its destination.
    StallWritingNs,
    /// Times that the lane slept.
    Sleeps,
    /// Nanoseconds of the hash in the ledger.
    HashNs,
    /// Whether the socket segments super-buffers (1) or not (0).
    GsoEnabled,
    /// Buffers in use now.
    BuffersInUse,
    /// Datagrams that arrived through the rings of AF_XDP.
    RingReceived,
    /// Datagrams that arrived through the kernel instead of the rings.
    KernelReceived,
    /// Datagrams that left through the rings of AF_XDP.
    RingSent,
    /// Datagrams that left through the kernel instead of the rings.
    KernelSent,
    /// Receive frames of AF_XDP in the pool, when the lane last had no flow.
    ReceiveFramesFree,
    /// Frames in use within the lane.
    ReceiveFramesHeld,
    /// Those that the kernel had.
    ReceiveFramesLent,
    /// Those of the lent that lay in a ring.
    ReceiveFramesInRings,
    /// Transmit frames of AF_XDP in the pool, when the lane last had no flow.
    TransmitFramesFree,
    /// Frames in use within the lane.
    TransmitFramesHeld,
    /// Those that the kernel had.
    TransmitFramesLent,
    /// Descriptors from the kernel that made no sense.
    RingMalformed,
    /// Calls that woke the kernel for the rings.
    RingWakeups,
    /// Invariants of the lane that did not hold: defects of this program. See
    /// [`crate::invariant!`].
    BrokenInvariants,
}

// Invariant I-link-words: the counters of a lane and of a flow fit into the words laid out for
// them.
const _: () = assert!((LaneCounter::BrokenInvariants as usize) < LANE_WORDS);
const _: () = assert!((FlowWord::Heard as usize) < FLOW_WORDS);

/// The counters of one lane.
#[derive(Clone, Debug)]
pub struct LaneCounters {
    memory: Arc<SharedMemory>,
    offset: usize,
}

impl LaneCounters {
    /// The counters of the lane laid out at `layout`.
    #[must_use]
    pub fn new(memory: Arc<SharedMemory>, layout: &LaneLayout) -> Self {
        Self { memory, offset: layout.counters }
    }

    #[inline]
    fn word(&self, counter: LaneCounter) -> &AtomicU64 {
        &self.memory.words(self.offset, LANE_WORDS)[counter as usize]
    }

    /// Adds to a counter. Only the lane does.
    #[inline]
    pub fn add(&self, counter: LaneCounter, amount: u64) {
        let word = self.word(counter);
        word.store(word.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    /// Sets a counter that is a state. Only the lane does.
    #[inline]
    pub fn set(&self, counter: LaneCounter, value: u64) {
        self.word(counter).store(value, Ordering::Relaxed);
    }

    /// Reads a counter.
    #[must_use]
    pub fn get(&self, counter: LaneCounter) -> u64 {
        self.word(counter).load(Ordering::Relaxed)
    }
}

/// What a sending flow and the control process exchange outside of the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum FlowWord {
    /// The pacing rate; the control process writes it.
    RateBitsPerSecond,
    /// After how much silence the last segment goes again; the control process writes it.
    SilenceNs,
    /// [`culvert_protocol::verdict::SenderTimes`], written by the lane.
    BusyNs,
    /// See [`FlowWord::BusyNs`].
    ReadingNs,
    /// See [`FlowWord::BusyNs`].
    PacingNs,
    /// See [`FlowWord::BusyNs`].
    CreditNs,
    /// Segments sent by this flow.
    SegmentsSent,
    /// Segments sent again by this flow.
    SegmentsResent,
    /// Payload bytes sent by this flow.
    PayloadSent,
    /// What the probes that open the path have met with, as an error of the operating system; 0 for
    /// silence.
    ProbesMet,
    /// Authentic datagrams of the receiver's.
    Heard,
}

/// The shared words of one flow.
#[derive(Clone, Debug)]
pub struct FlowBlock {
    memory: Arc<SharedMemory>,
    offset: usize,
}

impl FlowBlock {
    /// The block of the sending flow in `slot` of the lane laid out at `layout`.
    #[must_use]
    pub fn new(memory: Arc<SharedMemory>, layout: &LaneLayout, slot: u16) -> Self {
        Self { memory, offset: layout.flow_blocks + usize::from(slot) * FLOW_WORDS * 8 }
    }

    #[inline]
    fn word(&self, word: FlowWord) -> &AtomicU64 {
        &self.memory.words(self.offset, FLOW_WORDS)[word as usize]
    }

    /// Reads a word.
    #[inline]
    #[must_use]
    pub fn get(&self, word: FlowWord) -> u64 {
        self.word(word).load(Ordering::Relaxed)
    }

    /// Writes a word; each has one writer.
    #[inline]
    pub fn set(&self, word: FlowWord, value: u64) {
        self.word(word).store(value, Ordering::Relaxed);
    }

    /// Adds to a word, see [`LaneCounters::add`].
    #[inline]
    pub fn add(&self, word: FlowWord, amount: u64) {
        self.set(word, self.get(word).wrapping_add(amount));
    }

    /// Sets every word to zero, before the block is given to a new flow.
    pub fn clear(&self) {
        for word in self.memory.words(self.offset, FLOW_WORDS) {
            word.store(0, Ordering::Relaxed);
        }
    }
}
