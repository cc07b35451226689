//! A ring of records in shared memory: one producer, one consumer, in different processes.
//!
//! The indices are bytes written and read since the beginning, on cache lines of their own. A
//! record is a length and its bytes, contiguous; one that would not fit before the end of the ring
//! is preceded by a skip mark. The consumer copies a record out before it looks at it, and takes
//! nothing of the indices for granted: a ring whose indices make no sense is reported as
//! [`Broken`], and its process is treated as dead.
//!
//! The indices and the wake-up are the only lock-free protocol between the processes, so it is
//! checked by a model of weak memory (`ring/model.rs`): the same code runs there on [`RingMemory`]
//! of the model's.
//!
//! A consumer that wants to sleep says so in the ring ([`Consumer::prepare_to_sleep`]); the
//! producer then rings the doorbell, an eventfd, and only then.

use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use crate::invariant;
use crate::shared_memory::SharedMemory;

/// Bytes before the ring's data: three cache lines.
pub const RING_CONTROL_BYTES: usize = 192;
/// The longest record.
pub const RECORD_BYTES_MAX: usize = 16 << 10;

const WRITTEN: usize = 0;
const READ: usize = 8;
const SLEEPING: usize = 16;
const SKIP: u64 = u64::MAX;

/// Where a ring lies in its memory.
#[derive(Clone, Copy, Debug)]
pub struct RingPlace {
    /// The first byte of its control lines.
    pub offset: usize,
    /// Bytes of its data, a power of two.
    pub data_bytes: usize,
}

impl RingPlace {
    /// Bytes that the ring takes in all.
    #[must_use]
    pub const fn bytes(self) -> usize {
        RING_CONTROL_BYTES + self.data_bytes
    }
}

/// The ring has no room for the record now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ring is full")]
pub struct Full;

/// The ring's indices or lengths are impossible: the other process is defective.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a ring between the processes is broken")]
pub struct Broken;

/// What a ring needs of the memory that it lies in; see [`SharedMemory`] for the meaning of the
/// methods.
pub trait RingMemory {
    /// Reads the word at byte `offset`.
    fn load(&self, offset: usize, ordering: Ordering) -> u64;
    /// Writes the word at byte `offset`.
    fn store(&self, offset: usize, value: u64, ordering: Ordering);
    /// Writes the word at byte `offset` and returns the previous one.
    fn swap(&self, offset: usize, value: u64, ordering: Ordering) -> u64;
    /// A sequentially consistent fence.
    fn fence(&self);
    /// Copies into the memory.
    fn copy_in(&self, offset: usize, bytes: &[u8]);
    /// Copies out of the memory.
    fn copy_out(&self, offset: usize, out: &mut [u8]);
    /// How large it is.
    fn size_bytes(&self) -> usize;
}

impl RingMemory for SharedMemory {
    #[inline]
    fn load(&self, offset: usize, ordering: Ordering) -> u64 {
        self.words(offset, 1)[0].load(ordering)
    }

    #[inline]
    fn store(&self, offset: usize, value: u64, ordering: Ordering) {
        self.words(offset, 1)[0].store(value, ordering);
    }

    #[inline]
    fn swap(&self, offset: usize, value: u64, ordering: Ordering) -> u64 {
        self.words(offset, 1)[0].swap(value, ordering)
    }

    #[inline]
    fn fence(&self) {
        fence(Ordering::SeqCst);
    }

    #[inline]
    fn copy_in(&self, offset: usize, bytes: &[u8]) {
        self.copy_in(offset, bytes);
    }

    #[inline]
    fn copy_out(&self, offset: usize, out: &mut [u8]) {
        self.copy_out(offset, out);
    }

    fn size_bytes(&self) -> usize {
        self.bytes()
    }
}

#[derive(Debug)]
struct Shared<M> {
    memory: Arc<M>,
    place: RingPlace,
}

impl<M: RingMemory> Shared<M> {
    fn new(memory: Arc<M>, place: RingPlace) -> Self {
        assert!(place.data_bytes.is_power_of_two(), "a ring of {} bytes", place.data_bytes);
        assert!(place.offset + place.bytes() <= memory.size_bytes(), "a ring outside of its memory");
        Self { memory, place }
    }

    #[inline]
    fn load(&self, word: usize, ordering: Ordering) -> u64 {
        self.memory.load(self.place.offset + word * 8, ordering)
    }

    #[inline]
    fn store(&self, word: usize, value: u64, ordering: Ordering) {
        self.memory.store(self.place.offset + word * 8, value, ordering);
    }

    #[inline]
    fn data(&self, position: u64) -> usize {
        self.place.offset + RING_CONTROL_BYTES + (position as usize & (self.place.data_bytes - 1))
    }

    /// Bytes from `position` to the end of the ring's data.
    #[inline]
    fn to_end(&self, position: u64) -> usize {
        self.place.data_bytes - (position as usize & (self.place.data_bytes - 1))
    }
}

/// The writing end.
#[derive(Debug)]
pub struct Producer<M = SharedMemory> {
    shared: Shared<M>,
    written: u64,
    /// The consumer's index when it was last loaded.
    read: u64,
}

impl<M: RingMemory> Producer<M> {
    /// The writing end of the ring at `place`.
    ///
    /// # Panics
    /// If the ring's size is no power of two, or it does not lie in the memory.
    #[must_use]
    pub fn new(memory: Arc<M>, place: RingPlace) -> Self {
        let shared = Shared::new(memory, place);
        let written = shared.load(WRITTEN, Ordering::Relaxed);
        let read = shared.load(READ, Ordering::Acquire);
        Self { shared, written, read }
    }

    /// Whether `records` of up to `bytes` bytes each fit now.
    #[inline]
    pub fn has_room_for(&mut self, records: usize, bytes: usize) -> bool {
        // One more: before the end of the ring as much may be skipped.
        let needed = records.saturating_add(1).saturating_mul(padded(bytes));
        if self.free() < needed {
            self.read = self.shared.load(READ, Ordering::Acquire);
        }
        self.free() >= needed
    }

    fn free(&self) -> usize {
        (self.shared.place.data_bytes as u64).saturating_sub(self.written.wrapping_sub(self.read)) as usize
    }

    /// Appends a record. Returns whether the consumer sleeps and its doorbell must be rung.
    ///
    /// # Errors
    /// [`Full`], and nothing is written.
    ///
    /// # Panics
    /// If the record is longer than [`RECORD_BYTES_MAX`].
    pub fn push(&mut self, record: &[u8]) -> Result<bool, Full> {
        assert!(record.len() <= RECORD_BYTES_MAX, "a record of {} bytes", record.len());
        let needed = padded(record.len());
        let to_end = self.shared.to_end(self.written);
        let skipped = if to_end < needed { to_end } else { 0 };
        if self.free() < needed + skipped {
            self.read = self.shared.load(READ, Ordering::Acquire);
            if self.free() < needed + skipped {
                return Err(Full);
            }
        }
        if skipped > 0 {
            self.shared.memory.copy_in(self.shared.data(self.written), &SKIP.to_le_bytes());
            self.written += skipped as u64;
        }
        let at = self.shared.data(self.written);
        self.shared.memory.copy_in(at, &(record.len() as u64).to_le_bytes());
        self.shared.memory.copy_in(at + 8, record);
        self.written += needed as u64;
        // Invariant I-link-ring: a ring's producer is never ahead of its consumer by more than the
        // ring holds.
        invariant!(
            self.written.wrapping_sub(self.read) <= self.shared.place.data_bytes as u64,
            "a ring holds no more than its size"
        );
        self.shared.store(WRITTEN, self.written, Ordering::Release);
        // Pairs with the fence in prepare_to_sleep: either we see the sleeper or it sees the
        // record.
        self.shared.memory.fence();
        let sleeping = self.shared.place.offset + SLEEPING * 8;
        let memory = &self.shared.memory;
        Ok(memory.load(sleeping, Ordering::Relaxed) == 1 && memory.swap(sleeping, 0, Ordering::AcqRel) == 1)
    }
}

/// The reading end.
#[derive(Debug)]
pub struct Consumer<M = SharedMemory> {
    shared: Shared<M>,
    read: u64,
    written: u64,
}

impl<M: RingMemory> Consumer<M> {
    /// The reading end of the ring at `place`.
    ///
    /// # Panics
    /// If the ring's size is no power of two, or it does not lie in the memory.
    #[must_use]
    pub fn new(memory: Arc<M>, place: RingPlace) -> Self {
        let shared = Shared::new(memory, place);
        let read = shared.load(READ, Ordering::Relaxed);
        Self { shared, read, written: read }
    }

    /// Copies the next record into `scratch`; `None` if there is none.
    ///
    /// # Errors
    /// [`Broken`] if what the producer wrote is impossible.
    #[inline]
    pub fn pop<'a>(&mut self, scratch: &'a mut [u8; RECORD_BYTES_MAX]) -> Result<Option<&'a [u8]>, Broken> {
        loop {
            if self.read == self.written {
                self.written = self.shared.load(WRITTEN, Ordering::Acquire);
                if self.read == self.written {
                    return Ok(None);
                }
            }
            let there = self.written.wrapping_sub(self.read);
            if there > self.shared.place.data_bytes as u64 || there < 8 {
                return Err(Broken);
            }
            let at = self.shared.data(self.read);
            let mut length = [0; 8];
            self.shared.memory.copy_out(at, &mut length);
            let length = u64::from_le_bytes(length);
            let to_end = self.shared.to_end(self.read);
            if length == SKIP {
                self.read += to_end as u64;
                continue;
            }
            let Some(record) = usize::try_from(length).ok().and_then(|bytes| scratch.get_mut(..bytes)) else {
                return Err(Broken);
            };
            if padded(record.len()) > to_end || padded(record.len()) as u64 > there {
                return Err(Broken);
            }
            self.shared.memory.copy_out(at + 8, record);
            self.read += padded(record.len()) as u64;
            self.shared.store(READ, self.read, Ordering::Release);
            return Ok(Some(record));
        }
    }

    /// Whether a record waits.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read == self.shared.load(WRITTEN, Ordering::Acquire)
    }

    /// Announces that the consumer is about to sleep until its doorbell rings. False if a record
    /// has arrived meanwhile: then it must not sleep.
    #[must_use]
    pub fn prepare_to_sleep(&self) -> bool {
        // Exchanged rather than stored, so that it has one order with the producer's exchange,
        // whatever else is reordered.
        let sleeping = self.shared.place.offset + SLEEPING * 8;
        self.shared.memory.swap(sleeping, 1, Ordering::AcqRel);
        // Pairs with the fence in push.
        self.shared.memory.fence();
        if self.is_empty() {
            return true;
        }
        self.awake();
        false
    }

    /// Takes the announcement back.
    pub fn awake(&self) {
        self.shared.store(SLEEPING, 0, Ordering::Relaxed);
    }
}

const fn padded(bytes: usize) -> usize {
    8 + bytes.next_multiple_of(8)
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    const PLACE: RingPlace = RingPlace { offset: 64, data_bytes: 64 << 10 };

    fn ring() -> (Arc<SharedMemory>, Producer, Consumer) {
        let memory = Arc::new(SharedMemory::create("test", 64 + PLACE.bytes(), false).unwrap());
        (memory.clone(), Producer::new(memory.clone(), PLACE), Consumer::new(memory, PLACE))
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in(steps in proptest::collection::vec(
            prop_oneof![3 => (0..RECORD_BYTES_MAX).prop_map(Some), 2 => Just(None)], 1..200)) {
            let (_memory, mut producer, mut consumer) = ring();
            let mut model = VecDeque::new();
            let mut scratch = Box::new([0; RECORD_BYTES_MAX]);
            for (number, step) in steps.into_iter().enumerate() {
                match step {
                    Some(bytes) => {
                        let record = vec![number as u8; bytes];
                        if producer.push(&record).is_ok() {
                            model.push_back(record);
                        } else {
                            prop_assert!(model.len() > 1, "a ring with {} records is full", model.len());
                        }
                    }
                    None => {
                        let expected = model.pop_front();
                        prop_assert_eq!(consumer.pop(&mut scratch).unwrap(), expected.as_deref());
                    }
                }
            }
            while let Some(record) = model.pop_front() {
                prop_assert_eq!(consumer.pop(&mut scratch).unwrap(), Some(record.as_slice()));
            }
            prop_assert_eq!(consumer.pop(&mut scratch).unwrap(), None);
            prop_assert!(consumer.is_empty());
        }

        #[test]
        fn a_ring_gone_mad_is_broken_not_a_panic(written: u64, length: u64) {
            let (memory, _producer, mut consumer) = ring();
            memory.words(PLACE.offset, 1)[WRITTEN].store(written, Ordering::Relaxed);
            memory.copy_in(PLACE.offset + RING_CONTROL_BYTES, &length.to_le_bytes());
            let mut scratch = Box::new([0; RECORD_BYTES_MAX]);
            for _ in 0..10 {
                if !matches!(consumer.pop(&mut scratch), Ok(Some(_))) {
                    break;
                }
            }
        }
    }

    #[test]
    fn threads_exchange_every_record_and_sleepers_are_woken() {
        let (_memory, mut producer, mut consumer) = ring();
        const RECORDS: u64 = 200_000;
        let (bell, woken) = std::sync::mpsc::sync_channel::<()>(1);
        let reader = std::thread::spawn(move || {
            let mut scratch = Box::new([0; RECORD_BYTES_MAX]);
            let mut expected = 0;
            while expected < RECORDS {
                match consumer.pop(&mut scratch).unwrap() {
                    Some(record) => {
                        assert_eq!(record, expected.to_le_bytes());
                        expected += 1;
                    }
                    None if consumer.prepare_to_sleep() => {
                        woken.recv_timeout(std::time::Duration::from_secs(20)).expect("the doorbell was forgotten");
                    }
                    None => {}
                }
            }
        });
        for number in 0..RECORDS {
            loop {
                match producer.push(&number.to_le_bytes()) {
                    Ok(ring_the_bell) => {
                        if ring_the_bell {
                            let _ = bell.try_send(());
                        }
                        break;
                    }
                    Err(Full) => std::thread::yield_now(),
                }
            }
        }
        reader.join().unwrap();
    }
}
