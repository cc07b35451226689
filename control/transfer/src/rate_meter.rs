//! The rate that a transfer shows.

use std::time::{Duration, Instant};

/// Bytes per second over about the last second.
#[derive(Debug)]
pub(super) struct RateMeter {
    since: Instant,
    bytes: u64,
    rate: u64,
}

impl RateMeter {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), bytes: 0, rate: 0 }
    }

    /// The rate in bits per second, given the bytes so far.
    pub(super) fn update(&mut self, bytes: u64) -> u64 {
        let elapsed = self.since.elapsed();
        if elapsed >= Duration::from_millis(900) {
            self.rate = (bytes.saturating_sub(self.bytes) as f64 * 8.0 / elapsed.as_secs_f64()) as u64;
            (self.since, self.bytes) = (Instant::now(), bytes);
        }
        self.rate
    }
}
