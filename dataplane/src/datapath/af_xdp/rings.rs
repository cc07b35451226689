//! The four rings that a socket shares with the kernel, and the only place where their memory is
//! touched.
//!
//! A ring is a power of two of entries between a producer's index and a consumer's, both 32 bits
//! and free-running: they wrap, and only their difference means anything
//! (Documentation/networking/af_xdp.rst). Each end caches both indices and writes its own back once
//! a batch. The producer publishes with a release store, the consumer reads with an acquire load,
//! and vice versa for entries that are free again; the flags word, through which the
//! kernel asks to be woken, is read as an atomic too.
//!
//! Whatever the other end writes into the indices, an access stays within the ring's memory:
//! entries are addressed through the mask, and an index that claims more than the ring has is cut
//! to its size.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::xdp::XdpRingOffset;

/// A descriptor of the receive and transmit rings (`struct xdp_desc`, include/uapi/linux/if_xdp.h).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Descriptor {
    /// Where the piece begins in the UMEM.
    pub address: u64,
    /// Its bytes.
    pub bytes: u32,
    /// [`CONTINUES`], or nothing.
    pub options: u32,
}

/// `XDP_PKT_CONTD`: the packet continues in the next descriptor.
pub const CONTINUES: u32 = 1;
/// `XDP_RING_NEED_WAKEUP`.
const NEED_WAKEUP: u32 = 1;

/// Entries of a ring: plain old data, every bit pattern of which is a value.
pub trait Entry: Copy + Default + private::Sealed {}
impl Entry for u64 {}
impl Entry for Descriptor {}

mod private {
    pub trait Sealed {}
    impl Sealed for u64 {}
    impl Sealed for super::Descriptor {}
}

/// The memory under a ring: mapped from a socket, or of this process.
#[derive(Debug)]
struct RingMemory<T> {
    base: NonNull<u8>,
    /// Bytes to unmap; 0 if the memory came from the allocator.
    mapped_bytes: usize,
    /// The allocation of a ring without a socket.
    _allocated: Option<Box<[u64]>>,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
}

// SAFETY: the pointers lead into memory that lives as long as the value and belongs to no thread.
// The two ends of a ring touch an entry at different times only, which the indices see to.
unsafe impl<T: Entry> Send for RingMemory<T> {}
// SAFETY: as above; shared access is to atomics, and to entries that an end owns by the indices.
unsafe impl<T: Entry> Sync for RingMemory<T> {}

impl<T: Entry> RingMemory<T> {
    fn map(socket: BorrowedFd<'_>, page_offset: u64, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        let flags =
            offsets.flags.ok_or_else(|| io::Error::other("this kernel's AF_XDP rings have no flags (before 5.4)"))?;
        let mapped_bytes = offsets.desc as usize + size as usize * size_of::<T>();
        let furthest_word = offsets.producer.max(offsets.consumer).max(flags) as usize + size_of::<AtomicU32>();
        if furthest_word > mapped_bytes || !(offsets.desc as usize).is_multiple_of(align_of::<T>()) {
            return Err(io::Error::other("the kernel's ring offsets are invalid"));
        }
        // SAFETY: a fresh mapping chosen by the kernel overlaps nothing; it is unmapped only in
        // drop.
        let base = unsafe {
            rustix::mm::mmap(
                std::ptr::null_mut(),
                mapped_bytes,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
                socket,
                page_offset,
            )?
        };
        let base =
            NonNull::new(base.cast::<u8>()).ok_or_else(|| io::Error::other("the kernel mapped a ring at address 0"))?;
        // SAFETY: the offsets were checked to lie within the mapping, which is page aligned.
        unsafe {
            let at = |offset: u64| base.add(offset as usize);
            Ok(Self {
                base,
                mapped_bytes,
                _allocated: None,
                producer: at(offsets.producer).cast(),
                consumer: at(offsets.consumer).cast(),
                flags: at(flags).cast(),
                entries: at(offsets.desc).cast(),
                size,
            })
        }
    }

    /// A ring in this process, both of whose indices begin at `first_index`.
    fn allocate(size: u32, first_index: u32) -> Self {
        assert!(size.is_power_of_two(), "a ring has a power of two of entries");
        let words = 2 + (size as usize * size_of::<T>()).div_ceil(8);
        let mut allocated = vec![0u64; words].into_boxed_slice();
        let base = NonNull::from(&mut allocated[0]).cast::<u8>();
        // SAFETY: two 64-bit words for three indices and flags, then the entries, all within the
        // allocation; boxed, so it does not move with the value.
        let memory = unsafe {
            Self {
                base,
                mapped_bytes: 0,
                _allocated: Some(allocated),
                producer: base.cast(),
                consumer: base.add(4).cast(),
                flags: base.add(8).cast(),
                entries: base.add(16).cast(),
                size,
            }
        };
        memory.producer().store(first_index, Ordering::Relaxed);
        memory.consumer().store(first_index, Ordering::Relaxed);
        memory
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: within the memory, aligned, valid for as long as self.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn wants_wakeup(&self) -> bool {
        // SAFETY: as above.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }

    #[inline]
    fn write(&self, index: u32, entry: T) {
        // SAFETY: the mask keeps the entry within the ring; the caller owns it by the indices.
        unsafe { self.entries.add((index & (self.size - 1)) as usize).write_volatile(entry) }
    }

    #[inline]
    fn read(&self, index: u32) -> T {
        // SAFETY: as above; every bit pattern is a value of T.
        unsafe { self.entries.add((index & (self.size - 1)) as usize).read_volatile() }
    }
}

impl<T> Drop for RingMemory<T> {
    fn drop(&mut self) {
        if self.mapped_bytes > 0 {
            // SAFETY: mapped in `map` with this size, and nothing refers to it any more.
            let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.mapped_bytes) };
        }
    }
}

/// The writing end of a ring: ours of FILL and TX.
#[derive(Debug)]
pub struct Producer<T: Entry> {
    memory: Arc<RingMemory<T>>,
    /// Entries written, published or not.
    written: u32,
    published: u32,
    consumed: u32,
}

impl<T: Entry> Producer<T> {
    /// Maps the ring of `size` entries that lies at `page_offset` of a socket.
    ///
    /// # Errors
    /// The operating system's.
    pub fn map(socket: BorrowedFd<'_>, page_offset: u64, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        Ok(Self::over(Arc::new(RingMemory::map(socket, page_offset, offsets, size)?)))
    }

    fn over(memory: Arc<RingMemory<T>>) -> Self {
        let written = memory.producer().load(Ordering::Relaxed);
        let consumed = memory.consumer().load(Ordering::Acquire);
        Self { memory, written, published: written, consumed }
    }

    /// Entries of the ring.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.memory.size
    }

    /// How many entries can be written. Asks the other end only if fewer than `wanted` are known to
    /// be free.
    #[inline]
    pub fn room(&mut self, wanted: u32) -> u32 {
        let known = self.memory.size.saturating_sub(self.written.wrapping_sub(self.consumed));
        if known >= wanted {
            return known;
        }
        self.consumed = self.memory.consumer().load(Ordering::Acquire);
        // An index that runs ahead of ours is the other end's error; then nothing is free.
        self.memory.size.saturating_sub(self.written.wrapping_sub(self.consumed))
    }

    /// Writes an entry, which the other end sees after [`Producer::publish`]. False if there is no
    /// room.
    #[inline]
    #[must_use]
    pub fn push(&mut self, entry: T) -> bool {
        if self.room(1) == 0 {
            return false;
        }
        self.memory.write(self.written, entry);
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Shows the other end the written entries. Returns how many there were.
    #[inline]
    pub fn publish(&mut self) -> u32 {
        let news = self.written.wrapping_sub(self.published);
        if news > 0 {
            self.memory.producer().store(self.written, Ordering::Release);
            self.published = self.written;
        }
        news
    }

    /// Entries that were written and not published, oldest first.
    pub fn unpublished(&self) -> impl Iterator<Item = T> + '_ {
        let news = self.written.wrapping_sub(self.published);
        (0..news).map(|entry| self.memory.read(self.published.wrapping_add(entry)))
    }

    /// Entries that were published and that the other end has not taken yet.
    #[must_use]
    pub fn pending(&self) -> u32 {
        self.published.wrapping_sub(self.memory.consumer().load(Ordering::Acquire)).min(self.memory.size)
    }

    /// Whether the kernel asks to be woken by a system call.
    #[inline]
    #[must_use]
    pub fn wants_wakeup(&self) -> bool {
        self.memory.wants_wakeup()
    }
}

/// The reading end of a ring: ours of RX and COMPLETION.
#[derive(Debug)]
pub struct Consumer<T: Entry> {
    memory: Arc<RingMemory<T>>,
    read: u32,
    released: u32,
    produced: u32,
}

impl<T: Entry> Consumer<T> {
    /// Maps the ring of `size` entries that lies at `page_offset` of a socket.
    ///
    /// # Errors
    /// The operating system's.
    pub fn map(socket: BorrowedFd<'_>, page_offset: u64, offsets: &XdpRingOffset, size: u32) -> io::Result<Self> {
        Ok(Self::over(Arc::new(RingMemory::map(socket, page_offset, offsets, size)?)))
    }

    fn over(memory: Arc<RingMemory<T>>) -> Self {
        let read = memory.consumer().load(Ordering::Relaxed);
        let produced = memory.producer().load(Ordering::Acquire);
        Self { memory, read, released: read, produced }
    }

    /// Entries that wait. Asks the other end only if none are known to.
    #[inline]
    pub fn available(&mut self) -> u32 {
        if self.produced == self.read {
            self.produced = self.memory.producer().load(Ordering::Acquire);
        }
        self.produced.wrapping_sub(self.read).min(self.memory.size)
    }

    /// Takes the next entry. Its place is free for the other end after [`Consumer::release`].
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.available() == 0 {
            return None;
        }
        let entry = self.memory.read(self.read);
        self.read = self.read.wrapping_add(1);
        Some(entry)
    }

    /// Gives the places of taken entries back.
    #[inline]
    pub fn release(&mut self) {
        if self.released != self.read {
            self.memory.consumer().store(self.read, Ordering::Release);
            self.released = self.read;
        }
    }
}

/// Both ends of a ring of `size` entries in this process, whose indices begin at `first_index`: the
/// kernel's part in tests.
///
/// # Panics
/// If `size` is no power of two.
#[must_use]
pub fn in_memory<T: Entry>(size: u32, first_index: u32) -> (Producer<T>, Consumer<T>) {
    let memory = Arc::new(RingMemory::allocate(size, first_index));
    (Producer::over(memory.clone()), Consumer::over(memory))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(u8),
        Publish,
        Pop(u8),
        Release,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0u8..20).prop_map(Step::Push),
            Just(Step::Publish),
            (0u8..20).prop_map(Step::Pop),
            Just(Step::Release),
        ];
        proptest::collection::vec(step, 0..300)
    }

    proptest! {
        /// Against a queue that keeps the two ends apart as the indices do, from any index, so that
        /// they wrap.
        #[test]
        fn a_ring_is_a_bounded_queue(steps in steps(), size_bits in 0u32..6, before_the_wrap in 0u32..100) {
            let size = 1 << size_bits;
            let (mut producer, mut consumer) = in_memory::<u64>(size, 0u32.wrapping_sub(before_the_wrap));
            let (mut staged, mut visible, mut taken) = (VecDeque::new(), VecDeque::new(), 0);
            let mut next = 0u64;
            for step in steps {
                match step {
                    Step::Push(count) => {
                        for _ in 0..count {
                            let fits = staged.len() + visible.len() + taken < size as usize;
                            prop_assert_eq!(producer.push(next), fits);
                            if fits {
                                staged.push_back(next);
                                next += 1;
                            }
                        }
                    }
                    Step::Publish => {
                        prop_assert_eq!(producer.publish() as usize, staged.len());
                        visible.append(&mut staged);
                    }
                    Step::Pop(count) => {
                        for _ in 0..count {
                            let expected = visible.pop_front();
                            prop_assert_eq!(consumer.pop(), expected);
                            taken += usize::from(expected.is_some());
                        }
                    }
                    Step::Release => {
                        consumer.release();
                        taken = 0;
                    }
                }
                prop_assert_eq!(producer.pending() as usize, visible.len() + taken);
            }
        }

        /// Whatever the other end writes into its index, nothing outside of the ring is touched and
        /// no count exceeds it.
        #[test]
        fn a_mad_index_stays_within_the_ring(index: u32, first: u32) {
            let (mut producer, mut consumer) = in_memory::<Descriptor>(8, first);
            producer.memory.consumer().store(index, Ordering::Relaxed);
            prop_assert!(producer.room(8) <= 8 && producer.pending() <= 8);
            producer.memory.consumer().store(first, Ordering::Relaxed);
            consumer.memory.producer().store(index, Ordering::Relaxed);
            prop_assert!(consumer.available() <= 8);
            for _ in 0..20 {
                let _ = consumer.pop();
            }
        }
    }

    #[test]
    fn two_threads_see_every_entry_once_and_in_order() {
        const ENTRIES: u64 = 50_000;
        let (mut producer, mut consumer) = in_memory::<Descriptor>(64, u32::MAX - 1_000);
        let writer = std::thread::spawn(move || {
            let mut next = 0;
            while next < ENTRIES {
                // The three fields agree, so a torn entry shows.
                let entry = Descriptor { address: next, bytes: next as u32, options: !next as u32 };
                if producer.push(entry) {
                    next += 1;
                } else {
                    std::thread::yield_now();
                }
                if next.is_multiple_of(7) || next == ENTRIES {
                    producer.publish();
                }
                if producer.room(1) == 0 {
                    producer.publish();
                }
            }
        });
        let mut expected = 0;
        while expected < ENTRIES {
            let Some(entry) = consumer.pop() else {
                consumer.release();
                std::thread::yield_now();
                continue;
            };
            assert_eq!(entry, Descriptor { address: expected, bytes: expected as u32, options: !expected as u32 });
            expected += 1;
            if expected.is_multiple_of(5) {
                consumer.release();
            }
        }
        writer.join().unwrap();
        assert_eq!(consumer.pop(), None);
    }
}
