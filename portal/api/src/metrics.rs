//! What operators see of the API.

use std::time::Duration;

use prometheus::{Encoder as _, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, Opts, Registry, TextEncoder};

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
        let build = IntCounterVec::new(Opts::new("culvert_portal_build_info", "The program's version."), &["version"])?;
        build.with_label_values(&[version]).inc();
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

    /// The text that Prometheus reads.
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut text = Vec::new();
        // Writing to memory does not fail.
        let _ = TextEncoder::new().encode(&self.registry.gather(), &mut text);
        text
    }
}
