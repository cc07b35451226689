//! A Culvert flow of the batch simulator: the real controller, with its sender and receiver reduced
//! to counts.
//!
//! The sender releases whole packets at the controller's rate, as the pacer does. Lost packets go
//! again before new data, so every arrival is new data as long as no late packet is declared lost;
//! goodput is then the payload of what arrives. The receiver reports as the real one
//! does: at each interval of max(RTT/4, 2 ms) if there is news, every 100 ms otherwise. What it
//! reports is put together as `control` does it from two reports.

use culvert_protocol::rate_control::{ControllerConfig, Mode, Observation, RateController, controller};

use culvert_protocol::wire::OVERHEAD_BYTES;

use crate::feedback::FeedbackChannel;
use crate::link::{Batch, Path};

/// Bytes of Culvert's header and tag, and of IPv4 and UDP.
pub const HEADERS_BYTES: f64 = (OVERHEAD_BYTES + 28) as f64;
/// Payload of a segment on a jumbo path.
pub const JUMBO_STRIDE: u16 = 8_924;
const INTERVAL_NS_MIN: u64 = 2_000_000;
const INTERVAL_NS_MAX: u64 = 100_000_000;
const KEEPALIVE_NS: u64 = 100_000_000;
/// Packets in flight whose fate may be unknown, as in `sender_flow`.
const WINDOW_PACKETS: f64 = 1_048_576.0;

/// What a flow is opened with.
#[derive(Clone, Copy, Debug)]
pub struct FlowOptions {
    /// How it treats other traffic.
    pub mode: Mode,
    /// The user's rate.
    pub cap: Option<u64>,
    /// A rate in bits per second that was measured before.
    pub start: Option<u64>,
    /// Payload of a segment.
    pub stride: u16,
    /// Chance that a report's packet is lost.
    pub feedback_loss: f64,
    /// Delay of reports beyond half the round trip.
    pub feedback_extra_ns: u64,
    /// Payload bytes after which the flow ends.
    pub bytes: Option<f64>,
}

impl Default for FlowOptions {
    fn default() -> Self {
        Self {
            mode: Mode::Fair,
            cap: None,
            start: None,
            stride: JUMBO_STRIDE,
            feedback_loss: 0.0,
            feedback_extra_ns: 0,
            bytes: None,
        }
    }
}

/// A report in flight.
#[derive(Clone, Copy, Debug)]
struct Report {
    echo_ns: u64,
    hold_ns: u64,
    delay_min_ns: u64,
    interval_ns: u64,
    packets: f64,
    lost: f64,
}

/// The flow.
#[derive(Debug)]
pub struct CulvertFlow {
    controller: Box<dyn RateController>,
    options: FlowOptions,
    /// Bytes of a whole packet.
    pub packet_bytes: f64,
    budget_bytes: f64,
    in_flight: f64,
    paced_ns: u64,
    observed_ns: u64,
    feedback: FeedbackChannel<Report>,
    interval_ns: u64,
    // The receiver.
    reported_ns: u64,
    packets: f64,
    lost: f64,
    delay_min_ns: u64,
    echo_ns: u64,
    arrival_ns: u64,
    /// Payload bytes that have arrived.
    pub delivered_bytes: f64,
    /// Packets that were reported lost.
    pub lost_packets: f64,
    /// Packets sent.
    pub sent_packets: f64,
    /// When the last byte arrived, if the flow has an end.
    pub finished_ns: Option<u64>,
    /// Reports written.
    pub reports: u64,
}

impl CulvertFlow {
    /// A flow that begins at `now_ns` over `path`; its handshake has measured the round trip.
    #[must_use]
    pub fn new(options: FlowOptions, path: &Path, now_ns: u64, seed: u64) -> Self {
        let rtt_ns = path.rtt_ns + options.feedback_extra_ns;
        let back_ns = path.rtt_ns - path.rtt_ns / 2 + options.feedback_extra_ns;
        Self {
            controller: controller(&ControllerConfig {
                mode: options.mode,
                cap_bits_per_second: options.cap,
                start_bits_per_second: options.start,
                rtt_ns,
                stride: options.stride,
            }),
            options,
            packet_bytes: f64::from(options.stride) + HEADERS_BYTES,
            budget_bytes: 0.0,
            in_flight: 0.0,
            paced_ns: 0,
            observed_ns: now_ns,
            feedback: FeedbackChannel::new(back_ns, rtt_ns, options.feedback_loss, seed),
            interval_ns: (rtt_ns / 4).clamp(INTERVAL_NS_MIN, INTERVAL_NS_MAX),
            reported_ns: now_ns,
            packets: 0.0,
            lost: 0.0,
            delay_min_ns: u64::MAX,
            echo_ns: now_ns,
            arrival_ns: now_ns,
            delivered_bytes: 0.0,
            lost_packets: 0.0,
            sent_packets: 0.0,
            finished_ns: None,
            reports: 0,
        }
    }

    /// The controller's rate.
    #[must_use]
    pub fn rate_bits_per_second(&self) -> u64 {
        self.controller.rate_bits_per_second()
    }

    /// The controller, to inspect its state.
    #[must_use]
    pub fn controller(&self) -> &dyn RateController {
        &*self.controller
    }

    /// Follows a change of the path.
    pub fn path_changed(&mut self, path: &Path, now_ns: u64, dark_since_ns: u64) {
        self.feedback.delay_ns = path.rtt_ns - path.rtt_ns / 2 + self.options.feedback_extra_ns;
        self.feedback.rtt_ns = path.rtt_ns + self.options.feedback_extra_ns;
        self.feedback.set_dark(path.is_dark, now_ns, dark_since_ns);
    }

    /// How many packets it sends in the step that begins now.
    pub fn send(&mut self, step_ns: u64) -> f64 {
        if self.finished_ns.is_some() {
            return 0.0;
        }
        self.budget_bytes += self.controller.rate_bits_per_second() as f64 * step_ns as f64 / 8e9;
        let due = (self.budget_bytes / self.packet_bytes).floor();
        let room = (WINDOW_PACKETS - self.in_flight).floor().max(0.0);
        let packets = due.min(room);
        if due <= room {
            self.paced_ns += step_ns;
            self.budget_bytes -= packets * self.packet_bytes;
        } else {
            self.budget_bytes = 0.0;
        }
        self.in_flight += packets;
        // Invariant I-sim-window: A simulated flow has no more packets in flight than a real one.
        assert!(self.in_flight <= WINDOW_PACKETS, "{} packets are in flight", self.in_flight);
        self.sent_packets += packets;
        packets
    }

    /// A batch has arrived at the receiver.
    pub fn receive(&mut self, batch: &Batch, arrival_ns: u64) {
        self.packets += batch.packets;
        self.lost += batch.lost;
        self.delivered_bytes += batch.packets * f64::from(self.options.stride);
        // Invariant I-sim-causality: No simulated packet arrives before it was sent.
        assert!(arrival_ns >= batch.sent_ns, "sent at {} ns, arrived at {arrival_ns} ns", batch.sent_ns);
        let delay_ns = arrival_ns - batch.sent_ns;
        self.delay_min_ns = self.delay_min_ns.min(delay_ns);
        if batch.sent_ns >= self.echo_ns {
            (self.echo_ns, self.arrival_ns) = (batch.sent_ns, arrival_ns);
        }
        if self.options.bytes.is_some_and(|bytes| self.delivered_bytes >= bytes) {
            self.finished_ns.get_or_insert(arrival_ns);
        }
    }

    /// The receiver reports if it is time.
    pub fn report(&mut self, now_ns: u64) {
        let since_ns = now_ns - self.reported_ns;
        let has_news = self.packets > 0.0 || self.lost > 0.0;
        if !((since_ns >= self.interval_ns && has_news) || since_ns >= KEEPALIVE_NS) {
            return;
        }
        let report = Report {
            echo_ns: self.echo_ns,
            hold_ns: now_ns - self.arrival_ns,
            delay_min_ns: self.delay_min_ns,
            interval_ns: since_ns,
            packets: self.packets,
            lost: self.lost,
        };
        self.reports += 1;
        self.feedback.send(report, now_ns);
        (self.packets, self.lost, self.delay_min_ns, self.reported_ns) = (0.0, 0.0, u64::MAX, now_ns);
    }

    /// The sender reads the reports that have arrived.
    pub fn observe(&mut self, now_ns: u64) {
        while let Some(report) = self.feedback.receive(now_ns) {
            let elapsed_ns = (now_ns - self.observed_ns).max(1);
            let paced_permille = (self.paced_ns.min(elapsed_ns) * 900 / elapsed_ns) as u32;
            (self.paced_ns, self.observed_ns) = (0, now_ns);
            self.in_flight = (self.in_flight - report.packets - report.lost).max(0.0);
            self.lost_packets += report.lost;
            let has_arrivals = report.packets > 0.0;
            self.controller.observe(&Observation {
                now_ns,
                rtt_ns: if has_arrivals { now_ns.saturating_sub(report.echo_ns + report.hold_ns) } else { 0 },
                // An unknown constant between the clocks.
                delay_min_us: if has_arrivals { (report.delay_min_ns / 1_000) as u32 } else { 0 }.wrapping_sub(77_777),
                interval_us: (report.interval_ns / 1_000) as u32,
                delivered_bytes: (report.packets * self.packet_bytes) as u64,
                delivered_packets: report.packets.ceil() as u64,
                lost_packets: report.lost.round() as u64,
                busy_permille: 0,
                paced_permille,
            });
        }
    }
}
