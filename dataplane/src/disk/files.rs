//! The files that are open in the data plane: slots that the control process fills and the lanes
//! read.
//!
//! The data plane opens nothing by name. The control process opens each file, twice where the file
//! system has direct I/O, and passes the descriptors; the coordinator puts them here; lanes read
//! them without a lock.
//!
//! A lane hands descriptors to the kernel by number, piece by piece, so a number may not come to
//! mean another file while a chunk is being read or written. Lanes therefore say what they use
//! ([`FileTable::acquire`]), and a file that is removed meanwhile is retired: its slot is free at
//! once, its descriptors are closed when nobody uses them any more ([`FileTable::close_retired`]).

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use culvert_link::commands::FileSlot;
use culvert_link::layout::FILES_MAX;

/// Offsets, lengths and addresses of direct I/O are multiples of this: no file system in use asks
/// for more, and chunks and buffers are aligned to it anyway.
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
    /// Which of the place's files it is ([`FileSlot`]).
    holder: AtomicU32,
    /// Chunks that are read from or written to a file of this slot, the one that is there or one
    /// that was.
    uses: AtomicU32,
    /// Keeps the descriptors open. Only the coordinator locks it, never a lane.
    owned: Mutex<Option<Owned>>,
}

type Owned = (OwnedFd, Option<OwnedFd>);

/// All slots.
#[derive(Debug)]
pub struct FileTable {
    slots: Box<[Slot]>,
    /// Files that were removed while their chunks were in progress, with their slots.
    retired: Mutex<Vec<(FileSlot, Owned)>>,
}

impl Default for FileTable {
    fn default() -> Self {
        let slot = || Slot {
            buffered: AtomicI32::new(-1),
            direct: AtomicI32::new(-1),
            holder: AtomicU32::new(0),
            uses: AtomicU32::new(0),
            owned: Mutex::new(None),
        };
        Self { slots: (0..FILES_MAX).map(|_| slot()).collect(), retired: Mutex::default() }
    }
}

impl FileTable {
    fn place(&self, slot: FileSlot) -> Option<&Slot> {
        self.slots.get(slot.place())
    }

    /// Puts a file into a slot. False if there is no such slot.
    pub fn install(&self, slot: FileSlot, buffered: OwnedFd, direct: Option<OwnedFd>) -> bool {
        let Some(place) = self.place(slot) else { return false };
        let mut owned = lock(&place.owned);
        place.holder.store(slot.0, Ordering::SeqCst);
        place.direct.store(direct.as_ref().map_or(-1, AsRawFd::as_raw_fd), Ordering::SeqCst);
        place.buffered.store(buffered.as_raw_fd(), Ordering::SeqCst);
        *owned = Some((buffered, direct));
        true
    }

    /// Empties a slot. Its file is closed at once, or when the last chunk that uses it is done
    /// with.
    pub fn remove(&self, slot: FileSlot) {
        let Some(place) = self.place(slot).filter(|place| place.holder.load(Ordering::SeqCst) == slot.0) else {
            return;
        };
        place.buffered.store(-1, Ordering::SeqCst);
        place.direct.store(-1, Ordering::SeqCst);
        let owned = lock(&place.owned).take();
        // A lane counts its use before it looks at the number, so either it has found none or it is
        // seen here.
        if let Some(owned) = owned
            && place.uses.load(Ordering::SeqCst) > 0
        {
            lock(&self.retired).push((slot, owned));
        }
    }

    /// Closes removed files that are no longer used; true if some are left to be closed.
    pub fn close_retired(&self) -> bool {
        let mut retired = lock(&self.retired);
        retired.retain(|&(slot, _)| self.place(slot).is_some_and(|place| place.uses.load(Ordering::SeqCst) > 0));
        !retired.is_empty()
    }

    /// The descriptors of a slot's file, open until [`FileTable::release`]; `None` if it has none.
    #[inline]
    #[must_use]
    pub fn acquire(&self, slot: FileSlot) -> Option<FileDescriptors> {
        let place = self.place(slot)?;
        place.uses.fetch_add(1, Ordering::SeqCst);
        let buffered = place.buffered.load(Ordering::SeqCst);
        let direct = place.direct.load(Ordering::SeqCst);
        let is_its_file = place.holder.load(Ordering::SeqCst) == slot.0;
        // Between the loads the place may have got another file. Its number is another, because the
        // first is still open.
        if buffered >= 0 && is_its_file && place.buffered.load(Ordering::SeqCst) == buffered {
            return Some(FileDescriptors { buffered, direct: (direct >= 0).then_some(direct) });
        }
        self.release(slot);
        None
    }

    /// A chunk is done with what [`FileTable::acquire`] gave.
    #[inline]
    pub fn release(&self, slot: FileSlot) {
        if let Some(place) = self.place(slot) {
            place.uses.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_has_what_was_put_there_until_it_is_removed() {
        let table = FileTable::default();
        assert_eq!(table.acquire(FileSlot(3)), None);
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        let raw = file.as_raw_fd();
        assert!(table.install(FileSlot(3), file, None));
        assert_eq!(table.acquire(FileSlot(3)), Some(FileDescriptors { buffered: raw, direct: None }));
        table.release(FileSlot(3));
        table.remove(FileSlot(3));
        assert_eq!(table.acquire(FileSlot(3)), None);
        assert_eq!(table.acquire(FileSlot(FILES_MAX)), None);
        assert!(!table.close_retired());
    }

    #[test]
    fn who_still_names_a_file_that_is_gone_does_not_get_the_next_one_of_its_place() {
        let (table, gone) = (FileTable::default(), FileSlot(5));
        assert!(table.install(gone, tempfile::tempfile().unwrap().into(), None));
        table.remove(gone);
        assert_eq!(gone.next().place(), gone.place());
        assert!(table.install(gone.next(), tempfile::tempfile().unwrap().into(), None));
        assert_eq!(table.acquire(gone), None);
        table.remove(gone);
        assert!(table.acquire(gone.next()).is_some(), "the next file was removed in place of the one that is gone");
        table.release(gone.next());
    }

    /// The pieces of a chunk that were not yet handed to the kernel when its file was removed would
    /// have gone to whatever file got the number next.
    #[test]
    fn a_file_that_is_removed_while_a_chunk_of_it_is_written_stays_open_until_the_chunk_is_done() {
        let table = FileTable::default();
        let slot = FileSlot(0);
        let first = tempfile::tempfile().unwrap();
        let seen = first.try_clone().unwrap();
        assert!(table.install(slot, first.into(), None));
        let used = table.acquire(slot).unwrap();
        table.remove(slot);
        assert!(table.install(slot, tempfile::tempfile().unwrap().into(), None));
        let next = table.acquire(slot).unwrap();
        assert_ne!(used.buffered, next.buffered, "the number means two files");
        let link = std::fs::read_link(format!("/proc/self/fd/{}", used.buffered)).unwrap();
        assert_eq!(link, std::fs::read_link(format!("/proc/self/fd/{}", seen.as_raw_fd())).unwrap());
        assert!(table.close_retired(), "it is closed under the chunk");
        table.release(slot);
        table.release(slot);
        assert!(!table.close_retired());
    }
}
