//! The receiving side of a transfer.
//!
//! The plan is made before the first byte: what is there, what may be replaced, whether there is
//! room, what an earlier attempt left. Then the task answers the lanes' questions (where does this
//! chunk go?), compares hashes as they come from both sides, makes what is written durable, and
//! gives files their names when the sender says that they did not change and every chunk is
//! verified.

mod arriving;
mod chunk_hashes;
mod closed_path;
mod committer;
mod committing;
mod comparing;
mod dispatch;
mod done;
mod ending;
mod failures;
mod files;
mod flow_place;
mod hole_making;
mod holes;
mod inbound;
mod incoming;
mod intake;
mod job;
mod last_modes;
mod leftovers;
mod old_files;
mod open_file;
mod opened_in_journal;
mod opening;
mod opening_flow;
mod outcomes;
mod parts;
mod placing;
mod planning;
mod put_objects;
mod random;
mod received;
mod report_delay;
mod stalling;
mod state;
mod statement;
mod stored_records;
mod storing;
mod tally;
mod unpacking;

use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_connection::SILENCE_TIMEOUT;
use culvert_model::progress::Phase;
use culvert_objects::sink::ObjectSink;
use culvert_plane::{EventReceiver, EventSender, ReceiveEvent, event_queue};
use culvert_protocol::control::{Message, RefusalCode};
use tokio::sync::mpsc;

use crate::clock::unix_ms;
use crate::error::TransferError;
use crate::manifest_exchange::{ReceivedManifest, canceled, receive_manifest};
use crate::receiving::done::Done;
use crate::receiving::ending::dry_result;
pub use crate::receiving::incoming::{FileRequest, Incoming};
use crate::receiving::intake::Intake;
use crate::receiving::opening::{open_flows, tell_plan};
use crate::receiving::random::random_u32;
pub use crate::receiving::received::{LeftJournal, Received};
use crate::receiving::state::Receiving;
use crate::{TransferContext, blocking};

/// How often progress is measured and written chunks are made durable.
const TICK: Duration = Duration::from_millis(250);

/// How long an ended transfer waits for the next of its helpers: a slow disk has its time, but one
/// may wait for a data plane that hangs.
const HELPERS_PATIENCE: Duration = Duration::from_secs(20);

/// Receives a transfer that both sides have agreed upon.
///
/// # Errors
/// [`TransferError`]; the caller notifies the partner if the error is this side's.
pub async fn receive(mut context: TransferContext, incoming: Incoming) -> Result<Received, TransferError> {
    let began = Instant::now();
    let began_unix_ms = unix_ms();
    let mut would_leave_out = (0, Vec::new());
    let intake = match incoming {
        Incoming::Files(request) => {
            let mut manifest = receive_listing(&mut context).await?;
            would_leave_out = std::mem::take(&mut manifest.left_out);
            plan_files(&context, request, manifest).await?
        }
        Incoming::Objects(sink) => {
            let mut manifest = receive_listing(&mut context).await?;
            would_leave_out = std::mem::take(&mut manifest.left_out);
            plan_objects(&context, sink, manifest).await?
        }
        Incoming::Memory { bytes } => Intake::memory(bytes, context.options.chunk_bytes),
    };
    let (lane_events, events) = event_queue();
    let (done, mut finished_work) = mpsc::unbounded_channel();
    let mut receiving = Receiving::new(context, intake, would_leave_out, done, began, began_unix_ms)?;
    let intake = receiving.job.intake.clone();
    let received = conduct(&mut receiving, &lane_events, events, &mut finished_work).await;
    // Files are closed and half-filled directories are removed, which may wait for the disk; and
    // the journal is free before the partner learns that it may come back.
    blocking(move || put_away(receiving)).await;
    // What helpers have not removed yet stays forever if this process ends first.
    while let Ok(Some(done)) = tokio::time::timeout(HELPERS_PATIENCE, finished_work.recv()).await {
        blocking(move || drop(done)).await;
    }
    // What a transfer that failed has opened, and what a helper of it has opened again.
    blocking(move || intake.close_opened()).await;
    received
}

async fn receive_listing(context: &mut TransferContext) -> Result<ReceivedManifest, TransferError> {
    let is_told = context.tells_dry_run();
    receive_manifest(
        &mut context.connection.reader,
        &context.connection.writer,
        &context.progress,
        &mut context.cancel.clone(),
        &mut context.share,
        context.observer.as_ref(),
        is_told,
    )
    .await
}

async fn plan_objects(
    context: &TransferContext,
    sink: Arc<dyn ObjectSink>,
    manifest: ReceivedManifest,
) -> Result<Intake, TransferError> {
    context.progress.send_modify(|progress| progress.phase = Phase::Planning);
    let (options, foretells) = (context.options, context.tells_dry_run());
    let planning = blocking(move || planning::plan_objects(sink, manifest, &options, foretells));
    let planned = context.connection.writer.keep_alive(planning).await;
    planned.map_err(TransferError::Here)
}

async fn plan_files(
    context: &TransferContext,
    request: FileRequest,
    manifest: ReceivedManifest,
) -> Result<Intake, TransferError> {
    context.progress.send_modify(|progress| progress.phase = Phase::Planning);
    let (options, partner) = (context.options, context.connection.partner);
    let planning = blocking(move || planning::plan(&request, manifest, &options, partner));
    let planned = context.connection.writer.keep_alive(planning).await;
    planned.map_err(TransferError::Here)
}

/// All of it: sends the plan, opens the flows, receives.
async fn conduct(
    receiving: &mut Receiving,
    lane_events: &EventSender<ReceiveEvent>,
    events: EventReceiver<ReceiveEvent>,
    finished_work: &mut mpsc::UnboundedReceiver<Done>,
) -> Result<Received, TransferError> {
    tell_plan(&receiving.job).await?;
    if receiving.job.context.options.dry_run {
        return end_dry_run(receiving).await;
    }
    let writer = receiving.job.writer().clone();
    let Receiving { job, inbound, arriving, storing, .. } = receiving;
    writer.keep_alive(open_flows(job, inbound, arriving, storing, lane_events)).await?;
    for error in receiving.job.intake.failed_others.clone() {
        receiving.failures.errors.push(error.clone());
        writer.send(Message::FileRefused(error)).await?;
    }
    receiving.store_empty_files();
    run(receiving, events, finished_work).await
}

async fn end_dry_run(receiving: &mut Receiving) -> Result<Received, TransferError> {
    let stored_bytes = receiving.job.intake.resumed_bytes;
    receiving.job.writer().send(Message::PlanEnd { flows: Vec::new(), stored_bytes }).await?;
    Ok(Received {
        result: dry_result(&receiving.job, &receiving.failures),
        receipt: None,
        partner: receiving.job.context.connection.reader.take(),
        journal: LeftJournal(receiving.job.intake.clone()),
    })
}

async fn run(
    receiving: &mut Receiving,
    mut events: EventReceiver<ReceiveEvent>,
    finished_work: &mut mpsc::UnboundedReceiver<Done>,
) -> Result<Received, TransferError> {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut heard = Instant::now();
    let mut ping_sent = Some((1, Instant::now()));
    receiving.job.writer().send_urgent(Message::Ping(1))?;
    let mut cancel = receiving.job.context.cancel.clone();
    let plane = receiving.job.plane().clone();
    loop {
        receiving.conclude_if_done();
        tokio::select! {
            biased;
            () = TransferContext::canceled(&mut cancel) => return Err(canceled()),
            error = plane.lost() => return Err(error.into()),
            next = events.next() => {
                let (tag, event) = next?;
                receiving.event(tag, event).await?;
                while let Some((tag, event)) = events.next_waiting()? {
                    receiving.event(tag, event).await?;
                }
            }
            message = receiving.job.context.connection.reader.next(), if receiving.arriving.holes.may_grow() => {
                heard = Instant::now();
                match message? {
                    Message::Pong(number) => {
                        if let Some((_, sent)) = ping_sent.take_if(|&mut (expected, _)| expected == number) {
                            receiving.inbound.set_interval(&plane, sent.elapsed());
                        }
                    }
                    Message::Ping(number) => receiving.job.writer().send_urgent(Message::Pong(number))?,
                    message => if let Some(received) = receiving.message(message).await? {
                        return Ok(received);
                    }
                }
            }
            Some(done) = finished_work.recv() => receiving.work_done(done).await?,
            _ = tick.tick() => {
                look_around(receiving, heard)?;
                if ping_sent.is_none() {
                    let number = u64::from(random_u32());
                    ping_sent = Some((number, Instant::now()));
                    receiving.job.writer().send_urgent(Message::Ping(number))?;
                }
            }
        }
    }
}

/// Checks whether the transfer still moves, shows its progress, and begins what is due. The
/// partner was `heard` last then.
fn look_around(receiving: &mut Receiving, heard: Instant) -> Result<(), TransferError> {
    receiving.check_patience()?;
    if heard.elapsed() > SILENCE_TIMEOUT {
        return Err(TransferError::here(RefusalCode::Temporary, "nothing was received from the partner for 30 s"));
    }
    receiving.inbound.notice_closed_path(&receiving.job.context);
    receiving.tally.show(&receiving.job);
    receiving.storing.committing.commit_written(&receiving.job, &mut receiving.storing.files);
    receiving.storing.open_wanted(&receiving.job, &receiving.arriving);
    Ok(())
}

/// Ends everything of this transfer that touches a disk. May wait for it.
fn put_away(mut receiving: Receiving) {
    receiving.storing.committing.committer.end();
}
