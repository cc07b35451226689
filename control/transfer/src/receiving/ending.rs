//! How a receiving transfer ends: the statement of what was stored, both signatures, and the
//! result.

use std::collections::HashSet;
use std::sync::PoisonError;

use culvert_model::result::{ResultError, ResultParts, TransferResult, bounded};
use culvert_model::would::Direction;
use culvert_objects::fs::destination::attributes::NotKept;
use culvert_protocol::control::{Message, NOT_KEPT_IS_TOLD_SINCE, ReceiverSummary, RefusalCode, SenderSummary};
use culvert_protocol::names::printable;
use culvert_protocol::receipt::{Receipt, Statement, sign_line, verify_line};
use culvert_protocol::tree_hash::ChunkHash;
use culvert_protocol::verdict::{Verdict, verdict};
use culvert_system::processor_time::millicycles_per_byte;

use crate::clock::unix_ms;
use crate::dry_run::DryRunFindings;
use crate::error::TransferError;
use crate::file_errors::named_errors;
use crate::receiving::done::Done;
use crate::receiving::failures::Failures;
use crate::receiving::job::Job;
use crate::receiving::old_files::OldFiles;
use crate::receiving::statement::{Ending, Stated};
use crate::receiving::tally::Tally;
use crate::root_of;

/// Makes the last of what is stored durable and computes the root, outside the runtime's thread.
pub(super) fn begin_to_conclude(job: &Job, hashes: Vec<ChunkHash>, failed: HashSet<u32>) {
    let intake = job.intake.clone();
    let (preserve, overwrite) = (job.context.options.preserve, job.context.options.overwrite);
    let has_root = job.context.options.checksum && !job.is_measurement();
    let version = job.context.connection.version;
    job.help_blocking(move || {
        let stored = |file: u32| !intake.is_skipped(file) && !failed.contains(&file);
        let concluded = intake
            .finish(preserve, overwrite)
            .and_then(|()| intake.require_place())
            .and_then(|()| intake.note_complete())
            .map(|()| if has_root { root_of(&intake.manifest, &hashes, version, stored) } else { String::new() });
        Done::Concluded(concluded)
    });
}

/// What is stored: a transfer's counts when everything is.
pub(super) struct Stored<'a> {
    pub(super) job: &'a Job,
    pub(super) tally: &'a Tally,
    pub(super) old: &'a OldFiles,
    /// Files that are not stored.
    pub(super) failed_count: u64,
}

impl Stored<'_> {
    /// States what is stored: `root` is the hash of all of it.
    pub(super) fn state(&self, ending: &Ending, sender: &SenderSummary, root: String) -> Stated {
        let verdict = verdict(&sender.times, &ending.times(), sender.rate_was_asked_for);
        let statement = self.statement(ending, sender, &verdict, root);
        Stated { line: statement.to_line(), statement, receiver: self.summary(ending.cpu.elapsed_us(), verdict) }
    }

    fn statement(&self, ending: &Ending, sender: &SenderSummary, verdict: &Verdict, root: String) -> Statement {
        let context = &self.job.context;
        Statement {
            culvert_receipt: 1,
            transfer: context.id.to_string(),
            sender: context.connection.partner,
            receiver: context.identity.public_key(),
            began_unix_ms: ending.began_unix_ms,
            ended_unix_ms: unix_ms(),
            // What was compared is proved, whoever stored it.
            files: self.tally.files_stored.saturating_add(self.old.same_count()),
            files_failed: self.failed_count,
            bytes: self.bytes_stored().saturating_add(self.old.same_bytes),
            root_blake3: root,
            segments_sent: sender.segments_sent,
            segments_resent: sender.segments_resent,
            cipher: context.options.cipher.name().to_owned(),
            verdict: verdict.text.clone(),
        }
    }

    fn summary(&self, cpu_us: u64, verdict: Verdict) -> ReceiverSummary {
        let (tally, intake) = (self.tally, &self.job.intake);
        let resumed_bytes = intake.resumed_bytes + tally.reused_bytes;
        let moved = tally.bytes_arrived.saturating_sub(resumed_bytes).saturating_sub(self.old.same_bytes);
        ReceiverSummary {
            files_stored: tally.files_stored,
            files_skipped: intake.skipped_files().saturating_add(self.old.same_count()),
            files_failed: self.failed_count,
            bytes_stored: self.bytes_stored(),
            resumed_bytes,
            cpu_us,
            millicycles_per_byte: millicycles_per_byte(cpu_us, moved),
            verdict,
        }
    }

    fn bytes_stored(&self) -> u64 {
        self.job.intake.memory_bytes.unwrap_or(self.tally.bytes_stored)
    }
}

/// Tells the sender what is stored without some of its attributes, and returns it.
///
/// # Errors
/// [`TransferError`] if the connection is closed.
pub(super) async fn tell_not_kept(job: &Job) -> Result<NotKept, TransferError> {
    //= W-57
    //# Since version 6, the receiver sends `NotKept` before `Finished`.
    let not_kept = std::mem::take(&mut *job.intake.not_kept.lock().unwrap_or_else(PoisonError::into_inner));
    if not_kept.count > 0 && job.context.connection.version >= NOT_KEPT_IS_TOLD_SINCE {
        let NotKept { count, first } = not_kept.clone();
        job.writer().send(Message::NotKept { count, first }).await?;
    }
    Ok(not_kept)
}

/// Signs a statement, and sends it.
///
/// # Errors
/// [`TransferError`] if the connection is closed.
pub(super) async fn send_statement(job: &Job, stated: &Stated) -> Result<(), TransferError> {
    //= W-43
    //# `Finished` carries the receiver's signed statement of what it stored.
    let signature = sign_line(&job.context.identity, &stated.line).to_vec();
    let message = Message::Finished { line: stated.line.clone(), signature, summary: stated.receiver.clone() };
    job.writer().send(message).await?;
    Ok(())
}

/// The sender has signed the statement too: the receipt, and the result of the transfer, which came
/// by `flows` flows.
///
/// # Errors
/// [`TransferError`] if there was no statement to sign, or the signature is wrong.
pub(super) fn conclude(
    job: &Job,
    ending: &Ending,
    failures: &Failures,
    flows: usize,
    signature: &[u8],
) -> Result<(TransferResult, Receipt), TransferError> {
    let (Some(stated), Some(sender)) = (&ending.stated, &ending.sender) else {
        return Err(TransferError::protocol("it signed a receipt that it was not given"));
    };
    verify_line(job.context.connection.partner, &stated.line, signature).map_err(|_| {
        TransferError::here(RefusalCode::Verification, "the partner's signature does not belong to the receipt")
    })?;
    let receipt = Receipt {
        line: stated.line.clone(),
        sender_signature: signature.try_into().unwrap_or([0; 64]),
        receiver_signature: sign_line(&job.context.identity, &stated.line),
    };
    let intake = &job.intake;
    let name = |file| printable(&intake.name(file));
    let left_out = failures.left_out.iter().map(ResultError::from);
    let result = TransferResult::new(ResultParts {
        id: job.context.id,
        statement: &stated.statement,
        sender,
        receiver: &stated.receiver,
        seconds: ending.began.elapsed().as_secs_f64(),
        flows: flows as u16,
        cipher: job.context.options.cipher,
        files_total: intake.manifest.file_count(),
        others_made: intake.others_made(),
        errors: bounded(named_errors(&failures.errors.listed, name).chain(left_out)),
        error_count: failures.errors.count.saturating_add(sender.problems),
        warnings: bounded(named_errors(&failures.not_kept.first, name)),
        warning_count: failures.not_kept.count,
    });
    Ok((result, receipt))
}

/// The result of a dry run.
pub(super) fn dry_result(job: &Job, failures: &Failures) -> TransferResult {
    let (intake, foretold) = (&job.intake, job.intake.foretold.as_ref());
    let name = |file| printable(&intake.name(file));
    let (count, first) = &failures.would_leave_out;
    let found = DryRunFindings {
        direction: Direction::Receive,
        manifest: &intake.manifest,
        name: &name,
        fates: foretold.map(|foretold| foretold.fates.as_slice()),
        is_skipped: &|file| intake.is_skipped(file),
        stored_bytes: intake.resumed_bytes,
        room: foretold.map(|foretold| foretold.room),
        left_out: (*count, first.iter().map(ResultError::from).collect()),
        is_listed: job.context.share.is_users(),
    };
    found.result(job.context.id, job.context.options.cipher)
}
