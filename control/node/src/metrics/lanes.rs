//! Metrics of lanes: what their counters have gained since the last scrape.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use culvert_link::counters::{LaneCounter, LaneCounters};
use culvert_link::layout::LANE_WORDS;
use culvert_plane::DataPlane;
use prometheus::{CounterVec, GaugeVec, IntCounter, IntCounterVec, Opts, Registry};

/// Why segments are rejected: the counters and their label.
const REJECTED: [(LaneCounter, &str); 8] = [
    (LaneCounter::RejectedMalformed, "malformed"),
    (LaneCounter::RejectedUnknownFlow, "unknown_flow"),
    (LaneCounter::RejectedStale, "stale"),
    (LaneCounter::RejectedEpoch, "epoch"),
    (LaneCounter::RejectedNotAuthentic, "not_authentic"),
    (LaneCounter::RejectedForeignChunk, "foreign_chunk"),
    (LaneCounter::RejectedOverCredit, "over_credit"),
    (LaneCounter::RejectedDirection, "direction"),
];
/// What lanes wait for: the counters and their label.
const STALLS: [(LaneCounter, &str); 4] = [
    (LaneCounter::StallReadingNs, "source_read"),
    (LaneCounter::StallPacingNs, "pacing"),
    (LaneCounter::StallCreditNs, "partner_credit"),
    (LaneCounter::StallWritingNs, "destination_write"),
];

/// Counters of all lanes.
#[derive(Debug)]
pub(super) struct LaneMetrics {
    segments: IntCounterVec,
    resent: IntCounter,
    rejected: IntCounterVec,
    socket_drops: IntCounter,
    busy: GaugeVec,
    stall: CounterVec,
    buffers: GaugeVec,
    broken_invariants: IntCounterVec,
    disk_bytes: IntCounterVec,
    collected: Mutex<Collected>,
}

/// The lanes' counters at the last scrape.
#[derive(Debug, Default)]
struct Collected {
    process: u32,
    values: HashMap<(usize, usize), u64>,
}

impl LaneMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let counter = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let gauge = |name, help, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
        Self {
            segments: register!(
                registry,
                counter("culvert_segments_total", "Data segments sent and received.", &["direction"])
            ),
            resent: register!(registry, IntCounter::new("culvert_segments_resent_total", "Data segments sent again.")),
            rejected: register!(
                registry,
                counter("culvert_segments_rejected_total", "Datagrams dropped, by reason.", &["reason"])
            ),
            socket_drops: register!(
                registry,
                IntCounter::new(
                    "culvert_socket_drops_total",
                    "Datagrams dropped because a lane's socket buffer was full."
                )
            ),
            busy: register!(
                registry,
                gauge(
                    "culvert_lane_busy_ratio",
                    "Part of the time since the last scrape that a lane was busy.",
                    &["lane"]
                )
            ),
            stall: register!(
                registry,
                CounterVec::new(
                    Opts::new("culvert_lane_stall_seconds_total", "Time that flows of a lane waited, by cause."),
                    &["lane", "cause"]
                )
            ),
            buffers: register!(
                registry,
                gauge("culvert_lane_buffers_in_use", "Chunk buffers of a lane that are in use.", &["lane"])
            ),
            broken_invariants: register!(
                registry,
                counter(
                    "culvert_lane_broken_invariants_total",
                    "Internal checks of a lane that failed; anything but 0 is a defect of Culvert.",
                    &["lane"]
                )
            ),
            disk_bytes: register!(
                registry,
                counter("culvert_disk_bytes_total", "Bytes that the lanes read and wrote.", &["direction"])
            ),
            collected: Mutex::default(),
        }
    }

    /// Adds what the lanes have counted since the last call.
    pub(super) fn collect(&self, plane: &DataPlane) {
        let mut collected = self.collected.lock().unwrap_or_else(PoisonError::into_inner);
        if collected.process != plane.process_id() {
            // A new process counts from zero.
            *collected = Collected { process: plane.process_id(), values: HashMap::with_capacity(LANE_WORDS) };
        }
        for lane in 0..plane.lanes().len() {
            self.collect_lane(lane, &plane.counters(lane), &mut collected);
        }
    }

    fn collect_lane(&self, lane: usize, counters: &LaneCounters, collected: &mut Collected) {
        let name = lane.to_string();
        // The data plane writes the counters, and may be compromised: they may decrease.
        let mut gained = |counter: LaneCounter| {
            let now = counters.get(counter);
            let before = collected.values.insert((lane, counter as usize), now).unwrap_or(0);
            now.saturating_sub(before)
        };
        let broken = gained(LaneCounter::BrokenInvariants);
        self.broken_invariants.with_label_values(&[&name]).inc_by(broken);
        self.segments.with_label_values(&["send"]).inc_by(gained(LaneCounter::SegmentsSent));
        self.segments.with_label_values(&["receive"]).inc_by(gained(LaneCounter::SegmentsReceived));
        self.resent.inc_by(gained(LaneCounter::SegmentsResent));
        self.socket_drops.inc_by(gained(LaneCounter::SocketDrops));
        for (counter, reason) in REJECTED {
            self.rejected.with_label_values(&[reason]).inc_by(gained(counter));
        }
        for (counter, cause) in STALLS {
            self.stall.with_label_values(&[&name, cause]).inc_by(gained(counter) as f64 / 1e9);
        }
        self.disk_bytes.with_label_values(&["read"]).inc_by(gained(LaneCounter::DiskRead));
        self.disk_bytes.with_label_values(&["write"]).inc_by(gained(LaneCounter::DiskWritten));
        let (busy, idle) = (gained(LaneCounter::BusyNs), gained(LaneCounter::IdleNs));
        self.busy.with_label_values(&[&name]).set(busy as f64 / busy.saturating_add(idle).max(1) as f64);
        self.buffers.with_label_values(&[&name]).set(counters.get(LaneCounter::BuffersInUse) as f64);
    }
}
