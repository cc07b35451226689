//! System calls that no safe library offers: `adjtimex`, and socket options that nix does not name.
//!
//! This is the only module with unsafe code. Each call owns the memory that it hands to the kernel.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Whether the kernel's clock is disciplined, and the bound on its error in microseconds.
pub(crate) fn clock_state() -> io::Result<(bool, u64)> {
    // SAFETY: `timex` is plain data; all zeroes asks to change nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the structure outlives the call and has the length that the kernel expects.
    if unsafe { libc::adjtimex(&raw mut state) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((state.status & libc::STA_UNSYNC == 0, u64::try_from(state.maxerror).unwrap_or(0)))
}

/// Sets a socket option that is an `int`.
pub(crate) fn set_option(socket: BorrowedFd<'_>, level: i32, option: i32, value: i32) -> io::Result<()> {
    let length = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value outlives the call, and the length is its own.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
