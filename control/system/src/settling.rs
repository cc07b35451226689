//! When a file's times would show another change.
//!
//! A change leaves no trace if it comes within the tick of the file system's clock in which the
//! last one came.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Stat, fstat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

/// Two ticks of the slowest clock that the kernel stamps inodes with (100 Hz).
const TICK: Duration = Duration::from_millis(20);
/// The same for file systems that keep whole seconds, or every second one.
const COARSE_TICK: Duration = Duration::from_secs(2);

/// How long to wait until a change will show, `now_ns` nanoseconds after the epoch. A time far
/// ahead is another clock's or was set: the next change will have another.
#[must_use]
pub fn time_to_settle(stat: &Stat, now_ns: i128) -> Duration {
    let changed_ns = i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec);
    let tick = if stat.st_ctime_nsec == 0 && stat.st_mtime_nsec == 0 { COARSE_TICK } else { TICK };
    let tick_ns = tick.as_nanos() as i128;
    let age_ns = now_ns - changed_ns;
    if age_ns.abs() >= tick_ns {
        return Duration::ZERO;
    }
    Duration::from_nanos((tick_ns - age_ns) as u64)
}

/// How an open file is, once no further change can look like the last. Blocks for that long.
///
/// # Errors
/// The operating system's.
pub fn settle(opened: &OwnedFd) -> Result<Stat, Errno> {
    let stat = fstat(opened)?;
    let wait = time_to_settle(&stat, now_ns());
    if wait.is_zero() {
        return Ok(stat);
    }
    std::thread::sleep(wait);
    fstat(opened)
}

/// Now, in nanoseconds after the epoch.
#[must_use]
pub fn now_ns() -> i128 {
    let now = clock_gettime(ClockId::Realtime);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}
