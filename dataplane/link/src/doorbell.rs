//! Doorbells: how one thread or process wakes another that sleeps on a descriptor.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;

/// A doorbell: an eventfd.
///
/// # Errors
/// The operating system's.
pub fn doorbell() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Rings a doorbell.
pub fn ring(bell: BorrowedFd<'_>) {
    // It can fail only when the counter overflows, and then the other side has been rung often
    // enough.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}

/// Silences a doorbell that may have rung.
pub fn silence(bell: BorrowedFd<'_>) {
    let _ = rustix::io::read(bell, &mut [0u8; 8]);
}
