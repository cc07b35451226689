//! Memory that the control process and the data plane share, and the only place where it is touched
//! unsafely.
//!
//! Both processes are one program and trust each other with the data, but a partner's packets end
//! up here, and a process may die at any instruction. So the shared words are atomics, records are
//! copied out before they are examined, and chunk buffers are handed out only to the one that owns
//! them at the time.
//!
//! To the kernel such memory is a file, and the limit on file sizes (`ulimit -f`) holds for it too.
//! Where there is one, the memory is made of several files that are mapped one behind the other.
#![allow(unsafe_code)]

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, SealFlags};
use rustix::mm::{Advice, MapFlags, ProtFlags};

/// The size of the hugepages that buffers are allocated from where the host has them reserved.
const HUGEPAGE_BYTES: usize = 2 << 20;

/// A piece of memory that two processes map.
#[derive(Debug)]
pub struct SharedMemory {
    base: NonNull<u8>,
    bytes: usize,
    fds: Vec<OwnedFd>,
    on_hugepages: bool,
}

/// Pages that are mapped are this large, except for hugepages.
const PAGE_BYTES: usize = 4_096;

/// Bytes of each piece of shared memory but the last: all of it, unless files may not be so large.
#[must_use]
pub fn piece_bytes() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Fsize).current;
    limit.map_or(usize::MAX, |limit| piece_bytes_at(usize::try_from(limit).unwrap_or(usize::MAX)))
}

/// The number of pieces that make up this much memory.
#[must_use]
pub fn piece_count(bytes: usize) -> usize {
    bytes.div_ceil(piece_bytes())
}

// SAFETY: the mapping is plain memory, valid from every thread until drop; all access goes through
// the methods below, whose own contracts rule out unsynchronised access to the same bytes.
unsafe impl Send for SharedMemory {}
// SAFETY: as above; the safe methods use atomics or copy.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes a piece of `bytes` zero bytes, on hugepages if `prefer_hugepages` and the host has
    /// enough of them free.
    ///
    /// # Errors
    /// The operating system's, if it has no such memory.
    pub fn create(name: &str, bytes: usize, prefer_hugepages: bool) -> io::Result<Self> {
        if prefer_hugepages {
            let rounded = bytes.next_multiple_of(HUGEPAGE_BYTES);
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
            if let Ok(memory) = Self::create_with(name, rounded, flags, true) {
                return Ok(memory);
            }
        }
        Self::create_with(name, bytes, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING, false)
    }

    fn create_with(name: &str, bytes: usize, flags: MemfdFlags, on_hugepages: bool) -> io::Result<Self> {
        let piece_bytes = piece_bytes();
        let make = |begin: usize| {
            let fd = rustix::fs::memfd_create(name, flags)?;
            rustix::fs::ftruncate(&fd, piece_bytes.min(bytes - begin) as u64)?;
            // Neither process can shrink the memory under the other, whose next access would then
            // kill it.
            rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
            Ok(fd)
        };
        let fds = (0..bytes).step_by(piece_bytes).map(make).collect::<io::Result<Vec<_>>>()?;
        Self::map(fds, bytes, piece_bytes, on_hugepages)
    }

    /// Maps memory that the other process made, in pieces of `piece_bytes`.
    ///
    /// # Errors
    /// If the pieces are fewer or shorter than `bytes` or cannot be mapped.
    pub fn from_fds(fds: Vec<OwnedFd>, bytes: usize, piece_bytes: usize) -> io::Result<Self> {
        let invalid = |text| io::Error::new(io::ErrorKind::InvalidInput, text);
        let is_whole = piece_bytes.is_multiple_of(PAGE_BYTES) || piece_bytes >= bytes;
        if piece_bytes == 0 || !is_whole || fds.len() != bytes.div_ceil(piece_bytes) {
            return Err(invalid("shared memory is not in the pieces that were announced"));
        }
        for (fd, begin) in fds.iter().zip((0..bytes).step_by(piece_bytes)) {
            let actual = rustix::fs::fstat(fd)?.st_size;
            if (actual as u64) < piece_bytes.min(bytes - begin) as u64 {
                return Err(invalid("shared memory is shorter than announced"));
            }
        }
        Self::map(fds, bytes, piece_bytes, false)
    }

    /// Maps pieces one behind the other.
    fn map(fds: Vec<OwnedFd>, bytes: usize, piece_bytes: usize, on_hugepages: bool) -> io::Result<Self> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let base = match fds.as_slice() {
            // SAFETY: a fresh mapping chosen by the kernel overlaps nothing; it is unmapped only in
            // drop.
            [fd] => unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, access, MapFlags::SHARED, fd, 0)? },
            // SAFETY: as above; nothing of it can be touched before a piece lies over it.
            _ => unsafe {
                rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, ProtFlags::empty(), MapFlags::PRIVATE)?
            },
        };
        let base =
            NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped memory at address 0"))?;
        // If anything fails from here on, the mapping made so far is removed when this is dropped.
        let memory = Self { base, bytes, fds, on_hugepages };
        if memory.fds.len() > 1 {
            for (fd, begin) in memory.fds.iter().zip((0..bytes).step_by(piece_bytes)) {
                let piece = piece_bytes.min(bytes - begin);
                let flags = MapFlags::SHARED | MapFlags::FIXED;
                // SAFETY: the piece lies within the mapping just made, which is not used yet: it
                // replaces a part of it.
                unsafe { rustix::mm::mmap(base.as_ptr().add(begin).cast(), piece, access, flags, fd, 0)? };
            }
        }
        // SAFETY: advice on the mapping just made; a kernel that cannot follow it returns an error,
        // and nothing changes.
        let _ = unsafe { rustix::mm::madvise(base.as_ptr().cast(), bytes, Advice::LinuxHugepage) };
        Ok(memory)
    }

    /// Its size.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether it came from reserved hugepages (known to its maker only).
    #[must_use]
    pub const fn on_hugepages(&self) -> bool {
        self.on_hugepages
    }

    /// The descriptors to hand to the other process, one for each piece.
    pub fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd)
    }

    /// `count` 64-bit words from byte `offset`.
    ///
    /// # Panics
    /// If they are not within the memory or not aligned.
    #[must_use]
    pub fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8) && offset + count * 8 <= self.bytes, "words outside of shared memory");
        // SAFETY: in bounds and aligned (the mapping begins on a page); every bit pattern is an
        // AtomicU64; atomics may be shared with another process that also accesses them as atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset).cast::<AtomicU64>(), count) }
    }

    /// Copies `bytes` to `offset`. The caller's protocol (the rings' indices) keeps others from
    /// reading them meanwhile; a reader that ignores it gets mixed bytes, and nothing worse.
    ///
    /// # Panics
    /// If they are not within the memory.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.bytes, "bytes outside of shared memory");
        // SAFETY: in bounds; the source is a Rust slice, so it cannot overlap this mapping's
        // unshared bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(offset), bytes.len()) };
    }

    /// Copies bytes from `offset` into `out`, see [`SharedMemory::copy_in`].
    ///
    /// # Panics
    /// If they are not within the memory.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= self.bytes, "bytes outside of shared memory");
        // SAFETY: as in copy_in, with source and destination exchanged.
        unsafe { std::ptr::copy_nonoverlapping(self.base.as_ptr().add(offset), out.as_mut_ptr(), out.len()) };
    }

    /// A part of the memory as a slice.
    ///
    /// # Safety
    /// Nobody, in either process or the kernel on their behalf, may write to this part while the
    /// slice lives.
    ///
    /// # Panics
    /// If the part is not within the memory.
    #[must_use]
    pub unsafe fn slice(&self, part: Range<usize>) -> &[u8] {
        assert!(part.start <= part.end && part.end <= self.bytes, "a slice outside of shared memory");
        // SAFETY: in bounds; the caller promises that nobody writes.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(part.start), part.len()) }
    }

    /// A part of the memory as a mutable slice.
    ///
    /// # Safety
    /// Nobody else may read or write this part while the slice lives.
    ///
    /// # Panics
    /// If the part is not within the memory.
    #[must_use]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice_mut(&self, part: Range<usize>) -> &mut [u8] {
        assert!(part.start <= part.end && part.end <= self.bytes, "a slice outside of shared memory");
        // SAFETY: in bounds; the caller promises exclusive access.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr().add(part.start), part.len()) }
    }

    /// The address of byte `offset`, for the kernel.
    ///
    /// # Panics
    /// If it is not within the memory.
    #[must_use]
    pub fn address(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.bytes, "an address outside of shared memory");
        // SAFETY: in bounds or one past the end.
        unsafe { self.base.as_ptr().add(offset) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made in `map` and every borrow of it has ended. An error is
        // impossible for a valid mapping and could not be acted upon.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}

/// As [`piece_bytes`], with this limit on file sizes: whole hugepages, or whole pages if it is
/// smaller than one.
const fn piece_bytes_at(limit_bytes: usize) -> usize {
    let page = if limit_bytes >= HUGEPAGE_BYTES { HUGEPAGE_BYTES } else { PAGE_BYTES };
    let bytes = limit_bytes / page * page;
    if bytes == 0 { PAGE_BYTES } else { bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_in_pieces_is_one_memory_to_both_sides() {
        let piece = 2 * PAGE_BYTES;
        let bytes = 3 * piece + 5_000;
        let make = |begin: usize| {
            let fd = rustix::fs::memfd_create("pieces", MemfdFlags::CLOEXEC).unwrap();
            rustix::fs::ftruncate(&fd, piece.min(bytes - begin) as u64).unwrap();
            fd
        };
        let fds: Vec<OwnedFd> = (0..bytes).step_by(piece).map(make).collect();
        let again: Vec<OwnedFd> = fds.iter().map(|fd| fd.try_clone().unwrap()).collect();
        let fewer: Vec<OwnedFd> = fds.iter().skip(1).map(|fd| fd.try_clone().unwrap()).collect();
        let ours = SharedMemory::map(fds, bytes, piece, false).unwrap();
        let theirs = SharedMemory::from_fds(again, bytes, piece).unwrap();
        assert_eq!(theirs.fds().count(), 4);
        let content: Vec<u8> = (0..bytes).map(|at| (at / 3) as u8).collect();
        ours.copy_in(0, &content);
        let mut seen = vec![0; bytes];
        theirs.copy_out(0, &mut seen);
        assert_eq!(seen, content);
        assert!(SharedMemory::from_fds(fewer, bytes, piece).is_err());
        let short = rustix::fs::memfd_create("short", MemfdFlags::CLOEXEC).unwrap();
        assert!(SharedMemory::from_fds(vec![short], 1, 4_096).is_err());
    }

    /// Either end would end the other by shrinking it: an access beyond a file's end is SIGBUS.
    #[test]
    fn neither_end_can_shrink_the_memory() {
        let bytes = 2 * HUGEPAGE_BYTES;
        let mut kinds = vec![SharedMemory::create("small", bytes, false).unwrap()];
        let huge = SharedMemory::create("huge", bytes, true).unwrap();
        if huge.on_hugepages() {
            kinds.push(huge);
        } else {
            eprintln!("skipped: memory on hugepages, of which this host has none free");
        }
        for memory in kinds {
            for fd in memory.fds() {
                for size in [0, HUGEPAGE_BYTES as u64, 4 * HUGEPAGE_BYTES as u64] {
                    assert_eq!(rustix::fs::ftruncate(fd, size), Err(rustix::io::Errno::PERM), "{size}");
                }
                let more = rustix::fs::fcntl_add_seals(fd, SealFlags::WRITE);
                assert_eq!(more, Err(rustix::io::Errno::PERM), "who has the other end may not make it unwritable");
            }
        }
    }

    #[test]
    fn pieces_are_as_large_as_files_may_be() {
        let limits = [usize::MAX, 20_480_000, HUGEPAGE_BYTES, HUGEPAGE_BYTES - 1, 5_000, 1];
        let pieces = limits.map(piece_bytes_at);
        assert_eq!(&pieces[1..], [18 << 20, 2 << 20, (2 << 20) - 4_096, 4_096, 4_096]);
        assert!(pieces[0] > 1 << 60);
    }
}
