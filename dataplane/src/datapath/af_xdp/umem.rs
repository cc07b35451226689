//! UMEM: the memory shared by NIC and lane, and who owns which part of it.
//!
//! The memory consists of 4 KiB chunks, the largest that the kernel accepts. A receive frame is one
//! chunk. A transmit frame is as many consecutive chunks as the largest packet needs: the packet is
//! encrypted into it in one piece, and sent as one descriptor per chunk (multi-buffer), so a jumbo
//! packet costs no copy either.
//!
//! A [`Frame`] is a token that exists once per frame and cannot be copied. The holder of the token
//! may use the memory. Lending the frame to the kernel consumes the token; it comes back with the
//! address that the kernel returns. A ledger backs the tokens: an address that was not lent yields
//! none, so that even a broken driver cannot create two owners of one frame. [`Umem::account`] says
//! at any time where each frame is.
#![allow(unsafe_code)]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use culvert_link::invariant;
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// Bytes of a chunk. The kernel takes 2048 to 4096 (`xdp_umem_reg`; 8192 is refused even on
/// hugepages, measured on 6.18).
pub const CHUNK_BYTES: usize = 4096;
/// The kernel keeps so many bytes before a received packet (`XDP_PACKET_HEADROOM`).
pub const RECEIVE_HEADROOM_BYTES: usize = 256;
/// Bytes of a received packet that fit one chunk.
pub const RECEIVE_CAPACITY_BYTES: usize = CHUNK_BYTES - RECEIVE_HEADROOM_BYTES;
/// Chunks of a transmit frame at most: 64 KiB, which is all that UDP carries, and below the 17
/// pieces of copy mode (`MAX_SKB_FRAGS`).
pub const PIECES_MAX: usize = 16;
const HUGEPAGE_BYTES: usize = 2 << 20;

/// How a UMEM is divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UmemLayout {
    /// Receive frames, of one chunk each.
    pub receive_frames: u32,
    /// Transmit frames.
    pub transmit_frames: u32,
    /// Chunks of each transmit frame, 1 to [`PIECES_MAX`].
    pub transmit_chunks: u32,
}

impl UmemLayout {
    /// The layout for packets of up to `packet_bytes` with their link headers.
    #[must_use]
    pub fn for_packets(packet_bytes: usize, receive_frames: u32, transmit_frames: u32) -> Self {
        let transmit_chunks = packet_bytes.div_ceil(CHUNK_BYTES).clamp(1, PIECES_MAX) as u32;
        Self { receive_frames, transmit_frames, transmit_chunks }
    }

    const fn chunks(&self) -> usize {
        self.receive_frames as usize + self.transmit_frames as usize * self.transmit_chunks as usize
    }

    /// Bytes of memory.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.chunks() * CHUNK_BYTES
    }
}

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Packets that arrive.
    Receive,
    /// Packets that leave.
    Transmit,
}

/// The right to use a frame. There is one for each frame, and it cannot be copied.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a token that is dropped leaves its frame unused for ever: give it back or lend it"]
pub struct Frame {
    umem: u32,
    number: u32,
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Pool,
    /// The token is out.
    Held,
    /// So many of its chunks have not come back from the kernel.
    Kernel(u8),
}

/// How many frames are where. The three add up to the frames of the UMEM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Free.
    pub pool: usize,
    /// Held by this process.
    pub held: usize,
    /// Lent to the kernel.
    pub kernel: usize,
}

/// The kernel returned an address that was not lent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the kernel returned the address {0:#x}, which it was not given: the NIC's driver is broken")]
pub struct FrameNotLent(pub u64);

/// The memory, and which parts are in use.
#[derive(Debug)]
pub struct Umem {
    base: NonNull<u8>,
    bytes: usize,
    mapped_bytes: usize,
    on_hugepages: bool,
    layout: UmemLayout,
    identity: u32,
    places: Box<[Place]>,
    /// Numbers of free frames, last in first out: what stays in the cache is used again.
    receive_pool: Vec<u32>,
    transmit_pool: Vec<u32>,
    /// Frames that the kernel has, by purpose.
    lent: [usize; 2],
    foreign_returns: u64,
}

// SAFETY: the mapping is plain memory that belongs to no thread; all access goes through methods of
// one owner.
unsafe impl Send for Umem {}

impl Umem {
    /// Maps the memory, from hugepages where the host has enough of them, on the NUMA node of the
    /// calling thread.
    ///
    /// # Errors
    /// The operating system's; `InvalidInput` for a layout without frames.
    pub fn new(layout: UmemLayout) -> io::Result<Self> {
        static NEXT_IDENTITY: AtomicU32 = AtomicU32::new(0);
        let chunks_fit = (1..=PIECES_MAX as u32).contains(&layout.transmit_chunks);
        if layout.receive_frames == 0 || layout.transmit_frames == 0 || !chunks_fit {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a UMEM needs frames for both directions"));
        }
        let bytes = layout.bytes();
        let (base, mapped_bytes, on_hugepages) = match map(bytes.next_multiple_of(HUGEPAGE_BYTES), true) {
            Ok(base) => (base, bytes.next_multiple_of(HUGEPAGE_BYTES), true),
            Err(_) => (map(bytes, false)?, bytes, false),
        };
        let frames = layout.receive_frames + layout.transmit_frames;
        Ok(Self {
            base,
            bytes,
            mapped_bytes,
            on_hugepages,
            layout,
            identity: NEXT_IDENTITY.fetch_add(1, Ordering::Relaxed),
            places: vec![Place::Pool; frames as usize].into_boxed_slice(),
            receive_pool: (0..layout.receive_frames).rev().collect(),
            transmit_pool: (layout.receive_frames..frames).rev().collect(),
            lent: [0; 2],
            foreign_returns: 0,
        })
    }

    /// Where the memory begins, for registering it with a socket.
    #[must_use]
    pub(super) fn base_address(&self) -> u64 {
        self.base.as_ptr() as u64
    }

    /// Its bytes.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it lies on reserved hugepages.
    #[must_use]
    pub const fn on_hugepages(&self) -> bool {
        self.on_hugepages
    }

    /// How it is divided.
    #[must_use]
    pub const fn layout(&self) -> UmemLayout {
        self.layout
    }

    /// Bytes of a transmit frame.
    #[must_use]
    pub const fn transmit_bytes(&self) -> usize {
        self.layout.transmit_chunks as usize * CHUNK_BYTES
    }

    /// Takes a free frame.
    #[inline]
    pub fn take(&mut self, purpose: Purpose) -> Option<Frame> {
        let number = match purpose {
            Purpose::Receive => self.receive_pool.pop()?,
            Purpose::Transmit => self.transmit_pool.pop()?,
        };
        let place = std::mem::replace(&mut self.places[number as usize], Place::Held);
        // Invariant I-umem-pool: a frame that is taken was in the pool and nowhere else.
        invariant!(place == Place::Pool, "a frame that is taken was in the pool");
        Some(Frame { umem: self.identity, number })
    }

    /// Free frames.
    #[inline]
    #[must_use]
    pub fn free(&self, purpose: Purpose) -> usize {
        match purpose {
            Purpose::Receive => self.receive_pool.len(),
            Purpose::Transmit => self.transmit_pool.len(),
        }
    }

    /// Puts a frame back.
    ///
    /// # Panics
    /// If it is another UMEM's.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "the token is given away")]
    pub fn give_back(&mut self, frame: Frame) {
        let number = self.number_of(&frame);
        let place = std::mem::replace(&mut self.places[number as usize], Place::Pool);
        // Invariant I-umem-held: a frame is given back or lent only by the holder of its token.
        invariant!(place == Place::Held, "a frame is given back by the holder of its token");
        if number < self.layout.receive_frames {
            self.receive_pool.push(number);
        } else {
            self.transmit_pool.push(number);
        }
    }

    /// The memory of a frame.
    ///
    /// # Panics
    /// If it is another UMEM's.
    #[inline]
    #[must_use]
    pub fn frame(&self, frame: &Frame) -> &[u8] {
        let (offset, bytes) = self.range_of(self.number_of(frame));
        // SAFETY: in bounds, initialised by the mapping, and not used by anyone else while the
        // token exists.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), bytes) }
    }

    /// The memory of a frame, for writing.
    ///
    /// # Panics
    /// If it is another UMEM's.
    #[inline]
    #[must_use]
    pub fn frame_mut(&mut self, frame: &mut Frame) -> &mut [u8] {
        let (offset, bytes) = self.range_of(self.number_of(frame));
        // SAFETY: as above; the token is borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(offset), bytes) }
    }

    /// Gives a frame to the kernel, which will return `pieces` of its chunks, the first ones.
    /// Returns where the frame begins.
    ///
    /// # Panics
    /// If the frame is another UMEM's or has no such number of chunks.
    #[inline]
    #[expect(clippy::needless_pass_by_value, reason = "the token is given away")]
    pub fn lend(&mut self, frame: Frame, pieces: usize) -> u64 {
        let number = self.number_of(&frame);
        let (offset, bytes) = self.range_of(number);
        assert!((1..=bytes / CHUNK_BYTES).contains(&pieces), "a frame of {bytes} bytes is not {pieces} chunks");
        let place = std::mem::replace(&mut self.places[number as usize], Place::Kernel(pieces as u8));
        invariant!(place == Place::Held, "a frame is lent by the holder of its token");
        *self.lent_of(number) += 1;
        offset as u64
    }

    /// Takes back the chunk that `address` lies in. With the last chunk of a frame its token comes
    /// back.
    ///
    /// # Errors
    /// [`FrameNotLent`]: nothing changes.
    #[inline]
    pub fn reclaim(&mut self, address: u64) -> Result<Option<Frame>, FrameNotLent> {
        let not_lent = FrameNotLent(address);
        let Some(number) = self.number_at(address) else {
            self.foreign_returns += 1;
            return Err(not_lent);
        };
        match self.places[number as usize] {
            Place::Kernel(1) => {
                self.places[number as usize] = Place::Held;
                *self.lent_of(number) -= 1;
                Ok(Some(Frame { umem: self.identity, number }))
            }
            Place::Kernel(pieces) => {
                self.places[number as usize] = Place::Kernel(pieces - 1);
                Ok(None)
            }
            Place::Pool | Place::Held => {
                self.foreign_returns += 1;
                Err(not_lent)
            }
        }
    }

    /// The first `bytes` of the transmit frame that begins at `address` and was lent: the kernel
    /// only reads it.
    #[must_use]
    pub fn lent_for_transmission(&self, address: u64, bytes: usize) -> Option<&[u8]> {
        let number = self.number_at(address).filter(|&number| number >= self.layout.receive_frames)?;
        let (offset, frame_bytes) = self.range_of(number);
        let is_lent = matches!(self.places[number as usize], Place::Kernel(_));
        if !is_lent || offset as u64 != address || bytes > frame_bytes {
            return None;
        }
        // SAFETY: in bounds, initialised by the mapping. Nothing writes to a transmit frame before
        // its token comes back, and the exclusive borrow that this takes cannot be had while the
        // slice lives.
        Some(unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset), bytes) })
    }

    /// Where in its frame an address lies.
    #[inline]
    #[must_use]
    pub const fn offset_in_chunk(address: u64) -> usize {
        address as usize % CHUNK_BYTES
    }

    /// Addresses that the kernel returned and did not have.
    #[must_use]
    pub const fn foreign_returns(&self) -> u64 {
        self.foreign_returns
    }

    /// Where the frames are.
    #[must_use]
    pub fn account(&self, purpose: Purpose) -> Account {
        let split = self.layout.receive_frames as usize;
        let places = match purpose {
            Purpose::Receive => &self.places[..split],
            Purpose::Transmit => &self.places[split..],
        };
        let account = places.iter().fold(Account::default(), |mut account, place| {
            match place {
                Place::Pool => account.pool += 1,
                Place::Held => account.held += 1,
                Place::Kernel(_) => account.kernel += 1,
            }
            account
        });
        // Invariant I-umem-account: every frame is in exactly one place: in the pool, held, or lent
        // to the kernel.
        invariant!(account.pool == self.free(purpose), "the frames in the pool are those that are free");
        invariant!(account.kernel == self.lent(purpose), "the frames at the kernel are those that were lent");
        account
    }

    /// Takes back all that was lent, when the socket that had it is closed and its rings are
    /// unmapped.
    pub(super) fn reclaim_all(&mut self) {
        for number in 0..self.places.len() as u32 {
            if let Place::Kernel(_) = self.places[number as usize] {
                self.places[number as usize] = Place::Held;
                *self.lent_of(number) -= 1;
                self.give_back(Frame { umem: self.identity, number });
            }
        }
    }

    /// Frames that the kernel has.
    #[inline]
    #[must_use]
    pub const fn lent(&self, purpose: Purpose) -> usize {
        self.lent[purpose as usize]
    }

    #[inline]
    fn lent_of(&mut self, number: u32) -> &mut usize {
        let purpose = if number < self.layout.receive_frames { Purpose::Receive } else { Purpose::Transmit };
        &mut self.lent[purpose as usize]
    }

    #[inline]
    fn number_of(&self, frame: &Frame) -> u32 {
        assert_eq!(frame.umem, self.identity, "a frame of another UMEM");
        frame.number
    }

    #[inline]
    const fn range_of(&self, number: u32) -> (usize, usize) {
        let receive = self.layout.receive_frames as usize;
        let number = number as usize;
        if number < receive {
            return (number * CHUNK_BYTES, CHUNK_BYTES);
        }
        let chunks = self.layout.transmit_chunks as usize;
        ((receive + (number - receive) * chunks) * CHUNK_BYTES, chunks * CHUNK_BYTES)
    }

    #[inline]
    fn number_at(&self, address: u64) -> Option<u32> {
        if address >= self.bytes as u64 {
            return None;
        }
        let chunk = (address / CHUNK_BYTES as u64) as u32;
        let receive = self.layout.receive_frames;
        Some(if chunk < receive { chunk } else { receive + (chunk - receive) / self.layout.transmit_chunks })
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this size; all borrows have ended.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
    }
}

fn map(bytes: usize, hugepages: bool) -> io::Result<NonNull<u8>> {
    let mut flags = MapFlags::PRIVATE | MapFlags::POPULATE;
    if hugepages {
        flags |= MapFlags::HUGETLB | MapFlags::HUGE_2MB;
    }
    let protection = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping chosen by the kernel overlaps nothing; it is unmapped only in drop.
    let base = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, protection, flags)? };
    if !hugepages {
        // SAFETY: advice on the mapping just made; a kernel that cannot follow it returns an error,
        // and nothing changes.
        let _ = unsafe { rustix::mm::madvise(base, bytes, Advice::LinuxHugepage) };
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped memory at address 0"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn small() -> Umem {
        Umem::new(UmemLayout { receive_frames: 4, transmit_frames: 3, transmit_chunks: 3 }).unwrap()
    }

    #[test]
    fn a_lent_frame_comes_back_with_its_last_chunk() {
        let mut umem = small();
        let mut frame = umem.take(Purpose::Transmit).unwrap();
        assert_eq!(umem.frame_mut(&mut frame).len(), 3 * CHUNK_BYTES);
        let address = umem.lend(frame, 3);
        assert_eq!(address, 4 * CHUNK_BYTES as u64);
        assert_eq!(umem.reclaim(address), Ok(None));
        assert_eq!(umem.reclaim(address + 4096), Ok(None));
        let frame = umem.reclaim(address + 8192).unwrap().unwrap();
        assert_eq!(umem.account(Purpose::Transmit), Account { pool: 2, held: 1, kernel: 0 });
        umem.give_back(frame);
        assert_eq!(umem.account(Purpose::Transmit), Account { pool: 3, held: 0, kernel: 0 });
    }

    #[test]
    fn an_address_that_was_not_lent_yields_no_frame() {
        let mut umem = small();
        let end = umem.bytes() as u64;
        for address in [0, end - 1, end, u64::MAX] {
            assert_eq!(umem.reclaim(address), Err(FrameNotLent(address)));
        }
        let frame = umem.take(Purpose::Receive).unwrap();
        let address = umem.lend(frame, 1);
        let frame = umem.reclaim(address + 256).unwrap().unwrap();
        assert_eq!(umem.reclaim(address), Err(FrameNotLent(address)), "returned twice");
        umem.give_back(frame);
        assert_eq!(umem.foreign_returns(), 5);
        assert_eq!(umem.account(Purpose::Receive).pool, 4);
    }

    #[test]
    #[should_panic(expected = "another UMEM")]
    fn a_frame_of_another_umem_is_refused() {
        let (mut one, mut other) = (small(), small());
        let frame = one.take(Purpose::Receive).unwrap();
        other.give_back(frame);
    }

    proptest! {
        /// Any sequence of moves leaves every frame in exactly one place, and no two tokens reach
        /// the same memory.
        #[test]
        fn frames_are_conserved(moves in proptest::collection::vec((0u8..4, any::<u16>()), 0..400)) {
            let mut umem = small();
            let (mut held, mut lent): (Vec<Frame>, Vec<u64>) = (Vec::new(), Vec::new());
            for (kind, which) in moves {
                let which = usize::from(which);
                match kind {
                    0 => held.extend(umem.take(if which % 2 == 0 { Purpose::Receive } else { Purpose::Transmit })),
                    1 if !held.is_empty() => {
                        let frame = held.swap_remove(which % held.len());
                        umem.give_back(frame);
                    }
                    2 if !held.is_empty() => {
                        let frame = held.swap_remove(which % held.len());
                        let pieces = 1 + which % (umem.frame(&frame).len() / CHUNK_BYTES);
                        let address = umem.lend(frame, pieces);
                        lent.extend((0..pieces as u64).map(|piece| address + piece * CHUNK_BYTES as u64));
                    }
                    3 if !lent.is_empty() => held.extend(umem.reclaim(lent.swap_remove(which % lent.len())).unwrap()),
                    _ => {}
                }
                let accounts = [Purpose::Receive, Purpose::Transmit].map(|purpose| umem.account(purpose));
                prop_assert_eq!(accounts[0].pool + accounts[0].held + accounts[0].kernel, 4);
                prop_assert_eq!(accounts[1].pool + accounts[1].held + accounts[1].kernel, 3);
                prop_assert_eq!(accounts[0].held + accounts[1].held, held.len());
                prop_assert_eq!(accounts.map(|account| account.kernel), [Purpose::Receive, Purpose::Transmit].map(|purpose| umem.lent(purpose)));
                let mut starts: Vec<_> = held.iter().map(|frame| umem.frame(frame).as_ptr()).collect();
                starts.sort_unstable();
                starts.dedup();
                prop_assert_eq!(starts.len(), held.len());
            }
            prop_assert_eq!(umem.foreign_returns(), 0);
        }
    }
}
