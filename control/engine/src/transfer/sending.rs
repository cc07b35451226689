//! The sending side of a transfer.
//!
//! One task listens to the partner, to the lanes and to its own helpers (which open files and fill
//! packs), and assigns chunk after chunk to the flow with the least to do. A chunk is *prepared*
//! (its file opened, its hole found, its proof checked) before it is assigned; its result comes
//! back as an event.

mod announcements;
mod announcing;
mod delivered;
mod delivery;
mod done;
mod ending;
mod events;
mod files;
mod filling;
mod giving_up;
mod lane_events;
mod messages;
mod outbox;
mod outcomes;
mod pace;
mod payload;
mod preparing;
mod queue;
mod sent;
mod stalling;
mod standstill;
mod state;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_model::progress::Phase;
use culvert_objects::fs::destination::attributes::NotKept;
use culvert_plane::dataplane::{EventReceiver, SendEvent, event_queue};
use culvert_protocol::control::{Message, RefusalCode};
use culvert_system::processor_time::CpuMeter;
use tokio::sync::mpsc;

use crate::connection::SILENCE_TIMEOUT;
use crate::transfer::bit_set::BitSet;
use crate::transfer::error::TransferError;
use crate::transfer::file_errors::ErrorList;
use crate::transfer::flows::SendingFlows;
use crate::transfer::manifest_exchange::canceled;
use crate::transfer::progress_watchdog::ProgressWatchdog;
use crate::transfer::rate_meter::RateMeter;
use crate::transfer::sending::announcements::Announcements;
use crate::transfer::sending::done::Done;
use crate::transfer::sending::files::OutgoingFiles;
use crate::transfer::sending::outbox::Outbox;
use crate::transfer::sending::pace::{Failures, Pace};
pub use crate::transfer::sending::payload::{PartnerHas, Payload};
use crate::transfer::sending::queue::{Hashing, Queue};
pub use crate::transfer::sending::sent::Sent;
use crate::transfer::sending::standstill::Standstill;
use crate::transfer::sending::state::Sending;
use crate::transfer::{TransferContext, blocking};

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
    let chunk_count = payload.chunk_count(context.options.chunk_bytes);
    let file_count = match &payload {
        Payload::Files { tree, .. } => tree.listing.manifest.len(),
        Payload::Memory { .. } => 0,
    };
    let resumed = has.resumed.len() as u64;
    let stored_bytes = has.stored_bytes;
    context.progress.send_modify(|progress| {
        progress.phase = Phase::Moving;
        progress.files_done += has.skipped.len() as u64 + resumed;
        progress.bytes_done += stored_bytes;
        if let Payload::Memory { bytes } = &payload {
            progress.bytes_total = *bytes;
        }
    });
    let mut hashes = vec![[0; 32]; if context.options.checksum { file_count } else { 0 }];
    for (&file, &hash) in &has.resumed {
        if let Some(place) = hashes.get_mut(file as usize) {
            *place = hash;
        }
    }
    let patience = ProgressWatchdog::new(context.patience, began);
    let announcements = context.names.is_some().then(|| Announcements::new(file_count));
    let mut sending = Sending {
        pace: Pace {
            standstill: Standstill::new(),
            patience,
            steps: 0,
            rate: RateMeter::new(),
            cpu: CpuMeter::begin(context.plane.process_id()),
            bytes_delivered: stored_bytes,
            said_all_sent: false,
        },
        queue: Queue {
            next_chunk: 0,
            chunk_count,
            again: VecDeque::new(),
            prepared: VecDeque::new(),
            assigned: HashMap::new(),
            filling: HashMap::new(),
            preparing: 0,
            checking: 0,
            stored: BitSet::new(chunk_count as usize),
            asked_again: HashMap::new(),
        },
        hashing: Hashing { hashes: Arc::new(hashes), hashed: HashMap::new(), progress_of: HashMap::new(), root: None },
        failures: Failures { errors: ErrorList::default(), failed: HashSet::new(), not_kept: NotKept::default() },
        context,
        payload,
        has,
        flows,
        files: OutgoingFiles::default(),
        outbox: Outbox::default(),
        announcements,
        done,
    };
    for report in std::mem::take(&mut sending.has.early_reports) {
        sending.flows.on_report(&report)?;
    }
    let sent = sending.run(events, finished_work, began).await;
    // Open files are closed, and a large manifest freed, outside the runtime's thread.
    blocking(move || drop(sending)).await;
    sent
}

impl Sending {
    async fn run(
        &mut self,
        mut events: EventReceiver<SendEvent>,
        mut finished_work: mpsc::UnboundedReceiver<Done>,
        began: Instant,
    ) -> Result<Sent, TransferError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut cancel = self.context.cancel.clone();
        let plane = self.context.plane.clone();
        loop {
            self.pump().await?;
            tokio::select! {
                biased;
                () = TransferContext::canceled(&mut cancel) => return Err(canceled()),
                error = plane.lost() => return Err(error.into()),
                message = self.context.connection.reader.next() => {
                    heard = Instant::now();
                    if let Some(sent) = self.message(message?, began).await? {
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
                Some(done) = finished_work.recv() => {
                    self.pace.steps += 1;
                    self.work_done(done)?;
                }
                _ = tick.tick() => {
                    self.check_patience()?;
                    if heard.elapsed() > SILENCE_TIMEOUT {
                        return Err(TransferError::here(RefusalCode::Temporary, "nothing was received from the partner for 30 s"));
                    }
                    self.check_standstill()?;
                    self.notice_closed_path();
                    self.tell_what_is_refused_here()?;
                    self.show_progress();
                    self.context.connection.writer.send_urgent(Message::Ping(0))?;
                }
            }
        }
    }

    /// Prepares and assigns chunks as far as there is room, and sends what was gathered.
    async fn pump(&mut self) -> Result<(), TransferError> {
        while self.prepare_ahead() | self.assign_prepared() {}
        self.say_all_sent();
        self.outbox.send(&self.context.connection.writer).await?;
        if self.pace.said_all_sent {
            // While the receiver stores the rest and computes it too.
            self.update_root();
        }
        Ok(())
    }

    fn show_progress(&mut self) {
        let rate = self.pace.rate.update(self.pace.bytes_delivered);
        let (bytes_done, pacing, rtt_us) =
            (self.pace.bytes_delivered, self.flows.pacing_bits_per_second(), self.flows.newest_rtt_us());
        self.context.progress.send_modify(|progress| {
            progress.bytes_done = bytes_done;
            progress.rate_bits_per_second = rate;
            progress.pacing_bits_per_second = pacing;
            progress.rtt_us = rtt_us;
        });
    }
}
