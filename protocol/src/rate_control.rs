//! One pacing rate per flow, from the receiver's reports and the time.
//!
//! A controller is a pure function of its observations. It reads no clock and has no thread, so it
//! runs in the simulator as in production. The control process feeds it every report; the lane's
//! pacer takes the rate.
//!
//! There are three modes ([`Mode`]). `fixed` sends at the given rate. `fair` fills an empty path
//! with a short queue, treats loss without a queue as noise, shares equally with its own kind, and
//! takes a TCP flow's share next to others. `background` keeps the queue so short that it yields to
//! all of them.
//!
//! The model of both (`adaptive`): the path delivers the best delivery rate of the last rounds, and
//! anything more builds a queue. Each report sets the rate to that delivery rate times 1 + gain ×
//! (target − queue) / round trip. The target is linear in the logarithm of the rate, so of two
//! flows the slower speeds up and the faster slows down until they are equal. A drain every forty
//! rounds shows all flows the empty path, and which loss is not due to the queue (`base_delay`). A
//! queue that never drains is caused by other traffic (`share`). `docs/rate-control.md` lists the
//! constants with their experiments.
//!
//! Ideas are from BBR (delivery rate as the model; Cardwell and others, ACM Queue 2016), LEDBAT
//! (delay as the signal; RFC 6817), Copa (a target queue that falls with the rate; Arun and
//! Balakrishnan, NSDI 2018) and Swift (the same for data centers; Kumar and others, SIGCOMM 2020),
//! Smith's predictor (1957), CUBIC (RFC 9438) and Careful Resume (draft-ietf-tsvwg-careful-resume).

mod adaptive;
mod base_delay;
mod controller;
mod history;
mod share;

use adaptive::{AdaptiveRate, Tolerance};
pub use controller::{ControllerConfig, Mode, Observation, RATE_MAX, RATE_MIN, RateController, RateLimit};

/// The controller of a mode.
#[must_use]
pub fn controller(config: &ControllerConfig) -> Box<dyn RateController> {
    match (config.mode, config.cap_bits_per_second) {
        (Mode::Fixed, Some(rate)) => Box::new(FixedRate { rate }),
        (Mode::Fixed | Mode::Fair, _) => Box::new(AdaptiveRate::new(Tolerance::FAIR, config)),
        (Mode::Background, _) => Box::new(AdaptiveRate::new(Tolerance::BACKGROUND, config)),
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn config(mode: Mode, cap_bits_per_second: Option<u64>, rtt_ms: f64) -> ControllerConfig {
        ControllerConfig {
            mode,
            cap_bits_per_second,
            start_bits_per_second: None,
            rtt_ns: (rtt_ms * 1e6) as u64,
            stride: 8_932,
        }
    }

    /// A path of `capacity` bits per second with a queue, driven at the controller's rate for
    /// `seconds`.
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
            let mut controller = controller(&config(Mode::Fair, None, rtt_ms));
            let (used, queue) = drive(&mut *controller, capacity, rtt_ms, 0.0, 30.0);
            assert!(used > 0.9, "{used:.2} of {capacity:e} at {rtt_ms} ms");
            assert!(queue < 0.06, "{queue:.3} s of queue at {capacity:e} and {rtt_ms} ms");
        }
    }

    #[test]
    fn fair_takes_loss_without_a_queue_for_noise() {
        for loss in [0.001, 0.01, 0.05] {
            let mut controller = controller(&config(Mode::Fair, None, 50.0));
            let (used, _) = drive(&mut *controller, 10e9, 50.0, loss, 40.0);
            assert!(used > 0.85, "{used:.2} at {loss} loss");
        }
    }

    #[test]
    fn fixed_holds_its_rate_whatever_happens() {
        let mut controller = controller(&config(Mode::Fixed, Some(7_000_000_000), 1.0));
        drive(&mut *controller, 1e9, 10.0, 0.3, 1.0);
        assert_eq!(controller.rate_bits_per_second(), 7_000_000_000);
    }

    #[test]
    fn a_flow_that_is_not_paced_learns_nothing() {
        let mut controller = controller(&config(Mode::Fair, None, 1.0));
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

    /// One packet of `bytes` comes after `interval_us`, through a queue of `queue_us`.
    fn deliver(controller: &mut dyn RateController, now_ns: &mut u64, bytes: u64, interval_us: u64, queue_us: u32) {
        *now_ns += interval_us * 1_000;
        controller.observe(&Observation {
            now_ns: *now_ns,
            rtt_ns: 300_000,
            delay_min_us: 70 + queue_us,
            interval_us: interval_us as u32,
            delivered_bytes: bytes,
            delivered_packets: 1,
            lost_packets: 0,
            busy_permille: 20,
            paced_permille: 950,
        });
    }

    /// Segments of 64 KiB, as loopback has them, come at the lowest rate four times a second: a
    /// flow that had fallen so low drained its empty queue twice a second, for a report's time
    /// each, and stayed there for minutes.
    #[test]
    fn a_flow_of_large_segments_comes_back_from_the_lowest_rate() {
        const SEGMENT_BYTES: u64 = 65_501;
        const CAP: u64 = 250_000_000;
        let config = ControllerConfig { stride: 65_425, ..config(Mode::Fair, Some(CAP), 0.3) };
        let (mut controller, mut now_ns) = (controller(&config), 1_000_000_000);
        let go_on = |controller: &mut dyn RateController, now_ns: &mut u64, seconds: u64| {
            let end_ns = *now_ns + seconds * 1_000_000_000;
            while *now_ns < end_ns {
                let interval_us = SEGMENT_BYTES * 8_000_000 / controller.rate_bits_per_second();
                deliver(controller, now_ns, SEGMENT_BYTES, interval_us.max(2_000), 0);
            }
        };
        go_on(&mut *controller, &mut now_ns, 5);
        assert_eq!(controller.rate_bits_per_second(), CAP);
        // A queue ends start-up.
        for _ in 0..10 {
            deliver(&mut *controller, &mut now_ns, SEGMENT_BYTES, 4_200, 40_000);
        }
        go_on(&mut *controller, &mut now_ns, 5);
        assert_eq!(controller.rate_bits_per_second(), CAP);
        // The short end of a chunk, from a host that was stalled in between.
        deliver(&mut *controller, &mut now_ns, 1_853, 42_900, 0);
        let fell_to = controller.rate_bits_per_second();
        go_on(&mut *controller, &mut now_ns, 10);
        let rate = controller.rate_bits_per_second();
        assert!(rate > CAP / 2, "{rate} after it had fallen to {fell_to}");
    }

    proptest! {
        #[test]
        fn stays_between_floor_and_cap(cap in RATE_MIN..RATE_MAX, background: bool, seen in proptest::collection::vec(
            (any::<u32>(), 0..10_000_000u32, any::<u32>(), any::<u32>(), any::<u32>(), 0..1_001u32), 1..100)) {
            let mode = if background { Mode::Background } else { Mode::Fair };
            let mut controller = controller(&config(mode, Some(cap), 1.0));
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
