//! Makes perfSONAR documents of checks and transfers, and puts them into the spool.

use std::time::Duration;

use culvert_model::result::TransferResult;
use culvert_perfsonar::archive::Archive;
use culvert_perfsonar::archive::document::{self, Measurement};
use culvert_perfsonar::archive::spool::Spool;
use culvert_perfsonar::http::{Client, Trust};
use culvert_state::{StateDirectory, StateError};
use serde_json::Value;

use crate::check::{PathCheck, Side};
use crate::records;
use crate::settings::{ArchiveTable, read_secret};

/// How long a delivery may take.
const DELIVERY: Duration = Duration::from_secs(30);

/// The spool in a state directory.
///
/// # Errors
/// In words.
pub fn spool(state: &StateDirectory, table: &ArchiveTable) -> Result<Spool, String> {
    // Made here for an error that names whatever stands in the directory's place.
    for directory in ["paths", "paths/spool"] {
        state.make_directory(directory).map_err(|error| error.to_string())?;
    }
    let directory = state.path("paths/spool");
    let opened = Spool::open(directory.clone(), table.spool_documents_max(), table.spool_bytes_max());
    opened.map_err(|error| format!("the spool {} cannot be used: {error}", directory.display()))
}

/// Whether something has the name of the spool in a state directory.
#[must_use]
pub fn has_spool(state: &StateDirectory) -> bool {
    state.path("paths/spool").symlink_metadata().is_ok()
}

/// The archive that the settings name.
///
/// # Errors
/// In words: a password that cannot be read, CA certificates that cannot be used.
pub fn archive(state: &StateDirectory, table: &ArchiveTable, name: &str) -> Result<Archive, String> {
    let login = match (&table.user, &table.password_file) {
        (Some(user), Some(file)) => Some((user.clone(), String::from_utf8_lossy(&read_secret(file)?).into_owned())),
        (None, None) => None,
        _ => return Err("the archive needs both 'user' and 'password_file', or neither".to_owned()),
    };
    let host = table.url.split("://").nth(1).and_then(|rest| rest.split('/').next()).unwrap_or_default().to_owned();
    let trust = Trust::of_word(
        table.trust.as_deref().unwrap_or("ca"),
        table.ca_file.clone(),
        pins(state).map_err(|error| error.to_string())?.remove(&host),
    )?;
    let http = Client::new(&trust, DELIVERY).map_err(|error| error.to_string())?;
    Ok(Archive {
        url: table.url.clone(),
        login,
        observer: table.observer.clone().unwrap_or_else(|| name.to_owned()),
        http,
    })
}

/// The pins of perfSONAR hosts.
const PINS: &str = "paths/pins.json";
/// The version of that file. A file without a version has version 1.
const PINS_VERSION: u64 = 1;

/// Keys of perfSONAR hosts that were accepted on first use: host and port, and the pin.
///
/// # Errors
/// [`StateError`]. If unreadable pins counted as none, the next key presented would be trusted.
pub fn pins(state: &StateDirectory) -> Result<std::collections::BTreeMap<String, String>, StateError> {
    Ok(state.read_json(PINS, PINS_VERSION)?.unwrap_or_default())
}

/// Stores the pin of a host that had none. Returns the pin if it is new.
///
/// # Errors
/// [`culvert_state::StateError`].
pub fn keep_pin(
    state: &StateDirectory,
    host: &str,
    seen: Option<String>,
) -> Result<Option<String>, culvert_state::StateError> {
    let Some(seen) = seen else { return Ok(None) };
    let known: Option<_> = state.read_json_or_set_aside(PINS, PINS_VERSION)?;
    let mut known: std::collections::BTreeMap<String, String> = known.unwrap_or_default();
    if known.contains_key(host) {
        return Ok(None);
    }
    records::make_directory(state)?;
    known.insert(host.to_owned(), seen.clone());
    state.write(PINS, &serde_json::to_vec_pretty(&known).unwrap_or_default())?;
    Ok(Some(seen))
}

/// The documents of a check.
#[must_use]
pub fn of_check(check: &PathCheck, here: &str) -> Vec<(String, Value)> {
    let mut documents = Vec::new();
    for side in Side::ALL {
        let direction = check.side(side);
        let (source, dest) =
            if side == Side::Send { (here, check.partner.as_str()) } else { (check.partner.as_str(), here) };
        let mut add = |test: &'static str, result: Value| {
            let measurement = Measurement {
                test,
                source,
                dest,
                tool: "culvert-path",
                begin_unix_ms: check.at_unix_ms,
                seconds: check.seconds,
                result,
                transfer: None,
            };
            documents.push(measurement.document());
        };
        if let (Side::Send, Some(delivery), Some(rtt)) = (side, direction.delivery, check.rtt) {
            add("rtt", document::rtt(delivery, Some(rtt)));
        }
        if let (Some(delivery), Some(error)) = (direction.delivery, check.one_way_error_us) {
            add("latency", document::latency(delivery, &direction.delay_histogram_ms, Some(error)));
        }
        if let Some(mtu) = direction.mtu {
            add("mtu", document::mtu(mtu.bytes));
        }
        if let Some(route) = &direction.route_udp {
            add("trace", document::trace(route));
        }
    }
    documents
}

/// The document of a transfer.
#[must_use]
pub fn of_transfer(
    result: &TransferResult,
    here: &str,
    partner: &str,
    side: Side,
    ended_unix_ms: u64,
) -> (String, Value) {
    let (source, dest) = if side == Side::Send { (here, partner) } else { (partner, here) };
    let moved = document::throughput(result.bytes, result.seconds, result.segments_resent);
    let begin_unix_ms = ended_unix_ms.saturating_sub((result.seconds * 1e3) as u64);
    let measurement = Measurement {
        test: "throughput",
        source,
        dest,
        tool: "culvert-transfer",
        begin_unix_ms,
        seconds: result.seconds,
        result: moved,
        transfer: Some(&result.transfer),
    };
    measurement.document()
}

/// Puts documents into the spool. The running node delivers them.
///
/// # Errors
/// In words.
pub fn add(spool: &Spool, at_unix_ms: u64, documents: &[(String, Value)]) -> Result<(), String> {
    // The number keeps the order of delivery.
    for (number, (id, document)) in documents.iter().enumerate() {
        let json = serde_json::to_vec(document).map_err(|error| error.to_string())?;
        spool
            .add(at_unix_ms, &format!("{number:02}-{id}"), &json)
            .map_err(|error| format!("a document cannot be spooled: {error}"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_published_in_perfsonars_shapes() {
        let check = crate::grades::tests::check();
        let documents = of_check(&check, "dtn1");
        let kinds: Vec<_> = documents
            .iter()
            .map(|(_, document)| {
                (document["test"]["type"].as_str().unwrap(), document["test"]["spec"]["source"].as_str().unwrap())
            })
            .collect();
        assert_eq!(kinds, [("rtt", "dtn1"), ("latency", "dtn1"), ("mtu", "dtn1"), ("latency", "lab"), ("mtu", "lab")]);
        assert_eq!(documents[0].1["result"]["min"], "PT0.08S");
    }

    #[test]
    fn a_pin_is_taken_once() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        assert_eq!(keep_pin(&state, "ps1:443", Some("sha256/x".into())).unwrap(), Some("sha256/x".to_owned()));
        assert_eq!(keep_pin(&state, "ps1:443", Some("sha256/y".into())).unwrap(), None);
        assert_eq!(pins(&state).unwrap()["ps1:443"], "sha256/x");
    }
}
