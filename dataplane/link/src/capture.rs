//! Packets of a lane, copied for whoever looks at them (`culvert capture`): what goes around the
//! kernel no other program sees.
//!
//! ```text
//!  datapath ── packets of a batch ──> Tap ── records ──> ring in memory of this capture ──> Reader (control process)
//! ```
//!
//! A datapath has a [`Tap`] only while a capture runs, so without one a batch costs a branch. The
//! tap cuts each packet and gathers those of a batch into records of a [`crate::ring`]; what finds
//! no room is dropped and counted. The reader comes by every few milliseconds instead of being
//! woken: the lane makes no system call for it. The memory is the capture's own and goes with it.

mod packet;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::clock::monotonic_ns;
use crate::ring::{Broken, Consumer, Producer, RECORD_BYTES_MAX, RingPlace};
use crate::shared_memory::SharedMemory;

pub use packet::{Direction, Layer, Packet};
use packet::{HEAD_BYTES, Head};

/// Bytes of a packet that are captured at most.
pub const SNAP_BYTES_MAX: usize = RECORD_BYTES_MAX - HEAD_BYTES;
/// Bytes of the ring between a lane and the reader: 25,000 packets of 128 bytes, the packets of 10
/// Gb/s at 1500 bytes for 30 ms.
const RING_BYTES: usize = 4 << 20;
/// Words before the ring.
const STATE: usize = 0;
const DROPPED: usize = 8;
const PLACE: RingPlace = RingPlace { offset: 64, data_bytes: RING_BYTES };
/// Bytes of the memory of a lane's capture.
pub const CAPTURE_BYTES: usize = PLACE.offset + PLACE.bytes();

/// How far a lane is with a capture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum State {
    /// It has not begun.
    Waiting = 0,
    /// Packets are taken.
    Running = 1,
    /// Nothing more will be written; what is in the ring is the rest.
    Ended = 2,
}

/// The lane's end of a capture.
#[derive(Debug)]
pub struct Tap {
    memory: Arc<SharedMemory>,
    ring: Producer,
    snap_bytes: usize,
    /// When the batch was moved.
    now_ns: u64,
    record: Box<[u8; RECORD_BYTES_MAX]>,
    filled: usize,
    packets_in_record: u64,
    dropped: u64,
}

impl Tap {
    /// A tap into `memory` of at least [`CAPTURE_BYTES`], which takes the first `snap_bytes` of a
    /// packet, at most [`SNAP_BYTES_MAX`].
    ///
    /// # Panics
    /// If the memory is smaller.
    #[must_use]
    pub fn new(memory: Arc<SharedMemory>, snap_bytes: usize) -> Self {
        Self {
            ring: Producer::new(memory.clone(), PLACE),
            memory,
            snap_bytes: snap_bytes.min(SNAP_BYTES_MAX),
            now_ns: 0,
            record: Box::new([0; RECORD_BYTES_MAX]),
            filled: 0,
            packets_in_record: 0,
            dropped: 0,
        }
    }

    /// Tells the reader that packets are taken from now on.
    pub fn begin(&mut self) {
        self.set_state(State::Running);
    }

    /// Tells the reader that nothing comes any more.
    pub fn end(&mut self) {
        self.flush();
        self.set_state(State::Ended);
    }

    fn set_state(&self, state: State) {
        self.memory.words(STATE, 1)[0].store(state as u64, Ordering::Release);
    }

    /// Begins a batch: its packets bear the time of this call.
    #[inline]
    pub fn stamp(&mut self) {
        self.now_ns = monotonic_ns();
    }

    /// Takes a packet as it is on the wire, from its Ethernet header on.
    #[inline]
    pub fn frame(&mut self, direction: Direction, frame: &[u8]) {
        self.add(direction, Layer::Frame, frame);
    }

    /// Takes datagrams that follow each other in `bytes`: each of `datagram_bytes`, the last
    /// perhaps shorter. What the kernel puts before them, the reader makes up from the addresses.
    #[inline]
    pub fn datagrams(
        &mut self,
        direction: Direction,
        local_port: u16,
        partner: SocketAddr,
        bytes: &[u8],
        datagram_bytes: usize,
    ) {
        for datagram in bytes.chunks(datagram_bytes.max(1)) {
            self.add(direction, Layer::Datagram { local_port, partner }, datagram);
        }
    }

    fn add(&mut self, direction: Direction, layer: Layer, bytes: &[u8]) {
        let captured = &bytes[..bytes.len().min(self.snap_bytes)];
        if RECORD_BYTES_MAX - self.filled < HEAD_BYTES + captured.len() {
            self.flush();
        }
        let (whole_bytes, captured_bytes) = (bytes.len(), captured.len());
        let Some((head, room)) = self.record[self.filled..].split_first_chunk_mut() else { return };
        Head { time_ns: self.now_ns, direction, layer, whole_bytes, captured_bytes }.write(head);
        room[..captured_bytes].copy_from_slice(captured);
        self.filled += HEAD_BYTES + captured.len();
        self.packets_in_record += 1;
    }

    /// Ends a batch: shows the reader what was taken, or drops it if the ring has no room.
    #[inline]
    pub fn flush(&mut self) {
        if self.filled == 0 {
            return;
        }
        // The reader never sleeps on this ring, so there is no doorbell.
        if self.ring.push(&self.record[..self.filled]).is_err() {
            self.dropped += self.packets_in_record;
            self.memory.words(DROPPED, 1)[0].store(self.dropped, Ordering::Relaxed);
        }
        (self.filled, self.packets_in_record) = (0, 0);
    }
}

/// The control process's end of a lane's capture.
#[derive(Debug)]
pub struct Reader {
    memory: Arc<SharedMemory>,
    ring: Consumer,
    record: Box<[u8; RECORD_BYTES_MAX]>,
}

impl Reader {
    /// A reader of `memory` of at least [`CAPTURE_BYTES`].
    ///
    /// # Panics
    /// If the memory is smaller.
    #[must_use]
    pub fn new(memory: Arc<SharedMemory>) -> Self {
        let ring = Consumer::new(memory.clone(), PLACE);
        Self { memory, ring, record: Box::new([0; RECORD_BYTES_MAX]) }
    }

    /// How far the lane is. Ask before [`Reader::drain`]: what comes before the end is then in the
    /// ring.
    #[must_use]
    pub fn state(&self) -> State {
        match self.memory.words(STATE, 1)[0].load(Ordering::Acquire) {
            0 => State::Waiting,
            1 => State::Running,
            _ => State::Ended,
        }
    }

    /// Packets that found no room.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.memory.words(DROPPED, 1)[0].load(Ordering::Relaxed)
    }

    /// Hands the packets of up to `records_max` records to `each`. Returns how many records there
    /// were.
    ///
    /// # Errors
    /// [`Broken`] if the lane wrote nonsense.
    pub fn drain(&mut self, records_max: usize, mut each: impl FnMut(&Packet<'_>)) -> Result<usize, Broken> {
        for records in 0..records_max {
            let Some(mut rest) = self.ring.pop(&mut self.record)? else { return Ok(records) };
            while !rest.is_empty() {
                let (packet, after) = Packet::read(rest).ok_or(Broken)?;
                each(&packet);
                rest = after;
            }
        }
        Ok(records_max)
    }
}

#[cfg(test)]
mod tests;
