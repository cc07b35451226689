//! How a sending transfer ends: the sender says that everything is sent, checks what the receiver
//! states, and signs it too.

use std::time::Instant;

use culvert_model::progress::Phase;
use culvert_model::result::{ResultError, ResultParts, TransferResult, bounded};
use culvert_protocol::control::{Message, ReceiverSummary, RefusalCode, SenderSummary};
use culvert_protocol::names::printable;
use culvert_protocol::receipt::{Receipt, Statement, sign_line, verify_line};
use culvert_system::processor_time::millicycles_per_byte;

use crate::transfer::error::TransferError;
use crate::transfer::file_errors::named_errors;
use crate::transfer::manifest_exchange::left_out;
use crate::transfer::root_of;
use crate::transfer::sending::payload::Payload;
use crate::transfer::sending::sent::Sent;
use crate::transfer::sending::state::Sending;

impl Sending {
    /// Announces that everything is sent, when it is; again if something had to be sent once more.
    pub(super) fn say_all_sent(&mut self) {
        let is_idle = self.queue.next_chunk >= self.queue.chunk_count
            && self.queue.again.is_empty()
            && self.queue.prepared.is_empty()
            && self.queue.preparing == 0
            && self.queue.assigned.is_empty()
            && self.queue.checking == 0;
        if !is_idle || self.pace.said_all_sent {
            return;
        }
        self.pace.said_all_sent = true;
        if let Payload::Files { tree, .. } = &self.payload
            && !tree.listing.problems.is_empty()
        {
            self.outbox.others.push(Message::LeftOut(left_out(tree)));
        }
        let summary = self.summary();
        self.outbox.others.push(Message::AllSent(summary));
        self.context.progress.send_modify(|progress| progress.phase = Phase::Finishing);
    }

    pub(super) fn summary(&self) -> SenderSummary {
        let cpu_us = self.pace.cpu.elapsed_us();
        let problems = match &self.payload {
            Payload::Files { tree, .. } => tree.listing.problem_count,
            Payload::Memory { .. } => 0,
        };
        SenderSummary {
            cpu_us,
            millicycles_per_byte: millicycles_per_byte(cpu_us, self.pace.bytes_delivered),
            problems,
            ..self.flows.summary()
        }
    }

    /// Checks the receiver's statement, signs it, and makes the result.
    pub(super) async fn finish(
        &mut self,
        line: &str,
        signature: &[u8],
        receiver: &ReceiverSummary,
        began: Instant,
    ) -> Result<Sent, TransferError> {
        let statement: Statement = serde_json::from_str(line)
            .map_err(|error| TransferError::protocol(format!("its receipt cannot be read: {error}")))?;
        let partner = self.context.connection.partner;
        let verified = verify_line(partner, line, signature);
        verified.map_err(|_| {
            TransferError::here(RefusalCode::Verification, "the partner's receipt is not signed by its key")
        })?;
        let identity = self.context.identity.clone();
        let root = self.root().await;
        let is_ours = statement.transfer == self.context.id.to_string()
            && statement.sender == identity.public_key()
            && statement.receiver == partner
            && root == statement.root_blake3;
        if !is_ours || !self.pace.said_all_sent {
            let text = "the partner's receipt does not match what this node sent: the data must be checked by hand";
            return Err(TransferError::here(RefusalCode::Verification, text));
        }
        let sender_signature = sign_line(&identity, line);
        let countersigned = Message::Countersigned { signature: sender_signature.to_vec() };
        self.context.connection.writer.send(countersigned).await?;
        let receipt = Receipt {
            line: line.to_owned(),
            sender_signature,
            receiver_signature: signature.try_into().unwrap_or([0; 64]),
        };
        self.tell_rest();
        let summary = self.summary();
        let (files_total, others_made, errors, warnings) = match &self.payload {
            Payload::Files { tree, .. } => {
                let name = |file| printable(tree.listing.manifest.entry(file).name);
                let problems = tree.listing.problems.iter().map(ResultError::from);
                let others_made = self.has.others_made(&tree.listing.manifest);
                let errors = bounded(named_errors(&self.failures.errors.listed, name).chain(problems));
                let warnings = bounded(named_errors(&self.failures.not_kept.first, name));
                (tree.listing.manifest.file_count(), others_made, errors, warnings)
            }
            Payload::Memory { .. } => (0, 0, Vec::new(), Vec::new()),
        };
        let result = TransferResult::new(ResultParts {
            id: self.context.id,
            statement: &statement,
            sender: &summary,
            receiver,
            seconds: began.elapsed().as_secs_f64(),
            flows: self.flows.len() as u16,
            cipher: self.context.options.cipher,
            files_total,
            others_made,
            errors,
            error_count: self.failures.errors.count.saturating_add(summary.problems),
            warnings,
            warning_count: self.failures.not_kept.count,
        });
        self.flows.close();
        Ok(Sent { result, receipt: Some(receipt), partner: self.context.connection.reader.take() })
    }

    /// Lets a helper compute the root of everything that was stored, as the receiver does too,
    /// unless one has.
    pub(super) fn update_root(&mut self) {
        let failed_count = self.failures.failed.len();
        if self.hashing.root.as_ref().is_some_and(|(known, _)| *known == failed_count) {
            return;
        }
        let tree = match &self.payload {
            Payload::Files { tree, .. } if self.context.options.checksum => Some(tree.clone()),
            _ => None,
        };
        let (skipped, failed, hashes) =
            (self.has.skipped.clone(), self.failures.failed.clone(), self.hashing.hashes.clone());
        let version = self.context.connection.version;
        let computing = tokio::task::spawn_blocking(move || {
            let stored = |file: u32| !skipped.contains(&file) && !failed.contains(&file);
            tree.map_or_else(String::new, |tree| root_of(&tree.listing.manifest, &hashes, version, stored))
        });
        self.hashing.root = Some((failed_count, computing));
    }

    /// The root of everything that was stored.
    async fn root(&mut self) -> String {
        self.update_root();
        match self.hashing.root.take() {
            Some((_, computing)) => match computing.await {
                Ok(root) => root,
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            },
            None => String::new(),
        }
    }
}
