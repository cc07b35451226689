//! The receiving side of a transfer.
//!
//! The plan is made before the first byte: what is there, what may be replaced, whether there is
//! room, what an earlier attempt left. Then the task answers the lanes' questions (where does this
//! chunk go?), compares hashes as they come from both sides, makes what is written durable, and
//! gives files their names when the sender says that they did not change and every chunk is
//! verified.

mod arriving;
mod chunks;
mod committer;
mod ending;
mod files;
mod holes;
mod inbound;
mod incoming;
mod intake;
mod last_modes;
mod leftovers;
mod messages;
mod old_files;
mod open_file;
mod opened_in_journal;
mod opening;
mod parts;
mod placing;
mod planning;
mod report_delay;
mod stalling;
mod stored_records;
mod tally;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_link::commands::{Command, ReceiveSlot};
use culvert_model::progress::Phase;
use culvert_model::result::TransferResult;
use culvert_objects::fs::destination::attributes::NotKept;
use culvert_objects::fs::sources::TOO_MUCH_LISTED;
use culvert_objects::sink::ObjectSink;
use culvert_plane::dataplane::{EventReceiver, EventSender, ReceiveEvent, event_queue};
use culvert_protocol::chunk_map::{ChunkContent, ChunkMap};
use culvert_protocol::control::{FileError, Message, Refusal, RefusalCode, Run, runs};
use culvert_protocol::names::printable;
use culvert_protocol::receipt::Receipt;
use culvert_protocol::tree_hash::ChunkHash;
use culvert_system::processor_time::CpuMeter;
use tokio::sync::mpsc;

use crate::clock::unix_ms;
use crate::connection::{MessageReader, SILENCE_TIMEOUT};
use crate::events::Event;
use crate::limits::Limit;
use crate::transfer::bit_set::BitSet;
use crate::transfer::error::TransferError;
use crate::transfer::file_errors::ErrorList;
use crate::transfer::manifest_exchange::{ReceivedManifest, canceled, receive_manifest};
use crate::transfer::measurement::memory_chunks;
use crate::transfer::patience::Patience;
use crate::transfer::rate_meter::RateMeter;
use crate::transfer::receiving::arriving::Arriving;
use crate::transfer::receiving::committer::{Committed, Committer, Committing};
use crate::transfer::receiving::ending::{Ending, WeightedMean};
use crate::transfer::receiving::files::{IncomingFiles, WaitingChunk};
use crate::transfer::receiving::inbound::Inbound;
pub use crate::transfer::receiving::incoming::{FileRequest, Incoming};
use crate::transfer::receiving::intake::Intake;
use crate::transfer::receiving::tally::{Failures, Tally};
use crate::transfer::{TransferContext, blocking};

/// How often progress is measured and written chunks are made durable.
const TICK: Duration = Duration::from_millis(250);
/// Written chunks are made durable and journaled this often, so that a crash costs no more than
/// this.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two reports of a flow; the round trip's quarter if that is longer.
const REPORT_INTERVAL_US: u32 = 2_000;
/// Hashes of the sender's that may wait for their chunks. An honest sender hashes what it is about
/// to send, and sends what the receiver has buffers for.
const WAITING_HASHES_MAX: usize = 1 << 16;

/// What comes out of receiving.
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
pub struct LeftJournal(Arc<Intake>);

impl LeftJournal {
    /// Removes it. May wait for a disk.
    pub fn forget(self) {
        self.0.forget_journal();
    }
}

/// A receiving flow.
#[derive(Debug)]
struct ReceivingFlow {
    id: u32,
    lane: u16,
    slot: ReceiveSlot,
    place: placing::Place,
}

/// A helper's work that has ended.
#[derive(Debug)]
enum Done {
    /// The partial file of a file that was given up is gone.
    Removed,
    /// A partial file was opened, or not.
    Opened { file: u32, result: Result<open_file::OpenFile, FileError> },
    /// A pack was written; its files go to the committer.
    Unpacked { chunk: u32, pack: culvert_objects::fs::destination::small_files::staged::StagedPack },
    /// A part of an object was written, or not; its hash, if the transfer has hashes.
    PartWritten { chunk: u32, written: Result<Option<ChunkHash>, FileError> },
    /// Small objects are stored, or not.
    Put(parts::Put),
    /// Files of packs, and empty files, have their names for good.
    Committed(Committed),
    /// A large file has its name for good, or not.
    Finished { file: u32, result: Result<(), FileError> },
    /// What was written of some files so far is durable.
    Synced { chunks: Vec<u32>, result: Result<(), Refusal> },
    /// The file that is there has the sender's bytes, and stays or not.
    Kept { file: u32, hash: ChunkHash, result: Result<old_files::Kept, FileError> },
    /// Chunks of the file that is there were copied, or not.
    Copied { file: u32, copied: old_files::Copied },
    /// Holes were hashed; those of which the sender says otherwise are not the same.
    HolesHashed(Vec<holes::HashedHole>),
    /// A chunk of a file was made a hole, or not.
    Punched { chunk: u32, hash: ChunkHash, result: Result<(), FileError> },
    /// Everything is stored for good; what the statement says of it.
    Concluded(Result<String, Refusal>),
}

/// The receiving side. Each part of what it knows has one owner.
struct Receiving {
    context: TransferContext,
    intake: Arc<Intake>,
    inbound: Inbound,
    arriving: Arriving,
    tally: Tally,
    failures: Failures,
    ending: Ending,
    committing: Committing,
    files: IncomingFiles,
    old: old_files::OldFiles,
    holes: holes::Holes,
    done: mpsc::UnboundedSender<Done>,
}

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
    let mut receiving = Receiving::new(context, intake, done, began, began_unix_ms)?;
    receiving.failures.would_leave_out = would_leave_out;
    let intake = receiving.intake.clone();
    let received = receiving.conduct(&lane_events, events, &mut finished_work).await;
    // Files are closed and half-filled directories are removed, which may wait for the disk; and
    // the journal is free before the partner learns that it may come back.
    blocking(move || receiving.put_away()).await;
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

impl Receiving {
    fn new(
        mut context: TransferContext,
        intake: Intake,
        done: mpsc::UnboundedSender<Done>,
        began: Instant,
        began_unix_ms: u64,
    ) -> Result<Self, TransferError> {
        let chunk_bytes = context.options.chunk_bytes;
        let chunks = ChunkMap::new(&intake.manifest, chunk_bytes, |file| intake.is_sent(file))
            .map_err(|error| TransferError::here(RefusalCode::Protocol, error.to_string()))?;
        let chunk_count = match intake.memory_bytes {
            Some(bytes) => memory_chunks(bytes, chunk_bytes),
            None => chunks.chunk_count(),
        };
        // A bit here, and one in the one flow that there is at least.
        if !context.share.take_bytes(u64::from(chunk_count) / 4) {
            context.observer.note(Event::LimitReached(Limit::ManifestBytes));
            return Err(TransferError::here(RefusalCode::Temporary, TOO_MUCH_LISTED));
        }
        let mut hashes = vec![[0; 32]; if context.options.checksum { intake.manifest.len() } else { 0 }];
        for &(file, hash) in &intake.resumed {
            if let Some(place) = hashes.get_mut(file as usize) {
                *place = hash;
            }
        }
        let intake = Arc::new(intake);
        let patience = Patience::new(context.patience, Instant::now());
        let files = intake.manifest.len();
        let files_left = (0..intake.manifest.len() as u32)
            .filter(|&file| intake.manifest.file_bytes(file).is_some() && intake.is_sent(file))
            .count() as u64;
        let resumed_file_bytes: u64 =
            intake.resumed.iter().filter_map(|&(file, _)| intake.manifest.file_bytes(file)).sum();
        let committed = done.clone();
        let committer = Committer::start(intake.clone(), context.options.preserve, move |result| {
            // The task may be gone; what was committed then stands in the journal.
            let _ = committed.send(Done::Committed(result));
        });
        context.progress.send_modify(|progress| {
            progress.files_done = intake.manifest.file_count() - files_left;
            progress.bytes_total = intake.memory_bytes.unwrap_or(intake.manifest.total_bytes());
        });
        Ok(Self {
            files: IncomingFiles::new(&intake, &chunks),
            tally: Tally {
                files_left,
                files_stored: intake.resumed.len() as u64,
                bytes_stored: resumed_file_bytes,
                bytes_arrived: intake.resumed_bytes,
                reused_bytes: 0,
                memory_left: if intake.memory_bytes.is_some() { chunk_count } else { 0 },
                partials_in_motion: 0,
                steps: 0,
                stored: BitSet::new(files),
                hashes,
                rate: RateMeter::new(),
                patience,
            },
            arriving: Arriving {
                chunks: Arc::new(chunks),
                chunk_count,
                came_by: HashMap::new(),
                handed: HashSet::new(),
                packs: HashMap::new(),
                pack_hashes: HashMap::new(),
                theirs: HashMap::new(),
                ours: HashMap::new(),
                tries: HashMap::new(),
                verified: BitSet::new(chunk_count as usize),
                offered: HashMap::new(),
            },
            inbound: Inbound {
                flows: Vec::new(),
                offered_at: None,
                is_refused_there: false,
                opening: Vec::new(),
                wrong_queue_seen: 0,
                new_bytes: Vec::new(),
                report_delays: Vec::new(),
                report_interval: Duration::from_micros(REPORT_INTERVAL_US.into()),
                rtt: Duration::ZERO,
            },
            failures: Failures {
                errors: ErrorList::default(),
                failed: HashSet::new(),
                left_out: Vec::new(),
                would_leave_out: (0, Vec::new()),
                not_kept: NotKept::default(),
            },
            ending: Ending {
                sender: None,
                is_concluding: false,
                finish_sent: None,
                line: String::new(),
                receiver: None,
                busy: WeightedMean::default(),
                writing: WeightedMean::default(),
                cpu: CpuMeter::begin(context.plane.process_id()),
                began,
                began_unix_ms,
            },
            committing: Committing { committer, committed_at: Instant::now(), syncing: false },
            context,
            intake,
            old: old_files::OldFiles::default(),
            holes: holes::Holes::default(),
            done,
        })
    }

    /// All of it: sends the plan, opens the flows, receives.
    async fn conduct(
        &mut self,
        lane_events: &EventSender<ReceiveEvent>,
        events: EventReceiver<ReceiveEvent>,
        finished_work: &mut mpsc::UnboundedReceiver<Done>,
    ) -> Result<Received, TransferError> {
        self.tell_plan().await?;
        let writer = self.context.connection.writer.clone();
        if self.context.options.dry_run {
            let stored_bytes = self.intake.resumed_bytes;
            writer.send(Message::PlanEnd { flows: Vec::new(), stored_bytes }).await?;
            let partner = self.context.connection.reader.take();
            return Ok(Received {
                result: self.dry_result(),
                receipt: None,
                partner,
                journal: LeftJournal(self.intake.clone()),
            });
        }
        writer.keep_alive(self.open_flows(lane_events)).await?;
        for error in self.intake.failed_others.clone() {
            self.failures.errors.push(error.clone());
            writer.send(Message::FileRefused(error)).await?;
        }
        self.store_empty_files();
        self.run(events, finished_work).await
    }

    async fn run(
        &mut self,
        mut events: EventReceiver<ReceiveEvent>,
        finished_work: &mut mpsc::UnboundedReceiver<Done>,
    ) -> Result<Received, TransferError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut ping_sent = Some((1, Instant::now()));
        self.context.connection.writer.send_urgent(Message::Ping(1))?;
        let mut cancel = self.context.cancel.clone();
        let plane = self.context.plane.clone();
        loop {
            self.conclude_if_done();
            tokio::select! {
                biased;
                () = TransferContext::canceled(&mut cancel) => return Err(canceled()),
                error = plane.lost() => return Err(error.into()),
                next = events.next() => {
                    let (tag, event) = next?;
                    self.event(tag, event).await?;
                    while let Some((tag, event)) = events.next_waiting()? {
                        self.event(tag, event).await?;
                    }
                }
                message = self.context.connection.reader.next(), if self.holes.may_grow() => {
                    heard = Instant::now();
                    match message? {
                        Message::Pong(number) => {
                            if let Some((_, sent)) = ping_sent.take_if(|&mut (expected, _)| expected == number) {
                                self.set_interval(sent.elapsed());
                            }
                        }
                        Message::Ping(number) => self.context.connection.writer.send_urgent(Message::Pong(number))?,
                        message => if let Some(received) = self.message(message).await? {
                            return Ok(received);
                        }
                    }
                }
                Some(done) = finished_work.recv() => self.work_done(done).await?,
                _ = tick.tick() => {
                    self.check_patience()?;
                    if heard.elapsed() > SILENCE_TIMEOUT {
                        return Err(TransferError::here(RefusalCode::Temporary, "nothing was received from the partner for 30 s"));
                    }
                    self.notice_closed_path();
                    self.show_progress();
                    self.commit_written();
                    self.open_files();
                    if ping_sent.is_none() {
                        let number = u64::from(random_u32());
                        ping_sent = Some((number, Instant::now()));
                        self.context.connection.writer.send_urgent(Message::Ping(number))?;
                    }
                }
            }
        }
    }

    /// Flows report every quarter of a round trip, but not more often than every two milliseconds.
    fn set_interval(&mut self, rtt: Duration) {
        self.inbound.rtt = rtt;
        let interval_us = (rtt.as_micros() as u32 / 4).clamp(REPORT_INTERVAL_US, 100_000);
        self.inbound.report_interval = Duration::from_micros(interval_us.into());
        for flow in &self.inbound.flows {
            self.context.plane.command(flow.lane, &Command::Interval { flow: flow.slot, interval_us });
        }
    }

    async fn work_done(&mut self, done: Done) -> Result<(), TransferError> {
        match done {
            Done::Removed => self.tally.partials_in_motion -= 1,
            Done::Opened { file, result } => {
                self.tally.partials_in_motion -= 1;
                let waiting = match result {
                    Ok(opened) if self.failures.failed.contains(&file) => {
                        self.remove_beside(file, open_file::Discarded::Open(opened));
                        self.files.take_waiting(file)
                    }
                    Ok(opened) => match self.files.insert(file, opened) {
                        Ok(waiting) => waiting,
                        Err(opened) => {
                            self.remove_beside(file, open_file::Discarded::Open(opened));
                            Vec::new()
                        }
                    },
                    Err(error) => {
                        if error.code == "no_space" {
                            return Err(TransferError::here(RefusalCode::NoSpace, error.text));
                        }
                        self.fail_file_or_end(error)?;
                        self.files.take_waiting(file)
                    }
                };
                for chunk in waiting {
                    match chunk {
                        WaitingChunk::Segments { tag, chunk } if self.failures.failed.contains(&file) => {
                            self.abandon(tag, chunk);
                        }
                        WaitingChunk::Segments { tag, chunk } => self.place_in_file(tag, chunk),
                        WaitingChunk::Hole { chunk, hash } => self.punch(chunk, hash),
                    }
                }
                // It may have been wanted for its name only.
                self.finish_file_if_ready(file);
            }
            Done::Unpacked { chunk, pack } => self.unpacked(chunk, pack).await?,
            Done::PartWritten { chunk, written } => self.part_written(chunk, written).await?,
            Done::Put(put) => self.objects_put(put).await?,
            Done::Committed(committed) => {
                if let Some(error) = committed.fatal {
                    return Err(error);
                }
                self.files_stored(&committed.stored);
                for error in committed.failed {
                    self.fail_file_or_end(error)?;
                }
                if !committed.chunks.is_empty() {
                    self.say_stored(committed.chunks).await?;
                }
            }
            Done::Finished { file, result } => match result {
                // Given up while it got its name.
                Ok(()) if self.failures.failed.contains(&file) => {}
                Ok(()) => {
                    let (chunks, closing) = self.files.close(file);
                    // To close a file may wait for its server.
                    tokio::task::spawn_blocking(move || drop(closing));
                    self.files_stored(&[file]);
                    self.open_files();
                    self.say_stored(chunks).await?;
                }
                // Its partial file goes with it.
                Err(error) => self.fail_file_or_end(error)?,
            },
            Done::Synced { chunks, result } => {
                self.committing.syncing = false;
                result.map_err(TransferError::Here)?;
                self.tally.steps += chunks.len() as u64;
                self.open_files();
                self.say_stored(chunks).await?;
            }
            Done::Kept { file, hash, result } => self.kept(file, hash, result)?,
            Done::Copied { file, copied } => self.copied(file, copied).await?,
            Done::HolesHashed(hashed) => self.holes_hashed(hashed)?,
            Done::Punched { chunk, hash, result } => self.punched(chunk, hash, result)?,
            Done::Concluded(root) => self.state_what_is_stored(root.map_err(TransferError::Here)?).await?,
        }
        Ok(())
    }

    async fn unpacked(
        &mut self,
        chunk: u32,
        pack: culvert_objects::fs::destination::small_files::staged::StagedPack,
    ) -> Result<(), TransferError> {
        if !pack.mismatched.is_empty() {
            // The files that were right are dropped with it; they come again with the chunk.
            let done = self.done.clone();
            tokio::task::spawn_blocking(move || {
                drop(pack);
                drop(done);
            });
            return self.try_again(chunk).await;
        }
        self.arriving.came_by.remove(&chunk);
        self.arriving.verified.insert(chunk);
        self.tally.steps += 1;
        self.tally.bytes_arrived += u64::from(self.chunk_bytes(chunk));
        if let Some(full) = pack.failed.iter().find(|error| error.code == "no_space") {
            return Err(TransferError::here(RefusalCode::NoSpace, full.text.clone()));
        }
        for error in pack.failed {
            self.fail_file_or_end(error)?;
        }
        let hash_of = |file: u32| self.tally.hashes.get(file as usize).copied().unwrap_or_default();
        let staged = pack.staged.into_iter().map(|staged| (hash_of(staged.file), staged)).collect();
        self.committing.committer.commit(chunk, staged, pack.settled);
        Ok(())
    }

    fn files_stored(&mut self, files: &[u32]) {
        let before = self.tally.files_stored;
        for &file in files {
            if !self.failures.failed.contains(&file) && self.tally.stored.insert(file) {
                self.tally.files_left -= 1;
                self.tally.files_stored += 1;
                let bytes = self.intake.manifest.file_bytes(file).unwrap_or(0);
                self.tally.bytes_stored += bytes;
                if let Some(names) = &self.context.names {
                    names.add(&printable(&self.intake.name(file)), bytes);
                }
            }
        }
        let stored = self.tally.files_stored - before;
        self.tally.steps += stored;
        self.context.progress.send_modify(|progress| progress.files_done += stored);
    }

    async fn say_stored(&self, mut chunks: Vec<u32>) -> Result<(), TransferError> {
        chunks.sort_unstable();
        let stored: Vec<Run> = runs(chunks);
        for part in stored.chunks(2_048) {
            self.context.connection.writer.send(Message::Stored(part.to_vec())).await?;
        }
        Ok(())
    }

    /// Gives up a file because of an error of this side, unless it merely lacks the resources to
    /// continue with any: then what was started stays for the next attempt.
    fn fail_file_or_end(&mut self, error: FileError) -> Result<(), TransferError> {
        match TransferError::of_shortage(&error) {
            Some(end) => Err(end),
            None => {
                self.fail_file(error, true);
                Ok(())
            }
        }
    }

    /// Gives up a file. `tell` if the sender does not know yet.
    fn fail_file(&mut self, error: FileError, tell: bool) {
        let file = error.file;
        if self.tally.stored.contains(file) || !self.failures.failed.insert(file) {
            return;
        }
        self.tally.files_left -= 1;
        self.tally.steps += 1;
        if let Some(place) = self.tally.hashes.get_mut(file as usize) {
            *place = [0; 32];
        }
        if tell {
            let message = Message::FileRefused(error.clone());
            // The order against other messages does not matter, and a closed connection shows when
            // it is read.
            let _ = self.context.connection.writer.send_urgent(message);
        }
        self.failures.errors.push(error);
        let of_file: Vec<(u32, usize)> = self
            .arriving.came_by
            .iter()
            .filter(|&(&chunk, _)| matches!(self.arriving.chunks.content(chunk), Some(ChunkContent::Range { file: of, .. }) if of == file))
            .map(|(&chunk, &tag)| (chunk, tag))
            .collect();
        for (chunk, tag) in of_file {
            self.arriving.came_by.remove(&chunk);
            self.abandon(tag, chunk);
        }
        if let Some(discarded) = self.files.discard(file) {
            self.remove_beside(file, discarded);
        }
        self.open_files();
    }

    /// Removes a partial file outside the runtime's thread: freeing its blocks may take a while.
    fn remove_beside(&mut self, file: u32, partial: open_file::Discarded) {
        self.tally.partials_in_motion += 1;
        // The journal, which the intake has, keeps the next attempt away until the name is free.
        let (intake, done) = (self.intake.clone(), self.done.clone());
        tokio::task::spawn_blocking(move || {
            partial.remove(&intake, file);
            let _ = done.send(Done::Removed);
        });
    }

    /// Ends everything of this transfer that touches a disk. May wait for it.
    fn put_away(mut self) {
        self.committing.committer.end();
    }

    /// Files wait for others to be closed, which they are when what is written is durable.
    fn commit_soon(&mut self) {
        if !self.committing.syncing {
            self.commit();
        }
    }

    /// Makes what was written so far durable, and records it in the journal.
    fn commit_written(&mut self) {
        if !self.committing.syncing && self.committing.committed_at.elapsed() >= COMMIT_INTERVAL {
            self.commit();
        }
    }

    fn commit(&mut self) {
        self.committing.committed_at = Instant::now();
        let Some(work) = self.files.take_uncommitted() else { return };
        self.committing.syncing = true;
        let (intake, done) = (self.intake.clone(), self.done.clone());
        tokio::task::spawn_blocking(move || {
            let chunks = work.chunks();
            let result = work.commit(&intake);
            let _ = done.send(Done::Synced { chunks, result });
        });
    }

    fn show_progress(&mut self) {
        let rate = self.tally.rate.update(self.tally.bytes_arrived);
        let bytes_done = self.tally.bytes_arrived;
        self.context.progress.send_modify(|progress| {
            progress.bytes_done = bytes_done;
            progress.rate_bits_per_second = rate;
        });
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        for flow in &self.inbound.flows {
            self.context.plane.command(flow.lane, &Command::CloseReceive { flow: flow.slot });
        }
    }
}

/// Random bits for flow ids and pings, from the operating system.
fn random_u32() -> u32 {
    let mut bytes = [0; 4];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    u32::from_be_bytes(bytes)
}
