//! A model of a TCP CUBIC flow (RFC 9438) with HyStart's delay exit (RFC 9406), as Linux has it.

use crate::cross::{Acknowledgment, CrossFlow};

/// RFC 9438 section 5: the scaling constant in packets per second cubed.
const C: f64 = 0.4;
/// RFC 9438 section 4.6.
const BETA: f64 = 0.7;
const INITIAL_WINDOW: f64 = 10.0;
const WINDOW_MIN: f64 = 2.0;
const TIMEOUT_NS_MIN: u64 = 1_000_000_000;

/// The flow.
#[derive(Debug)]
pub struct Cubic {
    packet_bytes: f64,
    window: f64,
    threshold: f64,
    in_flight: f64,
    window_max: f64,
    /// When the present epoch of congestion avoidance began.
    epoch_ns: Option<u64>,
    /// Seconds from there until the window is at its maximum again.
    k: f64,
    /// The window that Reno would have.
    reno_window: f64,
    rtt_ns: u64,
    rtt_min_ns: u64,
    /// Loss of packets sent before this time was already answered with a reduction.
    recovery_until_ns: u64,
    heard_ns: u64,
}

impl Cubic {
    /// A flow that begins at `now_ns`.
    #[must_use]
    pub fn new(packet_bytes: f64, now_ns: u64) -> Self {
        Self {
            packet_bytes,
            window: INITIAL_WINDOW,
            threshold: f64::INFINITY,
            in_flight: 0.0,
            window_max: 0.0,
            epoch_ns: None,
            k: 0.0,
            reno_window: 0.0,
            rtt_ns: 0,
            rtt_min_ns: u64::MAX,
            recovery_until_ns: 0,
            heard_ns: now_ns,
        }
    }

    fn grow(&mut self, packets: f64, now_ns: u64) {
        if self.window < self.threshold {
            self.window += packets;
            // HyStart leaves slow start when the delay has grown by an eighth, at least 4 and at
            // most 16 ms.
            let allowed = (self.rtt_min_ns / 8).clamp(4_000_000, 16_000_000);
            if self.rtt_ns > self.rtt_min_ns + allowed {
                self.threshold = self.window;
            }
            return;
        }
        let epoch_ns = *self.epoch_ns.get_or_insert_with(|| {
            self.reno_window = self.window;
            self.window_max = self.window_max.max(self.window);
            self.k = ((self.window_max - self.window) / C).cbrt();
            now_ns
        });
        let seconds = (now_ns - epoch_ns) as f64 / 1e9 + self.rtt_ns as f64 / 1e9;
        let target = (C * (seconds - self.k).powi(3) + self.window_max).clamp(self.window, 1.5 * self.window);
        self.window += (target - self.window) / self.window * packets;
        self.reno_window += 3.0 * (1.0 - BETA) / (1.0 + BETA) * packets / self.window;
        self.window = self.window.max(self.reno_window);
    }

    fn reduce(&mut self, now_ns: u64) {
        // Fast convergence: a flow that did not regain its last maximum leaves room for others.
        self.window_max = if self.window < self.window_max { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.window = (self.window * BETA).max(WINDOW_MIN);
        self.threshold = self.window;
        self.epoch_ns = None;
        self.recovery_until_ns = now_ns;
    }
}

impl CrossFlow for Cubic {
    fn on_acknowledgment(&mut self, seen: &Acknowledgment, now_ns: u64) {
        self.heard_ns = now_ns;
        self.rtt_ns = now_ns - seen.sent_ns;
        self.rtt_min_ns = self.rtt_min_ns.min(self.rtt_ns);
        self.in_flight = (self.in_flight - seen.packets - seen.lost).max(0.0);
        if seen.lost > 0.5 && seen.sent_ns >= self.recovery_until_ns {
            self.reduce(now_ns);
        } else if seen.sent_ns >= self.recovery_until_ns {
            self.grow(seen.packets, now_ns);
        }
    }

    fn send(&mut self, now_ns: u64, _: u64) -> f64 {
        let timeout_ns = TIMEOUT_NS_MIN.max(3 * self.rtt_ns);
        if self.in_flight > 0.0 && now_ns.saturating_sub(self.heard_ns) > timeout_ns {
            self.reduce(now_ns);
            (self.window, self.in_flight, self.heard_ns) = (WINDOW_MIN, 0.0, now_ns);
        }
        let packets = (self.window - self.in_flight).floor().max(0.0);
        if self.in_flight <= 0.0 && packets > 0.0 {
            self.heard_ns = now_ns;
        }
        self.in_flight += packets;
        packets
    }

    fn rate_bits_per_second(&self) -> f64 {
        self.window * self.packet_bytes * 8e9 / self.rtt_ns.max(1) as f64
    }
}
