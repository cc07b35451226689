//! The outcome of receiving.

use std::sync::Arc;

use culvert_connection::MessageReader;
use culvert_model::result::TransferResult;
use culvert_protocol::receipt::Receipt;

use crate::receiving::intake::Intake;

/// The outcome of receiving.
#[derive(Debug)]
pub struct Received {
    /// The result.
    pub result: TransferResult,
    /// The receipt; none for a dry run.
    pub receipt: Option<Receipt>,
    /// The connection's reading end: the partner's goodbye is still to come.
    pub partner: MessageReader,
    /// The journal.
    pub journal: LeftJournal,
}

/// The journal of a transfer that has stored everything. Until the transfer's record is written, it
/// tells a returning partner that everything is stored.
#[derive(Debug)]
pub struct LeftJournal(pub(super) Arc<Intake>);

impl LeftJournal {
    /// Removes it. May wait for a disk.
    pub fn forget(self) {
        self.0.forget_journal();
    }
}
