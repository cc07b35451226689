//! The time of day, for records. Timeouts use tokio's clock.

use std::time::SystemTime;

/// A clock that tells the time of day.
pub trait Clock: std::fmt::Debug + Send + Sync {
    /// The time, in milliseconds since 1970.
    fn unix_ms(&self) -> u64;
}

/// The host's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        unix_ms()
    }
}

/// The time, in milliseconds since 1970.
#[must_use]
pub fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
