//! Metrics of connections, requests and keys that were refused.

use culvert_engine::limits::Limit;
use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// The stages at which something may be turned away, and the reasons at each.
const TURNED_AWAY: &[(&str, &[&str])] = &[
    ("control", &["silent", "crowded", "too_many", "slow", "broken", "unknown_key", "profiles"]),
    ("asking", &["silent", "crowded", "broken", "own_places_taken", "all_places_taken"]),
    ("pending_keys", &["too_many", "all_places_taken"]),
    ("metrics", HTTP_REASONS),
    ("psconfig", HTTP_REASONS),
    ("api", HTTP_REASONS),
];
/// Why HTTP clients are turned away.
const HTTP_REASONS: &[&str] = &["silent", "broken", "crowded", "slow", "own_places_taken", "all_places_taken"];

/// Counters of refusals.
#[derive(Debug)]
pub(super) struct AdmissionMetrics {
    limits: IntCounterVec,
    refused_connections: IntCounter,
    turned_away: IntCounterVec,
}

impl AdmissionMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        let metrics = Self {
            limits: register!(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "culvert_limits_reached_total",
                        "How often a partner reached a limit of this node, by limit."
                    ),
                    &["limit"]
                )
            ),
            refused_connections: register!(
                registry,
                IntCounter::new("culvert_connections_refused_total", "Incoming connections that were refused.")
            ),
            turned_away: register!(
                registry,
                IntCounterVec::new(
                    Opts::new(
                        "culvert_turned_away_total",
                        "Connections, requests and keys turned away because no slot was free or \
                         time ran out, by lobby and reason.",
                    ),
                    &["lobby", "reason"]
                )
            ),
        };
        // Series that exist from the start let alert rules tell "none" from "not scraped".
        for (stage, reasons) in TURNED_AWAY {
            for reason in *reasons {
                metrics.turned_away.with_label_values(&[*stage, *reason]);
            }
        }
        metrics
    }

    pub(super) fn note_limit(&self, limit: Limit) {
        self.limits.with_label_values(&[limit.word()]).inc();
    }

    pub(super) fn note_refused_connection(&self) {
        self.refused_connections.inc();
    }

    pub(super) fn note_turned_away(&self, stage: &str, reason: &str) {
        // A counter must not end a connection's task, so release builds count unknown reasons too.
        // Invariant I-metrics-series: Every reason for which something is turned away has a series
        // from the start.
        debug_assert!(
            TURNED_AWAY.iter().any(|(known, reasons)| *known == stage && reasons.contains(&reason)),
            "no series for {stage}, {reason} from the start"
        );
        self.turned_away.with_label_values(&[stage, reason]).inc();
    }
}
