//! Documents in the form in which pScheduler's archiver sends them.
//!
//! The pipeline joins documents of the same test, tool and observer into a series, so these three
//! never vary between documents of one kind.

use std::collections::BTreeMap;

use aws_lc_rs::rand;
use culvert_protocol::path::Route;
use serde_json::{Value, json};

use crate::statistics::{DelaySummary, Delivery};

/// One measurement to publish.
#[derive(Clone, Debug)]
pub struct Measurement<'a> {
    /// pScheduler's test: `throughput`, `latency`, `rtt`, `trace`, `mtu`.
    pub test: &'static str,
    /// The host that sent.
    pub source: &'a str,
    /// The host that received.
    pub dest: &'a str,
    /// `culvert-path` or `culvert-transfer`.
    pub tool: &'static str,
    /// When it began, in milliseconds since 1970.
    pub begin_unix_ms: u64,
    /// How long it took.
    pub seconds: f64,
    /// The result, from one of this module's functions.
    pub result: Value,
    /// The transfer's id, if the measurement was a transfer.
    pub transfer: Option<&'a str>,
}

/// A random UUID (RFC 9562, version 4).
#[must_use]
pub fn uuid() -> String {
    let mut bytes = [0; 16];
    // Without randomness documents share an id, which the archive tolerates.
    let _ = rand::fill(&mut bytes);
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// Seconds as an ISO 8601 duration without weeks, months and years, the only form that perfSONAR
/// accepts.
#[must_use]
pub fn iso_duration(seconds: f64) -> String {
    let text = format!("{:.6}", seconds.max(0.0));
    format!("PT{}S", text.trim_end_matches('0').trim_end_matches('.'))
}

impl Measurement<'_> {
    /// The document and its id.
    #[must_use]
    pub fn document(&self) -> (String, Value) {
        let (task, run) = (uuid(), uuid());
        let task_href = format!("https://{}/pscheduler/tasks/{task}", self.source);
        let run_href = format!("{task_href}/runs/{run}");
        let (begin, end) = (iso_time(self.begin_unix_ms), iso_time(self.begin_unix_ms + (self.seconds * 1e3) as u64));
        let duration = iso_duration(self.seconds.ceil().max(1.0));
        let test = json!({ "type": self.test, "spec": { "schema": 1, "source": self.source, "dest": self.dest } });
        let reference = self.transfer.map_or_else(|| json!({}), |id| json!({ "culvert": { "transfer-id": id } }));
        let participants = json!([self.source, self.dest]);
        let document = json!({
            "id": run,
            "schedule": { "start": begin, "duration": duration },
            "test": test,
            "tool": { "name": self.tool, "version": env!("CARGO_PKG_VERSION") },
            "participants": participants,
            "task": {
                "href": task_href, "test": test, "tool": self.tool, "schedule": {}, "reference": reference,
                "detail": { "duration": duration, "participants": participants },
            },
            "run": {
                "href": run_href, "task-href": task_href, "added": begin, "start-time": begin, "end-time": end,
                "duration": duration, "state": "finished",
            },
            "reference": reference,
            "result": self.result,
        });
        (run, document)
    }
}

/// The result of an `rtt` test.
#[must_use]
pub fn rtt(delivery: Delivery, rtt: Option<DelaySummary>) -> Value {
    let mut result = json!({
        "schema": 1, "succeeded": true, "sent": delivery.sent, "received": delivery.received, "lost": delivery.lost(),
        "loss": delivery.loss(), "duplicates": delivery.duplicates, "reorders": delivery.reordered, "roundtrips": [],
    });
    if let Some(rtt) = rtt {
        for (name, us) in [("min", rtt.min_us), ("max", rtt.max_us), ("mean", rtt.mean_us), ("stddev", rtt.stddev_us)] {
            result[name] = json!(iso_duration(us / 1e6));
        }
    }
    result
}

/// The result of a `latency` test. `histogram_ms` has milliseconds with two decimals as keys.
#[must_use]
pub fn latency(delivery: Delivery, histogram_ms: &BTreeMap<String, u64>, clock_error_us: Option<u64>) -> Value {
    json!({
        "schema": 1, "succeeded": true, "packets-sent": delivery.sent, "packets-received": delivery.received,
        "packets-lost": delivery.lost(), "packets-duplicated": delivery.duplicates, "packets-reordered": delivery.reordered,
        "max-clock-error": clock_error_us.map_or(0.0, |us| us as f64 / 1e3), "histogram-latency": histogram_ms, "histogram-ttl": {},
    })
}

/// The result of a `throughput` test: `bytes` in `seconds`.
#[must_use]
pub fn throughput(bytes: u64, seconds: f64, retransmits: u64) -> Value {
    let rate = if seconds > 0.0 { bytes as f64 * 8.0 / seconds } else { 0.0 };
    let summary = json!({
        "throughput-bits": rate, "throughput-bytes": rate / 8.0, "start": 0.0, "end": seconds, "stream-id": "SUM",
        "retransmits": retransmits, "omitted": false,
    });
    let part = json!({ "streams": [summary], "summary": summary });
    json!({ "schema": 1, "succeeded": true, "intervals": [part], "summary": part })
}

/// The result of a `trace` test.
#[must_use]
pub fn trace(route: &Route) -> Value {
    let hops: Vec<Value> = route
        .hops
        .iter()
        .map(|hop| match hop.address {
            None => json!({}),
            Some(address) => {
                let mut hop_json = json!({ "ip": address.to_string() });
                if let Some(rtt_us) = hop.rtt_us {
                    hop_json["rtt"] = json!(iso_duration(rtt_us / 1e6));
                }
                if let Some(mtu) = hop.mtu {
                    hop_json["mtu"] = json!(mtu);
                }
                hop_json
            }
        })
        .collect();
    json!({ "schema": 1, "succeeded": true, "paths": [hops] })
}

/// The result of an `mtu` test.
#[must_use]
pub fn mtu(bytes: u32) -> Value {
    json!({ "schema": 1, "succeeded": true, "mtu": bytes })
}

fn iso_time(unix_ms: u64) -> String {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).unwrap_or(0)).unwrap_or_default();
    at.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pipelines_fields_are_there() {
        let measurement = Measurement {
            test: "mtu",
            source: "dtn1.example.org",
            dest: "dtn2.example.net",
            tool: "culvert-path",
            begin_unix_ms: 1_786_356_005_000,
            seconds: 24.2,
            result: mtu(9_000),
            transfer: Some("t-123"),
        };
        let (id, document) = measurement.document();
        assert!(document["run"]["href"].as_str().unwrap().ends_with(&format!("/runs/{id}")));
        let (_, task) = document["task"]["href"].as_str().unwrap().rsplit_once("/tasks/").unwrap();
        assert_eq!((task.len(), id.len()), (36, 36));
        assert_eq!(document["task"]["detail"]["duration"], "PT25S");
        assert_eq!(document["run"]["start-time"], "2026-08-10T10:00:05+00:00");
        assert_eq!(document["run"]["end-time"], "2026-08-10T10:00:29+00:00");
        // The same series each time: neither the test nor the tool changes.
        let (_, again) = measurement.document();
        assert_eq!((&document["test"], &document["tool"]), (&again["test"], &again["tool"]));
        assert_ne!(document["id"], again["id"]);
    }

    #[test]
    fn durations_are_what_perfsonar_takes() {
        assert_eq!(
            (iso_duration(0.0241), iso_duration(25.0), iso_duration(-1.0)),
            ("PT0.0241S".into(), "PT25S".into(), "PT0S".into())
        );
    }
}
