//! How a transfer's record stands in its file.

use culvert_model::record::TransferRecord;
use culvert_protocol::control::TransferId;
use serde::{Deserialize, Serialize};

/// The version of the files in `transfers/`.
pub(super) const VERSION: u64 = 1;

/// The file of a transfer's record within a state directory.
pub(super) fn file_of(id: TransferId) -> String {
    format!("transfers/{id}.json")
}

/// A record as it stands in its file.
///
/// The receipt stands here too: with one rename a transfer has succeeded and its receipt is kept.
/// The file in `receipts/` follows, at the next start if the node dies before.
#[derive(Serialize)]
pub(super) struct RecordFile<'a> {
    pub(super) version: u64,
    #[serde(flatten)]
    pub(super) record: &'a TransferRecord,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) receipt: Option<&'a str>,
    /// The owner that runs it, if it is running ([`crate::registry::owners`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<&'a str>,
}

/// As [`RecordFile`], read.
#[derive(Deserialize)]
pub(super) struct ReadRecordFile {
    #[serde(flatten)]
    pub(super) record: TransferRecord,
    pub(super) receipt: Option<String>,
    pub(super) owner: Option<String>,
}
