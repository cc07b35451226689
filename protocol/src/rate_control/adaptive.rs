//! The controller of `fair` and `background`.

use super::base_delay::LeastDelay;
use super::history::{Entry, History, Sums};
use super::share::CubicShare;
use crate::wire::OVERHEAD_BYTES;

use super::controller::{ControllerConfig, Observation, RATE_MAX, RATE_MIN, RateController, RateLimit};

/// Header and tag, UDP and IPv4.
const PACKET_OVERHEAD_BYTES: u64 = OVERHEAD_BYTES as u64 + 28;
/// Full segments in the first round trip.
const INITIAL_SEGMENTS: u64 = 320;
/// The first rate is never above this, however short the round trip: a receiver on a LAN is reached
/// in five doublings, 20 ms.
const INITIAL_RATE_MAX: u64 = 2_000_000_000;
/// A queue of this part of the round trip, and at least this long, ends the doubling …
const START_QUEUE: f64 = 0.02;
const START_QUEUE_NS_MIN: f64 = 1e6;
/// … the first hint of one limits the rate to what is delivered until the next report …
const HINT_QUEUE: f64 = 0.005;
const HINT_QUEUE_NS_MIN: f64 = 400_000.0;
/// … and the rate is never more than this multiple of what is delivered. Doubling needs that much,
/// because reports describe the state one round trip ago.
const START_GAIN: f64 = 2.4;
/// The part of a rate measured before at which start-up begins: half, as Careful Resume
/// (draft-ietf-tsvwg-careful-resume) has it, since the path may be shared by now; a round trip
/// later it is doubled.
const SEED_DIVISOR: u64 = 2;
/// A round is at least this long: two reports of the shortest interval.
const ROUND_NS_MIN: u64 = 4_000_000;
/// Queues are judged by the least of this time at least.
const RECENT_NS_MIN: u64 = 5_000_000;
/// Queues are judged in parts of the round trip, of at least this: below, the receiver's scheduler
/// makes queues as long.
const SCALE_NS_MIN: u64 = 14_000_000;
/// The part of the time, in thousandths, in which the pacer must have held the flow back before a
/// delivery rate shows what the path can carry.
const PACED_PERMILLE: u64 = 300;
/// The best delivery rate is that of the last rounds, and of at least this time.
const BEST_NS_MIN: u64 = 30_000_000;
const BEST_ROUNDS: u64 = 2;
/// The rate at which the target queue would be (nearly) empty.
const RATE_OF_NO_QUEUE: f64 = 150e9;
/// The part of the distance between queue and target that a round trip makes up for.
const GAIN: f64 = 1.4;
/// Rounds without a queue after which the rate grows faster than the control law says …
const EMPTY_ROUNDS: f64 = 4.0;
/// … growing by this much each round.
const EMPTY_GROWTH: f64 = 1.5;
/// Time between two drains.
const DRAIN_ROUNDS: u64 = 40;
const DRAIN_NS_MIN: u64 = 500_000_000;
/// A drain halves the rate for this part of a round, or of what queues are measured by.
const DRAIN_DIVISOR: u64 = 2;
/// Loss beyond this is never noise.
const NOISE_MAX: f64 = 0.10;
/// The weight of older noise measurements at each new one.
const NOISE_MEMORY: f64 = 0.85;
/// Packets from which a loss rate is meaningful.
const SAMPLE_PACKETS: u64 = 100;
/// Time for which a queue that caused loss is not built again.
const CLIP_ROUNDS: u64 = 100;
/// Rounds that a queue must persist against a falling rate to be attributed to other traffic.
const FOREIGN_ROUNDS: u64 = 10;
/// A flow that yields does not grow for so many rounds after a queue of so many targets and this
/// part of a round trip: room that appears is meant for the others.
const YIELD_ROUNDS: u64 = 10;
const YIELD_TARGETS: f64 = 3.0;
const YIELD_PART: f64 = 0.03;
/// Rounds without a queue after which other traffic is assumed to be gone.
const EMPTY_SHARE_ROUNDS: u64 = 8;
/// Time after which a flow that shares finds out whether it is alone, and rounds that it takes.
const LONELY_ROUNDS: u64 = 100;
const LONELY_NS_MIN: u64 = 10_000_000_000;
const LONELY_TEST_ROUNDS: u64 = 3;
/// Silence after which the path may have changed.
const SILENCE_ROUNDS: u64 = 8;
const SILENCE_NS_MIN: u64 = 1_000_000_000;

/// A round trip is taken for no longer than this, whatever a receiver says: ten minutes.
const RTT_NS_MAX: u64 = 600_000_000_000;

/// How much queue and loss a mode tolerates before it slows down.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tolerance {
    /// Target queue for each factor of e between the rate and [`RATE_OF_NO_QUEUE`], in parts of the
    /// round trip.
    slope: f64,
    /// The target is longer by this: schedulers and interrupts make queues as long.
    target_ns_min: f64,
    /// What part of a queue beyond the target a round trip takes away, and …
    haste: f64,
    /// … the most that one step takes away.
    decrease_max: f64,
    /// The most that a round adds.
    growth_max: f64,
    /// Loss beyond noise that is tolerated.
    loss: f64,
    /// Whether it takes a TCP flow's share alongside others that fill the buffer, or yields.
    shares: bool,
}

impl Tolerance {
    pub(super) const FAIR: Self = Self {
        slope: 0.023,
        target_ns_min: 300_000.0,
        haste: GAIN,
        decrease_max: 0.25,
        growth_max: 0.25,
        loss: 0.01,
        shares: true,
    };
    pub(super) const BACKGROUND: Self = Self {
        slope: 0.0015,
        target_ns_min: 100_000.0,
        haste: 3.0,
        decrease_max: 0.5,
        growth_max: 0.03,
        loss: 0.005,
        shares: false,
    };
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// Doubles each round trip while that is delivered.
    StartUp,
    /// Empties the queue that start-up left, at the latest until then.
    Settle { until_ns: u64 },
    /// Keeps the target queue.
    Cruise,
    /// Takes a CUBIC flow's part; alone at times, to see whether the others are gone.
    Share { share: CubicShare, test_ns: u64 },
}

/// See the module's description in [`super`].
#[derive(Debug)]
pub(super) struct AdaptiveRate {
    patience: Tolerance,
    cap: u64,
    packet_bytes: u64,
    rate: u64,
    phase: Phase,
    history: History,
    delay: LeastDelay,
    rtt: LeastDelay,
    /// Smoothed, with its queues.
    rtt_ns: u64,
    rtt_least_ns: u64,
    best: u64,
    heard_ns: u64,
    /// Since when start-up has delivered clearly less than it sent.
    short_since_ns: Option<u64>,
    /// The rate of start-up while a hint of a queue holds it back.
    held_back: Option<u64>,
    /// Since when there has been no significant queue.
    empty_since_ns: Option<u64>,
    /// Since when the queue has stood above the target, and the best rate then; and since when far
    /// above.
    foreign_since: Option<(u64, u64)>,
    high_since_ns: Option<u64>,
    /// Until when a flow that yields does not grow.
    yields_until_ns: u64,
    /// The present or last drain.
    drain_ns: (u64, u64),
    next_drain_ns: u64,
    /// Packets lost and in total, of those sent while there was no queue.
    noise: (f64, f64),
    lossy_since_ns: Option<u64>,
    /// The queue that is not exceeded because it made loss, and until when.
    clip: Option<(f64, u64)>,
}

#[expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "times are this host's clock and some rounds of at most RTT_NS_MAX; floats that become integers saturate"
)]
impl AdaptiveRate {
    pub(super) fn new(patience: Tolerance, config: &ControllerConfig) -> Self {
        let rtt_ns = config.rtt_ns.clamp(1_000, RTT_NS_MAX);
        let first = INITIAL_SEGMENTS * u64::from(config.stride) * 8 * 1_000_000_000 / rtt_ns;
        let first = first.clamp(RATE_MIN, INITIAL_RATE_MAX);
        let seed = config.start_bits_per_second.unwrap_or(0) / SEED_DIVISOR;
        let cap = config.cap_bits_per_second.unwrap_or(RATE_MAX).clamp(RATE_MIN, RATE_MAX);
        Self {
            patience,
            cap,
            packet_bytes: u64::from(config.stride) + PACKET_OVERHEAD_BYTES,
            rate: first.max(seed).min(cap),
            phase: Phase::StartUp,
            history: History::new(),
            delay: LeastDelay::default(),
            rtt: LeastDelay::default(),
            rtt_ns,
            rtt_least_ns: rtt_ns,
            best: 0,
            heard_ns: 0,
            short_since_ns: None,
            held_back: None,
            empty_since_ns: None,
            foreign_since: None,
            high_since_ns: None,
            yields_until_ns: 0,
            drain_ns: (0, 0),
            next_drain_ns: 0,
            noise: (0.0, 0.0),
            lossy_since_ns: None,
            clip: None,
        }
    }

    fn round_ns(&self) -> u64 {
        self.rtt_least_ns.max(ROUND_NS_MIN)
    }

    /// Half a round, and never so short that a receiver that was asleep for a moment looks like a
    /// queue.
    fn recent_us(&self) -> u64 {
        (self.round_ns() / 2).max(RECENT_NS_MIN) / 1_000
    }

    fn scale_ns(&self) -> f64 {
        self.rtt_least_ns.max(SCALE_NS_MIN) as f64
    }

    /// The queue that the flow wants to see at a rate. It is the longer the lower the rate: of two
    /// flows that see the same queue, the slower one goes up and the faster one down until they are
    /// equal.
    fn target_ns(&self, rate: u64) -> f64 {
        let part = self.patience.slope * (RATE_OF_NO_QUEUE / rate.max(1) as f64).ln();
        let target = self.scale_ns() * part.max(0.0) + self.patience.target_ns_min;
        self.clip.map_or(target, |(clip, _)| target.min(clip))
    }

    /// Loss that is the path's own.
    fn noise(&self) -> f64 {
        if self.noise.1 > 0.0 { (self.noise.0 / self.noise.1).min(NOISE_MAX) } else { 0.0 }
    }

    fn learn_noise(&mut self, lost: u64, delivered: u64) {
        let all = lost.saturating_add(delivered) as f64;
        if all > 0.0 {
            // Loss beyond the limit of noise says nothing about noise.
            let lost = (lost as f64).min(all * NOISE_MAX);
            self.noise = (NOISE_MEMORY * self.noise.0 + lost, NOISE_MEMORY * self.noise.1 + all);
        }
    }

    /// Notes the best recent delivery rate. A flow that its pacer did not hold back shows nothing
    /// about the path's capacity, unless it was faster than ever.
    fn update_best(&mut self, span_ns: u64) {
        let span_us = span_ns / 1_000;
        let most = self.history.within(span_us).map(|entry| entry.delivered_rate).max().unwrap_or(0);
        let is_paced = self.history.sums(span_us).paced_permille() >= PACED_PERMILLE;
        self.best = if is_paced { most } else { most.max(self.best) };
    }

    /// What the path would deliver if it lost nothing.
    fn best_before_noise(&self) -> f64 {
        self.best as f64 / (1.0 - self.noise())
    }

    fn start_up(&mut self, seen: &Observation, round: &Sums) {
        let now_ns = seen.now_ns;
        let recent = self.history.sums(self.recent_us());
        let begun_ns = now_ns.saturating_sub(self.rtt_ns + recent.interval_us * 1_000);
        let expected = self.history.rate_at(begun_ns).unwrap_or(self.rate) as f64 * (1.0 - self.noise());
        let delivered = recent.delivered_rate() as f64;
        let is_paced = recent.paced_permille() >= PACED_PERMILLE;
        // Only the newest report: what is sent until the next one adds to what already overfills
        // the path.
        let newest = self.history.sums(1);
        let is_queued = newest.queue_ns_max as f64 > (START_QUEUE * self.scale_ns()).max(START_QUEUE_NS_MIN);
        let is_short = is_paced && delivered < expected * 0.75;
        if !is_queued && !is_short {
            self.learn_noise(seen.lost_packets, seen.delivered_packets);
        }
        let short_ns = match (is_short, self.short_since_ns) {
            (false, _) => {
                self.short_since_ns = None;
                0
            }
            (true, since_ns) => now_ns.saturating_sub(*self.short_since_ns.insert(since_ns.unwrap_or(now_ns))),
        };
        let is_sample = recent.packets() >= SAMPLE_PACKETS;
        let is_overrun = is_short && is_sample && recent.loss() > self.noise() + NOISE_MAX;
        let hint_ns = HINT_QUEUE * self.scale_ns() + HINT_QUEUE_NS_MIN;
        let is_hinted = newest.queue_ns_min as f64 > hint_ns;
        if let Some(rate) = self.held_back.take() {
            self.rate = rate;
        }
        if (is_queued && delivered < expected * 0.95) || is_overrun || short_ns > 3 * self.round_ns() {
            self.best = self.best.max(recent.delivered_rate()).max(round.delivered_rate());
            self.phase = Phase::Settle { until_ns: now_ns + 4 * self.round_ns() };
            self.rate = self.best / 2;
        } else if is_paced && is_hinted && newest.delivered_rate() < self.rate {
            self.held_back = Some(self.rate);
            self.rate = newest.delivered_rate();
        } else if is_paced && !is_short && !is_queued {
            let rounds = (u64::from(seen.interval_us) * 1_000) as f64 / self.round_ns() as f64;
            let doubled = self.rate as f64 * 2f64.powf(rounds.min(1.0));
            // A rate far above the delivery rate is a guess that no report has confirmed yet.
            let confirmed = START_GAIN * newest.delivered_rate() as f64;
            self.rate = self.rate.max(doubled.min(confirmed.max(delivered * START_GAIN)) as u64);
        }
    }

    fn settle(&mut self, until_ns: u64, now_ns: u64) {
        let recent = self.history.sums(self.recent_us());
        if (recent.queue_ns_min as f64) < self.target_ns(self.best) / 2.0 || now_ns >= until_ns {
            self.phase = Phase::Cruise;
            self.rate = self.best_before_noise() as u64;
            self.next_drain_ns = now_ns + self.drain_interval_ns() / 4;
        }
    }

    fn drain_interval_ns(&self) -> u64 {
        (DRAIN_ROUNDS * self.round_ns()).max(DRAIN_NS_MIN)
    }

    fn cruise(&mut self, seen: &Observation, round: &Sums) {
        let now_ns = seen.now_ns;
        let recent = self.history.sums(self.recent_us());
        let queue_ns = recent.queue_ns_min as f64;
        let target_ns = self.target_ns(self.best);
        if now_ns >= self.next_drain_ns {
            let drain_ns = self.round_ns().max(SCALE_NS_MIN) / DRAIN_DIVISOR;
            // Between packets that are farther apart than a drain is long no queue lasts, and the
            // drain would end with the next report only: at the lowest rate one followed the other,
            // and the flow never came out of it.
            if u64::from(seen.interval_us) * 1_000 <= drain_ns {
                self.drain_ns = (now_ns, now_ns + drain_ns);
            }
            self.next_drain_ns = now_ns + self.drain_interval_ns();
        }
        let echo_ns = now_ns.saturating_sub(self.rtt_ns);
        if echo_ns >= self.drain_ns.0 && echo_ns <= self.drain_ns.1 + self.round_ns() / 4 {
            self.learn_noise(seen.lost_packets, seen.delivered_packets);
        }
        self.heed_loss(now_ns, round);
        if now_ns < self.drain_ns.1 {
            self.rate = (self.best_before_noise() / 2.0) as u64;
            return;
        }
        let is_over = queue_ns > 2.0 * target_ns + 1e6;
        self.update_best(if is_over { self.round_ns() } else { BEST_NS_MIN.max(BEST_ROUNDS * self.round_ns()) });
        if self.is_foreign(now_ns, queue_ns) {
            return;
        }
        if recent.paced_permille() < PACED_PERMILLE && queue_ns <= target_ns {
            return;
        }
        let expected_ns = queue_ns + self.queue_under_way_ns();
        let gain = if expected_ns > target_ns { self.patience.haste } else { GAIN };
        let change = (gain * (target_ns - expected_ns) / self.scale_ns()).max(-self.patience.decrease_max);
        let change = change.max(self.growth(now_ns, queue_ns, target_ns));
        let rate = (self.best_before_noise() * (1.0 + change)) as u64;
        if !self.patience.shares && expected_ns > YIELD_TARGETS * target_ns + YIELD_PART * self.scale_ns() {
            self.yields_until_ns = now_ns + YIELD_ROUNDS * self.round_ns();
        }
        self.rate = if now_ns < self.yields_until_ns { rate.min(self.rate) } else { rate };
    }

    /// The queue that the last round trip's packets will cause, which no report can show yet (a
    /// Smith predictor). Without it, the gain would have to be half.
    fn queue_under_way_ns(&self) -> f64 {
        let best = self.best_before_noise().max(1.0);
        let excess_us: f64 = self
            .history
            .within(self.rtt_ns / 1_000)
            .map(|entry| (entry.rate as f64 / best - 1.0) * entry.interval_us as f64)
            .sum();
        excess_us.max(0.0) * 1_000.0
    }

    /// How much faster than the law the rate grows because there has been no queue for a while.
    fn growth(&mut self, now_ns: u64, queue_ns: f64, target_ns: f64) -> f64 {
        if queue_ns > target_ns / 4.0 || self.clip.is_some() {
            self.empty_since_ns = None;
            return f64::NEG_INFINITY;
        }
        let since_ns = *self.empty_since_ns.get_or_insert(now_ns);
        let rounds = now_ns.saturating_sub(since_ns) as f64 / self.round_ns() as f64 - EMPTY_ROUNDS;
        if rounds <= 0.0 {
            return f64::NEG_INFINITY;
        }
        (GAIN * target_ns / self.scale_ns() * EMPTY_GROWTH.powf(rounds.min(20.0))).min(self.patience.growth_max)
    }

    /// Loss beyond noise is the end of a buffer: the queue that made it is not built again for a
    /// while, a quarter as long if there was none to speak of, for then it may have been chance.
    fn heed_loss(&mut self, now_ns: u64, round: &Sums) {
        if self.clip.is_some_and(|(_, until_ns)| now_ns >= until_ns) {
            self.clip = None;
        }
        let loss = round.loss();
        if loss <= 1.5 * self.noise() + self.patience.loss {
            self.lossy_since_ns = None;
            return;
        }
        let since_ns = *self.lossy_since_ns.get_or_insert(now_ns);
        let is_severe = loss > 2.0 * self.noise() + NOISE_MAX && round.packets() >= SAMPLE_PACKETS;
        if is_severe {
            self.best = round.delivered_rate();
        } else if now_ns.saturating_sub(since_ns) < self.round_ns() {
            return;
        } else if self.noise.1 < SAMPLE_PACKETS as f64 {
            // Nothing is known about noise yet: a drain will show it.
            if now_ns > self.drain_ns.1 + 3 * self.round_ns() {
                self.next_drain_ns = now_ns;
            }
            return;
        }
        if self.clip.is_none() {
            let queue_ns = round.queue_ns_max as f64;
            let is_queue = queue_ns > self.target_ns(self.best) / 4.0;
            let rounds = if is_queue { CLIP_ROUNDS } else { CLIP_ROUNDS / 4 };
            self.clip = Some((0.7 * queue_ns, now_ns + rounds * self.round_ns()));
        }
    }

    /// Whether the queue is caused by other traffic, and this flow takes its share of the path from
    /// now on. Culvert's flows keep the queue at the target and empty it at times. A queue that
    /// never empties, however far the rate falls, is kept by other traffic.
    fn is_foreign(&mut self, now_ns: u64, queue_ns: f64) -> bool {
        let target_ns = self.target_ns(self.best);
        if queue_ns <= target_ns {
            (self.foreign_since, self.high_since_ns) = (None, None);
            return false;
        }
        if queue_ns <= 2.0 * target_ns + 0.05 * self.scale_ns() {
            self.high_since_ns = None;
        }
        let (since_ns, best) = *self.foreign_since.get_or_insert((now_ns, self.best));
        let high_since_ns = *self.high_since_ns.get_or_insert(now_ns);
        let is_high = now_ns.saturating_sub(high_since_ns) >= FOREIGN_ROUNDS * self.round_ns();
        let has_fallen =
            now_ns.saturating_sub(since_ns) >= 2 * FOREIGN_ROUNDS * self.round_ns() && self.best < best / 2;
        if !self.patience.shares || !(is_high || has_fallen) {
            return false;
        }
        let packets = best as f64 * self.rtt_ns as f64 / 8e9 / self.packet_bytes as f64;
        let share = CubicShare::begin(packets, now_ns);
        self.phase = Phase::Share { share, test_ns: now_ns + self.lonely_interval_ns() };
        (self.foreign_since, self.empty_since_ns) = (None, None);
        true
    }

    fn lonely_interval_ns(&self) -> u64 {
        (LONELY_ROUNDS * self.round_ns()).max(LONELY_NS_MIN)
    }

    fn share(&mut self, mut share: CubicShare, mut test_ns: u64, now_ns: u64, round: &Sums) {
        self.update_best(BEST_NS_MIN.max(BEST_ROUNDS * self.round_ns()));
        let recent = self.history.sums(self.recent_us());
        let is_empty = (recent.queue_ns_min as f64) < self.target_ns(self.best);
        let empty_ns = if is_empty { now_ns.saturating_sub(*self.empty_since_ns.get_or_insert(now_ns)) } else { 0 };
        if !is_empty {
            self.empty_since_ns = None;
        }
        let is_testing = now_ns >= test_ns;
        if is_empty && (is_testing || empty_ns >= EMPTY_SHARE_ROUNDS * self.round_ns()) {
            self.phase = Phase::Cruise;
            self.empty_since_ns = None;
            self.next_drain_ns = now_ns + self.drain_interval_ns();
            return;
        }
        share.grow(now_ns, self.rtt_ns);
        if round.lost_packets >= 2 && round.loss() > 2.0 * self.noise() + 0.0002 {
            share.lose(now_ns, self.rtt_ns);
        }
        let rate = share.packets() * self.packet_bytes as f64 * 8e9 / self.rtt_ns.max(1) as f64;
        self.rate = rate as u64;
        if is_testing {
            self.rate /= 2;
            if now_ns >= test_ns + LONELY_TEST_ROUNDS * self.round_ns() {
                test_ns = now_ns + self.lonely_interval_ns();
            }
        }
        self.phase = Phase::Share { share, test_ns };
    }

    /// After silence, old measurements may be wrong: halves the rate and starts up from there.
    fn resume(&mut self) {
        self.history.clear();
        self.delay.restart();
        self.rate = (self.rate.max(self.best) / 2).clamp(RATE_MIN, self.cap);
        self.phase = Phase::StartUp;
        self.held_back = None;
        (self.short_since_ns, self.empty_since_ns, self.foreign_since, self.lossy_since_ns) = (None, None, None, None);
    }
}

#[expect(
    clippy::arithmetic_side_effects,
    clippy::cast_possible_truncation,
    reason = "times are this host's clock and some rounds of at most RTT_NS_MAX, and what is cast is cut before"
)]
impl RateController for AdaptiveRate {
    fn observe(&mut self, seen: &Observation) {
        if seen.delivered_packets == 0 && seen.lost_packets == 0 {
            return;
        }
        let now_ns = seen.now_ns;
        if seen.delivered_packets > 0 {
            let silence_ns = now_ns.saturating_sub(self.heard_ns);
            let is_first = std::mem::replace(&mut self.heard_ns, now_ns) == 0;
            if !is_first && silence_ns > SILENCE_NS_MIN.max(SILENCE_ROUNDS * self.round_ns()) {
                self.resume();
                return;
            }
        }
        if seen.rtt_ns > 0 {
            self.rtt_ns = (3 * self.rtt_ns + seen.rtt_ns.min(RTT_NS_MAX)) / 4;
            let rtt_us = (seen.rtt_ns / 1_000).min(u64::from(u32::MAX >> 1)) as u32;
            self.rtt.above_ns(rtt_us, self.rtt_ns, now_ns);
            self.rtt_least_ns = u64::from(self.rtt.least_us()).max(1) * 1_000;
        }
        let round_ns = self.round_ns();
        let queue_ns = (seen.delivered_packets > 0).then(|| self.delay.above_ns(seen.delay_min_us, round_ns, now_ns));
        let entry = Entry {
            now_ns,
            interval_us: seen.interval_us.into(),
            delivered_bytes: seen.delivered_bytes,
            delivered_packets: seen.delivered_packets,
            lost_packets: seen.lost_packets,
            queue_ns,
            paced_us: u64::from(seen.interval_us) * u64::from(seen.paced_permille.min(1_000)) / 1_000,
            rate: self.rate,
            delivered_rate: 0,
        };
        self.history.push(entry, round_ns / 16_000);
        let round = self.history.sums(round_ns / 1_000);
        // More than was sent can only come from a queue, or from a receiver that was asleep.
        let most_sent = self.history.within(3 * round_ns / 1_000).map(|entry| entry.rate).max().unwrap_or(self.rate);
        self.history.set_delivered_rate(round.delivered_rate().min(most_sent));
        match self.phase {
            Phase::StartUp => {
                self.best = self.best.max(round.delivered_rate());
                self.start_up(seen, &round);
            }
            Phase::Settle { until_ns } => {
                self.best = self.best.max(round.delivered_rate());
                self.settle(until_ns, now_ns);
            }
            Phase::Cruise => self.cruise(seen, &round),
            Phase::Share { share, test_ns } => self.share(share, test_ns, now_ns, &round),
        }
        // Invariant I-rate-cap: The cap of a flow's rate is at least the lowest rate.
        assert!(self.cap >= RATE_MIN, "a cap of {} b/s", self.cap);
        self.rate = self.rate.clamp(RATE_MIN, self.cap);
    }

    fn rate_bits_per_second(&self) -> u64 {
        self.rate
    }

    fn limit(&self) -> RateLimit {
        if self.rate >= self.cap && self.cap < RATE_MAX { RateLimit::Cap } else { RateLimit::Path }
    }
}
