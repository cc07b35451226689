//! Whether the destination has space for a transfer: bytes and inodes.
//!
//! Files take whole blocks, so a million small ones take more than their bytes. File systems may
//! need less (compression, tail packing, holes) or more (their own metadata), so this is an
//! estimate. Files that may turn out to exist already count nothing here: if they differ, space is
//! reserved when each is begun.

use culvert_model::units::show_bytes;
use culvert_protocol::control::{Refusal, RefusalCode};
use culvert_protocol::counted::{counted, grouped};
use culvert_protocol::dry_run::Room;
use culvert_protocol::manifest::{Entry, EntryKind};
use rustix::fs::fstatvfs;

use crate::fs::destination::Destination;
use crate::fs::destination::action::Action;

/// A larger block size is a file server's preferred request size, not the unit of allocation.
const BLOCK_BYTES_MAX: u64 = 4_096;

/// The most files that replace others at the same time, each of which has two inodes meanwhile: as
/// many as a directory that is put in place as a whole.
const REPLACED_AT_ONCE_MAX: u64 = 8_192;

/// The free space of a file system, as far as it reports it.
#[derive(Clone, Copy, Debug)]
pub struct Free {
    bytes: Option<u64>,
    inodes: Option<u64>,
    /// The unit of allocation.
    block_bytes: u64,
}

impl Free {
    /// The free space at a destination.
    #[must_use]
    pub fn at(destination: &Destination) -> Self {
        let Ok(stat) = fstatvfs(destination.base()) else { return Self { bytes: None, inodes: None, block_bytes: 1 } };
        Self {
            bytes: Some(stat.f_bavail.saturating_mul(stat.f_frsize)),
            // File systems that allocate inodes dynamically report none.
            inodes: (stat.f_files > 0).then_some(stat.f_favail),
            block_bytes: stat.f_frsize.clamp(1, BLOCK_BYTES_MAX),
        }
    }
}

/// Counts what a transfer needs.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    free: Free,
    rounded_bytes: u64,
    files: u64,
    inodes: u64,
    replaced: u64,
    other_bytes: u64,
}

impl Needs {
    /// No needs yet, on a file system with this free space.
    #[must_use]
    pub const fn of(free: Free) -> Self {
        Self { free, rounded_bytes: 0, files: 0, inodes: 0, replaced: 0, other_bytes: 0 }
    }

    /// Counts an entry that is created, or replaces an existing one.
    pub fn add(&mut self, entry: &Entry<'_>, action: Action) {
        let block_bytes = self.free.block_bytes;
        self.inodes += u64::from(action == Action::Create);
        self.replaced += u64::from(action == Action::Replace && entry.kind != EntryKind::Directory);
        match entry.kind {
            EntryKind::File { bytes, .. } => {
                self.files += 1;
                let rounded = bytes.div_ceil(block_bytes).saturating_mul(block_bytes);
                self.rounded_bytes = self.rounded_bytes.saturating_add(rounded);
            }
            EntryKind::Directory => self.other_bytes = self.other_bytes.saturating_add(block_bytes),
            EntryKind::Symlink => {}
        }
    }

    /// The total. The files take `allocated_bytes` at the source; `stored_bytes` are at the
    /// destination already.
    #[must_use]
    pub fn room(&self, allocated_bytes: u64, stored_bytes: u64) -> Room {
        // Holes are kept, and each file loses at most one partial block.
        let last_blocks = self.files.saturating_mul(self.free.block_bytes);
        let bytes = self.rounded_bytes.min(allocated_bytes.saturating_add(last_blocks));
        Room {
            needed_bytes: bytes.saturating_sub(stored_bytes).saturating_add(self.other_bytes),
            free_bytes: self.free.bytes,
            needed_inodes: self.inodes.saturating_add(self.replaced.min(REPLACED_AT_ONCE_MAX)),
            free_inodes: self.free.inodes,
        }
    }
}

/// Checks that the space suffices; `what` names the destination.
///
/// # Errors
/// [`Refusal`] with the numbers if it does not.
pub fn check(room: &Room, what: &str) -> Result<(), Refusal> {
    let remedy = "make room or choose another destination";
    let refuse = |text: String| Err(Refusal::new(RefusalCode::NoSpace, text));
    if let Some(free) = room.free_bytes.filter(|&free| room.needed_bytes > free) {
        let (mut shown_free, mut needed) = (show_bytes(free), show_bytes(room.needed_bytes));
        if shown_free == needed {
            // Two equal rounded numbers would look wrong.
            (shown_free, needed) = (counted(free, "byte"), counted(room.needed_bytes, "byte"));
        }
        let free = shown_free;
        return refuse(format!("{what} has {free} free, the transfer needs {needed}: {remedy}"));
    }
    if let Some(free) = room.free_inodes.filter(|&free| room.needed_inodes > free) {
        let (free, needed) = (counted(free, "inode"), grouped(room.needed_inodes));
        return refuse(format!("{what} has {free} free, the transfer needs {needed}: {remedy}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FREE: Free = Free { bytes: Some(1 << 30), inodes: Some(100), block_bytes: 4_096 };

    fn file(bytes: u64) -> Entry<'static> {
        let kind = EntryKind::File { bytes, is_sparse: false };
        Entry { name: b"f", kind, target: b"", mode: 0o644, modified: Default::default() }
    }

    #[test]
    fn files_take_whole_blocks_and_holes_none() {
        let mut needs = Needs::of(FREE);
        for bytes in [1, 4_096, 4_097, 0] {
            needs.add(&file(bytes), Action::Create);
        }
        needs.add(&Entry { kind: EntryKind::Directory, ..file(0) }, Action::Create);
        let room = needs.room(1 << 30, 0);
        assert_eq!((room.needed_bytes, room.needed_inodes), (5 * 4_096, 5));
        assert_eq!(needs.room(1 << 30, 8_192).needed_bytes, 3 * 4_096);
        let mut sparse = Needs::of(FREE);
        sparse.add(&file(1 << 40), Action::Replace);
        let room = sparse.room(10_000, 0);
        assert_eq!((room.needed_bytes, room.needed_inodes), (14_096, 1));
    }

    #[test]
    fn too_little_room_is_told_with_numbers() {
        let room = Room { needed_bytes: 10, free_bytes: Some(10), needed_inodes: 3, free_inodes: Some(3) };
        assert!(check(&room, "/d").is_ok());
        let many = Room { needed_bytes: u64::MAX / 2, free_bytes: Some(1 << 30), ..room };
        let refusal = check(&many, "/d").unwrap_err();
        assert_eq!(refusal.code, RefusalCode::NoSpace);
        assert!(refusal.text.contains("/d has 1.00 GiB free") && refusal.text.contains("PiB:"), "{refusal}");
        let refusal = check(&Room { needed_inodes: 1_000, ..room }, "/d").unwrap_err();
        assert!(refusal.text.contains("3 inodes free") && refusal.text.contains("1,000"), "{refusal}");
        let close = Room { needed_bytes: (1 << 30) + 1, free_bytes: Some(1 << 30), ..room };
        let refusal = check(&close, "/d").unwrap_err();
        assert!(
            refusal.text.contains("1,073,741,824 bytes free") && refusal.text.contains("1,073,741,825"),
            "{refusal}"
        );
        let unknown = Room { free_bytes: None, free_inodes: None, ..many };
        assert!(check(&unknown, "/d").is_ok());
    }
}
