//! When the next datagrams may leave: earliest departure times at the controller's rate.
//!
//! The pacer keeps one number, the time at which the flow's next bytes are due. A late lane may
//! catch up, but by at most [`BURST_NS`]. Any further lost time stays lost, so no burst exceeds a
//! millisecond of the rate.

/// The most lost time, in nanoseconds, that a late lane may make up for. Switches and receivers
/// with small buffers absorb a millisecond ("QUIC Steps", CoNEXT 2025; Linux TCP's pacing has the
/// same bound).
pub const BURST_NS: u64 = 1_000_000;

/// Paces one flow.
#[derive(Debug)]
pub struct Pacer {
    rate_bits_per_second: u64,
    /// Femtoseconds that one byte takes at the rate: fine enough for 400 Gb/s, and a mebibyte at 1
    /// kb/s still fits 64 bits.
    byte_fs: u64,
    due_ns: u64,
    /// Fractions of a nanosecond not yet counted in `due_ns`.
    rest_fs: u64,
}

impl Pacer {
    /// A pacer at `rate_bits_per_second`.
    #[must_use]
    pub fn new(rate_bits_per_second: u64) -> Self {
        Self { rate_bits_per_second, byte_fs: femtoseconds_per_byte(rate_bits_per_second), due_ns: 0, rest_fs: 0 }
    }

    /// Changes the rate. A rate of 0 counts as 1 kb/s.
    ///
    /// Data already sent is waited for at the new rate if that is higher: otherwise a datagram sent
    /// at one kilobit per second would keep a flow of gigabits waiting for a minute. At a lower
    /// rate, no wait becomes longer than it was.
    #[inline]
    pub fn set_rate(&mut self, rate_bits_per_second: u64, now_ns: u64) {
        if rate_bits_per_second != self.rate_bits_per_second {
            self.change_rate(rate_bits_per_second, now_ns);
        }
    }

    #[cold]
    fn change_rate(&mut self, rate_bits_per_second: u64, now_ns: u64) {
        let byte_fs = femtoseconds_per_byte(rate_bits_per_second);
        if let Some(waiting_ns) = self.due_ns.checked_sub(now_ns)
            && byte_fs < self.byte_fs
        {
            let scaled = u128::from(waiting_ns).saturating_mul(u128::from(byte_fs)).div_ceil(u128::from(self.byte_fs));
            self.due_ns = now_ns.saturating_add(u64::try_from(scaled).unwrap_or(waiting_ns));
            self.rest_fs = 0;
        }
        (self.rate_bits_per_second, self.byte_fs) = (rate_bits_per_second, byte_fs);
    }

    /// The rate in force.
    #[must_use]
    pub const fn rate_bits_per_second(&self) -> u64 {
        self.rate_bits_per_second
    }

    /// When the next bytes may leave.
    #[must_use]
    pub const fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// How long until the next bytes may leave; 0 if they may leave now.
    #[inline]
    #[must_use]
    pub const fn wait_ns(&self, now_ns: u64) -> u64 {
        self.due_ns.saturating_sub(now_ns)
    }

    /// The part of a wait of `waited_ns` that ends now and that the pacer caused. A lane that is
    /// later than it may make up for did not get its core, which says nothing about the rate.
    #[inline]
    #[must_use]
    pub const fn held_back_ns(&self, waited_ns: u64, now_ns: u64) -> u64 {
        waited_ns.saturating_sub(now_ns.saturating_sub(self.due_ns).saturating_sub(BURST_NS))
    }

    /// Notes that `bytes` leave now.
    #[inline]
    pub fn note_sent(&mut self, bytes: usize, now_ns: u64) {
        // Invariant I-pacer-run: At most a mebibyte is paced at once, so that its time fits 64
        // bits.
        debug_assert!(bytes <= 1 << 20, "a run of {bytes} bytes");
        let femtoseconds = (bytes as u64).saturating_mul(self.byte_fs).saturating_add(self.rest_fs);
        let earliest_ns = self.due_ns.max(now_ns.saturating_sub(BURST_NS));
        self.due_ns = earliest_ns.saturating_add(femtoseconds / 1_000_000);
        self.rest_fs = femtoseconds % 1_000_000;
    }
}

const fn femtoseconds_per_byte(rate_bits_per_second: u64) -> u64 {
    let rate = if rate_bits_per_second < 1_000 { 1_000 } else { rate_bits_per_second };
    8_000_000_000_000_000u64.saturating_div(rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_faster_than_the_rate_and_a_burst(rate in 1_000_000..400_000_000_000u64,
                                                  turns in proptest::collection::vec((0..5_000_000u64, 1..65_536usize), 1..200)) {
            let mut pacer = Pacer::new(rate);
            let (mut now_ns, mut sent) = (10_000_000_000u64, 0u64);
            let begin_ns = now_ns;
            for (pause_ns, bytes) in turns {
                now_ns += pause_ns;
                while pacer.wait_ns(now_ns) == 0 {
                    pacer.note_sent(bytes, now_ns);
                    sent += bytes as u64;
                    let allowed = (now_ns - begin_ns + BURST_NS) as f64 * rate as f64 / 8e9 * 1.001 + bytes as f64 + 1.0;
                    prop_assert!(sent as f64 <= allowed.max(bytes as f64), "{} bytes, {} allowed", sent, allowed);
                }
            }
        }

        #[test]
        fn keeps_the_rate_when_always_served(rate in 10_000_000..100_000_000_000u64, bytes in 500..65_536usize) {
            let mut pacer = Pacer::new(rate);
            let mut now_ns = 1_000_000_000;
            let begin_ns = now_ns;
            let mut sent = 0u64;
            for _ in 0..1_000 {
                now_ns += pacer.wait_ns(now_ns);
                pacer.note_sent(bytes, now_ns);
                sent += bytes as u64;
            }
            let seconds = (now_ns - begin_ns) as f64 / 1e9;
            let reached = (sent - bytes as u64) as f64 * 8.0 / (seconds + BURST_NS as f64 / 1e9);
            prop_assert!(reached <= rate as f64 * 1.01, "{reached} of {rate}");
            let slowest = (sent as f64 * 8.0) / (seconds + 1e-9);
            prop_assert!(slowest >= rate as f64 * 0.98, "{slowest} of {rate}");
        }
    }

    /// A flow whose rate is not known yet counts as one of a kilobit per second.
    #[test]
    fn what_left_at_a_lower_rate_is_not_waited_for_at_it() {
        let (now_ns, bytes) = (1_000_000_000, 9_000);
        for (low, high) in [(0, 1_000_000_000), (1_000, 400_000_000_000), (2_000_000, 3_000_000)] {
            let mut pacer = Pacer::new(low);
            pacer.note_sent(2 * bytes, now_ns);
            pacer.set_rate(high, now_ns);
            let whole_ns = (2 * bytes) as u64 * 8_000_000_000 / high;
            let waits_ns = pacer.wait_ns(now_ns);
            assert!(waits_ns <= whole_ns + 1, "{waits_ns} ns at {high} after {low} where {whole_ns} ns are due");
            assert!(waits_ns + BURST_NS * low.max(1_000) / high + 1 >= whole_ns, "{waits_ns} of {whole_ns} ns");
            pacer.set_rate(low, now_ns);
            assert_eq!(pacer.wait_ns(now_ns), waits_ns, "a lower rate lengthens no wait");
        }
    }

    #[test]
    fn a_rate_of_zero_does_not_divide() {
        let mut pacer = Pacer::new(0);
        pacer.note_sent(1500, 5_000_000);
        assert!(pacer.wait_ns(5_000_000) > 0);
    }

    #[test]
    fn a_lane_that_comes_late_was_not_held_back_by_its_pacer() {
        let mut pacer = Pacer::new(8_000_000_000);
        pacer.note_sent(1_000_000, 5_000_000);
        assert_eq!(pacer.due_ns(), 5_000_000);
        pacer.note_sent(1_000_000, 5_000_000);
        assert_eq!(pacer.due_ns(), 6_000_000);
        assert_eq!(pacer.held_back_ns(900_000, 5_900_000), 900_000);
        assert_eq!(pacer.held_back_ns(1_900_000, 6_900_000), 1_900_000, "that can be made up for");
        assert_eq!(pacer.held_back_ns(43_000_000, 48_000_000), 2_000_000);
        assert_eq!(pacer.held_back_ns(10_000_000, 48_000_000), 0);
    }

    /// Users and partners choose the rate.
    #[test]
    fn rates_sizes_and_times_at_the_ends_of_their_types_do_not_overflow() {
        let ends = [0, 1, 1_000, u64::MAX - 1, u64::MAX];
        for (rate, now_ns) in ends.into_iter().flat_map(|rate| ends.map(|now_ns| (rate, now_ns))) {
            let mut pacer = Pacer::new(rate);
            for bytes in [0, 1, 65_535, 1 << 20] {
                pacer.note_sent(bytes, now_ns);
                assert!(pacer.wait_ns(pacer.due_ns()) == 0, "{rate}, {now_ns}: what is due waits");
                for other in ends {
                    pacer.set_rate(other, now_ns);
                    let _ = (pacer.wait_ns(other), pacer.held_back_ns(other, now_ns));
                }
            }
        }
    }
}
