//! Records of the paths to partners, kept per partner and direction in the state directory, the
//! newest last.
//!
//! ```text
//! paths/NAME.send.json      a JSON array of records
//! paths/NAME.receive.json
//! ```

use culvert_model::result::TransferResult;
use culvert_perfsonar::probe::ramp::Confidence;
use culvert_state::{StateDirectory, StateError};
use serde::{Deserialize, Serialize};

use crate::check::{PathCheck, Side};

/// The most records kept for each partner and direction.
pub const RECORDS_MAX: usize = 200;
const DIRECTORY: &str = "paths";
/// The version of these files. A list without a version has version 1.
const VERSION: u64 = 1;

/// Where a record comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordSource {
    /// `culvert path check`.
    Check,
    /// A transfer.
    Transfer,
    /// A perfSONAR host.
    Pscheduler,
}

impl RecordSource {
    /// The word in JSON and on pages.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Transfer => "transfer",
            Self::Pscheduler => "pscheduler",
        }
    }
}

/// What a check, a transfer or a perfSONAR test found about one direction.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PathRecord {
    /// When it was found, in milliseconds since 1970.
    pub at_unix_ms: u64,
    /// How it was found.
    pub source: RecordSource,
    /// Minimum and median round-trip time, in microseconds.
    pub rtt_min_us: Option<f64>,
    /// See `rtt_min_us`.
    pub rtt_p50_us: Option<f64>,
    /// The fraction of packets that was lost.
    pub loss: Option<f64>,
    /// The number of packets from which `loss` is known.
    pub packets: u64,
    /// The fraction that arrived out of order.
    pub reordering: Option<f64>,
    /// The fraction that arrived more than once.
    pub duplication: Option<f64>,
    /// The largest IP packet.
    pub mtu_bytes: Option<u32>,
    /// The rate, in bits per second.
    pub rate_bits_per_second: Option<u64>,
    /// The confidence in the rate.
    pub confidence: Option<Confidence>,
    /// Hops of the route.
    pub hops: Option<u32>,
    /// A hash over the route's hops, by which a change of route shows.
    pub route: Option<String>,
    /// Whether the path limited the rate, rather than a host or a cap.
    pub limited_by_path: bool,
    /// Transfers that ran meanwhile.
    #[serde(default)]
    pub transfers_meanwhile: u64,
}

/// A check's record of a direction.
#[must_use]
pub fn of_check(check: &PathCheck, side: Side) -> PathRecord {
    use culvert_perfsonar::probe::ramp::RampLimit;
    let direction = check.side(side);
    let route = direction.route_udp.as_ref().filter(|route| route.reached);
    PathRecord {
        at_unix_ms: check.at_unix_ms,
        source: RecordSource::Check,
        rtt_min_us: check.rtt.map(|rtt| rtt.min_us),
        rtt_p50_us: check.rtt.map(|rtt| rtt.p50_us),
        loss: direction.delivery.map(|delivery| delivery.loss()),
        packets: direction.delivery.map_or(0, |delivery| delivery.sent),
        reordering: direction.delivery.map(|delivery| delivery.reordering()),
        duplication: direction.delivery.map(|delivery| delivery.duplication()),
        mtu_bytes: direction.mtu.map(|mtu| mtu.bytes),
        rate_bits_per_second: direction.rate.map(|rate| rate.bits_per_second),
        confidence: direction.rate.map(|rate| rate.confidence),
        hops: route.map(|route| route.hops.len() as u32),
        route: route.map(|route| {
            let mut hash = blake3::Hasher::new();
            for hop in &route.hops {
                hash.update(hop.address.map_or_else(|| "*".to_owned(), |address| address.to_string()).as_bytes())
                    .update(b" ");
            }
            hash.finalize().to_hex()[..12].to_owned()
        }),
        limited_by_path: direction.rate.is_some_and(|rate| rate.limit == RampLimit::Path),
        transfers_meanwhile: check.transfers_meanwhile,
    }
}

/// A transfer's record.
#[must_use]
pub fn of_transfer(result: &TransferResult, now_unix_ms: u64) -> PathRecord {
    let ms = |ms: f64| (ms > 0.0).then_some(ms * 1e3);
    PathRecord {
        at_unix_ms: now_unix_ms,
        source: RecordSource::Transfer,
        rtt_min_us: ms(result.rtt_ms.min),
        rtt_p50_us: ms(result.rtt_ms.p50),
        loss: (result.segments_sent > 0).then_some(result.loss),
        packets: result.segments_sent,
        reordering: None,
        duplication: None,
        mtu_bytes: None,
        rate_bits_per_second: Some(result.goodput_bps),
        confidence: None,
        hops: None,
        route: None,
        limited_by_path: result.verdict.limited_by == Some(culvert_protocol::verdict::Limit::Path),
        transfers_meanwhile: 0,
    }
}

/// The records of a partner's direction, the oldest first.
///
/// # Errors
/// [`StateError`]: unreadable or damaged.
pub fn read(state: &StateDirectory, partner: &str, side: Side) -> Result<Vec<PathRecord>, StateError> {
    let name = file_of(partner, side);
    Ok(state.read_json(&name, VERSION)?.unwrap_or_default())
}

/// Adds a record; the oldest make room.
///
/// # Errors
/// [`StateError`].
pub fn add(state: &StateDirectory, partner: &str, side: Side, record: PathRecord) -> Result<(), StateError> {
    make_directory(state)?;
    let name = file_of(partner, side);
    // A damaged history is set aside: it must not prevent new records.
    let mut records: Vec<PathRecord> = state.read_json_or_set_aside(&name, VERSION)?.unwrap_or_default();
    records.push(record);
    let excess = records.len().saturating_sub(RECORDS_MAX);
    records.drain(..excess);
    // Invariant I-path-records: At most 200 records are kept for each partner and direction.
    assert!(records.len() <= RECORDS_MAX, "{} records are kept", records.len());
    let json = serde_json::to_vec(&records)
        .map_err(|error| StateError::Damaged { path: state.path(&name), reason: error.to_string() })?;
    state.write(&name, &json)
}

/// Makes the records' directory.
///
/// # Errors
/// [`StateError`].
pub fn make_directory(state: &StateDirectory) -> Result<(), StateError> {
    state.make_directory(DIRECTORY)
}

/// The partners and directions that have records.
#[must_use]
pub fn partners(state: &StateDirectory) -> Vec<(String, Side)> {
    let Ok(names) = state.list(DIRECTORY, ".json") else { return Vec::new() };
    let parse = |name: String| {
        let (partner, side) = name.rsplit_once('.')?;
        let side = Side::ALL.into_iter().find(|known| known.word() == side)?;
        Some((unescape(partner)?, side))
    };
    names.into_iter().filter_map(parse).collect()
}

/// The newest record of a measured rate, if it is fresh. A transfer's rate does not count: the
/// path may carry more.
#[must_use]
pub fn fresh(records: &[PathRecord], now_unix_ms: u64, fresh_ms: u64) -> Option<&PathRecord> {
    let newest = records
        .iter()
        .rev()
        .find(|record| record.source != RecordSource::Transfer && record.rate_bits_per_second.is_some())?;
    (now_unix_ms.saturating_sub(newest.at_unix_ms) <= fresh_ms).then_some(newest)
}

/// The file of a partner and direction. Bytes of the name that are not plain are written as `%xx`.
fn file_of(partner: &str, side: Side) -> String {
    let mut name = String::new();
    for byte in partner.bytes().take(100) {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            b'.' if !name.is_empty() => name.push('.'),
            _ => name.push_str(&format!("%{byte:02x}")),
        }
    }
    format!("{DIRECTORY}/{name}.{}.json", side.word())
}

fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = name.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn record(at_unix_ms: u64, rate: u64) -> PathRecord {
        PathRecord {
            at_unix_ms,
            source: RecordSource::Check,
            rtt_min_us: Some(10_000.0),
            rtt_p50_us: Some(10_100.0),
            loss: Some(0.0),
            packets: 5_000,
            reordering: Some(0.0),
            duplication: Some(0.0),
            mtu_bytes: Some(9_000),
            rate_bits_per_second: Some(rate),
            confidence: Some(Confidence::High),
            hops: Some(3),
            route: Some("abc".into()),
            limited_by_path: true,
            transfers_meanwhile: 0,
        }
    }

    #[test]
    fn records_are_kept_bounded_and_apart() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        assert!(read(&state, "lab", Side::Send).unwrap().is_empty() && partners(&state).is_empty());
        for number in 0..RECORDS_MAX as u64 + 5 {
            add(&state, "lab", Side::Send, record(number, number)).unwrap();
        }
        add(&state, "culvert://[::1]:7272", Side::Receive, record(1, 1)).unwrap();
        let kept = read(&state, "lab", Side::Send).unwrap();
        assert_eq!((kept.len(), kept[0].at_unix_ms), (RECORDS_MAX, 5));
        assert!(read(&state, "lab", Side::Receive).unwrap().is_empty());
        let mut known = partners(&state);
        known.sort();
        assert_eq!(known, [("culvert://[::1]:7272".to_owned(), Side::Receive), ("lab".to_owned(), Side::Send)]);
        assert!(!file_of("../../x", Side::Send)["paths/".len()..].contains('/'));
    }

    #[test]
    fn only_fresh_records_with_a_rate_count() {
        let records = [record(1_000, 5), PathRecord { rate_bits_per_second: None, ..record(2_000, 0) }];
        assert_eq!(fresh(&records, 3_000, 5_000).unwrap().rate_bits_per_second, Some(5));
        assert_eq!(fresh(&records, 30_000, 5_000), None);
        let transfer = PathRecord { source: RecordSource::Transfer, ..record(2_900, 9) };
        assert_eq!(fresh(&[transfer], 3_000, 5_000), None);
    }
}
