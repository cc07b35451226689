//! Metrics of transfers, from the engine's events.

use std::collections::HashMap;
use std::time::Duration;

use culvert_engine::events::{Event, Stage};
use culvert_link::commands::ChunkTimes;
use culvert_model::record::RecordState;
use culvert_model::result::TransferResult;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Bounds of round-trip times in seconds: from a LAN to the far side of a satellite.
const RTT_SECONDS: [f64; 14] =
    [25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 50e-3, 100e-3, 250e-3, 1.0];
/// Bounds of a chunk's time in a stage, in seconds.
const CHUNK_SECONDS: [f64; 13] =
    [50e-6, 100e-6, 250e-6, 500e-6, 1e-3, 2.5e-3, 5e-3, 10e-3, 25e-3, 100e-3, 500e-3, 2.0, 10.0];

/// Counters of all transfers.
#[derive(Debug)]
pub(super) struct TransferMetrics {
    counts: IntGaugeVec,
    bytes: IntCounterVec,
    goodput: GaugeVec,
    files: IntCounterVec,
    pacing: GaugeVec,
    rtt: HistogramVec,
    chunk_seconds: HistogramVec,
    failures: IntCounter,
    retries: IntCounter,
    own_reports: IntCounterVec,
}

impl TransferMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let counter = |name, help, labels: &[&str]| IntCounterVec::new(Opts::new(name, help), labels);
        let gauge = |name, help, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels);
        let histogram = |name, help, bounds: &[f64], label: &str| {
            HistogramVec::new(HistogramOpts::new(name, help).buckets(bounds.to_vec()), &[label])
        };
        let metrics = Self {
            counts: register!(
                registry,
                IntGaugeVec::new(Opts::new("culvert_transfers", "Recorded transfers, by state."), &["state"])
            ),
            bytes: register!(
                registry,
                counter(
                    "culvert_transfer_bytes_total",
                    "Bytes of files moved by ended transfers.",
                    &["direction", "peer"]
                )
            ),
            goodput: register!(
                registry,
                gauge(
                    "culvert_goodput_bits_per_second",
                    "Bits of files per second of the last transfer.",
                    &["direction", "peer"]
                )
            ),
            files: register!(
                registry,
                counter("culvert_files_total", "Files of ended transfers, by result.", &["result"])
            ),
            pacing: register!(
                registry,
                gauge(
                    "culvert_pacing_rate_bits_per_second",
                    "The pacing rate at the end of the last transfer.",
                    &["peer"]
                )
            ),
            rtt: register!(
                registry,
                histogram("culvert_rtt_seconds", "Round trips of reports, by partner.", &RTT_SECONDS, "peer")
            ),
            chunk_seconds: register!(
                registry,
                histogram("culvert_chunk_seconds", "Time that chunks spend in each stage.", &CHUNK_SECONDS, "stage")
            ),
            failures: register!(
                registry,
                IntCounter::new("culvert_transfer_failures_total", "Transfers that ended without a result.")
            ),
            retries: register!(
                registry,
                IntCounter::new("culvert_transfer_retries_total", "Attempts that failed and were retried.")
            ),
            own_reports: register!(
                registry,
                counter(
                    "culvert_reports_total",
                    "Reports of receiving flows, and those that waited in this process for more than two of their intervals.",
                    &["result"]
                )
            ),
        };
        metrics.create_series();
        metrics
    }

    /// Counts an event.
    pub(super) fn note(&self, event: &Event<'_>) {
        match *event {
            // Counted with all limits ([`super::admission`]).
            Event::LimitReached(_) => {}
            Event::AttemptFailed => self.retries.inc(),
            Event::Reported { partner, round_trip, pacing_bits_per_second } => {
                self.rtt.with_label_values(&[partner]).observe(round_trip.as_secs_f64());
                self.pacing.with_label_values(&[partner]).set(pacing_bits_per_second as f64);
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

    /// Sets the number of transfers in each state.
    pub(super) fn set_counts(&self, counts: &HashMap<RecordState, u64>) {
        for state in RecordState::ALL {
            let count = counts.get(&state).copied().unwrap_or(0);
            self.counts.with_label_values(&[state.word()]).set(count as i64);
        }
    }

    /// Creates the series whose labels are known, so that alert rules can tell "none" from "not
    /// scraped".
    fn create_series(&self) {
        for state in RecordState::ALL {
            self.counts.with_label_values(&[state.word()]).set(0);
        }
        for result in ["stored", "skipped", "failed"] {
            self.files.with_label_values(&[result]);
        }
        for stage in Stage::ALL {
            self.chunk_seconds.with_label_values(&[stage.word()]);
        }
    }

    fn note_result(&self, result: &TransferResult, peer: &str, is_sender: bool) {
        let direction = if is_sender { "send" } else { "receive" };
        self.bytes.with_label_values(&[direction, peer]).inc_by(result.bytes);
        self.goodput.with_label_values(&[direction, peer]).set(result.goodput_bps as f64);
        self.files.with_label_values(&["stored"]).inc_by(result.files.stored);
        self.files.with_label_values(&["skipped"]).inc_by(result.files.skipped);
        self.files.with_label_values(&["failed"]).inc_by(result.files.failed);
    }

    /// Counts how long a lane held a chunk: on the sending side from disk to network, on the
    /// receiving side the other way around.
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

    fn note_stage(&self, stage: Stage, time: Duration) {
        self.chunk_seconds.with_label_values(&[stage.word()]).observe(time.as_secs_f64());
    }
}
