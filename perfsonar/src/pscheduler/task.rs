//! Tasks for a perfSONAR host, in the form of its API.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// The kind of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TestKind {
    /// TCP throughput to this host, where a plain `iperf3 -s` must run.
    Throughput,
    /// One-way latency and loss, through TWAMP to this host's responder.
    Latency,
    /// Round-trip time.
    Rtt,
    /// The route.
    Trace,
    /// The MTU.
    Mtu,
}

impl std::str::FromStr for TestKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "throughput" => Ok(Self::Throughput),
            "latency" => Ok(Self::Latency),
            "rtt" => Ok(Self::Rtt),
            "trace" => Ok(Self::Trace),
            "mtu" => Ok(Self::Mtu),
            _ => Err(format!("unknown test '{text}': write throughput, latency, rtt, trace or mtu")),
        }
    }
}

impl TestKind {
    /// pScheduler's name for it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Throughput => "throughput",
            Self::Latency => "latency",
            Self::Rtt => "rtt",
            Self::Trace => "trace",
            Self::Mtu => "mtu",
        }
    }
}

/// A test that a perfSONAR host is to run towards another host.
#[derive(Clone, Debug, PartialEq)]
pub struct TestRequest {
    /// The kind of test.
    pub kind: TestKind,
    /// The sending host; none for the perfSONAR host itself.
    pub source: Option<String>,
    /// The receiving host.
    pub dest: String,
    /// Whether the far end is a plain iperf3 server without perfSONAR.
    pub single_ended: bool,
    /// Seconds of a throughput test.
    pub seconds: u32,
    /// TCP streams of a throughput test.
    pub streams: u32,
    /// Packets of latency and rtt.
    pub packets: u32,
    /// Latency's protocol: `twamp` towards a node without perfSONAR.
    pub twamp: bool,
    /// The tool that must be used, if any.
    pub tool: Option<String>,
    /// This node's id for the task, kept by the server.
    pub reference: Option<String>,
}

impl TestRequest {
    /// A test with default settings, within what perfSONAR hosts permit strangers: 20 s, 4 streams.
    #[must_use]
    pub fn new(kind: TestKind, dest: impl Into<String>) -> Self {
        Self {
            kind,
            source: None,
            dest: dest.into(),
            single_ended: true,
            seconds: 20,
            streams: 4,
            packets: 100,
            twamp: true,
            tool: None,
            reference: None,
        }
    }

    /// The test's specification, with the lowest schema that expresses it.
    #[must_use]
    pub fn spec(&self) -> Value {
        let mut spec = Map::new();
        let mut schema = 1;
        let mut put = |name: &str, value: Value| spec.insert(name.to_owned(), value);
        if let Some(source) = &self.source {
            put("source", json!(source));
        }
        put("dest", json!(self.dest));
        match self.kind {
            TestKind::Throughput => {
                put("duration", json!(format!("PT{}S", self.seconds)));
                put("parallel", json!(self.streams));
                if self.single_ended {
                    schema = 2;
                    put("single-ended", json!(true));
                }
            }
            TestKind::Latency => {
                put("packet-count", json!(self.packets));
                put("packet-interval", json!(0.1));
                put("packet-timeout", json!(2));
                if self.twamp {
                    schema = 4;
                    put("protocol", json!("twamp"));
                }
            }
            TestKind::Rtt => {
                put("count", json!(self.packets.min(100)));
                put("interval", json!("PT0.1S"));
            }
            TestKind::Trace => {
                put("hops", json!(30));
            }
            TestKind::Mtu => {}
        }
        spec.insert("schema".to_owned(), json!(schema));
        Value::Object(spec)
    }

    /// The task.
    #[must_use]
    pub fn task(&self) -> Value {
        let mut task = json!({
            "schema": 1,
            "test": { "type": self.kind.word(), "spec": self.spec() },
            "schedule": { "slip": "PT5M" },
        });
        if let Some(tool) = &self.tool {
            task["tools"] = json!([tool]);
        }
        if let Some(reference) = &self.reference {
            task["reference"] = json!({ "culvert": { "id": reference } });
        }
        task
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_schema_that_expresses_the_request_is_sent() {
        let schema = |request: &TestRequest| request.spec()["schema"].as_u64().unwrap();
        let request = |kind| TestRequest::new(kind, "dtn1");
        assert_eq!(schema(&request(TestKind::Rtt)), 1);
        assert_eq!(schema(&request(TestKind::Throughput)), 2);
        assert_eq!(schema(&TestRequest { single_ended: false, ..request(TestKind::Throughput) }), 1);
        assert_eq!(schema(&request(TestKind::Latency)), 4);
        assert_eq!(schema(&TestRequest { twamp: false, ..request(TestKind::Latency) }), 1);
        assert_eq!(request(TestKind::Rtt).task()["schema"], 1);
    }

    #[test]
    fn durations_are_iso_and_latencys_interval_is_a_number() {
        let spec = TestRequest::new(TestKind::Throughput, "dtn1").spec();
        assert_eq!((&spec["duration"], &spec["single-ended"]), (&json!("PT20S"), &json!(true)));
        let spec = TestRequest::new(TestKind::Latency, "dtn1").spec();
        assert!(spec["packet-interval"].is_number());
        assert_eq!(TestRequest::new(TestKind::Rtt, "dtn1").spec()["interval"], "PT0.1S");
    }
}
