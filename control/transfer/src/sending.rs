//! The sending side of a transfer.
//!
//! One task listens to the partner, to the lanes and to its own helpers (which open files and fill
//! packs), and assigns chunk after chunk to the flow with the least to do. A chunk is *prepared*
//! (its file opened, its hole found, its proof checked) before it is assigned; its result comes
//! back as an event.

mod announcements;
mod checking;
mod dispatch;
mod done;
mod ending;
mod failures;
mod files;
mod filling;
mod hashing;
mod impossible_events;
mod job;
mod outbox;
mod pace;
mod payload;
mod pipeline;
mod queue;
mod range;
mod sent;
mod standstill;
mod state;

use std::time::{Duration, Instant};

use culvert_connection::SILENCE_TIMEOUT;
use culvert_model::progress::Phase;
use culvert_plane::{EventReceiver, SendEvent, event_queue};
use culvert_protocol::control::{Message, RefusalCode};
use tokio::sync::mpsc;

use crate::error::TransferError;
use crate::flows::SendingFlows;
use crate::manifest_exchange::{canceled, left_out};
use crate::sending::done::Done;
pub use crate::sending::payload::{PartnerHas, Payload};
pub use crate::sending::sent::Sent;
use crate::sending::state::Sending;
use crate::{TransferContext, blocking};

/// How often the partner is asked for a sign of life, and progress is measured.
const TICK: Duration = Duration::from_millis(250);

/// Sends `payload`. The partner's plan has been received.
///
/// # Errors
/// [`TransferError`]; the partner has been told if it was this side's doing.
pub async fn send(context: TransferContext, payload: Payload, has: PartnerHas) -> Result<Sent, TransferError> {
    let began = Instant::now();
    let (lane_events, events) = event_queue();
    let (done, finished_work) = mpsc::unbounded_channel();
    let flows = SendingFlows::open(&context, &has.offers, &lane_events).await?;
    show_beginning(&context, &payload, &has);
    let mut sending = Sending::new(context, payload, has, flows, done, began)?;
    let sent = sending.run(events, finished_work).await;
    // Open files are closed, and a large manifest freed, outside the runtime's thread.
    blocking(move || drop(sending)).await;
    sent
}

/// Shows what the receiver has already.
fn show_beginning(context: &TransferContext, payload: &Payload, has: &PartnerHas) {
    context.progress.send_modify(|progress| {
        progress.phase = Phase::Moving;
        progress.files_done += has.skipped.len() as u64 + has.resumed.len() as u64;
        progress.bytes_done += has.stored_bytes;
        if let Payload::Memory { bytes } = payload {
            progress.bytes_total = *bytes;
        }
    });
}

impl Sending {
    async fn run(
        &mut self,
        mut events: EventReceiver<SendEvent>,
        mut finished_work: mpsc::UnboundedReceiver<Done>,
    ) -> Result<Sent, TransferError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut cancel = self.job.context.cancel.clone();
        let plane = self.job.context.plane.clone();
        loop {
            self.pump().await?;
            tokio::select! {
                biased;
                () = TransferContext::canceled(&mut cancel) => return Err(canceled()),
                error = plane.lost() => return Err(error.into()),
                message = self.job.context.connection.reader.next() => {
                    heard = Instant::now();
                    if let Some(sent) = self.message(message?).await? {
                        return Ok(sent);
                    }
                }
                next = events.next() => {
                    let (tag, event) = next?;
                    self.event(tag, event)?;
                    // Events come in bursts; one round of pumping serves them all.
                    while let Some((tag, event)) = events.next_waiting()? {
                        self.event(tag, event)?;
                    }
                }
                Some(done) = finished_work.recv() => self.work_done(done)?,
                _ = tick.tick() => self.look_around(heard)?,
            }
        }
    }

    /// Prepares and assigns chunks as far as there is room, and sends what was gathered.
    async fn pump(&mut self) -> Result<(), TransferError> {
        self.pipeline.advance(&self.job, &self.failures.failed);
        self.say_all_sent();
        self.outbox.send(&self.job.context.connection.writer).await?;
        if self.pace.said_all_sent {
            // While the receiver stores the rest and computes it too.
            self.hashing.begin_root(&self.job, &self.has, &self.failures);
        }
        Ok(())
    }

    /// Announces that everything is sent, when it is; again if something had to be sent once more.
    fn say_all_sent(&mut self) {
        if !self.pipeline.queue.is_idle() || self.pace.said_all_sent {
            return;
        }
        self.pace.said_all_sent = true;
        if let Payload::Files { tree, .. } = &self.job.payload
            && !tree.listing.problems.is_empty()
        {
            self.outbox.others.push(Message::LeftOut(left_out(tree)));
        }
        let summary = self.pace.summary(&self.pipeline.flows, self.job.payload.problem_count());
        self.outbox.others.push(Message::AllSent(summary));
        self.job.context.progress.send_modify(|progress| progress.phase = Phase::Finishing);
    }

    /// Checks whether the transfer still moves, shows its progress, and lets the partner, which was
    /// `heard` last then, give a sign of life.
    fn look_around(&mut self, heard: Instant) -> Result<(), TransferError> {
        let (context, flows, queue) = (&self.job.context, &self.pipeline.flows, &self.pipeline.queue);
        self.pace.check(flows, queue)?;
        //= W-45
        //# An end that receives nothing for 30 s closes the connection.
        if heard.elapsed() > SILENCE_TIMEOUT {
            return Err(TransferError::here(RefusalCode::Temporary, "nothing was received from the partner for 30 s"));
        }
        let in_flight = || queue.assigned().map(|(chunk, _)| u64::from(self.job.chunk_bytes(chunk))).sum();
        let in_flight = (queue.assigned().len() > 0).then(in_flight);
        self.standstill.check(context, flows, in_flight)?;
        self.standstill.notice_closed_path(context, flows);
        self.standstill.tell_what_is_refused_here(context, flows)?;
        self.pace.show(context, flows);
        context.connection.writer.send_urgent(Message::Ping(0))?;
        Ok(())
    }
}
