//! The sending side of a transfer.
//!
//! One task listens to the partner, to the lanes and to its own helpers (which open files and fill
//! packs), and assigns chunk after chunk to the flow with the least to do. A chunk is *prepared*
//! (its file opened, its hole found, its proof checked) before it is assigned; its result comes
//! back as an event.

mod delivery;
mod ending;
mod events;
mod files;
mod filling;
mod pace;
mod preparing;
mod queue;
mod standstill;
mod telling;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_link::handles::LentBuffer;
use culvert_model::progress::Phase;
use culvert_model::result::TransferResult;
use culvert_objects::fs::destination::attributes::NotKept;
use culvert_objects::fs::sources::version::{changed, unreadable};
use culvert_objects::source::SourceTree;
use culvert_plane::dataplane::{EventReceiver, SendEvent, event_queue};
use culvert_protocol::chunk_map::{ChunkContent, ChunkMap};
use culvert_protocol::control::{FileError, FlowOffer, Message, NOT_KEPT_LISTED_MAX, RefusalCode};
use culvert_protocol::dry_run::{Fates, Room};
use culvert_protocol::manifest::Manifest;
use culvert_protocol::receipt::Receipt;
use culvert_protocol::tree_hash::ChunkHash;
use culvert_system::processor_time::CpuMeter;
use tokio::sync::mpsc;

use crate::connection::{MessageReader, SILENCE_TIMEOUT};
use crate::events::Event;
use crate::transfer::bit_set::BitSet;
use crate::transfer::error::TransferError;
use crate::transfer::file_errors::ErrorList;
use crate::transfer::flows::{SendingFlows, path_closed};
use crate::transfer::manifest_exchange::{canceled, unexpected};
use crate::transfer::measurement::memory_chunks;
use crate::transfer::packs::FilledPack;
use crate::transfer::patience::Patience;
use crate::transfer::rate_meter::RateMeter;
use crate::transfer::sending::files::{OpenedFile, OutgoingFiles};
use crate::transfer::sending::pace::{Failures, Pace};
use crate::transfer::sending::queue::{Hashing, Queue};
use crate::transfer::sending::standstill::Standstill;
use crate::transfer::sending::telling::Telling;
use crate::transfer::{TransferContext, blocking};

/// Chunks that are being prepared at once, a flow: enough to hide the opening of files.
const PREPARING_PER_FLOW: usize = 8;
/// Hashes gathered in one message.
const HASHES_PER_MESSAGE: usize = 512;
/// How often the partner is asked for a sign of life, and progress is measured.
const TICK: Duration = Duration::from_millis(250);

/// What a transfer sends.
#[derive(Debug)]
pub enum Payload {
    /// Files.
    Files {
        /// The files.
        tree: Arc<SourceTree>,
        /// Their chunks.
        chunks: Arc<ChunkMap>,
    },
    /// So many bytes from memory.
    Memory {
        /// How many.
        bytes: u64,
    },
}

impl Payload {
    fn chunk_count(&self, chunk_bytes: u32) -> u32 {
        match self {
            Self::Files { chunks, .. } => chunks.chunk_count(),
            Self::Memory { bytes } => memory_chunks(*bytes, chunk_bytes),
        }
    }
}

/// What the partner already has, from its plan.
#[derive(Debug, Default)]
pub struct PartnerHas {
    /// Entries that need not be sent.
    pub skipped: Arc<HashSet<u32>>,
    /// Files that an earlier attempt stored, with their hashes.
    pub resumed: HashMap<u32, ChunkHash>,
    /// Chunks that an earlier attempt stored.
    pub proofs: HashMap<u32, ChunkHash>,
    /// The flows.
    pub offers: Vec<FlowOffer>,
    /// Bytes of chunks and files that earlier attempts stored.
    pub stored_bytes: u64,
    /// In a dry run: the outcome for each entry.
    pub fates: Fates,
    /// In a dry run: what is needed at the destination, and is free.
    pub room: Option<Room>,
    /// Reports that overtook the plan's end, as urgent messages may.
    pub early_reports: Vec<Vec<u8>>,
}

impl PartnerHas {
    /// Directories and symlinks that the partner makes or replaces.
    #[must_use]
    pub fn others_made(&self, manifest: &Manifest) -> u64 {
        let is_file = |file: u32| manifest.file_bytes(file).is_some();
        (0..manifest.len() as u32).filter(|&file| !is_file(file) && !self.skipped.contains(&file)).count() as u64
    }
}

/// A helper's work that has ended.
#[derive(Debug)]
enum Done {
    /// A file was opened, or not.
    Opened { file: u32, result: Result<OpenedFile, FileError> },
    /// A pack was filled.
    Filled { chunk: u32, pack: FilledPack, buffer: LentBuffer },
    /// A range was read, or not.
    RangeFilled { chunk: u32, hash: Result<ChunkHash, FileError>, buffer: LentBuffer },
    /// A hole was hashed.
    Hole { chunk: u32, hash: ChunkHash },
    /// A chunk that the partner says it has was hashed here: the hash, if it is the same.
    Proved { chunk: u32, same: Option<ChunkHash> },
    /// A file was looked at once more after its last chunk was delivered.
    Checked { file: u32, result: Result<(), FileError> },
}

/// The sending side. Each part of what it knows has one owner.
struct Sending {
    context: TransferContext,
    queue: Queue,
    hashing: Hashing,
    failures: Failures,
    pace: Pace,
    payload: Payload,
    has: PartnerHas,
    flows: SendingFlows,
    files: OutgoingFiles,
    outbox: Outbox,
    /// What was told of files by name; none if nobody reads that.
    telling: Option<Telling>,
    done: mpsc::UnboundedSender<Done>,
}

/// Messages that are gathered before they go.
#[derive(Debug, Default)]
struct Outbox {
    chunk_hashes: Vec<(u32, ChunkHash)>,
    holes: Vec<(u32, ChunkHash)>,
    proven: Vec<u32>,
    complete: Vec<(u32, ChunkHash)>,
    others: Vec<Message>,
}

/// What comes out of sending.
#[derive(Debug)]
pub struct Sent {
    /// The result.
    pub result: TransferResult,
    /// The receipt.
    pub receipt: Option<Receipt>,
    /// The connection's reading end: the partner's goodbye is still to come.
    pub partner: MessageReader,
}

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
    let patience = Patience::new(context.patience, began);
    let telling = context.names.is_some().then(|| Telling::new(file_count));
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
        telling,
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
        self.send_outbox().await?;
        if self.pace.said_all_sent {
            // While the receiver stores the rest and computes it too.
            self.update_root();
        }
        Ok(())
    }

    fn work_done(&mut self, done: Done) -> Result<(), TransferError> {
        match done {
            Done::Opened { file, result } => {
                let waiting = self.files.opened(file, result.as_ref().ok().cloned());
                self.queue.preparing -= waiting.len();
                match result {
                    Ok(_) => waiting.into_iter().for_each(|chunk| self.prepare(chunk)),
                    Err(error) => self.fail_file_or_end(error)?,
                }
            }
            Done::Filled { chunk, pack, buffer } => self.pack_filled(chunk, pack, buffer)?,
            Done::RangeFilled { chunk, hash, buffer } => self.range_filled(chunk, hash, buffer)?,
            Done::Hole { chunk, hash } => {
                self.queue.preparing -= 1;
                self.outbox.holes.push((chunk, hash));
                self.hashing.hashed.insert(chunk, hash);
                self.chunk_delivered(chunk);
            }
            Done::Proved { chunk, same: Some(hash) } => {
                self.queue.preparing -= 1;
                self.outbox.proven.push(chunk);
                self.tell_proven(chunk);
                self.hashing.hashed.insert(chunk, hash);
                // The bytes were counted when the partner's plan came.
                self.pace.bytes_delivered = self.pace.bytes_delivered.saturating_sub(self.chunk_bytes(chunk).into());
                self.chunk_delivered(chunk);
            }
            Done::Proved { chunk, same: None } => {
                self.queue.preparing -= 1;
                self.pace.bytes_delivered = self.pace.bytes_delivered.saturating_sub(self.chunk_bytes(chunk).into());
                self.chunk_settled(chunk);
                self.queue.again.push_back(chunk);
            }
            Done::Checked { file, result } => {
                self.queue.checking -= 1;
                self.files.forget(file);
                match result {
                    Ok(()) => {
                        let hash = self.hashing.hashes.get(file as usize).copied().unwrap_or_default();
                        self.outbox.complete.push((file, hash));
                        self.context.progress.send_modify(|progress| progress.files_done += 1);
                    }
                    Err(error) => self.fail_file_or_end(error)?,
                }
            }
        }
        Ok(())
    }

    fn event(&mut self, tag: usize, event: SendEvent) -> Result<(), TransferError> {
        // A path may open again and again.
        self.pace.steps += u64::from(!matches!(event, SendEvent::PathOpen { .. } | SendEvent::OthersWait { .. }));
        if let Some(what) = self.impossible(tag, &event) {
            return Err(self.context.plane.nonsense(what).into());
        }
        match event {
            // Nothing is reported about chunks that the flow does not have.
            SendEvent::Fill { chunk, .. }
            | SendEvent::Hashed { chunk, .. }
            | SendEvent::Delivered { chunk, .. }
            | SendEvent::ReadFailed { chunk, .. }
            | SendEvent::Withdrawn { chunk }
                if self.queue.assigned.get(&chunk) != Some(&tag) => {}
            SendEvent::OthersWait { held } => self.others_wait(held)?,
            SendEvent::PathOpen { stride, rtt_us } => self.flows.path_open(tag, stride, rtt_us),
            SendEvent::PathClosed { errno } => {
                return Err(path_closed(&self.context, &self.flows, errno));
            }
            SendEvent::Fill { chunk, buffer } => self.fill(chunk, buffer)?,
            SendEvent::Hashed { chunk, hash } => {
                self.outbox.chunk_hashes.push((chunk, hash));
                self.hashing.hashed.insert(chunk, hash);
            }
            SendEvent::Delivered { chunk, times } => {
                self.context.observer.note(Event::ChunkMoved { times, is_sender: true });
                self.note_delivery();
                self.unassign(tag, chunk);
                self.queue.filling.remove(&chunk);
                self.chunk_delivered(chunk);
                self.send_again_if_asked(chunk);
            }
            SendEvent::ReadFailed { chunk, error } => {
                self.unassign(tag, chunk);
                self.chunk_settled(chunk);
                if let Some(file) = self.file_of(chunk) {
                    let error = self.read_error(file, error);
                    self.fail_file_or_end(error)?;
                }
            }
            SendEvent::Withdrawn { chunk } => {
                self.unassign(tag, chunk);
                self.chunk_settled(chunk);
            }
            SendEvent::Closed => {}
        }
        Ok(())
    }

    fn unassign(&mut self, tag: usize, chunk: u32) {
        self.flows.settled(tag);
        self.queue.assigned.remove(&chunk);
    }

    fn file_of(&self, chunk: u32) -> Option<u32> {
        match &self.payload {
            Payload::Files { chunks, .. } => match chunks.content(chunk) {
                Some(ChunkContent::Range { file, .. }) => Some(file),
                _ => None,
            },
            Payload::Memory { .. } => None,
        }
    }

    fn chunk_bytes(&self, chunk: u32) -> u32 {
        match &self.payload {
            Payload::Files { chunks, .. } => chunks.content(chunk).map_or(0, |content| content.bytes()),
            Payload::Memory { bytes } => {
                let chunk_bytes = u64::from(self.context.options.chunk_bytes);
                (bytes - u64::from(chunk) * chunk_bytes).min(chunk_bytes) as u32
            }
        }
    }

    fn is_given_up(&self, chunk: u32) -> bool {
        self.file_of(chunk).is_some_and(|file| self.failures.failed.contains(&file))
    }

    /// Notes a file's hash, if the transfer has hashes.
    fn set_hash(&mut self, file: u32, hash: ChunkHash) {
        if let Some(place) = Arc::make_mut(&mut self.hashing.hashes).get_mut(file as usize) {
            *place = hash;
        }
    }

    fn note_pack_hashes(&mut self, chunk: u32, hashes: &[ChunkHash]) {
        if self.hashing.hashes.is_empty() {
            return;
        }
        let Payload::Files { chunks, .. } = &self.payload else { return };
        let chunks = chunks.clone();
        if let Some(ChunkContent::Pack { files, .. }) = chunks.content(chunk) {
            for (&file, &hash) in files.iter().zip(hashes) {
                self.set_hash(file, hash);
            }
        }
    }

    fn read_error(&self, file: u32, error: culvert_link::commands::DiskError) -> FileError {
        let Payload::Files { tree, .. } = &self.payload else {
            return FileError { file, code: "unreadable".to_owned(), text: error.to_string() };
        };
        match error {
            culvert_link::commands::DiskError::Short => changed(&tree.listing.manifest, file),
            culvert_link::commands::DiskError::Os(number) => {
                unreadable(&tree.listing.manifest, file, culvert_system::os_error::errno_of_number(number))
            }
        }
    }

    /// Gives up a file, unless this side merely lacks the resources to continue with any.
    fn fail_file_or_end(&mut self, error: FileError) -> Result<(), TransferError> {
        match TransferError::of_shortage(&error) {
            Some(end) => Err(end),
            None => {
                self.fail_file(error);
                Ok(())
            }
        }
    }

    /// Gives up a file: notifies the receiver, and takes its chunks back.
    fn fail_file(&mut self, error: FileError) {
        let file = error.file;
        if !self.failures.failed.insert(file) {
            return;
        }
        self.outbox.others.push(Message::FileFailed(error.clone()));
        self.failures.errors.push(error);
        self.take_chunks_back(file);
    }

    fn take_chunks_back(&mut self, file: u32) {
        self.set_hash(file, [0; 32]);
        let of_file: Vec<(u32, usize)> = self
            .queue
            .assigned
            .iter()
            .filter(|&(&chunk, _)| self.file_of(chunk) == Some(file))
            .map(|(&chunk, &tag)| (chunk, tag))
            .collect();
        for (chunk, tag) in of_file {
            self.flows.withdraw(tag, chunk);
        }
        let prepared = std::mem::take(&mut self.queue.prepared);
        for (chunk, source) in prepared {
            if self.file_of(chunk) == Some(file) {
                self.chunk_settled(chunk);
            } else {
                self.queue.prepared.push_back((chunk, source));
            }
        }
        self.files.close_when_unused(file);
    }

    async fn send_outbox(&mut self) -> Result<(), TransferError> {
        let outbox = std::mem::take(&mut self.outbox);
        let writer = &self.context.connection.writer;
        // Hashes before what depends on them, the end last.
        for hashes in outbox.chunk_hashes.chunks(HASHES_PER_MESSAGE) {
            writer.send(Message::ChunkHashes(hashes.to_vec())).await?;
        }
        for holes in outbox.holes.chunks(HASHES_PER_MESSAGE) {
            writer.send(Message::Holes(holes.to_vec())).await?;
        }
        for proven in outbox.proven.chunks(HASHES_PER_MESSAGE) {
            writer.send(Message::Proven(proven.to_vec())).await?;
        }
        let (ends, others): (Vec<_>, Vec<_>) =
            outbox.others.into_iter().partition(|message| matches!(message, Message::AllSent(_)));
        for message in others {
            writer.send(message).await?;
        }
        for complete in outbox.complete.chunks(HASHES_PER_MESSAGE) {
            writer.send(Message::FilesComplete(complete.to_vec())).await?;
        }
        for message in ends {
            writer.send(message).await?;
        }
        Ok(())
    }

    async fn message(&mut self, message: Message, began: Instant) -> Result<Option<Sent>, TransferError> {
        match message {
            Message::Feedback(bytes) => {
                if self.flows.on_report(&bytes)? {
                    self.pace.standstill.note_arrival(self.flows.moved());
                    let rtt = Duration::from_micros(self.flows.newest_rtt_us().into());
                    let pacing = self.flows.pacing_bits_per_second();
                    self.context.observer.note(Event::Reported {
                        partner: &self.context.peer,
                        round_trip: rtt,
                        pacing_bits_per_second: pacing,
                    });
                }
            }
            Message::Stored(stored) => self.note_stored(&stored),
            Message::Pong(_) => {}
            Message::Ping(number) => self.context.connection.writer.send_urgent(Message::Pong(number))?,
            Message::MoveFlow { flow_id, source_port } => self.flows.move_flow(flow_id, source_port)?,
            Message::SendAgain(chunks) => {
                for chunk in chunks {
                    self.asked_again(chunk)?;
                }
            }
            Message::FileRefused(error) => {
                let is_file = matches!(&self.payload, Payload::Files { tree, .. } if (error.file as usize) < tree.listing.manifest.len());
                if is_file && self.failures.failed.insert(error.file) {
                    self.pace.steps += 1;
                    self.take_chunks_back(error.file);
                    self.failures.errors.push(error);
                }
            }
            Message::NotKept { count, first } => self.failures.not_kept = self.check_not_kept(count, first)?,
            Message::Finished { line, signature, summary } => {
                return self.finish(&line, &signature, &summary, began).await.map(Some);
            }
            Message::Refused(refusal) => return Err(TransferError::Partner(refusal)),
            other => return Err(unexpected(&other, "feedback")),
        }
        Ok(None)
    }

    /// What the receiver says that it could not keep, if that can be.
    fn check_not_kept(&self, count: u64, first: Vec<FileError>) -> Result<NotKept, TransferError> {
        let entries = match &self.payload {
            Payload::Files { tree, .. } => tree.listing.manifest.len(),
            Payload::Memory { .. } => 0,
        };
        let is_possible = count <= entries as u64
            && first.len() <= NOT_KEPT_LISTED_MAX
            && first.len() as u64 <= count
            && first.iter().all(|entry| (entry.file as usize) < entries);
        if is_possible {
            return Ok(NotKept { count, first });
        }
        Err(TransferError::protocol("it reports refused attributes of more files than it names or has"))
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
