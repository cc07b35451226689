//! One direction of an emulated path: when each packet comes out, if at all.
//!
//! The link has a rate with a buffer in front of it (a packet that finds it full is dropped), a
//! delay, and impairments: loss (independent or in bursts), duplication, reordering, corruption.
//! Time is passed in as a value.

use crate::random::Random;

/// The properties of a direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinkConfig {
    /// Bits per second of whole IP packets.
    pub rate_bits_per_second: u64,
    /// One-way delay.
    pub delay_ns: u64,
    /// The most bytes that may wait for the link.
    pub buffer_bytes: u64,
    /// Packets above this size vanish silently: a black hole for path MTU discovery.
    pub packet_bytes_max: usize,
    /// Probability that a packet is lost.
    pub loss: f64,
    /// Mean length of a burst of losses; 1 or less for independent losses. The fraction lost is the
    /// same.
    pub loss_burst: f64,
    /// Fraction that arrives later than its followers, by up to [`LinkConfig::reordering_ns`].
    pub reordering: f64,
    /// The largest such delay.
    pub reordering_ns: u64,
    /// Fraction that arrives twice.
    pub duplication: f64,
    /// Fraction in which a bit is flipped.
    pub corruption: f64,
}

impl LinkConfig {
    /// A clean link, half a round trip long, with a buffer of one product of bandwidth and
    /// round-trip time.
    #[must_use]
    pub fn clean(rate_bits_per_second: u64, rtt_ms: f64) -> Self {
        Self {
            rate_bits_per_second,
            delay_ns: (rtt_ms * 5e5) as u64,
            buffer_bytes: ((rate_bits_per_second as f64 * rtt_ms / 8e3) as u64).max(64 << 10),
            packet_bytes_max: usize::MAX,
            loss: 0.0,
            loss_burst: 1.0,
            reordering: 0.0,
            reordering_ns: 1_000_000,
            duplication: 0.0,
            corruption: 0.0,
        }
    }
}

/// What happened to the packets of a direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that came in.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Packets written to the other side.
    pub packets_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Dropped because the buffer was full.
    pub overflowed: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped because they were too large.
    pub too_large: u64,
    /// Arrived later than their followers.
    pub reordered: u64,
    /// Arrived twice.
    pub duplicated: u64,
    /// Arrived with a flipped bit.
    pub corrupted: u64,
    /// Dropped because the emulator itself had no room: its results are worthless if this is not 0.
    pub emulator_full: u64,
    /// Dropped because the receiving side's device refused them.
    pub refused: u64,
    /// The longest wait for the link, in microseconds.
    pub queue_us_max: u64,
    /// The longest time by which a packet was written late, in microseconds.
    pub late_us_max: u64,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is gone.
    Gone,
    /// It comes out at a given time, behind those before it.
    InOrder {
        /// When.
        due_ns: u64,
        /// Whether it comes out twice.
        twice: bool,
        /// A bit to flip, counted from the first.
        flip: Option<usize>,
    },
    /// It comes out at a given time, among or behind those after it.
    Late {
        /// When.
        due_ns: u64,
    },
}

/// A direction.
#[derive(Debug)]
pub struct Link {
    config: LinkConfig,
    random: Random,
    free_ns: u64,
    last_due_ns: u64,
    in_burst: bool,
    /// What happened.
    pub counters: Counters,
}

impl Link {
    /// An idle link.
    #[must_use]
    pub fn new(config: LinkConfig, seed: u64) -> Self {
        let random = Random::new(seed);
        Self { config, random, free_ns: 0, last_due_ns: 0, in_burst: false, counters: Counters::default() }
    }

    /// Changes the link from now on.
    pub fn set_config(&mut self, config: LinkConfig) {
        self.config = config;
    }

    /// A packet of `bytes` arrives at the link.
    pub fn offer(&mut self, bytes: usize, now_ns: u64) -> Fate {
        let config = self.config;
        self.counters.packets_in += 1;
        self.counters.bytes_in += bytes as u64;
        if bytes > config.packet_bytes_max {
            self.counters.too_large += 1;
            return Fate::Gone;
        }
        let wait_ns = self.free_ns.saturating_sub(now_ns);
        let queued_bytes = u128::from(wait_ns) * u128::from(config.rate_bits_per_second) / 8_000_000_000;
        if queued_bytes + bytes as u128 > u128::from(config.buffer_bytes) {
            self.counters.overflowed += 1;
            return Fate::Gone;
        }
        self.counters.queue_us_max = self.counters.queue_us_max.max(wait_ns / 1_000);
        self.free_ns = self.free_ns.max(now_ns) + bytes as u64 * 8_000_000_000 / config.rate_bits_per_second.max(1);
        if self.loses() {
            self.counters.lost += 1;
            return Fate::Gone;
        }
        let due_ns = self.free_ns + config.delay_ns;
        if self.chance(config.reordering) {
            self.counters.reordered += 1;
            return Fate::Late { due_ns: due_ns + self.random.below(config.reordering_ns.max(1)) };
        }
        // A delay that has become shorter does not let a packet overtake those before it.
        self.last_due_ns = self.last_due_ns.max(due_ns);
        let twice = self.chance(config.duplication);
        let flip = self.chance(config.corruption).then(|| self.random.below(bytes as u64 * 8) as usize);
        self.counters.duplicated += u64::from(twice);
        self.counters.corrupted += u64::from(flip.is_some());
        Fate::InOrder { due_ns: self.last_due_ns, twice, flip }
    }

    fn loses(&mut self) -> bool {
        let LinkConfig { loss, loss_burst, .. } = self.config;
        if loss_burst <= 1.0 || loss >= 1.0 {
            return self.chance(loss);
        }
        // A chain of two states, one that loses nothing and one that loses everything (Gilbert
        // 1960).
        let leaves = 1.0 / loss_burst;
        let change = if self.in_burst { leaves } else { leaves * loss / (1.0 - loss) };
        if self.chance(change) {
            self.in_burst = !self.in_burst;
        }
        self.in_burst
    }

    fn chance(&mut self, part: f64) -> bool {
        part > 0.0 && ((self.random.next_u64() >> 11) as f64) < part * (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(config: LinkConfig, packets: u64, gap_ns: u64) -> (Link, Vec<Fate>) {
        let mut link = Link::new(config, 5);
        let fates = (0..packets).map(|number| link.offer(1_250, number * gap_ns)).collect();
        (link, fates)
    }

    #[test]
    fn a_packet_takes_its_time_on_the_link_and_the_way() {
        let (_, fates) = pass(LinkConfig::clean(10_000_000, 20.0), 2, 0);
        // 1250 bytes take a millisecond at 10 Mb/s, and the path ten.
        let due = |ms: u64| Fate::InOrder { due_ns: ms * 1_000_000, twice: false, flip: None };
        assert_eq!(fates, [due(11), due(12)]);
    }

    #[test]
    fn what_exceeds_the_buffer_is_dropped() {
        let config = LinkConfig { buffer_bytes: 12_500, ..LinkConfig::clean(10_000_000, 20.0) };
        let (link, _) = pass(config, 100, 0);
        assert_eq!(link.counters.overflowed, 90);
        assert_eq!(link.counters.queue_us_max, 9_000);
    }

    #[test]
    fn loss_is_as_much_as_asked_for_in_bursts_or_not() {
        for loss_burst in [1.0, 8.0] {
            let config = LinkConfig { loss: 0.02, loss_burst, ..LinkConfig::clean(1_000_000_000, 1.0) };
            let (link, fates) = pass(config, 400_000, 20_000);
            let part = link.counters.lost as f64 / 400_000.0;
            assert!((0.017..0.023).contains(&part), "{part} lost, bursts of {loss_burst}");
            let bursts = fates.windows(2).filter(|pair| pair[0] != Fate::Gone && pair[1] == Fate::Gone).count();
            let length = link.counters.lost as f64 / bursts as f64;
            assert!((length / loss_burst - 1.0).abs() < 0.15, "bursts of {length} instead of {loss_burst}");
        }
    }

    #[test]
    fn large_packets_vanish() {
        let config = LinkConfig { packet_bytes_max: 1_249, ..LinkConfig::clean(1_000_000_000, 1.0) };
        let (link, fates) = pass(config, 3, 1_000_000);
        assert_eq!((link.counters.too_large, fates), (3, vec![Fate::Gone; 3]));
    }
}
