//! The files that are open in the data plane: slots that the control process fills and the lanes read.
//!
//! The data plane opens nothing by name. The control process opens each file, twice where the file system has direct I/O,
//! and passes the descriptors; the attendant puts them here; lanes read them without a lock.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::link::FILES_MAX;
use crate::link::commands::FileSlot;

/// Offsets, lengths and addresses of direct I/O are multiples of this: no file system in use asks for more, and chunks
/// and buffers are aligned to it anyway.
pub const DIRECT_ALIGNMENT: u32 = 4_096;

/// A file's descriptors, as a lane uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileDescriptors {
    /// For access through the page cache.
    pub buffered: RawFd,
    /// For direct access, if the file system has it.
    pub direct: Option<RawFd>,
}

#[derive(Debug)]
struct Slot {
    buffered: AtomicI32,
    direct: AtomicI32,
    /// Keeps the descriptors open. Only the attendant locks it, never a lane.
    owned: Mutex<Option<(OwnedFd, Option<OwnedFd>)>>,
}

/// All slots.
#[derive(Debug)]
pub struct FileTable {
    slots: Box<[Slot]>,
}

impl Default for FileTable {
    fn default() -> Self {
        let slot = || Slot { buffered: AtomicI32::new(-1), direct: AtomicI32::new(-1), owned: Mutex::new(None) };
        Self { slots: (0..FILES_MAX).map(|_| slot()).collect() }
    }
}

impl FileTable {
    /// Puts a file into a slot. False if there is no such slot.
    pub fn install(&self, slot: FileSlot, buffered: OwnedFd, direct: Option<OwnedFd>) -> bool {
        let Some(place) = self.slots.get(slot.0 as usize) else { return false };
        let mut owned = place.owned.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        place.direct.store(direct.as_ref().map_or(-1, AsRawFd::as_raw_fd), Ordering::Relaxed);
        place.buffered.store(buffered.as_raw_fd(), Ordering::Release);
        *owned = Some((buffered, direct));
        true
    }

    /// Closes a slot's file.
    pub fn remove(&self, slot: FileSlot) {
        if let Some(place) = self.slots.get(slot.0 as usize) {
            place.buffered.store(-1, Ordering::Release);
            place.direct.store(-1, Ordering::Relaxed);
            *place.owned.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
        }
    }

    /// The descriptors of a slot's file; `None` if it has none.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: FileSlot) -> Option<FileDescriptors> {
        let place = self.slots.get(slot.0 as usize)?;
        let buffered = place.buffered.load(Ordering::Acquire);
        let direct = place.direct.load(Ordering::Relaxed);
        (buffered >= 0).then_some(FileDescriptors { buffered, direct: (direct >= 0).then_some(direct) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_what_was_put_there_until_it_is_removed() {
        let table = FileTable::default();
        assert_eq!(table.get(FileSlot(3)), None);
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        let raw = file.as_raw_fd();
        assert!(table.install(FileSlot(3), file, None));
        assert_eq!(table.get(FileSlot(3)), Some(FileDescriptors { buffered: raw, direct: None }));
        table.remove(FileSlot(3));
        assert_eq!(table.get(FileSlot(3)), None);
        assert_eq!(table.get(FileSlot(FILES_MAX)), None);
    }
}
