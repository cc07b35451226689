//! Waits until any further change of a file shows in its timestamps.
//!
//! Two changes within one tick of the file system's clock leave the same timestamp, so the second
//! is invisible to whoever looked between them.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{Stat, fstat};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

/// Two ticks of the slowest clock with which the kernel stamps inodes (100 Hz).
const TICK: Duration = Duration::from_millis(20);
/// The same for file systems with timestamps of one or two seconds.
const COARSE_TICK: Duration = Duration::from_secs(2);

/// How long to wait at `now_ns` (nanoseconds since 1970) until a further change will show. A
/// timestamp far in the future was set, or comes from another clock: the next change will differ.
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

/// The status of an open file, once no further change can look like the last. Blocks until then, at
/// most two seconds.
///
/// # Errors
/// Those of the operating system.
pub fn settle(opened: &OwnedFd) -> Result<Stat, Errno> {
    let stat = fstat(opened)?;
    let wait = time_to_settle(&stat, now_ns());
    if wait.is_zero() {
        return Ok(stat);
    }
    std::thread::sleep(wait);
    fstat(opened)
}

/// The current time, in nanoseconds since 1970.
#[must_use]
pub fn now_ns() -> i128 {
    let now = clock_gettime(ClockId::Realtime);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
}
