//! The metrics of a node, in the Prometheus text format.
//!
//! Metrics of transfers, lanes, AF_XDP and admission have a file each. Names, labels and meanings
//! are a contract with users. No metric ever contains a file name, a user or a transfer's id.

use std::collections::HashMap;
use std::time::Instant;

use culvert_engine::events::{Event, Observer};
use culvert_engine::limits::Limit;
use culvert_model::record::RecordState;
use culvert_plane::Supervisor;
use culvert_tuning::audit::FindingCounts;
use prometheus::{Counter, Encoder as _, Gauge, IntGaugeVec, Opts, Registry, TextEncoder};

/// Creates a metric and registers it. Names and labels are constants, so a mistake in one fails the
/// first test.
macro_rules! register {
    ($registry:expr, $metric:expr) => {{
        let metric = $metric.expect("the metric's name and labels are well-formed");
        $registry.register(Box::new(metric.clone())).expect("each metric is registered once");
        metric
    }};
}

// After the macro, which they use.
mod admission;
mod kernel_bypass;
mod lanes;
mod transfers;

/// The metrics of a node.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    transfers: transfers::TransferMetrics,
    lanes: lanes::LaneMetrics,
    kernel_bypass: kernel_bypass::KernelBypassMetrics,
    admission: admission::AdmissionMetrics,
    restarts: Counter,
    tuning_findings: IntGaugeVec,
    up_seconds: Gauge,
    started: Instant,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Observer for Metrics {
    fn note(&self, event: Event<'_>) {
        match event {
            Event::LimitReached(limit) => self.note_limit(limit),
            event => self.transfers.note(&event),
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
        Self {
            transfers: transfers::TransferMetrics::new(r),
            lanes: lanes::LaneMetrics::new(r),
            kernel_bypass: kernel_bypass::KernelBypassMetrics::new(r),
            admission: admission::AdmissionMetrics::new(r),
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
            up_seconds: register!(r, Gauge::new("culvert_uptime_seconds", "Time since the node was started.")),
            started: Instant::now(),
            registry,
        }
    }

    /// Counts a partner's reaching of a limit.
    pub fn note_limit(&self, limit: Limit) {
        self.admission.note_limit(limit);
    }

    /// Sets the findings of an audit of the host.
    pub fn note_findings(&self, counts: &FindingCounts) {
        for (severity, count) in counts.labels() {
            self.tuning_findings.with_label_values(&[severity]).set(i64::from(count));
        }
    }

    /// Counts an incoming connection that was refused.
    pub fn note_refused_connection(&self) {
        self.admission.note_refused_connection();
    }

    /// Counts a connection, request or key that found no free slot, or timed out.
    ///
    /// # Panics
    /// In debug builds, if `stage` and `reason` are not a series that exists from the start.
    pub fn note_turned_away(&self, stage: &str, reason: &str) {
        self.admission.note_turned_away(stage, reason);
    }

    /// All metrics except those of paths, as text. `counts` is the number of transfers in each
    /// state.
    pub async fn render(&self, counts: &HashMap<RecordState, u64>, supervisor: &Supervisor) -> String {
        self.transfers.set_counts(counts);
        self.up_seconds.set(self.started.elapsed().as_secs_f64());
        let restarts = supervisor.restarts() as f64;
        self.restarts.inc_by((restarts - self.restarts.get()).max(0.0));
        if let Some(plane) = supervisor.running().await {
            self.kernel_bypass.collect(&plane).await;
            self.lanes.collect(&plane);
        }
        let mut text = Vec::new();
        // Writing to memory does not fail, and gathered metrics are well-formed.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        String::from_utf8_lossy(&text).into_owned()
    }
}
