//! Searches for the available rate with short trains: doubles the rate until the path objects, then
//! searches between the bounds. Pure.
//!
//! A path objects if it loses packets, delivers them slower than they left, or builds a queue
//! during the train. Trains are long compared with interrupt coalescing and GRO, which destroy the
//! dispersion of packet pairs above 10 Gb/s.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use culvert_protocol::path::{TrainReceived, TrainSent};
use serde::{Deserialize, Serialize};

/// The first rate, unless the cap is lower.
const START: u64 = 10_000_000;
/// The most trains of a ramp.
const TRAINS_MAX: u32 = 24;
/// The bounds are close enough when their ratio is below this.
const CLOSE: f64 = 1.08;
/// How often the found rate must pass again.
const CONFIRMATIONS: u32 = 2;
/// How often it may fail in that before its first success counts as luck: now and then a train of
/// 100 ms meets a busy host's scheduler.
const CONTRADICTIONS_MAX: u32 = 1;
/// The loss ratio that a train may have.
const LOSS_MAX: f64 = 0.005;
/// A train that arrives slower than this fraction of its sending rate met the path's limit.
const DELIVERED_MIN: f64 = 0.93;
/// A sender slower than this fraction of the requested rate is the limit itself.
const SENT_MIN: f64 = 0.9;
/// A queue that grows by less is noise, in microseconds and as a fraction of the train's length.
const QUEUE_US_MIN: u64 = 1_500;
const QUEUE_PART: f64 = 0.02;

/// What limits the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RampLimit {
    /// The path, or the receiving host.
    Path,
    /// The sending host: the path may carry more.
    Sender,
    /// The permitted rate: the path may carry more.
    Cap,
    /// The permitted time: the path may carry more.
    Time,
}

/// The confidence in a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// Bounds within 10 %, confirmed by repetition.
    High,
    /// Bounds within 25 %, or one confirmation failed.
    Medium,
    /// Wide bounds, few trains, or trains that contradict each other.
    Low,
}

/// The available rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct AvailableRate {
    /// The highest rate without objection, in bits per second of IP packets.
    pub bits_per_second: u64,
    /// The lowest rate at which the path objected; none if it never did.
    pub upper_bits_per_second: Option<u64>,
    /// The rate at which an overdriven path delivered: the bottleneck's rate less cross traffic;
    /// none if the path was never overdriven.
    pub delivered_bits_per_second: Option<u64>,
    /// What limits the rate.
    pub limit: RampLimit,
    /// The confidence in it.
    pub confidence: Confidence,
    /// Trains sent.
    pub trains: u32,
    /// Packets of all trains.
    pub packets: u64,
    /// How many of them were lost.
    pub lost: u64,
}

/// Who objected to a train.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Objection {
    None,
    Path,
    Sender,
}

/// A ramp in progress.
#[derive(Clone, Debug)]
pub struct Ramp {
    cap: u64,
    next: Option<u64>,
    low: u64,
    high: Option<u64>,
    delivered: Vec<u64>,
    confirmations: u32,
    contradictions: u32,
    sender_limit: bool,
    is_confirming: bool,
    trains: u32,
    packets: u64,
    lost: u64,
}

impl Ramp {
    /// A ramp up to `cap`, in bits per second.
    #[must_use]
    pub fn new(cap: u64) -> Self {
        Self {
            cap,
            next: Some(START.min(cap)),
            low: 0,
            high: None,
            delivered: Vec::new(),
            confirmations: 0,
            contradictions: 0,
            sender_limit: false,
            is_confirming: false,
            trains: 0,
            packets: 0,
            lost: 0,
        }
    }

    /// The rate of the next train; none when the ramp is over.
    #[must_use]
    pub fn next_rate(&self) -> Option<u64> {
        let rate = self.next.filter(|_| self.trains < TRAINS_MAX)?;
        // Invariant I-path-ramp: A ramp asks for no train above its cap, and for no more than 24
        // trains.
        assert!(rate <= self.cap, "{rate} b/s exceeds the cap of {} b/s", self.cap);
        Some(rate)
    }

    /// Takes a train's result into account. `rate` is the one that [`Ramp::next_rate`] asked for.
    pub fn note(&mut self, rate: u64, sent: &TrainSent, received: &TrainReceived) {
        self.trains = self.trains.saturating_add(1);
        self.packets = self.packets.saturating_add(sent.packets.into());
        self.lost = self.lost.saturating_add(sent.packets.saturating_sub(received.packets).into());
        let delivered = rate_of(received.bytes, received.duration_us);
        let objection = judge(rate, sent, received);
        if objection == Objection::Path && received.packets > 10 {
            self.delivered.push(delivered);
        }
        if self.is_confirming {
            match objection {
                Objection::None => self.confirmations = self.confirmations.saturating_add(1),
                Objection::Path | Objection::Sender => self.contradictions = self.contradictions.saturating_add(1),
            }
            let is_luck = self.contradictions > CONTRADICTIONS_MAX;
            if is_luck {
                // A tenth less is safe.
                self.high = Some(self.low);
                self.low = self.low.saturating_sub(self.low.div_ceil(10));
            }
            self.next = (self.confirmations < CONFIRMATIONS && !is_luck).then_some(self.low);
            return;
        }
        match objection {
            Objection::None => self.low = self.low.max(rate),
            Objection::Sender => {
                self.sender_limit = true;
                let really = rate_of(sent.bytes, sent.duration_us);
                // The sender's report is a claim: no more was asked for than `rate`.
                self.low = self.low.max(really.min(delivered.max(1)).min(rate));
            }
            Objection::Path => self.high = Some(self.high.map_or(rate, |high| high.min(rate))),
        }
        self.next = self.choose();
    }

    fn choose(&mut self) -> Option<u64> {
        let confirm = |this: &mut Self| {
            this.is_confirming = true;
            (this.low > 0).then_some(this.low)
        };
        if self.sender_limit || self.low >= self.cap {
            return confirm(self);
        }
        match self.high {
            None => Some(self.low.saturating_mul(2).clamp(START.min(self.cap), self.cap)),
            Some(high) if self.low == 0 => {
                // Not even the first rate passes: the rate that arrived is a hint.
                let hint = self.delivered.last().copied().unwrap_or(high / 4);
                Some(hint.min(high / 2)).filter(|&rate| rate >= 100_000)
            }
            Some(high) if (high as f64) < self.low as f64 * CLOSE => confirm(self),
            Some(high) => {
                // The rate that an overdriven path delivered is a good guess if it lies between the
                // bounds.
                let between =
                    |rate: u64| rate > self.low.saturating_add(self.low / 50) && rate < high.saturating_sub(high / 50);
                let guess =
                    self.delivered.last().map(|rate| (rate / 100).saturating_mul(97)).filter(|&rate| between(rate));
                let middle = whole((self.low as f64 * high as f64).sqrt());
                Some(guess.filter(|_| self.delivered.len() < 3).unwrap_or(middle))
            }
        }
    }

    /// The rate found so far; none if no train passed.
    #[must_use]
    pub fn result(&self, ran_out_of_time: bool) -> Option<AvailableRate> {
        let mut delivered = self.delivered.clone();
        delivered.sort_unstable();
        let delivered_bits_per_second = delivered.get(delivered.len() / 2).copied();
        // An overdriven path delivers all that it can. A queue that one train fills hides a few
        // percent of the excess.
        let delivered_when_over = delivered_bits_per_second.filter(|_| self.high.is_some());
        let bits_per_second = if self.low > 0 {
            delivered_when_over.map_or(self.low, |most| self.low.min(most))
        } else {
            delivered_bits_per_second?
        };
        let limit = match () {
            () if self.high.is_some() => RampLimit::Path,
            () if self.sender_limit => RampLimit::Sender,
            () if self.low >= self.cap => RampLimit::Cap,
            () if ran_out_of_time => RampLimit::Time,
            () => RampLimit::Path,
        };
        let spread = self.high.map_or(1.0, |high| high as f64 / self.low.max(1) as f64);
        let confidence = match self.contradictions {
            0 if self.confirmations >= CONFIRMATIONS && spread < 1.12 => Confidence::High,
            0 | 1 if self.confirmations > 0 && spread < 1.3 => Confidence::Medium,
            _ => Confidence::Low,
        };
        let upper_bits_per_second = self.high;
        let (trains, packets, lost) = (self.trains, self.packets, self.lost);
        Some(AvailableRate {
            bits_per_second,
            upper_bits_per_second,
            delivered_bits_per_second,
            limit,
            confidence,
            trains,
            packets,
            lost,
        })
    }
}

/// Bits per second.
#[must_use]
pub fn rate_of(bytes: u64, duration_us: u64) -> u64 {
    if duration_us == 0 { 0 } else { whole(bytes as f64 * 8e6 / duration_us as f64) }
}

#[expect(clippy::cast_possible_truncation, reason = "a float that becomes an integer saturates")]
const fn whole(value: f64) -> u64 {
    value as u64
}

fn judge(rate: u64, sent: &TrainSent, received: &TrainReceived) -> Objection {
    let sent_rate = rate_of(sent.bytes, sent.duration_us);
    let loss = 1.0 - f64::from(received.packets) / f64::from(sent.packets.max(1));
    let grown_us = u64::from(received.late_delay_us.saturating_sub(received.early_delay_us));
    let is_queued = grown_us > QUEUE_US_MIN && grown_us as f64 > sent.duration_us as f64 * QUEUE_PART;
    // A few packets' dispersion says nothing about a rate.
    let is_slow = received.packets >= 10
        && (rate_of(received.bytes, received.duration_us) as f64) < sent_rate as f64 * DELIVERED_MIN;
    if loss > LOSS_MAX || is_queued || is_slow {
        return Objection::Path;
    }
    if (sent_rate as f64) < rate as f64 * SENT_MIN || sent.failed > 0 { Objection::Sender } else { Objection::None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A path of `capacity` with a buffer of `buffer_us`, and a sender that manages `sender`.
    fn train(rate: u64, capacity: u64, sender: u64, buffer_us: u64) -> (TrainSent, TrainReceived) {
        let duration_us = 100_000;
        let real = rate.min(sender);
        let bytes = real / 8 * duration_us / 1_000_000;
        let packets = (bytes / 1_500) as u32;
        let sent = TrainSent { packets, bytes, duration_us, failed: 0 };
        let excess = real.saturating_sub(capacity);
        let queue_us = (duration_us as f64 * excess as f64 / capacity as f64) as u64;
        let carried = if queue_us > buffer_us { capacity / 8 * (duration_us + buffer_us) / 1_000_000 } else { bytes };
        let received = TrainReceived {
            packets: (carried / 1_500) as u32,
            bytes: carried,
            duration_us: duration_us + queue_us.min(buffer_us),
            late_delay_us: (queue_us.min(buffer_us) * 7 / 8) as u32,
            early_delay_us: (queue_us.min(buffer_us) / 8) as u32,
            ..TrainReceived::default()
        };
        (sent, received)
    }

    fn ramp(cap: u64, capacity: u64, sender: u64, buffer_us: u64) -> AvailableRate {
        let mut ramp = Ramp::new(cap);
        while let Some(rate) = ramp.next_rate() {
            assert!(rate <= cap, "{rate} exceeds the cap of {cap}");
            let (sent, received) = train(rate, capacity, sender, buffer_us);
            ramp.note(rate, &sent, &received);
        }
        ramp.result(false).unwrap()
    }

    #[test]
    fn the_cap_and_the_sender_are_not_taken_for_the_path() {
        let free = ramp(1_000_000_000, 100_000_000_000, 100_000_000_000, 1_000);
        assert_eq!(
            (free.bits_per_second, free.limit, free.confidence),
            (1_000_000_000, RampLimit::Cap, Confidence::High)
        );
        let slow = ramp(100_000_000_000, 100_000_000_000, 3_000_000_000, 1_000);
        assert_eq!(slow.limit, RampLimit::Sender);
        assert!((2_500_000_000..=3_000_000_000).contains(&slow.bits_per_second), "{slow:?}");
    }

    #[test]
    fn one_train_that_fails_by_chance_does_not_make_the_path_narrow() {
        let capacity = 100_000_000;
        let mut ramp = Ramp::new(1_000_000_000);
        let mut failed = false;
        while let Some(rate) = ramp.next_rate() {
            let (sent, mut received) = train(rate, capacity, capacity * 10, 10_000);
            if ramp.is_confirming && !failed {
                failed = true;
                received.packets -= received.packets / 10;
            }
            ramp.note(rate, &sent, &received);
        }
        let found = ramp.result(false).expect("trains passed");
        assert!(failed && found.confidence == Confidence::Medium, "{found:?}");
        assert!((90_000_000..=101_000_000).contains(&found.bits_per_second), "{found:?}");
        assert!(found.upper_bits_per_second.is_some_and(|upper| upper >= capacity), "{found:?}");
    }

    #[test]
    fn a_dead_path_ends_the_ramp() {
        let mut ramp = Ramp::new(1_000_000_000);
        let mut trains = 0;
        while let Some(rate) = ramp.next_rate() {
            let (sent, _) = train(rate, 1, rate, 0);
            ramp.note(rate, &sent, &TrainReceived::default());
            trains += 1;
        }
        assert!(trains < 10 && ramp.result(false).is_none(), "{trains} trains");
    }

    /// Numbers of any size, often the extremes.
    fn any_number() -> impl Strategy<Value = u64> {
        prop_oneof![any::<u64>(), Just(0), Just(1), Just(u64::MAX), 0..1_000_000u64]
    }

    proptest! {
        /// The partner's reports are claims.
        #[test]
        fn whatever_a_partner_reports_the_ramp_ends_and_stays_below_its_cap(
            cap in any_number(),
            reports in proptest::collection::vec(proptest::collection::vec(any_number(), 8), 1..30),
        ) {
            //= P-6
            //# Trains of both sides keep to the lower of the two permitted rates.
            let mut ramp = Ramp::new(cap);
            let mut trains = 0;
            for report in reports.iter().cycle() {
                let Some(rate) = ramp.next_rate() else { break };
                trains += 1;
                prop_assert!(rate <= cap && trains <= TRAINS_MAX, "train {trains} at {rate} of {cap}");
                let (number, short) = (|at: usize| report[at], |at: usize| report[at] as u32);
                let sent = TrainSent { packets: short(0), bytes: number(1), duration_us: number(2), failed: short(3) };
                let received = TrainReceived {
                    packets: short(4),
                    bytes: number(5),
                    duration_us: number(6),
                    late_delay_us: short(7),
                    early_delay_us: short(3),
                    ..TrainReceived::default()
                };
                ramp.note(rate, &sent, &received);
            }
            if let Some(found) = ramp.result(false) {
                prop_assert!(found.trains <= TRAINS_MAX);
            }
        }

        #[test]
        fn the_capacity_is_found(capacity in 1_000_000..50_000_000_000u64, buffer_us in 0..200_000u64) {
            let found = ramp(100_000_000_000, capacity, 200_000_000_000, buffer_us);
            let part = found.bits_per_second as f64 / capacity as f64;
            prop_assert!((0.85..=1.05).contains(&part), "{part} of the capacity: {found:?}");
            prop_assert_eq!(found.limit, RampLimit::Path);
        }
    }
}
