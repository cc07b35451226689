//! The file format of a transfer's record.

use culvert_model::record::TransferRecord;
use culvert_protocol::control::TransferId;
use serde::{Deserialize, Serialize};

/// The version of the files in `transfers/`.
pub(super) const VERSION: u64 = 1;

/// The file of a transfer's record within a state directory.
pub(super) fn file_of(id: TransferId) -> String {
    format!("transfers/{id}.json")
}

/// A record as it is written.
///
/// It contains the receipt too, so that a single rename makes success and receipt durable together.
/// The file in `receipts/` is written afterwards, at the next start if the node dies before that.
#[derive(Serialize)]
pub(super) struct RecordFile<'a> {
    pub(super) version: u64,
    #[serde(flatten)]
    pub(super) record: &'a TransferRecord,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) receipt: Option<&'a str>,
    /// The process that runs the transfer, if it is running ([`crate::registry::owners`]).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) owner: Option<&'a str>,
}

/// A record as it is read; see [`RecordFile`].
#[derive(Deserialize)]
pub(super) struct ReadRecordFile {
    #[serde(flatten)]
    pub(super) record: TransferRecord,
    pub(super) receipt: Option<String>,
    pub(super) owner: Option<String>,
}
