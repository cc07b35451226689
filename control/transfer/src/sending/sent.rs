//! The outcome of sending.

use culvert_connection::MessageReader;
use culvert_model::result::TransferResult;
use culvert_protocol::receipt::Receipt;

/// The outcome of sending.
#[derive(Debug)]
pub struct Sent {
    /// The result.
    pub result: TransferResult,
    /// The receipt.
    pub receipt: Option<Receipt>,
    /// The connection's reading end: the partner's goodbye is still to come.
    pub partner: MessageReader,
}
