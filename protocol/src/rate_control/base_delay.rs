//! The least one-way delay seen lately: the path without a queue.
//!
//! Delays are differences of two clocks, in microseconds that wrap, so only their distances mean
//! anything. The least one is kept for two windows, because routes change and clocks drift; the
//! flow empties the queue itself more often than a window lasts (LEDBAT, RFC 6817, keeps ten
//! one-minute minima; here routes change faster, and drains are deliberate).

/// A window is at least this long: drift of 50 ppm is then half a millisecond at most.
const WINDOW_NS_MIN: u64 = 5_000_000_000;
/// And as many round trips, so that drains fall into each.
const WINDOW_ROUNDS: u64 = 60;

/// The least delay of this window and of the one before.
#[derive(Debug, Default)]
pub(super) struct LeastDelay {
    previous_us: Option<u32>,
    current_us: Option<u32>,
    began_ns: u64,
}

impl LeastDelay {
    /// Takes a delay into account and returns how far it is above the base, in nanoseconds.
    pub(super) fn above_ns(&mut self, delay_us: u32, round_ns: u64, now_ns: u64) -> u64 {
        if self.current_us.is_none() {
            self.began_ns = now_ns;
        }
        if now_ns.saturating_sub(self.began_ns) > WINDOW_NS_MIN.max(WINDOW_ROUNDS.saturating_mul(round_ns)) {
            self.previous_us = self.current_us.take();
            self.began_ns = now_ns;
        }
        self.current_us = Some(earlier(self.current_us, delay_us));
        u64::from(delay_us.wrapping_sub(self.least_us())) * 1_000
    }

    /// The least delay; 0 if there was none yet.
    pub(super) fn least_us(&self) -> u32 {
        self.current_us.map_or(0, |current_us| earlier(self.previous_us, current_us))
    }

    /// Forgets the past: the path has changed.
    pub(super) fn restart(&mut self) {
        *self = Self::default();
    }
}

fn earlier(one: Option<u32>, other: u32) -> u32 {
    match one {
        Some(one) if (one.wrapping_sub(other) as i32) < 0 => one,
        _ => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_what_exceeds_the_least_across_the_wrap() {
        let mut base = LeastDelay::default();
        assert_eq!(base.above_ns(u32::MAX - 10, 1, 0), 0);
        assert_eq!(base.above_ns(5, 1, 1), 16_000);
        assert_eq!(base.above_ns(u32::MAX - 30, 1, 2), 0);
        assert_eq!(base.above_ns(u32::MAX - 10, 1, 3), 20_000);
    }

    #[test]
    fn a_longer_route_is_believed_after_two_windows() {
        let mut base = LeastDelay::default();
        base.above_ns(1_000, 1, 0);
        for second in 1..=9 {
            assert_eq!(base.above_ns(3_000, 1, second * 1_000_000_000), 2_000_000, "after {second} s");
        }
        assert_eq!(base.above_ns(3_000, 1, 12_000_000_000), 0);
    }
}
