//! Results of runs, as this node keeps them.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::task::TestKind;
use crate::statistics::Delivery;

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Bits per second.
    pub rate_bits_per_second: Option<u64>,
    /// TCP retransmissions.
    pub retransmits: Option<u64>,
    /// Delivery of packets.
    pub delivery: Option<Delivery>,
    /// Minimum, mean and maximum delay in microseconds: round-trip for `rtt`, one-way for
    /// `latency`.
    pub delay_us: Option<[f64; 3]>,
    /// The MTU.
    pub mtu_bytes: Option<u32>,
    /// Addresses of the hops; none for a hop that did not answer.
    pub hops: Vec<Option<String>>,
}

/// Why a result is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OutcomeError {
    /// The test failed there.
    #[error("the test failed on the perfSONAR host: {0}")]
    Failed(String),
    /// Something is missing or of another type.
    #[error("the result does not have the documented form: '{0}' is missing or has another type")]
    Shape(&'static str),
}

impl Outcome {
    /// Reads a merged result.
    ///
    /// # Errors
    /// [`OutcomeError`].
    pub fn read(kind: TestKind, result: &Value) -> Result<Self, OutcomeError> {
        if !result.is_object() {
            return Err(OutcomeError::Shape("result-merged"));
        }
        match result.get("succeeded").and_then(Value::as_bool) {
            Some(true) => {}
            Some(false) => {
                let text = ["error", "diags"]
                    .into_iter()
                    .find_map(|name| result.get(name)?.as_str().filter(|text| !text.is_empty()));
                let text = text.unwrap_or("it does not say why").chars().take(600).collect();
                return Err(OutcomeError::Failed(text));
            }
            None => return Err(OutcomeError::Shape("succeeded")),
        }
        let mut outcome = Self::default();
        match kind {
            TestKind::Throughput => {
                let sum = result.pointer("/summary/summary").ok_or(OutcomeError::Shape("summary.summary"))?;
                let rate = number(sum, "receiver-throughput-bits").or_else(|| number(sum, "throughput-bits"));
                outcome.rate_bits_per_second = Some(rate.ok_or(OutcomeError::Shape("throughput-bits"))? as u64);
                outcome.retransmits = sum.get("retransmits").and_then(Value::as_u64);
                outcome.mtu_bytes = result.get("mtu").and_then(Value::as_u64).and_then(|mtu| u32::try_from(mtu).ok());
            }
            TestKind::Latency => {
                let count = |name: &'static str| result.get(name).and_then(Value::as_u64);
                let sent = count("packets-sent").ok_or(OutcomeError::Shape("packets-sent"))?;
                let received = count("packets-received").ok_or(OutcomeError::Shape("packets-received"))?;
                let (duplicates, reordered) =
                    (count("packets-duplicated").unwrap_or(0), count("packets-reordered").unwrap_or(0));
                outcome.delivery = Some(Delivery { sent, received, duplicates, reordered });
                outcome.delay_us = histogram(result.get("histogram-latency"))?;
            }
            TestKind::Rtt => {
                let count =
                    |name: &'static str| result.get(name).and_then(Value::as_u64).ok_or(OutcomeError::Shape(name));
                let sent = count("sent")?;
                let received = count("received")?;
                outcome.delivery = Some(Delivery {
                    sent,
                    received,
                    duplicates: count("duplicates").unwrap_or(0),
                    reordered: count("reorders").unwrap_or(0),
                });
                if received > 0 {
                    let duration = |name: &'static str| {
                        result.get(name).and_then(Value::as_str).and_then(microseconds).ok_or(OutcomeError::Shape(name))
                    };
                    outcome.delay_us = Some([duration("min")?, duration("mean")?, duration("max")?]);
                }
            }
            TestKind::Trace => {
                let path = result.pointer("/paths/0").and_then(Value::as_array).ok_or(OutcomeError::Shape("paths"))?;
                outcome.hops =
                    path.iter().map(|hop| hop.get("ip").and_then(Value::as_str).map(str::to_owned)).collect();
                outcome.mtu_bytes = path
                    .iter()
                    .filter_map(|hop| hop.get("mtu")?.as_u64())
                    .min()
                    .and_then(|mtu| u32::try_from(mtu).ok());
            }
            TestKind::Mtu => {
                let mtu = result.get("mtu").and_then(Value::as_u64).and_then(|mtu| u32::try_from(mtu).ok());
                outcome.mtu_bytes = Some(mtu.ok_or(OutcomeError::Shape("mtu"))?);
            }
        }
        Ok(outcome)
    }
}

/// An ISO 8601 duration in microseconds.
#[must_use]
pub fn microseconds(text: &str) -> Option<f64> {
    // The library also accepts forms that are not ISO 8601.
    let span: jiff::Span = text.starts_with('P').then(|| text.parse().ok())??;
    // A day is 24 hours here, not a calendar day.
    let seconds = span.total((jiff::Unit::Nanosecond, jiff::SpanRelativeTo::days_are_24_hours())).ok()?;
    Some(seconds / 1e3).filter(|us| us.is_finite())
}

fn number(value: &Value, name: &str) -> Option<f64> {
    value.get(name)?.as_f64().filter(|number| number.is_finite() && *number >= 0.0)
}

/// Minimum, mean and maximum of a histogram whose keys are milliseconds, in microseconds.
fn histogram(value: Option<&Value>) -> Result<Option<[f64; 3]>, OutcomeError> {
    let shape = || OutcomeError::Shape("histogram-latency");
    let Some(buckets) = value.and_then(Value::as_object) else {
        return if value.is_some() { Err(shape()) } else { Ok(None) };
    };
    let (mut least, mut greatest, mut sum, mut all) = (f64::INFINITY, f64::NEG_INFINITY, 0.0, 0.0);
    for (delay, count) in buckets {
        let delay_us = delay.parse::<f64>().map_err(|_| shape())? * 1e3;
        let count = count.as_u64().ok_or_else(shape)? as f64;
        (least, greatest) = (least.min(delay_us), greatest.max(delay_us));
        sum += delay_us * count;
        all += count;
    }
    Ok((all > 0.0).then(|| [least, sum / all, greatest]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn durations_are_read() {
        assert_eq!(microseconds("PT0.0241S"), Some(24_100.0));
        assert_eq!(microseconds("PT1M2S"), Some(62e6));
        assert_eq!(microseconds("P1DT1S"), Some(86_401e6));
        for text in ["", "24 ms", "P1Y", "PT", "NaN"] {
            assert_eq!(microseconds(text), None, "{text}");
        }
    }

    #[test]
    fn an_undocumented_form_is_named_in_the_error() {
        let read = |kind, result: Value| Outcome::read(kind, &result).unwrap_err().to_string();
        assert!(read(TestKind::Rtt, json!("x")).contains("result-merged"));
        assert!(read(TestKind::Rtt, json!({})).contains("succeeded"));
        assert!(read(TestKind::Rtt, json!({"succeeded": true, "sent": "5"})).contains("'sent'"));
        assert!(read(TestKind::Rtt, json!({"succeeded": true, "sent": 5, "received": 5, "min": 3})).contains("'min'"));
        assert!(read(TestKind::Mtu, json!({"succeeded": true, "mtu": -1})).contains("'mtu'"));
        assert!(read(TestKind::Trace, json!({"succeeded": true, "paths": {}})).contains("'paths'"));
        assert!(read(TestKind::Throughput, json!({"succeeded": true, "summary": []})).contains("summary"));
        assert!(
            read(
                TestKind::Latency,
                json!({"succeeded": true, "packets-sent": 1, "packets-received": 1, "histogram-latency": {"x": 1}})
            )
            .contains("histogram")
        );
        assert!(read(TestKind::Mtu, json!({"succeeded": false, "error": "no route"})).contains("no route"));
    }

    proptest! {
        #[test]
        fn any_json_is_read_without_panic(text in "\\{\"succeeded\":true,\"[a-z-]{1,20}\":(1|-1|\"x\"|\\[\\]|\\{\\}|null|1e400)\\}") {
            if let Ok(value) = serde_json::from_str(&text) {
                for kind in [TestKind::Throughput, TestKind::Latency, TestKind::Rtt, TestKind::Trace, TestKind::Mtu] {
                    let _ = Outcome::read(kind, &value);
                }
            }
        }
    }
}
