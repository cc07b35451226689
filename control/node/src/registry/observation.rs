//! Reads a record file, and determines whether the process that runs the transfer is alive.

use culvert_engine::clock::unix_ms;
use culvert_model::record::{Failure, RecordState, TransferRecord};
use culvert_protocol::control::TransferId;
use culvert_state::{StateDirectory, StateError};

use crate::registry::owners::Owners;
use crate::registry::record_file::{ReadRecordFile, VERSION, file_of};

/// The error code of a transfer whose process is gone.
pub const INTERRUPTED: &str = "interrupted";
/// The maximum age of what `culvert doctor` reports, in milliseconds.
const RECENT_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// What a record file shows.
#[derive(Debug)]
pub(super) enum Observation {
    /// There is no record, or this process has written it.
    Nothing,
    /// The transfer has ended or is paused.
    AtRest {
        record: TransferRecord,
        /// The receipt in the record, which may not have a file of its own yet.
        receipt: Option<String>,
    },
    /// The transfer was running, and its process is gone. The record says so; the file does not.
    CutOff(TransferRecord),
    /// Another process runs the transfer.
    Foreign { record: TransferRecord, owner: String },
}

/// Reads the record of a transfer that this process does not run.
///
/// # Errors
/// [`StateError`] if it cannot be read or parsed.
pub(super) fn observe(state: &StateDirectory, owners: &Owners, id: TransferId) -> Result<Observation, StateError> {
    let mut gone: Option<Option<String>> = None;
    loop {
        let read = state.read_json(file_of(id), VERSION)?;
        let Some(ReadRecordFile { record, receipt, owner }) = read else { return Ok(Observation::Nothing) };
        // The id comes from the file name: the one inside the file could name other files.
        let record = TransferRecord { transfer: id.to_string(), ..record };
        if !record.state.is_under_way() {
            return Ok(Observation::AtRest { record, receipt });
        }
        match owner {
            Some(owner) if Some(owner.as_str()) == owners.own() => return Ok(Observation::Nothing),
            Some(owner) if owners.is_alive(&owner) => return Ok(Observation::Foreign { record, owner }),
            // A process records the end of its transfer before it exits. A record read before the
            // exit may be outdated, so it is read again.
            owner if gone.as_ref() == Some(&owner) => return Ok(Observation::CutOff(cut_off(record))),
            owner => gone = Some(owner),
        }
    }
}

/// Transfers of the last seven days that were interrupted and that nobody resumes. Changes nothing.
#[must_use]
pub fn recently_cut_off(state: &StateDirectory) -> Vec<TransferId> {
    cut_off_since(state, unix_ms().saturating_sub(RECENT_MS))
}

pub(super) fn cut_off_since(state: &StateDirectory, since: u64) -> Vec<TransferId> {
    let owners = Owners::new(state);
    let is_cut_off = |&id: &TransferId| match observe(state, &owners, id) {
        Ok(Observation::CutOff(record)) => record.state == RecordState::Failed && record.created_unix_ms >= since,
        _ => false,
    };
    let ids = state.list("transfers", ".json").unwrap_or_default();
    ids.iter().filter_map(|name| name.parse().ok()).filter(is_cut_off).collect()
}

/// A record whose process is gone, as it is shown to users.
fn cut_off(record: TransferRecord) -> TransferRecord {
    let failure = |text: &str| Failure { code: INTERRUPTED.to_owned(), text: text.to_owned(), exit_code: 5 };
    if record.request.is_some() {
        // The node resumes it when it starts.
        let error = failure("interrupted: the node that ran it is gone; 'culvert node' resumes it");
        return TransferRecord { state: RecordState::Queued, error: Some(error), ..record };
    }
    let error = failure(
        "interrupted: the process that ran it was killed or its host went down; when requested \
         again, it resumes where it stopped",
    );
    TransferRecord { state: RecordState::Failed, error: Some(error), ..record }
}
