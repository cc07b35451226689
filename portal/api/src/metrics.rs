//! What operators see of the API.

use std::fmt::Write as _;
use std::time::Duration;

use culvert_portal_service::tally::{Counted, Tally};
use jiff::Timestamp;
use prometheus::{
    Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

/// Upper ends of the buckets of durations, in seconds.
const BUCKETS: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The API's metrics.
#[derive(Debug)]
pub struct ApiMetrics {
    registry: Registry,
    requests: IntCounterVec,
    seconds: HistogramVec,
    /// Streams of events that are open.
    pub streams: IntGauge,
}

impl ApiMetrics {
    /// Empty ones.
    ///
    /// # Errors
    /// If two have one name: a fault of the program.
    pub fn new(version: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests = IntCounterVec::new(
            Opts::new("culvert_portal_http_requests_total", "Requests answered."),
            &["method", "route", "status"],
        )?;
        let seconds = HistogramVec::new(
            HistogramOpts::new("culvert_portal_http_request_duration_seconds", "Time until an answer began.")
                .buckets(BUCKETS.to_vec()),
            &["route"],
        )?;
        let streams = IntGauge::new("culvert_portal_event_streams", "Streams of events that are open.")?;
        let build = IntGaugeVec::new(Opts::new("culvert_portal_build_info", "The program's version."), &["version"])?;
        build.with_label_values(&[version]).set(1);
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(seconds.clone()))?;
        registry.register(Box::new(streams.clone()))?;
        registry.register(Box::new(build))?;
        Ok(Self { registry, requests, seconds, streams })
    }

    /// Counts an answer. `route` is the pattern of the path, so that there are few.
    pub fn answered(&self, method: &str, route: &str, status: u16, took: Duration) {
        let status = format!("{}xx", status / 100);
        // Methods are the client's words: unknown ones share a label.
        let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
        let method = if known.contains(&method) { method } else { "other" };
        self.requests.with_label_values(&[method, route, &status]).inc();
        self.seconds.with_label_values(&[route]).observe(took.as_secs_f64());
    }

    /// The text that Prometheus reads: what the API counts, and what the service has counted.
    #[must_use]
    pub fn text(&self, tally: &Tally, now: Timestamp) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text.extend_from_slice(text_of(tally, now).as_bytes());
        text
    }
}

/// The counts of the service, in the format of Prometheus.
fn text_of(tally: &Tally, now: Timestamp) -> String {
    let mut text = String::new();
    for metric in [
        ("logins", "Attempts to log in."),
        ("webhook_deliveries", "Attempts to deliver events to webhooks."),
        ("sequencer_rows", "Entries and events that got their number or did not."),
    ] {
        let name = format!("culvert_portal_{}_total", metric.0);
        let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} counter", metric.1);
        for counted in Counted::ALL.iter().filter(|counted| counted.metric() == metric.0) {
            let _ = writeln!(text, "{name}{{result=\"{}\"}} {}", counted.result(), tally.get(*counted));
        }
    }
    let name = "culvert_portal_sequencer_lag_seconds";
    let help = "How long the oldest entry or event has been waiting for its number.";
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {}", tally.lag_seconds(now));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_of_the_service_is_shown_once() {
        let tally = Tally::default();
        tally.count(Counted::LoginRefused);
        let text = String::from_utf8(ApiMetrics::new("1").unwrap().text(&tally, Timestamp::UNIX_EPOCH)).unwrap();
        assert!(text.contains("culvert_portal_logins_total{result=\"refused\"} 1\n"), "{text}");
        for counted in Counted::ALL {
            let line = format!("culvert_portal_{}_total{{result=\"{}\"}} ", counted.metric(), counted.result());
            assert_eq!(text.matches(&line).count(), 1, "{line}");
        }
        assert!(text.ends_with("culvert_portal_sequencer_lag_seconds 0\n"), "{text}");
    }
}
