//! The monotonic clock, as the lanes read it.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`: since the host booted, the same in both processes.
#[inline]
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The microseconds of a time in nanoseconds, as the wire carries them: wrapping after 71 minutes.
#[inline]
#[must_use]
pub const fn wire_us(now_ns: u64) -> u32 {
    (now_ns / 1_000) as u32
}
