//! What a node counts, in Prometheus' text format. Names, labels and meanings are part of the
//! contract; nothing here ever carries a file's name, a user or a transfer's id.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use culvert_engine::events::{Event, Observer, Stage};
use culvert_engine::limits::Limit;
use culvert_link::commands::ChunkTimes;
use culvert_link::counters::{LaneCounter, LaneCounters};
use culvert_link::layout::LANE_WORDS;
use culvert_model::record::RecordState;
use culvert_model::result::TransferResult;
use culvert_plane::{DataPlane, Supervisor};
use culvert_tuning::audit::FindingCounts;
use prometheus::{
    Counter, CounterVec, Encoder as _, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Bounds of round trips in seconds: a LAN to the far side of a satellite.
const RTT_SECONDS: [f64; 14] =
    [25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0];
/// Bounds of a chunk's stages in seconds.
const CHUNK_SECONDS: [f64; 13] =
    [50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 100e-3, 500e-3, 2.0, 10.0];
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

/// A lane's counters when they were last taken over.
#[derive(Debug, Default)]
struct LaneSeen {
    process: u32,
    values: HashMap<(usize, usize), u64>,
}

/// The metrics of a node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    transfers: IntGaugeVec,
    transfer_bytes: IntCounterVec,
    goodput: GaugeVec,
    files: IntCounterVec,
    segments: IntCounterVec,
    resent: IntCounter,
    rejected: IntCounterVec,
    socket_drops: IntCounter,
    pacing: GaugeVec,
    rtt: HistogramVec,
    chunk_seconds: HistogramVec,
    lane_busy: GaugeVec,
    lane_stall: CounterVec,
    lane_buffers: GaugeVec,
    lane_broken_invariants: IntCounterVec,
    disk_bytes: IntCounterVec,
    kernel_bypass: kernel_bypass::KernelBypassMetrics,
    restarts: Counter,
    tuning_findings: IntGaugeVec,
    limits: IntCounterVec,
    failures: IntCounter,
    retries: IntCounter,
    own_reports: IntCounterVec,
    refused_connections: IntCounter,
    turned_away: IntCounterVec,
    up_seconds: Gauge,
    began: Instant,
    lanes_seen: Mutex<LaneSeen>,
}

/// Who may be turned away, and why.
const TURNED_AWAY: &[(&str, &[&str])] = &[
    ("control", &["silent", "crowded", "too_many", "slow", "broken", "unknown_key", "profiles"]),
    ("asking", &["silent", "crowded", "broken", "own_places_taken", "all_places_taken"]),
    ("pending_keys", &["too_many", "all_places_taken"]),
    ("metrics", OF_PROGRAMS),
    ("psconfig", OF_PROGRAMS),
    ("api", OF_PROGRAMS),
];
/// Why programs are turned away that ask over HTTP.
const OF_PROGRAMS: &[&str] = &["silent", "broken", "crowded", "slow", "own_places_taken", "all_places_taken"];

/// Makes a metric and registers it. The names are constants, so a mistake in one shows in the first
/// test.
macro_rules! register {
    ($registry:expr, $metric:expr) => {{
        let metric = $metric.expect("the metric's name and labels are well-formed");
        $registry.register(Box::new(metric.clone())).expect("each metric is registered once");
        metric
    }};
}

// After the macro, which it uses.
mod kernel_bypass;

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Metrics {
    fn note(&self, event: Event<'_>) {
        match event {
            Event::LimitReached(limit) => self.note_limit(limit),
            Event::AttemptFailed => self.retries.inc(),
            Event::Reported { partner, round_trip, pacing_bits_per_second } => {
                self.note_report(partner, round_trip, pacing_bits_per_second);
            }
            Event::ReportSent { is_late } => {
                self.own_reports.with_label_values(&[if is_late { "late" } else { "in_time" }]).inc();
            }
            Event::ChunkMoved { times, is_sender } => self.note_chunk(times, is_sender),
            Event::StageTook { stage, time } => self.note_stage(stage, time),
            Event::Succeeded { result, partner, is_sender } => self.note_result(result, partner, is_sender),
            Event::Failed => self.failures.inc(),
        }
    }
}

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Panics
    /// If a metric's name is not well-formed, which the tests exclude.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let build = Opts::new("culvert_build_info", "The version of the running program; always 1.")
            .const_label("version", env!("CARGO_PKG_VERSION"));
        register!(registry, Gauge::with_opts(build)).set(1.0);
        let r = &registry;
        let histogram = |name, help, bounds: &[f64]| HistogramOpts::new(name, help).buckets(bounds.to_vec());
        let metrics = Self {
            transfers: register!(
                r,
                IntGaugeVec::new(Opts::new("culvert_transfers", "Recorded transfers, by state."), &["state"])
            ),
            transfer_bytes: register!(
                r,
                IntCounterVec::new(
                    Opts::new("culvert_transfer_bytes_total", "Bytes of files moved by ended transfers."),
                    &["direction", "peer"]
                )
            ),
            goodput: register!(
                r,
                GaugeVec::new(
                    Opts::new("culvert_goodput_bits_per_second", "Bits of files per second of the last transfer."),
                    &["direction", "peer"]
                )
            ),
            files: register!(
                r,
                IntCounterVec::new(
                    Opts::new("culvert_files_total", "Files of ended transfers, by result."),
                    &["result"]
                )
            ),
            segments: register!(
                r,
                IntCounterVec::new(
                    Opts::new("culvert_segments_total", "Data segments sent and received."),
                    &["direction"]
                )
            ),
            resent: register!(r, IntCounter::new("culvert_segments_resent_total", "Data segments sent again.")),
            rejected: register!(
                r,
                IntCounterVec::new(
                    Opts::new("culvert_segments_rejected_total", "Datagrams dropped, by reason."),
                    &["reason"]
                )
            ),
            socket_drops: register!(
                r,
                IntCounter::new(
                    "culvert_socket_drops_total",
                    "Datagrams dropped because a lane's socket buffer was full."
                )
            ),
            pacing: register!(
                r,
                GaugeVec::new(
                    Opts::new(
                        "culvert_pacing_rate_bits_per_second",
                        "The pacing rate at the end of the last transfer."
                    ),
                    &["peer"]
                )
            ),
            rtt: register!(
                r,
                HistogramVec::new(
                    histogram("culvert_rtt_seconds", "Round trips of reports, by partner.", &RTT_SECONDS),
                    &["peer"]
                )
            ),
            chunk_seconds: register!(
                r,
                HistogramVec::new(
                    histogram("culvert_chunk_seconds", "Time that chunks spend in each stage.", &CHUNK_SECONDS),
                    &["stage"]
                )
            ),
            lane_busy: register!(
                r,
                GaugeVec::new(
                    Opts::new(
                        "culvert_lane_busy_ratio",
                        "Part of the time since the last scrape that a lane was busy."
                    ),
                    &["lane"]
                )
            ),
            lane_stall: register!(
                r,
                CounterVec::new(
                    Opts::new("culvert_lane_stall_seconds_total", "Time that flows of a lane waited, by cause."),
                    &["lane", "cause"]
                )
            ),
            lane_buffers: register!(
                r,
                GaugeVec::new(
                    Opts::new("culvert_lane_buffers_in_use", "Chunk buffers of a lane that are in use."),
                    &["lane"]
                )
            ),
            lane_broken_invariants: register!(
                r,
                IntCounterVec::new(
                    Opts::new(
                        "culvert_lane_broken_invariants_total",
                        "Internal checks of a lane that failed; anything but 0 is a defect of Culvert."
                    ),
                    &["lane"]
                )
            ),
            disk_bytes: register!(
                r,
                IntCounterVec::new(
                    Opts::new("culvert_disk_bytes_total", "Bytes that the lanes read and wrote."),
                    &["direction"]
                )
            ),
            kernel_bypass: kernel_bypass::KernelBypassMetrics::new(r),
            restarts: register!(
                r,
                Counter::new(
                    "culvert_dataplane_restarts_total",
                    "How often the data plane process had to be restarted."
                )
            ),
            tuning_findings: register!(
                r,
                IntGaugeVec::new(
                    Opts::new(
                        "culvert_tuning_findings",
                        "Open findings of the host's audit, by severity; counted hourly."
                    ),
                    &["severity"]
                )
            ),
            limits: register!(
                r,
                IntCounterVec::new(
                    Opts::new(
                        "culvert_limits_reached_total",
                        "How often a partner reached a limit of this node, by limit."
                    ),
                    &["limit"]
                )
            ),
            failures: register!(
                r,
                IntCounter::new("culvert_transfer_failures_total", "Transfers that ended without a result.")
            ),
            retries: register!(
                r,
                IntCounter::new("culvert_transfer_retries_total", "Attempts that failed and were retried.")
            ),
            own_reports: register!(
                r,
                IntCounterVec::new(
                    Opts::new(
                        "culvert_reports_total",
                        "Reports of receiving flows, and those that waited in this process for more than two of their intervals.",
                    ),
                    &["result"]
                )
            ),
            refused_connections: register!(
                r,
                IntCounter::new("culvert_connections_refused_total", "Incoming connections that were refused.")
            ),
            turned_away: register!(
                r,
                IntCounterVec::new(
                    Opts::new(
                        "culvert_turned_away_total",
                        "Connections, requests and keys turned away because no slot was free or \
                         time ran out, by handshakes and reason.",
                    ),
                    &["lobby", "reason"]
                )
            ),
            up_seconds: register!(r, Gauge::new("culvert_uptime_seconds", "Time since the node was started.")),
            began: Instant::now(),
            lanes_seen: Mutex::default(),
            registry,
        };
        // Series that exist from the beginning let alert rules tell "none" from "not scraped".
        for (handshakes, reasons) in TURNED_AWAY {
            for reason in *reasons {
                metrics.turned_away.with_label_values(&[*handshakes, *reason]);
            }
        }
        for state in RecordState::ALL {
            metrics.transfers.with_label_values(&[state.word()]).set(0);
        }
        for result in ["stored", "skipped", "failed"] {
            metrics.files.with_label_values(&[result]);
        }
        for stage in Stage::ALL {
            metrics.chunk_seconds.with_label_values(&[stage.word()]);
        }
        metrics
    }

    /// A transfer ended with a result.
    fn note_result(&self, result: &TransferResult, peer: &str, is_sender: bool) {
        let direction = if is_sender { "send" } else { "receive" };
        self.transfer_bytes.with_label_values(&[direction, peer]).inc_by(result.bytes);
        self.goodput.with_label_values(&[direction, peer]).set(result.goodput_bps as f64);
        self.files.with_label_values(&["stored"]).inc_by(result.files.stored);
        self.files.with_label_values(&["skipped"]).inc_by(result.files.skipped);
        self.files.with_label_values(&["failed"]).inc_by(result.files.failed);
    }

    /// A flow's pacing rate and round trip, at a report.
    fn note_report(&self, peer: &str, rtt: Duration, pacing_bits_per_second: u64) {
        self.rtt.with_label_values(&[peer]).observe(rtt.as_secs_f64());
        self.pacing.with_label_values(&[peer]).set(pacing_bits_per_second as f64);
    }

    /// The time that a chunk spent in a stage.
    fn note_stage(&self, stage: Stage, time: Duration) {
        self.chunk_seconds.with_label_values(&[stage.word()]).observe(time.as_secs_f64());
    }

    /// How long a lane had a chunk: on the sending side from disk to network, on the receiving side
    /// the other way.
    fn note_chunk(&self, times: ChunkTimes, is_sender: bool) {
        let (disk, hash, network) = if is_sender {
            (Stage::Read, Stage::Hash, Stage::Send)
        } else {
            (Stage::Write, Stage::Verify, Stage::Receive)
        };
        for (stage, us) in [(disk, times.disk_us), (hash, times.hash_us), (network, times.network_us)] {
            self.note_stage(stage, Duration::from_micros(us.into()));
        }
    }

    /// A partner has reached a limit.
    pub fn note_limit(&self, limit: Limit) {
        self.limits.with_label_values(&[limit.word()]).inc();
    }

    /// The host was audited.
    pub fn note_findings(&self, counts: &FindingCounts) {
        for (severity, count) in counts.labels() {
            self.tuning_findings.with_label_values(&[severity]).set(i64::from(count));
        }
    }

    /// An incoming connection was refused.
    pub fn note_refused_connection(&self) {
        self.refused_connections.inc();
    }

    /// A connection or request found no free slot, or timed out.
    pub fn note_turned_away(&self, stage: &str, reason: &str) {
        debug_assert!(
            TURNED_AWAY.iter().any(|(known, reasons)| *known == stage && reasons.contains(&reason)),
            "{stage} has a series for {reason} from the beginning"
        );
        self.turned_away.with_label_values(&[stage, reason]).inc();
    }

    /// Everything but what is known of paths, as text. `counts` says how many transfers are in each
    /// state.
    pub async fn render(&self, counts: &HashMap<RecordState, u64>, supervisor: &Supervisor) -> String {
        for state in RecordState::ALL {
            let count = counts.get(&state).copied().unwrap_or(0);
            self.transfers.with_label_values(&[state.word()]).set(count as i64);
        }
        self.up_seconds.set(self.began.elapsed().as_secs_f64());
        let restarts = supervisor.restarts() as f64;
        self.restarts.inc_by((restarts - self.restarts.get()).max(0.0));
        if let Some(plane) = supervisor.running().await {
            self.kernel_bypass.take_over(&plane).await;
            self.take_lanes_over(&plane);
        }
        let mut text = Vec::new();
        // Writing to memory does not fail, and what is gathered is well-formed.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Adds what the lanes have counted since they were last looked at.
    fn take_lanes_over(&self, plane: &DataPlane) {
        let mut seen = self.lanes_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.process != plane.process_id() {
            // A new process counts from zero.
            *seen = LaneSeen { process: plane.process_id(), values: HashMap::with_capacity(LANE_WORDS) };
        }
        for lane in 0..plane.lanes().len() {
            self.take_lane_over(lane, &plane.counters(lane), &mut seen);
        }
    }

    fn take_lane_over(&self, lane: usize, counters: &LaneCounters, seen: &mut LaneSeen) {
        let name = lane.to_string();
        let mut since = |counter: LaneCounter| {
            let now = counters.get(counter);
            let before = seen.values.insert((lane, counter as usize), now).unwrap_or(0);
            now.saturating_sub(before)
        };
        self.segments.with_label_values(&["send"]).inc_by(since(LaneCounter::SegmentsSent));
        self.segments.with_label_values(&["receive"]).inc_by(since(LaneCounter::SegmentsReceived));
        self.resent.inc_by(since(LaneCounter::SegmentsResent));
        self.socket_drops.inc_by(since(LaneCounter::SocketDrops));
        for (counter, reason) in REJECTED {
            self.rejected.with_label_values(&[reason]).inc_by(since(counter));
        }
        for (counter, cause) in STALLS {
            self.lane_stall.with_label_values(&[&name, cause]).inc_by(since(counter) as f64 / 1e9);
        }
        self.disk_bytes.with_label_values(&["read"]).inc_by(since(LaneCounter::DiskRead));
        self.disk_bytes.with_label_values(&["write"]).inc_by(since(LaneCounter::DiskWritten));
        let broken = since(LaneCounter::BrokenInvariants);
        self.lane_broken_invariants.with_label_values(&[&name]).inc_by(broken);
        let (busy, idle) = (since(LaneCounter::BusyNs), since(LaneCounter::IdleNs));
        self.lane_busy.with_label_values(&[&name]).set(busy as f64 / busy.saturating_add(idle).max(1) as f64);
        self.lane_buffers.with_label_values(&[&name]).set(counters.get(LaneCounter::BuffersInUse) as f64);
    }
}
