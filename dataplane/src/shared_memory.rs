//! Memory that the control process and the data plane share, and the only place where it is touched unsafely.
//!
//! Both processes are one program and trust each other with the data, but a partner's packets end up here, and a process may
//! die at any instruction. So the shared words are atomics, records are copied out before they are looked at, and chunk
//! buffers are handed out only to the one that owns them at the time.
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
    fd: OwnedFd,
    on_hugepages: bool,
}

// SAFETY: the mapping is plain memory, valid from every thread until drop; all access goes through the methods below, whose
// own contracts rule out unsynchronised access to the same bytes.
unsafe impl Send for SharedMemory {}
// SAFETY: as above; the safe methods use atomics or copy.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// Makes a piece of `bytes` zero bytes, on hugepages if `prefer_hugepages` and the host has enough of them free.
    ///
    /// # Errors
    /// The operating system's, if it has no such memory.
    pub fn create(name: &str, bytes: usize, prefer_hugepages: bool) -> io::Result<Self> {
        if prefer_hugepages {
            let rounded = bytes.next_multiple_of(HUGEPAGE_BYTES);
            let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
            if let Ok(memory) = Self::create_with(name, rounded, flags, true) {
                return Ok(memory);
            }
        }
        Self::create_with(name, bytes, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING, false)
    }

    fn create_with(name: &str, bytes: usize, flags: MemfdFlags, on_hugepages: bool) -> io::Result<Self> {
        let fd = rustix::fs::memfd_create(name, flags)?;
        rustix::fs::ftruncate(&fd, bytes as u64)?;
        if !on_hugepages {
            // Nobody can shrink the memory under the other's feet.
            rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        }
        Self::map(fd, bytes, on_hugepages)
    }

    /// Maps memory that the other process made.
    ///
    /// # Errors
    /// If the descriptor is shorter than `bytes` or cannot be mapped.
    pub fn from_fd(fd: OwnedFd, bytes: usize) -> io::Result<Self> {
        let actual = rustix::fs::fstat(&fd)?.st_size;
        if (actual as u64) < bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "shared memory is shorter than announced"));
        }
        Self::map(fd, bytes, false)
    }

    fn map(fd: OwnedFd, bytes: usize, on_hugepages: bool) -> io::Result<Self> {
        // SAFETY: a fresh mapping chosen by the kernel overlaps nothing; it is unmapped only in drop.
        let base = unsafe {
            rustix::mm::mmap(std::ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &fd, 0)?
        };
        // SAFETY: advice on the mapping just made; a kernel that cannot follow it says so and nothing changes.
        let _ = unsafe { rustix::mm::madvise(base, bytes, Advice::LinuxHugepage) };
        let base =
            NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped memory at address 0"))?;
        Ok(Self { base, bytes, fd, on_hugepages })
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

    /// The descriptor to hand to the other process.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// `count` 64-bit words from byte `offset`.
    ///
    /// # Panics
    /// If they are not within the memory or not aligned.
    #[must_use]
    pub fn words(&self, offset: usize, count: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8) && offset + count * 8 <= self.bytes, "words outside of shared memory");
        // SAFETY: in bounds and aligned (the mapping begins on a page); every bit pattern is an AtomicU64; atomics may be
        // shared with another process that also accesses them as atomics.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(offset).cast::<AtomicU64>(), count) }
    }

    /// Copies `bytes` to `offset`. The caller's protocol (the rings' indices) keeps others from reading them meanwhile; a
    /// reader that does not keep to it gets mixed bytes, no more.
    ///
    /// # Panics
    /// If they are not within the memory.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.bytes, "bytes outside of shared memory");
        // SAFETY: in bounds; the source is a Rust slice, so it cannot overlap this mapping's unshared bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(offset), bytes.len()) };
    }

    /// Copies bytes from `offset` into `out`, see [`SharedMemory::copy_in`].
    ///
    /// # Panics
    /// If they are not within the memory.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) {
        assert!(offset + out.len() <= self.bytes, "bytes outside of shared memory");
        // SAFETY: as in copy_in, the other way round.
        unsafe { std::ptr::copy_nonoverlapping(self.base.as_ptr().add(offset), out.as_mut_ptr(), out.len()) };
    }

    /// A part of the memory as a slice.
    ///
    /// # Safety
    /// Nobody, in either process or the kernel on their behalf, may write to this part while the slice lives.
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
        // SAFETY: the mapping was made in `map` and every borrow of it has ended. An error is impossible for a valid
        // mapping and could not be acted upon.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
