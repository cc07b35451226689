//! How a sending transfer ends: the sender checks what the receiver states that it stored, signs
//! it too, and makes the result.

use std::time::Instant;

use culvert_model::result::{ResultError, ResultParts, TransferResult, bounded};
use culvert_protocol::control::{Message, ReceiverSummary, RefusalCode, SenderSummary};
use culvert_protocol::names::printable;
use culvert_protocol::receipt::{Receipt, Statement, sign_line, verify_line};

use crate::TransferContext;
use crate::error::TransferError;
use crate::file_errors::named_errors;
use crate::sending::failures::Failures;
use crate::sending::payload::{PartnerHas, Payload};

/// Reads the receiver's statement, which its key has signed.
///
/// # Errors
/// [`TransferError`] if it is none, or has another signature.
pub(super) fn read_statement(
    context: &TransferContext,
    line: &str,
    signature: &[u8],
) -> Result<Statement, TransferError> {
    let statement: Statement = serde_json::from_str(line)
        .map_err(|error| TransferError::protocol(format!("its receipt cannot be read: {error}")))?;
    verify_line(context.connection.partner, line, signature).map_err(|_| {
        TransferError::here(RefusalCode::Verification, "the partner's receipt is not signed by its key")
    })?;
    Ok(statement)
}

/// Checks a statement against what this side sent, whose root is `root`.
///
/// # Errors
/// [`TransferError`] if it is of something else, or came before everything was sent.
pub(super) fn check_statement(
    context: &TransferContext,
    statement: &Statement,
    root: &str,
    said_all_sent: bool,
) -> Result<(), TransferError> {
    //= W-43
    //# The sender checks it against what it sent and answers with its own signature over the same
    //# text (`Countersigned`).
    let is_ours = statement.transfer == context.id.to_string()
        && statement.sender == context.identity.public_key()
        && statement.receiver == context.connection.partner
        && root == statement.root_blake3;
    if is_ours && said_all_sent {
        return Ok(());
    }
    let text = "the partner's receipt does not match what this node sent: the data must be checked by hand";
    Err(TransferError::here(RefusalCode::Verification, text))
}

/// Signs the receiver's statement too, and sends the signature.
///
/// # Errors
/// [`TransferError`] if the connection is closed.
pub(super) async fn countersign(
    context: &TransferContext,
    line: &str,
    receiver_signature: &[u8],
) -> Result<Receipt, TransferError> {
    let sender_signature = sign_line(&context.identity, line);
    let countersigned = Message::Countersigned { signature: sender_signature.to_vec() };
    context.connection.writer.send(countersigned).await?;
    Ok(Receipt {
        line: line.to_owned(),
        sender_signature,
        receiver_signature: receiver_signature.try_into().unwrap_or([0; 64]),
    })
}

/// The outcome of a transfer that has sent everything.
pub(super) struct Outcome<'a> {
    pub(super) context: &'a TransferContext,
    pub(super) payload: &'a Payload,
    pub(super) has: &'a PartnerHas,
    pub(super) failures: &'a Failures,
    pub(super) statement: &'a Statement,
    pub(super) sender: &'a SenderSummary,
    pub(super) receiver: &'a ReceiverSummary,
    pub(super) flows: usize,
    pub(super) began: Instant,
}

impl Outcome<'_> {
    /// The transfer's result.
    pub(super) fn result(&self) -> TransferResult {
        let Failures { errors, not_kept, .. } = self.failures;
        let (files_total, others_made, errors_listed, warnings) = match self.payload {
            Payload::Files { tree, .. } => {
                let name = |file| printable(tree.listing.manifest.entry(file).name);
                let problems = tree.listing.problems.iter().map(ResultError::from);
                let others_made = self.has.others_made(&tree.listing.manifest);
                let listed = bounded(named_errors(&errors.listed, name).chain(problems));
                let warnings = bounded(named_errors(&not_kept.first, name));
                (tree.listing.manifest.file_count(), others_made, listed, warnings)
            }
            Payload::Memory { .. } => (0, 0, Vec::new(), Vec::new()),
        };
        TransferResult::new(ResultParts {
            id: self.context.id,
            statement: self.statement,
            sender: self.sender,
            receiver: self.receiver,
            seconds: self.began.elapsed().as_secs_f64(),
            flows: self.flows as u16,
            cipher: self.context.options.cipher,
            files_total,
            others_made,
            errors: errors_listed,
            error_count: errors.count.saturating_add(self.sender.problems),
            warnings,
            warning_count: not_kept.count,
        })
    }
}
