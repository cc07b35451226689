//! How a receiving transfer ends: the statement of what was stored, both signatures, and the
//! result.

use std::sync::PoisonError;

use culvert_model::result::{ResultError, ResultParts, TransferResult, bounded};
use culvert_model::would::Direction;
use culvert_objects::fs::destination::attributes::NotKept;
use culvert_protocol::control::{Message, NOT_KEPT_IS_TOLD_SINCE, ReceiverSummary, RefusalCode};
use culvert_protocol::names::printable;
use culvert_protocol::receipt::{Receipt, Statement, sign_line, verify_line};
use culvert_protocol::verdict::{ReceiverTimes, verdict};
use culvert_system::processor_time::millicycles_per_byte;

use crate::clock::unix_ms;
use crate::transfer::dry_run::DryRunFindings;
use crate::transfer::error::TransferError;
use crate::transfer::file_errors::named_errors;
use crate::transfer::receiving::done::Done;
use crate::transfer::receiving::received::{LeftJournal, Received};
use crate::transfer::receiving::state::Receiving;
use crate::transfer::root_of;

impl Receiving {
    /// When everything is stored: makes the last of it durable and computes the root, outside the
    /// runtime's thread.
    pub(super) fn conclude_if_done(&mut self) {
        let has_work = self.tally.files_left > 0 || self.tally.memory_left > 0 || self.tally.partials_in_motion > 0;
        if self.ending.sender.is_none() || self.ending.is_concluding || has_work {
            return;
        }
        self.ending.is_concluding = true;
        let (intake, done) = (self.intake.clone(), self.done.clone());
        let (preserve, overwrite) = (self.context.options.preserve, self.context.options.overwrite);
        let has_root = self.context.options.checksum && self.intake.memory_bytes.is_none();
        // Nothing is stored any more, so nothing needs the hashes but the root.
        let (hashes, failed) = (std::mem::take(&mut self.tally.hashes), self.failures.failed.clone());
        let version = self.context.connection.version;
        tokio::task::spawn_blocking(move || {
            let stored = |file: u32| !intake.is_skipped(file) && !failed.contains(&file);
            let concluded = intake
                .finish(preserve, overwrite)
                .and_then(|()| intake.require_place())
                .and_then(|()| intake.note_complete())
                .map(|()| if has_root { root_of(&intake.manifest, &hashes, version, stored) } else { String::new() });
            let _ = done.send(Done::Concluded(concluded));
        });
    }

    /// Everything is stored: states it, signs it, and sends it.
    pub(super) async fn state_what_is_stored(&mut self, root: String) -> Result<(), TransferError> {
        let Some(sender) = self.ending.sender else { return Ok(()) };
        let bytes_stored = self.intake.memory_bytes.unwrap_or(self.tally.bytes_stored);
        let times = ReceiverTimes { busy: self.ending.busy.part(), writing: self.ending.writing.part() };
        let verdict = verdict(&sender.times, &times, sender.rate_was_asked_for);
        let statement = Statement {
            culvert_receipt: 1,
            transfer: self.context.id.to_string(),
            sender: self.context.connection.partner,
            receiver: self.context.identity.public_key(),
            began_unix_ms: self.ending.began_unix_ms,
            ended_unix_ms: unix_ms(),
            // What was compared is proved, whoever stored it.
            files: self.tally.files_stored.saturating_add(self.old.same_count()),
            files_failed: self.failures.errors.count,
            bytes: bytes_stored.saturating_add(self.old.same_bytes),
            root_blake3: root,
            segments_sent: sender.segments_sent,
            segments_resent: sender.segments_resent,
            cipher: self.context.options.cipher.name().to_owned(),
            verdict: verdict.text.clone(),
        };
        let cpu_us = self.ending.cpu.elapsed_us();
        let resumed_bytes = self.intake.resumed_bytes + self.tally.reused_bytes;
        let moved = self.tally.bytes_arrived.saturating_sub(resumed_bytes).saturating_sub(self.old.same_bytes);
        let summary = ReceiverSummary {
            files_stored: self.tally.files_stored,
            files_skipped: self.intake.skipped_files().saturating_add(self.old.same_count()),
            files_failed: self.failures.errors.count,
            bytes_stored,
            resumed_bytes,
            cpu_us,
            millicycles_per_byte: millicycles_per_byte(cpu_us, moved),
            verdict,
        };
        self.failures.not_kept =
            std::mem::take(&mut *self.intake.not_kept.lock().unwrap_or_else(PoisonError::into_inner));
        if self.failures.not_kept.count > 0 && self.context.connection.version >= NOT_KEPT_IS_TOLD_SINCE {
            let NotKept { count, first } = self.failures.not_kept.clone();
            self.context.connection.writer.send(Message::NotKept { count, first }).await?;
        }
        self.ending.line = statement.to_line();
        let signature = sign_line(&self.context.identity, &self.ending.line).to_vec();
        let message = Message::Finished { line: self.ending.line.clone(), signature, summary: summary.clone() };
        self.context.connection.writer.send(message).await?;
        self.ending.receiver = Some(summary);
        self.ending.finish_sent = Some(statement);
        Ok(())
    }

    /// The sender has signed too: the transfer is over.
    pub(super) async fn countersigned(&mut self, signature: &[u8]) -> Result<Received, TransferError> {
        let (Some(statement), Some(receiver), Some(sender)) =
            (&self.ending.finish_sent, &self.ending.receiver, &self.ending.sender)
        else {
            return Err(TransferError::protocol("it signed a receipt that it was not given"));
        };
        verify_line(self.context.connection.partner, &self.ending.line, signature).map_err(|_| {
            TransferError::here(RefusalCode::Verification, "the partner's signature does not belong to the receipt")
        })?;
        let receipt = Receipt {
            line: self.ending.line.clone(),
            sender_signature: signature.try_into().unwrap_or([0; 64]),
            receiver_signature: sign_line(&self.context.identity, &self.ending.line),
        };
        let name = |file| printable(&self.intake.name(file));
        let left_out = self.failures.left_out.iter().map(ResultError::from);
        let result = TransferResult::new(ResultParts {
            id: self.context.id,
            statement,
            sender,
            receiver,
            seconds: self.ending.began.elapsed().as_secs_f64(),
            flows: self.inbound.flows.len() as u16,
            cipher: self.context.options.cipher,
            files_total: self.intake.manifest.file_count(),
            others_made: self.intake.others_made(),
            errors: bounded(named_errors(&self.failures.errors.listed, name).chain(left_out)),
            error_count: self.failures.errors.count.saturating_add(sender.problems),
            warnings: bounded(named_errors(&self.failures.not_kept.first, name)),
            warning_count: self.failures.not_kept.count,
        });
        let partner = self.context.connection.reader.take();
        Ok(Received { result, receipt: Some(receipt), partner, journal: LeftJournal(self.intake.clone()) })
    }

    /// What a dry run comes to.
    pub(super) fn dry_result(&self) -> TransferResult {
        let (intake, foretold) = (&self.intake, self.intake.foretold.as_ref());
        let name = |file| printable(&intake.name(file));
        let (count, first) = &self.failures.would_leave_out;
        let found = DryRunFindings {
            direction: Direction::Receive,
            manifest: &intake.manifest,
            name: &name,
            fates: foretold.map(|foretold| foretold.fates.as_slice()),
            is_skipped: &|file| intake.is_skipped(file),
            stored_bytes: intake.resumed_bytes,
            room: foretold.map(|foretold| foretold.room),
            left_out: (*count, first.iter().map(ResultError::from).collect()),
            is_listed: self.context.share.is_users(),
        };
        found.result(self.context.id, self.context.options.cipher)
    }
}
