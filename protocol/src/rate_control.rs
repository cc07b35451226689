//! One pacing rate per flow, from the receiver's reports and the time.
//!
//! A controller is a pure function of its observations: it reads no clock and keeps no thread, so it runs in the
//! simulator as it runs in production. The control process feeds it every report; the lane's pacer takes the rate.
//!
//! Three modes ([`Mode`]). `fixed` holds the rate it was told. `fair` looks for the rate at which the path, and the receiving
//! lane behind it, deliver as much as they can without a queue, and takes loss without a queue for noise. `background`
//! is `fair` with a tenth of the patience: it gives way before others notice it.
//!
//! The model of `fair`: the best delivery rate of the last rounds is what path and receiver can do. A round is a round trip, or
//! a few reports where round trips are shorter. Start-up doubles the rate while it is delivered; then a cycle of rounds tries a little
//! more, gives back what that queued, and stays. A queue is the time that bytes take beyond the least ever seen, in the
//! network or in the receiver's socket: it ends start-up, and if it stands for several rounds the rate goes below the best until it has gone;
//! if even that does not help the queue is somebody else's. Loss counts only when it is more than noise and repeats
//! itself. The ideas are BBR's (delivery rate as the model, ACM Queue 2016) and LEDBAT's (delay as the signal, RFC 6817).

use serde::{Deserialize, Serialize};

/// How a transfer treats others on its path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The rate asked for, for reserved circuits.
    Fixed,
    /// Fills an empty path, tolerates random loss, leaves others their share.
    #[default]
    Fair,
    /// Yields to everything else.
    Background,
}

impl std::str::FromStr for Mode {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "fixed" => Ok(Self::Fixed),
            "fair" => Ok(Self::Fair),
            "background" => Ok(Self::Background),
            _ => Err(format!("unknown mode '{name}': write fixed, fair or background")),
        }
    }
}

/// What one report, and the lane that sends, tell a controller.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Observation {
    /// When the report came in.
    pub now_ns: u64,
    /// Round trip: from a segment's departure to the report that echoes it, less the time that the receiver held it.
    pub rtt_ns: u64,
    /// The least one-way delay of the interval, in microseconds, with an unknown constant.
    pub delay_min_us: u32,
    /// The time that the report covers, on the receiver's clock.
    pub interval_us: u32,
    /// Payload bytes that arrived in it.
    pub delivered_bytes: u64,
    /// Packets that arrived in it.
    pub delivered_packets: u64,
    /// Packets that it declares lost.
    pub lost_packets: u64,
    /// Parts per thousand of the interval that the receiving lane was busy.
    pub busy_permille: u32,
    /// Parts per thousand of the interval that the flow had data and credit and only the pacer held it back.
    pub paced_permille: u32,
}

/// What sets the rate at present, for the verdict and the curious.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateLimit {
    /// The cap that the user gave.
    Cap,
    /// The path, or the receiver behind it.
    Path,
}

/// Turns observations into a rate.
pub trait RateController: Send + std::fmt::Debug {
    /// Takes one report into account.
    fn observe(&mut self, observation: &Observation);
    /// The pacing rate, in bits per second of payload.
    fn rate_bits_per_second(&self) -> u64;
    /// What sets it.
    fn limit(&self) -> RateLimit;
    /// Begins at a rate that a recent measurement of the path supports, instead of feeling its way up. Of use before the first
    /// report only; lower rates than the controller's own are ignored.
    fn begin_at(&mut self, rate_bits_per_second: u64) {
        let _ = rate_bits_per_second;
    }
}

/// The controller of a mode.
///
/// `cap_bits_per_second` is the flow's share of the user's rate, if one was asked for; `rtt_ns` what the control connection measured; `stride`
/// the segment size.
#[must_use]
pub fn controller(mode: Mode, cap_bits_per_second: Option<u64>, rtt_ns: u64, stride: u16) -> Box<dyn RateController> {
    match (mode, cap_bits_per_second) {
        (Mode::Fixed, Some(rate)) => Box::new(FixedRate { rate }),
        (Mode::Fixed | Mode::Fair, cap) => Box::new(AdaptiveRate::new(Patience::FAIR, cap, rtt_ns, stride)),
        (Mode::Background, cap) => Box::new(AdaptiveRate::new(Patience::BACKGROUND, cap, rtt_ns, stride)),
    }
}

/// Holds a rate.
#[derive(Debug)]
struct FixedRate {
    rate: u64,
}

impl RateController for FixedRate {
    fn observe(&mut self, _: &Observation) {}

    fn rate_bits_per_second(&self) -> u64 {
        self.rate
    }

    fn limit(&self) -> RateLimit {
        RateLimit::Cap
    }
}

/// The lowest rate: a segment every few milliseconds, so that a dark path is noticed when it is light again.
pub const RATE_MIN: u64 = 2_000_000;
/// The highest rate of one flow: beyond any lane.
pub const RATE_MAX: u64 = 400_000_000_000;
/// Full segments in the first round trip. A burst that shallow switch buffers (64 × 9 KB) hold.
const INITIAL_SEGMENTS: u64 = 64;
/// The first rate is never above this, however short the round trip: a receiver on a LAN is reached in five doublings, 20 ms.
const INITIAL_RATE_MAX: u64 = 2_000_000_000;
/// A round is at least this long: two reports of the shortest interval.
const ROUND_NS_MIN: u64 = 4_000_000;
/// Rounds for which the best delivery rate is remembered.
const BEST_ROUNDS: usize = 10;
/// How long the least delay is believed. Routes and clocks drift; BBR uses the same ten seconds.
const BASE_DELAY_NS: u64 = 10_000_000_000;
/// The part of a round that the pacer must have been the brake for, before the round says anything about the path.
const PACED_PERMILLE: u32 = 300;

/// Rounds of the cruising cycle: one that tries more, one that gives back, and these that stay.
const CYCLE_ROUNDS: u32 = 8;
/// Rounds that a queue must stand before it is drained. A scheduler that takes the receiver's core away makes queues of a
/// round or two.
const STANDING_ROUNDS: u32 = 4;
/// Rounds of draining after which a queue that still stands is somebody else's.
const FOREIGN_ROUNDS: u32 = 16;
/// Rounds for which a foreign queue is then borne before draining is tried again.
const BEARING_ROUNDS: u32 = 100;

/// How much queue and loss a mode bears before it gives way.
#[derive(Clone, Copy, Debug)]
struct Patience {
    /// A standing queue below this is none.
    queue_ns_min: u64,
    /// Part of the round trip, in thousandths, that may stand as a queue.
    queue_permille: u64,
    /// Loss, in thousandths, that is taken for noise.
    loss_permille: u64,
    /// What a round tries beyond the best, in thousandths.
    probe_permille: u64,
    /// Whether a queue that does not drain is borne.
    bears_foreign_queues: bool,
}

impl Patience {
    const FAIR: Self = Self {
        queue_ns_min: 1_000_000,
        queue_permille: 100,
        loss_permille: 80,
        probe_permille: 1_100,
        bears_foreign_queues: true,
    };
    const BACKGROUND: Self = Self {
        queue_ns_min: 300_000,
        queue_permille: 10,
        loss_permille: 5,
        probe_permille: 1_020,
        bears_foreign_queues: false,
    };
}

/// Sums over the round in progress.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    begin_ns: u64,
    interval_us: u64,
    delivered_bytes: u64,
    delivered_packets: u64,
    lost_packets: u64,
    queue_ns: u64,
    paced_us: u64,
    reports: u32,
}

/// What a round says.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    delivered_rate: u64,
    /// Whether the pacer held the flow back, so that the round says something about the rate.
    is_paced: bool,
    is_queued: bool,
    is_lossy: bool,
    /// Whether more was delivered than ever lately.
    grew: bool,
}

/// `fair` and `background`.
#[derive(Debug)]
struct AdaptiveRate {
    patience: Patience,
    cap: u64,
    rate: u64,
    starting: bool,
    /// Rounds of start-up that delivered clearly less than the rate.
    short_rounds: u32,
    /// The place in the cruising cycle.
    step: u32,
    queued_rounds: u32,
    lossy_rounds: u32,
    /// Rounds left in which queues are borne.
    bearing_rounds: u32,
    round: Round,
    rtt_ns: u64,
    /// Delivery rates of the last rounds.
    best: [u64; BEST_ROUNDS],
    best_at: usize,
    base_delay_us: Option<u32>,
    base_seen_ns: u64,
}

impl AdaptiveRate {
    fn new(patience: Patience, cap: Option<u64>, rtt_ns: u64, stride: u16) -> Self {
        let first_window_bits = INITIAL_SEGMENTS * u64::from(stride) * 8;
        let rate = first_window_bits * 1_000_000_000 / rtt_ns.max(1_000);
        let cap = cap.unwrap_or(RATE_MAX).clamp(RATE_MIN, RATE_MAX);
        Self {
            patience,
            cap,
            rate: rate.clamp(RATE_MIN, INITIAL_RATE_MAX).min(cap),
            starting: true,
            short_rounds: 0,
            step: 0,
            queued_rounds: 0,
            lossy_rounds: 0,
            bearing_rounds: 0,
            round: Round::default(),
            rtt_ns,
            best: [0; BEST_ROUNDS],
            best_at: 0,
            base_delay_us: None,
            base_seen_ns: 0,
        }
    }

    /// The delay beyond the least seen lately: the queue.
    fn queue_ns(&mut self, delay_us: u32, now_ns: u64) -> u64 {
        let base = *self.base_delay_us.get_or_insert(delay_us);
        // Delays are differences of two clocks and may wrap: compare their distance.
        let above = delay_us.wrapping_sub(base) as i32;
        if above <= 0 || now_ns.saturating_sub(self.base_seen_ns) > BASE_DELAY_NS {
            self.base_delay_us = Some(delay_us);
            self.base_seen_ns = now_ns;
            return 0;
        }
        above as u64 * 1_000
    }

    fn best(&self) -> u64 {
        self.best.iter().copied().max().unwrap_or(0)
    }

    /// Judges the round that has ended, and remembers its delivery rate.
    fn judge(&mut self) -> Option<Verdict> {
        let round = self.round;
        let packets = round.delivered_packets + round.lost_packets;
        if packets == 0 {
            return None;
        }
        let delivered_rate = round.delivered_bytes * 8_000_000 / round.interval_us.max(1);
        let paced_permille = (round.paced_us * 1_000 / round.interval_us.max(1)) as u32;
        let queue_limit = self.patience.queue_ns_min.max(self.rtt_ns * self.patience.queue_permille / 1_000);
        let best = self.best();
        let verdict = Verdict {
            delivered_rate,
            is_paced: paced_permille >= PACED_PERMILLE,
            is_queued: round.queue_ns > queue_limit,
            is_lossy: round.lost_packets * 1_000 / packets > self.patience.loss_permille,
            grew: delivered_rate > best + best / 20,
        };
        // A flow that was not held back says nothing of what the path could do, unless it did more than ever.
        if verdict.is_paced || delivered_rate > best {
            self.best[self.best_at] = delivered_rate;
            self.best_at = (self.best_at + 1) % BEST_ROUNDS;
        }
        Some(verdict)
    }

    fn end_round(&mut self) {
        let Some(verdict) = self.judge() else { return };
        self.lossy_rounds = if verdict.is_lossy { self.lossy_rounds + 1 } else { 0 };
        self.queued_rounds = if verdict.is_queued { self.queued_rounds + 1 } else { 0 };
        self.bearing_rounds = self.bearing_rounds.saturating_sub(1);
        if self.lossy_rounds >= 2 {
            // The path has become smaller: what it delivers now is all that is known of it.
            self.best = [verdict.delivered_rate; BEST_ROUNDS];
            self.cruise(1);
            self.rate = verdict.delivered_rate - verdict.delivered_rate / 10;
        } else if self.starting {
            self.start_up(&verdict);
        } else {
            self.keep_cruising(&verdict);
        }
        self.rate = self.rate.clamp(RATE_MIN, self.cap);
    }

    fn start_up(&mut self, verdict: &Verdict) {
        let is_short = verdict.is_paced && verdict.delivered_rate < self.rate / 4 * 3;
        self.short_rounds = if is_short { self.short_rounds + 1 } else { 0 };
        let overshot = verdict.is_lossy || (verdict.is_queued && is_short);
        if overshot || self.short_rounds >= 3 {
            self.cruise(1);
            self.rate = self.best() - self.best() / 10;
        } else if verdict.is_paced && !is_short {
            self.rate = self.rate.saturating_mul(2);
        }
    }

    fn cruise(&mut self, step: u32) {
        self.starting = false;
        self.step = step;
    }

    fn keep_cruising(&mut self, verdict: &Verdict) {
        let best = self.best();
        if self.queued_rounds >= STANDING_ROUNDS && self.bearing_rounds == 0 {
            if self.patience.bears_foreign_queues && self.queued_rounds >= FOREIGN_ROUNDS {
                self.bearing_rounds = BEARING_ROUNDS;
            }
            self.rate = best - best / 7;
            self.step = 1;
            return;
        }
        if !verdict.is_paced {
            return;
        }
        // A try that delivered more is followed by a greater one at once.
        self.step = if self.step == 1 && verdict.grew { 0 } else { self.step };
        self.rate = match self.step {
            0 if verdict.grew => best + best / 4,
            0 => best * self.patience.probe_permille / 1_000,
            1 => best - best / 20,
            _ => best,
        };
        self.step = (self.step + 1) % CYCLE_ROUNDS;
    }
}

impl RateController for AdaptiveRate {
    fn begin_at(&mut self, rate_bits_per_second: u64) {
        if self.starting && self.best() == 0 {
            self.rate = self.rate.max(rate_bits_per_second).min(self.cap);
        }
    }

    fn observe(&mut self, seen: &Observation) {
        if seen.rtt_ns > 0 {
            self.rtt_ns = if self.rtt_ns == 0 { seen.rtt_ns } else { (7 * self.rtt_ns + seen.rtt_ns) / 8 };
        }
        if seen.delivered_packets > 0 {
            let queue_ns = self.queue_ns(seen.delay_min_us, seen.now_ns);
            // The least of the round: a queue that drained once within it does not stand.
            self.round.queue_ns = if self.round.reports == 0 { queue_ns } else { self.round.queue_ns.min(queue_ns) };
            self.round.reports += 1;
        }
        self.round.interval_us += u64::from(seen.interval_us);
        self.round.delivered_bytes += seen.delivered_bytes;
        self.round.delivered_packets += seen.delivered_packets;
        self.round.lost_packets += seen.lost_packets;
        self.round.paced_us += u64::from(seen.interval_us) * u64::from(seen.paced_permille) / 1_000;
        if seen.now_ns.saturating_sub(self.round.begin_ns) >= self.rtt_ns.max(ROUND_NS_MIN) {
            self.end_round();
            self.round = Round { begin_ns: seen.now_ns, ..Round::default() };
        }
    }

    fn rate_bits_per_second(&self) -> u64 {
        self.rate
    }

    fn limit(&self) -> RateLimit {
        if self.rate >= self.cap && self.cap < RATE_MAX { RateLimit::Cap } else { RateLimit::Path }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_lets_a_flow_begin_higher_and_never_above_its_cap() {
        let rate = |cap, start| {
            let mut controller = controller(Mode::Fair, cap, 100_000_000, 8_900);
            controller.begin_at(start);
            controller.rate_bits_per_second()
        };
        let own = rate(None, 0);
        assert_eq!(rate(None, 5_000_000_000), 5_000_000_000);
        assert_eq!(rate(Some(1_000_000_000), 5_000_000_000), 1_000_000_000);
        assert_eq!(rate(None, 1), own, "a record does not slow a flow down");
        let mut fixed = controller(Mode::Fixed, Some(7_000_000), 1, 1_000);
        fixed.begin_at(5_000_000_000);
        assert_eq!(fixed.rate_bits_per_second(), 7_000_000);
    }
    use proptest::prelude::*;

    /// A path of `capacity` bits per second with a queue, driven at the controller's rate for `seconds`.
    fn drive(controller: &mut dyn RateController, capacity: f64, rtt_ms: f64, loss: f64, seconds: f64) -> (f64, f64) {
        let interval = (rtt_ms / 4.0).max(2.0) / 1e3;
        let (mut now, mut queue_bits, mut delivered, mut queue_max) = (0.0, 0.0f64, 0.0, 0.0f64);
        let mut measured_from = 0.0;
        while now < seconds {
            now += interval;
            let offered = controller.rate_bits_per_second() as f64 * interval * (1.0 - loss);
            let served = (queue_bits + offered).min(capacity * interval);
            queue_bits = (queue_bits + offered - served).min(capacity * 0.25);
            if now > seconds / 2.0 {
                delivered += served;
                queue_max = queue_max.max(queue_bits / capacity);
                if measured_from == 0.0 {
                    measured_from = now;
                }
            }
            let packets = (served / 8.0 / 8_000.0) as u64;
            controller.observe(&Observation {
                now_ns: (now * 1e9) as u64,
                rtt_ns: (rtt_ms * 1e6) as u64,
                delay_min_us: (5e5 + queue_bits / capacity * 1e6) as u32,
                interval_us: (interval * 1e6) as u32,
                delivered_bytes: (served / 8.0) as u64,
                delivered_packets: packets,
                lost_packets: (packets as f64 * loss / (1.0 - loss)) as u64,
                busy_permille: 0,
                paced_permille: 900,
            });
        }
        (delivered / (now - measured_from) / capacity, queue_max)
    }

    #[test]
    fn fair_fills_an_empty_path_without_a_queue() {
        for (capacity, rtt_ms) in [(10e9, 0.1), (40e9, 0.2), (1e9, 100.0), (100e9, 50.0)] {
            let mut controller = controller(Mode::Fair, None, (rtt_ms * 1e6) as u64, 8932);
            let (used, queue) = drive(&mut *controller, capacity, rtt_ms, 0.0, 30.0);
            assert!(used > 0.9, "{used:.2} of {capacity:e} at {rtt_ms} ms");
            assert!(queue < 0.06, "{queue:.3} s of queue at {capacity:e} and {rtt_ms} ms");
        }
    }

    #[test]
    fn fair_takes_loss_without_a_queue_for_noise() {
        for loss in [0.001, 0.01, 0.05] {
            let mut controller = controller(Mode::Fair, None, 50_000_000, 8932);
            let (used, _) = drive(&mut *controller, 10e9, 50.0, loss, 40.0);
            assert!(used > 0.85, "{used:.2} at {loss} loss");
        }
    }

    #[test]
    fn fixed_holds_its_rate_whatever_happens() {
        let mut controller = controller(Mode::Fixed, Some(7_000_000_000), 1_000_000, 8932);
        drive(&mut *controller, 1e9, 10.0, 0.3, 1.0);
        assert_eq!(controller.rate_bits_per_second(), 7_000_000_000);
    }

    #[test]
    fn a_flow_that_is_not_paced_learns_nothing() {
        let mut controller = controller(Mode::Fair, None, 1_000_000, 8932);
        let before = controller.rate_bits_per_second();
        for at in 1..1_000u64 {
            controller.observe(&Observation {
                now_ns: at * 2_000_000,
                interval_us: 2_000,
                delivered_bytes: 100,
                delivered_packets: 1,
                ..Observation::default()
            });
        }
        assert_eq!(controller.rate_bits_per_second(), before);
    }

    proptest! {
        #[test]
        fn stays_between_floor_and_cap(cap in RATE_MIN..RATE_MAX, background: bool, seen in proptest::collection::vec(
            (any::<u32>(), 0..10_000_000u32, any::<u32>(), any::<u32>(), any::<u32>(), 0..1_001u32), 1..100)) {
            let mode = if background { Mode::Background } else { Mode::Fair };
            let mut controller = controller(mode, Some(cap), 1_000_000, 1424);
            let mut now_ns = 0;
            for (delay_min_us, interval_us, bytes, packets, lost, paced_permille) in seen {
                now_ns += u64::from(interval_us) * 1_000;
                controller.observe(&Observation {
                    now_ns,
                    rtt_ns: u64::from(interval_us),
                    delay_min_us,
                    interval_us,
                    delivered_bytes: bytes.into(),
                    delivered_packets: packets.into(),
                    lost_packets: lost.into(),
                    busy_permille: 0,
                    paced_permille,
                });
                prop_assert!((RATE_MIN..=cap).contains(&controller.rate_bits_per_second()));
            }
        }
    }
}
