//! One NIC queue's four rings at work: packets out of RX, frames back into FILL, packets into TX,
//! frames out of COMPLETION.
//!
//! ```text
//!   pool ──> FILL ──(kernel)──> RX ──> the lane reads ──> pool          a chunk each
//!   pool ──> the lane seals ──> TX ──(kernel)──> COMPLETION ──> pool    a frame of several chunks, a descriptor each
//! ```
//!
//! A packet of several descriptors is gathered into one piece of memory, because the cipher opens
//! in one piece; a batch may end in the middle of one, so the gathering outlives the batch.

use culvert_link::clock::monotonic_ns;
use culvert_link::invariant;
use rustix::io::Errno;

use super::rings::{CONTINUES, Consumer, Descriptor, Producer};
use super::umem::{CHUNK_BYTES, Frame, Purpose, Umem};

/// Bytes of a packet that is gathered at most; a longer one is dropped and counted.
const GATHER_BYTES_MAX: usize = 1 << 16;
/// Copy mode sends so many descriptors a system call (`TX_BATCH_SIZE`, net/xdp/xsk.c) unless
/// `XDP_MAX_TX_SKB_BUDGET` is set.
const DESCRIPTORS_PER_KICK: u32 = 32;

/// The rings of a socket.
#[derive(Debug)]
pub struct Rings {
    /// Frames for packets that will arrive.
    pub fill: Producer<u64>,
    /// Frames of packets that have left.
    pub completion: Consumer<u64>,
    /// Packets that arrived.
    pub receive: Consumer<Descriptor>,
    /// Packets to send.
    pub transmit: Producer<Descriptor>,
}

/// The system calls by which the kernel is woken. A socket has them; tests play them.
pub trait Wake {
    /// Makes the kernel look at TX: `sendto` without data and without waiting.
    ///
    /// # Errors
    /// The kernel's.
    fn wake_transmit(&self) -> Result<(), Errno>;
    /// Makes the driver look at FILL: `recvfrom` without data and without waiting.
    ///
    /// # Errors
    /// The kernel's.
    fn wake_receive(&self) -> Result<(), Errno>;
    /// Whether the kernel is woken whatever the rings' flags say: preferred busy polling runs the
    /// driver from these calls only.
    fn always(&self) -> bool {
        false
    }
}

/// What an error of a wake-up call means (net/xdp/xsk.c; the users of AF_XDP agree on it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WakeOutcome {
    /// The kernel took what there was.
    Done,
    /// It took a part or was busy: call again.
    Again,
    /// The interface is down: what waits goes when it is up again, or never.
    Down,
    /// The socket is of no use any more.
    Broken,
}

impl WakeOutcome {
    /// The meaning of an error number.
    #[must_use]
    pub fn of(result: Result<(), Errno>) -> Self {
        match result {
            Ok(()) => Self::Done,
            Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS | Errno::INTR) => Self::Again,
            Err(Errno::NETDOWN) => Self::Down,
            Err(_) => Self::Broken,
        }
    }
}

/// What a queue counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueCounters {
    /// Packets received.
    pub received: u64,
    /// Packets handed to the kernel.
    pub sent: u64,
    /// Packets of several descriptors among the received.
    pub gathered: u64,
    /// Descriptors that made no sense: outside of their frame, of a frame that the kernel did not
    /// have, or of packets too long.
    pub malformed: u64,
    /// Wake-up calls.
    pub wakeups: u64,
    /// Wake-up calls that found the interface down.
    pub down: u64,
}

/// A packet in the making.
#[derive(Debug)]
struct Gathering {
    bytes: Box<[u8]>,
    length: usize,
    /// A packet has begun and its last piece has not come.
    is_open: bool,
    /// Its pieces are thrown away.
    is_spoilt: bool,
}

/// A queue: rings, and the packets between them.
#[derive(Debug)]
pub struct Queue<W: Wake> {
    /// Before the socket: memory that stays mapped keeps the socket, and with it the NIC's queue,
    /// in use.
    rings: Rings,
    wake: W,
    gathering: Gathering,
    /// Receive frames that this queue may have at the kernel.
    share: usize,
    filled: usize,
    counters: QueueCounters,
    is_broken: bool,
    is_down: bool,
    /// The last flush left descriptors for which the kernel wants to be woken once more.
    owes_wakeup: bool,
}

impl<W: Wake> Queue<W> {
    /// Puts a queue together and fills FILL with `share` frames, as far as the UMEM and the ring
    /// have them. Do so before the socket is bound: Intel's drivers need a filled ring in zero-copy
    /// mode.
    #[must_use]
    pub fn new(rings: Rings, wake: W, umem: &mut Umem, share: usize) -> Self {
        let gathering = Gathering {
            bytes: vec![0; GATHER_BYTES_MAX].into_boxed_slice(),
            length: 0,
            is_open: false,
            is_spoilt: false,
        };
        let counters = QueueCounters::default();
        let mut queue = Self {
            rings,
            wake,
            gathering,
            share,
            filled: 0,
            counters,
            is_broken: false,
            is_down: false,
            owes_wakeup: false,
        };
        queue.refill(umem);
        queue
    }

    /// What wakes the kernel: the socket.
    #[must_use]
    pub const fn wake(&self) -> &W {
        &self.wake
    }

    /// The counters.
    #[must_use]
    pub const fn counters(&self) -> QueueCounters {
        self.counters
    }

    /// Whether the socket is of no use any more.
    #[must_use]
    pub const fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Whether the last wake-up found the interface down.
    #[must_use]
    pub const fn is_down(&self) -> bool {
        self.is_down
    }

    /// Whether a flush is due although there is nothing new to send: the kernel took a part, and
    /// nothing else would wake it for the rest.
    #[inline]
    #[must_use]
    pub const fn owes_wakeup(&self) -> bool {
        self.owes_wakeup
    }

    /// Descriptors that are known to wait in RX.
    #[must_use]
    pub fn waiting(&mut self) -> u32 {
        self.rings.receive.available()
    }

    /// Receive frames that lie in FILL or RX.
    #[must_use]
    pub fn receive_frames_in_rings(&mut self) -> usize {
        (self.rings.fill.pending() + self.rings.receive.available()) as usize
    }

    /// Takes up to `packets_max` packets and hands each to `each`, in one piece, with a time at
    /// which it had come. Returns how many there were.
    #[inline]
    pub fn receive(&mut self, umem: &mut Umem, packets_max: usize, mut each: impl FnMut(&[u8], u64)) -> usize {
        let (mut packets, mut known, mut taken_ns) = (0, 0, 0);
        while packets < packets_max {
            if known == 0 {
                known = self.rings.receive.available();
                taken_ns = if known > 0 { monotonic_ns() } else { break };
            }
            known -= 1;
            let Some(descriptor) = self.rings.receive.pop() else { break };
            let frame = match umem.reclaim(descriptor.address) {
                Ok(Some(frame)) => frame,
                Ok(None) | Err(_) => {
                    // Not a frame of ours: whatever packet it belongs to cannot be put together.
                    self.counters.malformed += 1;
                    self.gathering.is_spoilt = descriptor.options & CONTINUES != 0 || self.gathering.is_open;
                    self.gathering.is_open = descriptor.options & CONTINUES != 0;
                    continue;
                }
            };
            // A broken driver may return a transmit frame here.
            self.filled = self.filled.saturating_sub(1);
            let begin = Umem::offset_in_chunk(descriptor.address);
            let piece = umem.frame(&frame).get(begin..begin.saturating_add(descriptor.bytes as usize));
            let continues = descriptor.options & CONTINUES != 0;
            match piece {
                Some(packet) if !continues && !self.gathering.is_open => {
                    each(packet, taken_ns);
                    packets += 1;
                }
                piece => {
                    if let Some(packet) = self.gathering.add(piece, continues, &mut self.counters) {
                        each(packet, taken_ns);
                        packets += 1;
                    }
                }
            }
            umem.give_back(frame);
        }
        self.rings.receive.release();
        self.counters.received += packets as u64;
        self.refill(umem);
        packets
    }

    /// Gives FILL the frames that it may have.
    fn refill(&mut self, umem: &mut Umem) {
        while self.filled < self.share && self.rings.fill.room(1) > 0 {
            let Some(frame) = umem.take(Purpose::Receive) else { break };
            let address = umem.lend(frame, 1);
            let has_room = self.rings.fill.push(address);
            // Invariant I-ring-room: an entry is written into FILL or TX only if there is room.
            invariant!(has_room, "an entry is written into FILL only if there is room");
            self.filled += 1;
        }
        let has_news = self.rings.fill.publish() > 0;
        if (has_news && self.rings.fill.wants_wakeup()) || self.wake.always() {
            self.counters.wakeups += 1;
            self.note(self.wake.wake_receive());
        }
    }

    /// Whether TX has room for a packet of `bytes`.
    #[inline]
    #[must_use]
    pub fn has_room(&mut self, bytes: usize) -> bool {
        let pieces = bytes.div_ceil(CHUNK_BYTES) as u32;
        self.rings.transmit.room(pieces) >= pieces
    }

    /// Puts the packet in the first `bytes` of `frame` into TX. It leaves with the next
    /// [`Queue::flush`].
    ///
    /// # Errors
    /// Gives the frame back if there is no room.
    #[inline]
    pub fn send(&mut self, umem: &mut Umem, frame: Frame, bytes: usize) -> Result<(), Frame> {
        if bytes == 0 || !self.has_room(bytes) {
            return Err(frame);
        }
        let pieces = bytes.div_ceil(CHUNK_BYTES);
        let begin = umem.lend(frame, pieces);
        for piece in 0..pieces {
            let at = piece * CHUNK_BYTES;
            let has_room = self.rings.transmit.push(Descriptor {
                address: begin + at as u64,
                bytes: (bytes - at).min(CHUNK_BYTES) as u32,
                options: if piece + 1 < pieces { CONTINUES } else { 0 },
            });
            invariant!(has_room, "an entry is written into TX only if there is room");
        }
        self.counters.sent += 1;
        Ok(())
    }

    /// Hands each packet that leaves with the next [`Queue::flush`] to `each`.
    pub fn leaving(&self, umem: &Umem, mut each: impl FnMut(&[u8])) {
        let (mut begin, mut bytes) = (None, 0);
        for piece in self.rings.transmit.unpublished() {
            // The pieces of a frame follow each other.
            let address = *begin.get_or_insert(piece.address);
            bytes += piece.bytes as usize;
            if piece.options & CONTINUES == 0 {
                umem.lent_for_transmission(address, bytes).into_iter().for_each(&mut each);
                (begin, bytes) = (None, 0);
            }
        }
    }

    /// Shows the kernel what is in TX and wakes it if it asks for that. Takes back the frames that
    /// have been sent meanwhile.
    pub fn flush(&mut self, umem: &mut Umem) {
        self.rings.transmit.publish();
        let mut calls = 2 + self.rings.transmit.pending() / DESCRIPTORS_PER_KICK;
        while (self.rings.transmit.pending() > 0 && self.rings.transmit.wants_wakeup()) || self.wake.always() {
            self.counters.wakeups += 1;
            let outcome = self.note(self.wake.wake_transmit());
            self.complete(umem);
            calls -= 1;
            if outcome != WakeOutcome::Again || calls == 0 {
                break;
            }
        }
        let wants_wakeup = self.rings.transmit.wants_wakeup() || self.wake.always();
        self.owes_wakeup = wants_wakeup && self.rings.transmit.pending() > 0;
    }

    /// Takes back the frames of packets that have left.
    #[inline]
    pub fn complete(&mut self, umem: &mut Umem) {
        while let Some(address) = self.rings.completion.pop() {
            match umem.reclaim(address) {
                Ok(Some(frame)) => umem.give_back(frame),
                Ok(None) => {}
                Err(_) => self.counters.malformed += 1,
            }
        }
        self.rings.completion.release();
    }

    /// Descriptors in TX that the kernel has not taken.
    #[must_use]
    pub fn unsent(&self) -> u32 {
        self.rings.transmit.pending()
    }

    fn note(&mut self, result: Result<(), Errno>) -> WakeOutcome {
        let outcome = WakeOutcome::of(result);
        self.is_down = outcome == WakeOutcome::Down;
        match outcome {
            WakeOutcome::Down => self.counters.down += 1,
            WakeOutcome::Broken => self.is_broken = true,
            WakeOutcome::Done | WakeOutcome::Again => {}
        }
        outcome
    }
}

impl Gathering {
    /// Adds a piece, `None` if it was no piece. Returns the packet when it is whole.
    fn add(&mut self, piece: Option<&[u8]>, continues: bool, counters: &mut QueueCounters) -> Option<&[u8]> {
        if !self.is_open {
            (self.length, self.is_spoilt) = (0, false);
        }
        self.is_open = continues;
        let room = piece.and_then(|piece| self.bytes.get_mut(self.length..self.length + piece.len()).zip(Some(piece)));
        match room {
            Some((room, piece)) if !self.is_spoilt => {
                room.copy_from_slice(piece);
                self.length += piece.len();
            }
            _ => {
                counters.malformed += u64::from(!self.is_spoilt);
                self.is_spoilt = true;
            }
        }
        if continues || self.is_spoilt {
            return None;
        }
        counters.gathered += 1;
        Some(&self.bytes[..self.length])
    }
}

#[cfg(test)]
mod tests;
