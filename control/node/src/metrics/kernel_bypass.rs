//! Metrics of AF_XDP: packets by the steering program's verdict, datagrams by their way through
//! rings or kernel, and frames by place.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use culvert_link::counters::LaneCounter;
use culvert_link::kernel_bypass::Mode;
use culvert_plane::DataPlane;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Datagrams by way and direction.
const WAYS: [(LaneCounter, &str, &str); 4] = [
    (LaneCounter::RingReceived, "rings", "receive"),
    (LaneCounter::KernelReceived, "kernel", "receive"),
    (LaneCounter::RingSent, "rings", "send"),
    (LaneCounter::KernelSent, "kernel", "send"),
];
/// Frames by purpose and place.
const FRAMES: [(LaneCounter, &str, &str); 6] = [
    (LaneCounter::ReceiveFramesFree, "receive", "free"),
    (LaneCounter::ReceiveFramesHeld, "receive", "held"),
    (LaneCounter::ReceiveFramesLent, "receive", "lent"),
    (LaneCounter::TransmitFramesFree, "transmit", "free"),
    (LaneCounter::TransmitFramesHeld, "transmit", "held"),
    (LaneCounter::TransmitFramesLent, "transmit", "lent"),
];

/// The data plane's counters at the last scrape. Each of its processes counts from zero.
#[derive(Debug, Default)]
struct Collected {
    process: u32,
    /// By queue or lane, and the counter's names.
    values: HashMap<(usize, &'static str, &'static str), u64>,
}

/// The metrics of AF_XDP.
#[derive(Debug)]
pub(super) struct KernelBypassMetrics {
    frames: IntCounterVec,
    datagrams: IntCounterVec,
    places: IntGaugeVec,
    malformed: IntCounter,
    wakeups: IntCounterVec,
    moves: IntCounter,
    mode: IntGaugeVec,
    collected: Mutex<Collected>,
}

impl KernelBypassMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let vector = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let gauge = |name, help, labels: &[&str]| IntGaugeVec::new(Opts::new(name, help), labels);
        let metrics = Self {
            frames: register!(
                registry,
                vector(
                    "culvert_xdp_frames_total",
                    "Packets of the interface's queues, by the steering program's verdict.",
                    &["queue", "result"]
                )
            ),
            datagrams: register!(
                registry,
                vector(
                    "culvert_xdp_datagrams_total",
                    "Datagrams of lanes on AF_XDP, through the rings or the kernel.",
                    &["lane", "direction", "way"]
                )
            ),
            places: register!(
                registry,
                gauge(
                    "culvert_xdp_packet_memory_frames",
                    "Frames of a lane's packet memory when it last had no flow, by place; held ones are lost.",
                    &["lane", "purpose", "place"]
                )
            ),
            malformed: register!(
                registry,
                IntCounter::new("culvert_xdp_descriptors_malformed_total", "Invalid descriptors from the kernel.")
            ),
            wakeups: register!(
                registry,
                vector("culvert_xdp_wakeups_total", "Calls that woke the kernel for a lane's rings.", &["lane"])
            ),
            moves: register!(
                registry,
                IntCounter::new(
                    "culvert_xdp_flow_moves_total",
                    "Requests to send a flow from another port, so that it arrives on its lane's queue."
                )
            ),
            mode: register!(
                registry,
                gauge("culvert_xdp_mode", "The mode of AF_XDP: 1 for the one in use, all 0 for UDP.", &["mode"])
            ),
            collected: Mutex::default(),
        };
        metrics.set_mode(None);
        metrics
    }

    /// Adds what was counted since the last call.
    pub(super) async fn collect(&self, plane: &DataPlane) {
        self.set_mode(plane.af_xdp_mode());
        let Some(census) = plane.census().await else { return };
        let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        if collected.process != plane.process_id() {
            *collected = Collected { process: plane.process_id(), values: HashMap::new() };
        }
        let mut gained = |place: usize, what: &'static str, which: &'static str, now: u64| {
            let before = collected.values.insert((place, what, which), now).unwrap_or(0);
            now.saturating_sub(before)
        };
        self.moves.inc_by(gained(0, "plane", "moves", plane.moves()));
        for (number, verdicts) in census.queues.iter().enumerate() {
            for (result, packets) in verdicts.named() {
                let queue = number.to_string();
                self.frames.with_label_values(&[&queue, result]).inc_by(gained(number, "verdict", result, packets));
            }
        }
        for lane in 0..plane.lanes().len() {
            let (name, counters) = (lane.to_string(), plane.counters(lane));
            for (counter, way, direction) in WAYS {
                let datagrams = gained(lane, direction, way, counters.get(counter));
                self.datagrams.with_label_values(&[&name, direction, way]).inc_by(datagrams);
            }
            for (counter, purpose, place) in FRAMES {
                self.places.with_label_values(&[&name, purpose, place]).set(counters.get(counter) as i64);
            }
            self.malformed.inc_by(gained(lane, "lane", "malformed", counters.get(LaneCounter::RingMalformed)));
            let wakeups = gained(lane, "lane", "wakeups", counters.get(LaneCounter::RingWakeups));
            self.wakeups.with_label_values(&[&name]).inc_by(wakeups);
        }
    }

    fn set_mode(&self, mode: Option<&str>) {
        for known in [Mode::ZeroCopy, Mode::Copy, Mode::Skb] {
            self.mode.with_label_values(&[known.name()]).set(i64::from(mode == Some(known.name())));
        }
    }
}
