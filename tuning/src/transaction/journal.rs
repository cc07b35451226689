//! The journal of one transaction: one JSON record per line, each on disk before the action that it
//! announces.

use culvert_host::Place;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::state::{ApplyOptions, Intent, Left, SnapshotEntry, State, Transaction};

/// The version of the journal.
const JOURNAL_VERSION: u32 = 1;

/// One line of a journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum Record {
    /// The first line: the intents and their circumstances.
    Begin {
        /// The version of the journal.
        version: u32,
        /// The time of the beginning in seconds since 1970.
        at_unix_s: u64,
        /// The boot and network namespace.
        place: Place,
        /// The profile.
        profile: String,
        /// Whether it is applied again after a restart of the host.
        persistent: bool,
        /// Whether the applying process stays until the rollback.
        attended: bool,
        /// The settings to write.
        intents: Vec<Intent>,
    },
    /// The former values. No setting is written before this line is on disk.
    Snapshot {
        /// Each setting with its value.
        entries: Vec<SnapshotEntry>,
    },
    /// Everything was written and read back.
    Applied {
        /// The deadline of the confirmation, in milliseconds since the boot.
        deadline_boot_ms: u64,
    },
    /// The transaction is confirmed.
    Confirmed,
    /// The rollback begins.
    RollingBack {
        /// The reason.
        reason: String,
    },
    /// The rollback is complete.
    RolledBack {
        /// Settings that could not be restored.
        left: Vec<Left>,
    },
    /// The transaction ended with a restart of the host, or was forgotten on request.
    Ended,
}

impl Record {
    /// The first record.
    pub(super) fn begin(at_unix_s: u64, place: Place, options: &ApplyOptions, intents: Vec<Intent>) -> Self {
        Self::Begin {
            version: JOURNAL_VERSION,
            at_unix_s,
            place,
            profile: options.profile.clone(),
            persistent: options.persistent,
            attended: options.attended,
            intents,
        }
    }

    /// The record as a line with its newline.
    pub(super) fn to_line(&self) -> Vec<u8> {
        let mut line = serde_json::to_vec(self).expect("every record has a JSON form");
        line.push(b'\n');
        line
    }
}

/// Reads a journal. A last line without a newline is a write that a crash interrupted. It is
/// ignored: the action that it announces happens only once the whole line is on disk.
pub(super) fn read(id: &str, path: &str, bytes: &[u8]) -> Result<Option<Transaction>, StoreError> {
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let mut transaction: Option<Transaction> = None;
    for (number, line) in bytes[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
        let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), line: number + 1, reason };
        let record: Record = serde_json::from_slice(line).map_err(|error| damaged(error.to_string()))?;
        match (record, &mut transaction) {
            (Record::Begin { version, .. }, None) if version != JOURNAL_VERSION => {
                return Err(damaged(format!(
                    "it has version {version}, but this program knows version {JOURNAL_VERSION}"
                )));
            }
            (Record::Begin { at_unix_s, place, profile, persistent, attended, intents, .. }, None) => {
                transaction = Some(Transaction {
                    id: id.to_owned(),
                    began_unix_s: at_unix_s,
                    place,
                    profile,
                    persistent,
                    attended,
                    intents,
                    snapshot: Vec::new(),
                    state: State::Applying,
                    deadline_boot_ms: None,
                    reason: None,
                    left: Vec::new(),
                    journal_bytes: whole as u64,
                });
            }
            (record, Some(transaction)) => take(transaction, record),
            (_, None) => return Err(damaged("it does not begin with a record 'begin'".to_owned())),
        }
    }
    Ok(transaction)
}

fn take(transaction: &mut Transaction, record: Record) {
    match record {
        // A journal has one beginning; another one is ignored.
        Record::Begin { .. } => {}
        Record::Snapshot { entries } => transaction.snapshot = entries,
        Record::Applied { deadline_boot_ms } => {
            transaction.deadline_boot_ms = Some(deadline_boot_ms);
            transaction.state = State::Pending;
        }
        Record::Confirmed => transaction.state = State::Held,
        Record::RollingBack { reason } => {
            transaction.reason = Some(reason);
            transaction.state = State::RollingBack;
        }
        Record::RolledBack { left } => {
            transaction.left = left;
            transaction.state = State::RolledBack;
        }
        Record::Ended => transaction.state = State::Ended,
    }
}

#[cfg(test)]
mod tests {
    use culvert_host::setting::{Setting, Value};

    use super::*;

    fn place() -> Place {
        Place { boot_id: "b".to_owned(), network_namespace: "initial".to_owned() }
    }

    fn lines() -> Vec<u8> {
        let options = ApplyOptions { profile: "dtn-10g".to_owned(), ..ApplyOptions::default() };
        let entry = SnapshotEntry { setting: Setting::sysctl("a.b"), value: Value::new("1") };
        let mut bytes = Record::begin(7, place(), &options, Vec::new()).to_line();
        bytes.extend(Record::Snapshot { entries: vec![entry] }.to_line());
        bytes.extend(Record::Applied { deadline_boot_ms: 99 }.to_line());
        bytes
    }

    #[test]
    fn a_torn_last_line_does_not_count() {
        let bytes = lines();
        let whole = read("t", "p", &bytes).unwrap().unwrap();
        assert_eq!((whole.state, whole.deadline_boot_ms), (State::Pending, Some(99)));
        for cut in 0..bytes.len() {
            let read = read("t", "p", &bytes[..cut]).unwrap();
            if let Some(transaction) = read {
                assert_eq!(transaction.state, State::Applying);
                assert!(transaction.journal_bytes as usize <= cut);
            }
        }
    }

    #[test]
    fn damage_is_named() {
        let mut bytes = lines();
        bytes[3] = b'x';
        let error = read("t", "/j", &bytes).unwrap_err().to_string();
        assert!(error.contains("/j") && error.contains("line 1"), "{error}");
        assert!(read("t", "/j", b"{\"record\":\"confirmed\"}\n").unwrap_err().to_string().contains("begin"));
        let other = String::from_utf8(lines()).unwrap().replace("\"version\":1", "\"version\":2");
        assert!(read("t", "/j", other.as_bytes()).unwrap_err().to_string().contains("version 2"));
    }
}
