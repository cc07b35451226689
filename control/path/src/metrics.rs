//! `culvert_path_*`: the newest record of each partner and direction, whatever its source, and the
//! responder's counters.

use std::sync::atomic::Ordering;

use culvert_state::StateDirectory;
use prometheus::{Encoder as _, Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

use crate::service::PathService;
use crate::{publish, records};

/// The most pairs of partner and direction that are shown.
const SERIES_MAX: usize = 1_000;

/// The metrics as text. They are generated from the records' files at each scrape, so that checks
/// run on the command line show in the node's metrics too.
#[must_use]
pub fn render(state: &StateDirectory, service: &PathService) -> String {
    let registry = Registry::new();
    let gauge = |name: &str, help: &str, labels: &[&str]| {
        let metric =
            GaugeVec::new(Opts::new(name, help), labels).expect("the metric's name and labels are well-formed");
        registry.register(Box::new(metric.clone())).expect("each metric is registered once");
        metric
    };
    let by_side = ["peer", "direction"];
    let rtt =
        gauge("culvert_path_rtt_seconds", "Round trip of the newest path record.", &["peer", "direction", "quantile"]);
    let loss = gauge("culvert_path_loss_ratio", "Fraction of packets lost, by the newest path record.", &by_side);
    let reordering = gauge("culvert_path_reordering_ratio", "Fraction of packets that arrived out of order.", &by_side);
    let duplication =
        gauge("culvert_path_duplication_ratio", "Fraction of packets that arrived more than once.", &by_side);
    let mtu = gauge("culvert_path_mtu_bytes", "Largest IP packet of the path.", &by_side);
    let rate = gauge("culvert_path_rate_bits_per_second", "Rate that the newest path record supports.", &by_side);
    let hops = gauge("culvert_path_hops", "Hops of the route.", &by_side);
    let at = gauge("culvert_path_record_timestamp_seconds", "Time of the newest path record.", &by_side);
    for (partner, side) in records::partners(state).into_iter().take(SERIES_MAX) {
        let Ok(all) = records::read(state, &partner, side) else { continue };
        let labels = [partner.as_str(), side.word()];
        // For each value the newest record that has it: a transfer's record has no MTU.
        let newest = |value: &dyn Fn(&records::PathRecord) -> Option<f64>| all.iter().rev().find_map(value);
        let set = |metric: &GaugeVec, value: Option<f64>| {
            if let Some(value) = value {
                metric.with_label_values(&labels).set(value);
            }
        };
        for (quantile, value) in
            [("0", newest(&|record| record.rtt_min_us)), ("0.5", newest(&|record| record.rtt_p50_us))]
        {
            if let Some(us) = value {
                rtt.with_label_values(&[labels[0], labels[1], quantile]).set(us / 1e6);
            }
        }
        set(&loss, newest(&|record| record.loss));
        set(&reordering, newest(&|record| record.reordering));
        set(&duplication, newest(&|record| record.duplication));
        set(&mtu, newest(&|record| record.mtu_bytes.map(f64::from)));
        set(&rate, newest(&|record| record.rate_bits_per_second.map(|rate| rate as f64)));
        set(&hops, newest(&|record| record.hops.map(f64::from)));
        set(&at, all.last().map(|record| record.at_unix_ms as f64 / 1e3));
    }
    responder(service, &registry);
    checks(service, &registry);
    archive(state, service, &registry);
    let mut text = Vec::new();
    // Writing to memory does not fail, and gathered metrics are well-formed.
    let _ = TextEncoder::new().encode(&registry.gather(), &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The spool and the deliveries to the archive; nothing if none is configured.
fn archive(state: &StateDirectory, service: &PathService, registry: &Registry) {
    let settings = service.settings();
    let Some(spool) = settings.archive.and_then(|table| publish::spool(state, &table).ok()) else { return };
    let (documents, bytes) = spool.usage();
    let gauges = [
        ("culvert_path_archive_waiting_documents", "Documents waiting for the archive.", documents as f64),
        ("culvert_path_archive_waiting_bytes", "Bytes of the documents waiting for the archive.", bytes as f64),
    ];
    for (name, help, value) in gauges {
        if let Ok(gauge) = Gauge::new(name, help) {
            gauge.set(value);
            let _ = registry.register(Box::new(gauge));
        }
    }
    let counters = &service.archive;
    let totals = [
        ("culvert_path_archive_delivered_total", "Documents delivered to the archive.", &counters.delivered),
        (
            "culvert_path_archive_dropped_total",
            "Documents dropped: the spool was full, or the archive refused them permanently.",
            &counters.dropped,
        ),
        ("culvert_path_archive_failures_total", "Deliveries that failed and are retried.", &counters.failures),
    ];
    for (name, help, total) in totals {
        if let Ok(counter) = IntCounter::new(name, help) {
            counter.inc_by(total.load(Ordering::Relaxed));
            let _ = registry.register(Box::new(counter));
        }
    }
}

/// Path checks requested by partners, by result.
fn checks(service: &PathService, registry: &Registry) {
    let counters = &service.checks.counters;
    let results = IntCounterVec::new(
        Opts::new("culvert_path_checks_total", "Path checks requested by partners, by result."),
        &["result"],
    );
    let suppressed = IntCounter::new(
        "culvert_path_checks_suppressed_probes_total",
        "Authentic probes that were not answered: beyond the permitted rate, from a reflector's port, or reflections.",
    );
    if let (Ok(results), Ok(suppressed)) = (results, suppressed) {
        for (result, total) in [
            ("answered", &counters.answered),
            ("busy", &counters.busy),
            ("not_permitted", &counters.not_permitted),
            ("silent", &counters.silent),
            ("overdue", &counters.overdue),
            ("broken", &counters.broken),
        ] {
            results.with_label_values(&[result]).inc_by(total.load(Ordering::Relaxed));
        }
        suppressed.inc_by(counters.suppressed_probes.load(Ordering::Relaxed));
        let _ = (registry.register(Box::new(results)), registry.register(Box::new(suppressed)));
    }
}

fn responder(service: &PathService, registry: &Registry) {
    let counters = &service.counters;
    let answers = IntCounterVec::new(
        Opts::new("culvert_path_responder_packets_total", "STAMP and TWAMP packets, by result."),
        &["result"],
    );
    let clients = IntCounterVec::new(
        Opts::new("culvert_path_responder_turned_away_total", "TWAMP clients and sessions turned away, by reason."),
        &["reason"],
    );
    let sessions = IntGauge::new("culvert_path_responder_sessions", "TWAMP sessions that are open.");
    if let (Ok(answers), Ok(clients), Ok(sessions)) = (answers, clients, sessions) {
        answers.with_label_values(&["reflected"]).inc_by(counters.reflected.load(Ordering::Relaxed));
        for (refused, count) in counters.refused() {
            answers.with_label_values(&[&refused.word()]).inc_by(count);
        }
        for (why, count) in counters.turned_away() {
            clients.with_label_values(&[why.to_string().as_str()]).inc_by(count);
        }
        sessions.set(counters.sessions.load(Ordering::Relaxed) as i64);
        let metrics: [Box<dyn prometheus::core::Collector>; 3] =
            [Box::new(answers), Box::new(clients), Box::new(sessions)];
        for metric in metrics {
            let _ = registry.register(metric);
        }
    }
}
