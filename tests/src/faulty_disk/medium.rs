//! The medium of a faulty disk: its memory, its bad blocks, and the record of what it was told.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a medium was told, in order, for all disks that share the record.
#[derive(Clone, Debug)]
pub enum Event {
    /// Bytes at an offset of a disk.
    Write {
        /// Which disk.
        disk: usize,
        /// Where.
        offset: u64,
        /// What.
        bytes: Vec<u8>,
    },
    /// Everything written to a disk so far is on it for good.
    Flush {
        /// Which disk.
        disk: usize,
    },
    /// A mark set by the test.
    Mark(u64),
}

/// The record of several disks.
#[derive(Clone, Debug, Default)]
pub struct Record(Arc<Mutex<Vec<Event>>>);

impl Record {
    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, event: Event) {
        self.lock().push(event);
    }

    /// Puts a mark between what happened before and what happens from now on.
    pub fn mark(&self, number: u64) {
        self.push(Event::Mark(number));
    }

    /// Everything recorded so far.
    #[must_use]
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }
}

/// Which blocks are bad: those that contain these bytes, when they are read or written.
#[derive(Clone, Debug, Default)]
pub struct BadBlocks {
    /// Reading a block with these bytes in it fails.
    pub reads_with: Option<Vec<u8>>,
    /// Writing these bytes fails.
    pub writes_with: Option<Vec<u8>>,
}

/// A disk's memory and how it behaves.
#[derive(Debug)]
pub(super) struct Medium {
    pub(super) bytes: Mutex<Vec<u8>>,
    pub(super) bad: Mutex<BadBlocks>,
    pub(super) record: Option<(Record, usize)>,
}

/// The contents of a mutex, even after a panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn contains(bytes: &[u8], marker: Option<&Vec<u8>>) -> bool {
    marker.is_some_and(|marker| bytes.windows(marker.len()).any(|window| window == marker))
}

impl Medium {
    pub(super) fn read(&self, offset: u64, count: usize) -> Option<Vec<u8>> {
        let bytes = lock(&self.bytes);
        let begin = (offset as usize).min(bytes.len());
        let read = bytes[begin..(begin + count).min(bytes.len())].to_vec();
        drop(bytes);
        (!contains(&read, lock(&self.bad).reads_with.as_ref())).then_some(read)
    }

    pub(super) fn write(&self, offset: u64, written: &[u8]) -> bool {
        if contains(written, lock(&self.bad).writes_with.as_ref()) {
            return false;
        }
        let mut bytes = lock(&self.bytes);
        let begin = offset as usize;
        let Some(place) = bytes.get_mut(begin..begin + written.len()) else { return false };
        place.copy_from_slice(written);
        drop(bytes);
        if let Some((record, disk)) = &self.record {
            record.push(Event::Write { disk: *disk, offset, bytes: written.to_vec() });
        }
        true
    }

    pub(super) fn flush(&self) {
        if let Some((record, disk)) = &self.record {
            record.push(Event::Flush { disk: *disk });
        }
    }
}
