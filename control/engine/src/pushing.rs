//! The sending side from the listing on, for requests of either end.

use std::sync::Arc;

use culvert_model::result::{ResultError, TransferResult};
use culvert_model::would::Direction;
use culvert_objects::source::{SourceTree, Sources};
use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::control::{Message, RefusalCode};
use culvert_protocol::dry_run::{Finding, Room};
use culvert_protocol::names::printable;

use crate::outcome::Outcome;
use crate::transfer::TransferContext;
use crate::transfer::dry_run::DryRunFindings;
use crate::transfer::error::TransferError;
use crate::transfer::manifest_exchange::{canceled, send_manifest, unexpected};
use crate::transfer::sending::{PartnerHas, Payload, send};

/// Reports that may arrive before the end of the plan: a few per flow.
const EARLY_REPORTS_MAX: usize = 1_024;

/// Sends `sources`: manifest, plan, data.
///
/// # Errors
/// [`TransferError`].
pub async fn push(mut context: TransferContext, sources: Box<dyn Sources>) -> Result<Outcome, TransferError> {
    let tree = send_manifest(&context, sources).await?;
    let has =
        receive_plan(&mut context, tree.listing.manifest.len() as u32, tree.listing.manifest.total_bytes()).await?;
    let is_sent = |file: u32| !has.skipped.contains(&file) && !has.resumed.contains_key(&file);
    let chunks = ChunkMap::new(&tree.listing.manifest, context.options.chunk_bytes, is_sent)
        .map_err(|error| TransferError::here(RefusalCode::Failed, error.to_string()))?;
    if context.options.dry_run {
        let result = dry_run_of_sender(&context, &tree, &has);
        return Ok(Outcome { result, receipt: None, partner: None, journal: None });
    }
    let sent = send(context, Payload::Files { tree, chunks: Arc::new(chunks) }, has).await?;
    Ok(sent.into())
}

/// Receives the receiver's plan for a manifest of `entries` entries and `total_bytes` bytes.
///
/// # Errors
/// [`TransferError`].
pub async fn receive_plan(
    context: &mut TransferContext,
    entries: u32,
    total_bytes: u64,
) -> Result<PartnerHas, TransferError> {
    let mut has = PartnerHas::default();
    let mut cancel = context.cancel.clone();
    let mut next_skipped = 0;
    let chunks_max = total_bytes / u64::from(context.options.chunk_bytes) + u64::from(entries);
    loop {
        let message = tokio::select! {
            message = context.connection.reader.next_in_time() => message?,
            () = TransferContext::canceled(&mut cancel) => return Err(canceled()),
        };
        let beyond = || Err(TransferError::protocol("its plan names files that are not in the manifest"));
        match message {
            Message::PlanPart { skipped } => {
                for run in skipped {
                    //= W-38
                    //# Runs in `PlanPart` ascend and do not overlap, including across messages.
                    let end =
                        run.first.checked_add(run.count).filter(|&end| run.first >= next_skipped && end <= entries);
                    let Some(end) = end else { return beyond() };
                    next_skipped = end;
                    Arc::make_mut(&mut has.skipped).extend(run.first..end);
                }
            }
            Message::Resumed(files) => {
                if files.iter().any(|&(file, _)| file >= entries) {
                    return beyond();
                }
                has.resumed.extend(files);
            }
            Message::Proofs(proofs) => {
                //= W-38
                //# There are no more proofs than chunks.
                has.proofs.extend(proofs);
                if has.proofs.len() as u64 > chunks_max {
                    return Err(TransferError::protocol("it reports more stored chunks than the transfer has"));
                }
            }
            Message::PlanEnd { flows, stored_bytes } => {
                //= W-58
                //# More or fewer outcomes than entries violate the protocol
                if context.tells_dry_run() && has.fates.as_slice().len() != entries as usize {
                    return Err(TransferError::protocol("it does not report an outcome for every file"));
                }
                has.offers = flows;
                has.stored_bytes = stored_bytes;
                return Ok(has);
            }
            Message::DryRun(Finding::Fates(runs)) if context.tells_dry_run() => {
                if !has.fates.add(&runs, entries) {
                    return beyond();
                }
            }
            Message::DryRun(Finding::Room { free_bytes, needed_bytes }) if context.tells_dry_run() => {
                has.room = Some(Room { needed_bytes, free_bytes, ..has.room.unwrap_or_default() });
            }
            Message::DryRun(Finding::Inodes { free, needed }) if context.tells_dry_run() => {
                let (needed_inodes, free_inodes) = (needed, free);
                has.room = has.room.map(|room| Room { needed_inodes, free_inodes, ..room });
            }
            Message::Refused(refusal) => return Err(TransferError::Partner(refusal)),
            Message::Ping(number) => context.connection.writer.send_urgent(Message::Pong(number))?,
            Message::Pong(_) => {}
            Message::Feedback(report) if has.early_reports.len() < EARLY_REPORTS_MAX => has.early_reports.push(report),
            other => return Err(unexpected(&other, "the plan")),
        }
    }
}

/// The result of a dry run at the sending end.
fn dry_run_of_sender(context: &TransferContext, tree: &SourceTree, has: &PartnerHas) -> TransferResult {
    let found = DryRunFindings {
        direction: Direction::Send,
        manifest: &tree.listing.manifest,
        name: &|file| printable(tree.listing.manifest.entry(file).name),
        fates: context.tells_dry_run().then(|| has.fates.as_slice()),
        is_skipped: &|file| has.skipped.contains(&file) || has.resumed.contains_key(&file),
        stored_bytes: has.stored_bytes,
        room: has.room,
        left_out: (tree.listing.problem_count, tree.listing.problems.iter().map(ResultError::from).collect()),
        is_listed: context.share.is_users(),
    };
    found.result(context.id, context.options.cipher)
}
