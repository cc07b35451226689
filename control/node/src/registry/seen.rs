//! What a record's file says about a transfer, and about the process that runs it.

use culvert_engine::clock::unix_ms;
use culvert_model::record::{Failure, RecordState, TransferRecord};
use culvert_protocol::control::TransferId;
use culvert_state::{StateDirectory, StateError};

use crate::registry::owners::Owners;
use crate::registry::record_file::{ReadRecordFile, VERSION, file_of};

/// The word for what was cut off, for programs.
pub const INTERRUPTED: &str = "interrupted";
/// The maximum age of what `culvert doctor` reports, in milliseconds.
const RECENT_MS: u64 = 7 * 24 * 60 * 60 * 1_000;

/// What was seen.
#[derive(Debug)]
pub(super) enum Seen {
    /// There is no record, or this process has written it.
    Nothing,
    /// It has ended or was paused.
    AtRest {
        record: TransferRecord,
        /// One that is not in its own file yet, perhaps.
        receipt: Option<String>,
    },
    /// It was running, and its process is gone. The record says so, its file does not.
    CutOff(TransferRecord),
    /// Another process carries it out.
    Others { record: TransferRecord, owner: String },
}

/// Looks at the record of a transfer that this process does not carry out.
///
/// # Errors
/// [`StateError`] if it cannot be read or understood.
pub(super) fn look(state: &StateDirectory, owners: &Owners, id: TransferId) -> Result<Seen, StateError> {
    let mut gone: Option<Option<String>> = None;
    loop {
        let read = state.read_json(file_of(id), VERSION)?;
        let Some(ReadRecordFile { record, receipt, owner }) = read else { return Ok(Seen::Nothing) };
        // What it says of its id is a text that names files elsewhere.
        let record = TransferRecord { transfer: id.to_string(), ..record };
        if !record.state.is_under_way() {
            return Ok(Seen::AtRest { record, receipt });
        }
        match owner {
            Some(owner) if Some(owner.as_str()) == owners.own() => return Ok(Seen::Nothing),
            Some(owner) if owners.is_alive(&owner) => return Ok(Seen::Others { record, owner }),
            // A process writes what became of its transfer before it goes: what was read before it
            // went may be out of date, what is read afterwards is not.
            owner if gone.as_ref() == Some(&owner) => return Ok(Seen::CutOff(cut_off(record))),
            owner => gone = Some(owner),
        }
    }
}

/// Transfers of the last days that were interrupted and that nothing resumes by itself. Changes
/// nothing.
#[must_use]
pub fn recently_cut_off(state: &StateDirectory) -> Vec<TransferId> {
    cut_off_since(state, unix_ms().saturating_sub(RECENT_MS))
}

pub(super) fn cut_off_since(state: &StateDirectory, since: u64) -> Vec<TransferId> {
    let owners = Owners::new(state);
    let is_cut_off = |&id: &TransferId| match look(state, &owners, id) {
        Ok(Seen::CutOff(record)) => record.state == RecordState::Failed && record.created_unix_ms >= since,
        _ => false,
    };
    let ids = state.list("transfers", ".json").unwrap_or_default();
    ids.iter().filter_map(|name| name.parse().ok()).filter(is_cut_off).collect()
}

/// A record whose process is gone, as it is shown.
fn cut_off(record: TransferRecord) -> TransferRecord {
    let failure = |text: &str| Failure { code: INTERRUPTED.to_owned(), text: text.to_owned(), exit_code: 5 };
    if record.request.is_some() {
        // A node resumes it when it starts.
        let error = failure("interrupted: the node that ran it is gone; 'culvert node' resumes it");
        return TransferRecord { state: RecordState::Queued, error: Some(error), ..record };
    }
    let error = failure(
        "interrupted: the process that ran it was killed or its host went down; when requested \
         again, it resumes where it stopped",
    );
    TransferRecord { state: RecordState::Failed, error: Some(error), ..record }
}
