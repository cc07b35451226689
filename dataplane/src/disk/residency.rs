//! Whether a range of a file is in the page cache: then reading it through the cache is several
//! times faster than asking the disk again, and otherwise direct reads spare the copy and the
//! cache.
#![allow(unsafe_code)]

use std::os::fd::RawFd;

/// `cachestat(2)`, Linux 6.5 (include/uapi/asm-generic/unistd.h; the same number on every
/// architecture).
pub const SYS_CACHESTAT: libc::c_long = 451;

#[repr(C)]
struct Range {
    offset: u64,
    bytes: u64,
}

#[repr(C)]
#[derive(Default)]
struct Stat {
    cached: u64,
    dirty: u64,
    writeback: u64,
    evicted: u64,
    recently_evicted: u64,
}

/// Whether at least nine tenths of the range are in the page cache. False if the kernel cannot
/// tell.
#[must_use]
pub fn is_resident(fd: RawFd, offset: u64, bytes: u64) -> bool {
    let range = Range { offset, bytes };
    let mut stat = Stat::default();
    // SAFETY: the kernel reads `range` and writes `stat`, both live and of the layouts that the
    // system call has.
    let done = unsafe { libc::syscall(SYS_CACHESTAT, fd, &raw const range, &raw mut stat, 0) };
    done == 0 && stat.cached * 4096 * 10 >= bytes * 9
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn what_was_just_written_is_resident_and_what_was_dropped_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&vec![1; 1 << 20]).unwrap();
        if !is_resident(file.as_raw_fd(), 0, 1 << 20) {
            eprintln!("skipped: this kernel has no cachestat (before Linux 6.5)");
            return;
        }
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
        let is_memory_file_system = rustix::fs::fstatfs(&file).unwrap().f_type == 0x0102_1994;
        assert_eq!(is_resident(file.as_raw_fd(), 0, 1 << 20), is_memory_file_system);
    }
}
