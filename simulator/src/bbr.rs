//! A model of a BBR version 1 flow (Cardwell and others, ACM Queue 2016; Linux `tcp_bbr.c`).

use std::collections::VecDeque;

use crate::cross::{Acknowledgment, CrossFlow};

const HIGH_GAIN: f64 = 2.885;
const CYCLE: [f64; 8] = [1.25, 0.75, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
const BANDWIDTH_ROUNDS: usize = 10;
const RTT_WINDOW_NS: u64 = 10_000_000_000;
const PROBE_RTT_NS: u64 = 200_000_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    StartUp,
    Drain,
    ProbeBandwidth,
    ProbeRtt,
}

/// The flow.
#[derive(Debug)]
pub struct Bbr {
    packet_bytes: f64,
    phase: Phase,
    in_flight: f64,
    budget: f64,
    /// Packets per second, the best of each of the last rounds.
    bandwidth: VecDeque<f64>,
    full_bandwidth: f64,
    full_rounds: u32,
    rtt_min_ns: u64,
    rtt_min_at_ns: u64,
    round_end_ns: u64,
    cycle_at: usize,
    cycle_began_ns: u64,
    probe_rtt_until_ns: u64,
    /// Arrivals of the last round trip: time and packets.
    arrivals: VecDeque<(u64, f64)>,
    arrived: f64,
    heard_ns: u64,
}

impl Bbr {
    /// A flow that begins at `now_ns`; `offset` staggers the cycles of several.
    #[must_use]
    pub fn new(packet_bytes: f64, now_ns: u64, offset: usize) -> Self {
        Self {
            packet_bytes,
            phase: Phase::StartUp,
            in_flight: 0.0,
            budget: 0.0,
            bandwidth: VecDeque::from([0.0]),
            full_bandwidth: 0.0,
            full_rounds: 0,
            rtt_min_ns: u64::MAX,
            rtt_min_at_ns: now_ns,
            round_end_ns: now_ns,
            cycle_at: 2 + offset % 6,
            cycle_began_ns: now_ns,
            probe_rtt_until_ns: 0,
            arrivals: VecDeque::new(),
            arrived: 0.0,
            heard_ns: now_ns,
        }
    }

    fn best(&self) -> f64 {
        self.bandwidth.iter().copied().fold(0.0, f64::max)
    }

    fn product(&self) -> f64 {
        if self.rtt_min_ns == u64::MAX { 10.0 } else { self.best() * self.rtt_min_ns as f64 / 1e9 }
    }

    fn gains(&self) -> (f64, f64) {
        match self.phase {
            Phase::StartUp => (HIGH_GAIN, HIGH_GAIN),
            Phase::Drain => (1.0 / HIGH_GAIN, HIGH_GAIN),
            Phase::ProbeBandwidth => (CYCLE[self.cycle_at], 2.0),
            Phase::ProbeRtt => (1.0, 0.0),
        }
    }

    fn measure(&mut self, packets: f64, now_ns: u64, rtt_ns: u64) {
        self.arrivals.push_back((now_ns, packets));
        self.arrived += packets;
        let window_ns = self.rtt_min_ns.min(rtt_ns).max(1);
        while let Some(&(at_ns, packets)) = self.arrivals.front().filter(|(at_ns, _)| now_ns - at_ns >= window_ns) {
            let _ = at_ns;
            self.arrived -= packets;
            self.arrivals.pop_front();
        }
        let rate = self.arrived * 1e9 / window_ns as f64;
        if let Some(newest) = self.bandwidth.back_mut() {
            *newest = newest.max(rate);
        }
    }

    fn end_round(&mut self, now_ns: u64, rtt_ns: u64) {
        self.round_end_ns = now_ns + rtt_ns;
        let best = self.best();
        if self.phase == Phase::StartUp {
            if best > self.full_bandwidth * 1.25 {
                (self.full_bandwidth, self.full_rounds) = (best, 0);
            } else {
                self.full_rounds += 1;
                if self.full_rounds >= 3 {
                    self.phase = Phase::Drain;
                }
            }
        }
        self.bandwidth.push_back(0.0);
        if self.bandwidth.len() > BANDWIDTH_ROUNDS {
            self.bandwidth.pop_front();
        }
    }

    fn step_phase(&mut self, now_ns: u64, had_loss: bool) {
        match self.phase {
            Phase::Drain if self.in_flight <= self.product() => {
                self.phase = Phase::ProbeBandwidth;
                self.cycle_began_ns = now_ns;
            }
            Phase::ProbeBandwidth => {
                let elapsed = now_ns - self.cycle_began_ns > self.rtt_min_ns;
                let done = match self.cycle_at {
                    0 => elapsed && (had_loss || self.in_flight >= 1.25 * self.product()),
                    1 => elapsed || self.in_flight <= self.product(),
                    _ => elapsed,
                };
                if done {
                    self.cycle_at = (self.cycle_at + 1) % CYCLE.len();
                    self.cycle_began_ns = now_ns;
                }
            }
            Phase::ProbeRtt if now_ns >= self.probe_rtt_until_ns => {
                self.phase = Phase::ProbeBandwidth;
                self.rtt_min_at_ns = now_ns;
                self.cycle_began_ns = now_ns;
            }
            _ => {}
        }
        if self.phase == Phase::ProbeBandwidth && now_ns - self.rtt_min_at_ns > RTT_WINDOW_NS {
            self.phase = Phase::ProbeRtt;
            self.probe_rtt_until_ns = now_ns + PROBE_RTT_NS + self.rtt_min_ns;
            self.rtt_min_ns = u64::MAX;
        }
    }
}

impl CrossFlow for Bbr {
    fn on_acknowledgment(&mut self, seen: &Acknowledgment, now_ns: u64) {
        let rtt_ns = now_ns - seen.sent_ns;
        self.heard_ns = now_ns;
        self.in_flight = (self.in_flight - seen.packets - seen.lost).max(0.0);
        if rtt_ns <= self.rtt_min_ns {
            (self.rtt_min_ns, self.rtt_min_at_ns) = (rtt_ns, now_ns);
        }
        self.measure(seen.packets, now_ns, rtt_ns);
        if now_ns >= self.round_end_ns {
            self.end_round(now_ns, rtt_ns);
        }
        self.step_phase(now_ns, seen.lost > 0.5);
    }

    fn send(&mut self, now_ns: u64, step_ns: u64) -> f64 {
        if self.in_flight > 0.0 && now_ns.saturating_sub(self.heard_ns) > 1_000_000_000 {
            (self.in_flight, self.heard_ns) = (0.0, now_ns);
        }
        let (pacing_gain, window_gain) = self.gains();
        let window = (window_gain * self.product()).max(if self.phase == Phase::ProbeRtt { 4.0 } else { 10.0 });
        let rate = if self.best() > 0.0 { pacing_gain * self.best() } else { 10.0 * 1e3 };
        self.budget = (self.budget + rate * step_ns as f64 / 1e9).min(rate * 0.002 + 2.0);
        let packets = self.budget.floor().min((window - self.in_flight).floor()).max(0.0);
        if self.in_flight <= 0.0 && packets > 0.0 {
            self.heard_ns = now_ns;
        }
        self.budget -= packets;
        self.in_flight += packets;
        packets
    }

    fn rate_bits_per_second(&self) -> f64 {
        self.best() * self.packet_bytes * 8.0
    }
}
