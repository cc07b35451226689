//! The sending side of a transfer.
//!
//! One task listens to the partner, to the lanes and to its own helpers (files being opened, packs being filled), and hands chunk
//! after chunk to whichever flow has the least to do. A chunk is *prepared* (its file opened, its hole found, its proof checked) before it is
//! assigned; what becomes of it comes back as an event.

mod files;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_dataplane::link::commands::{FileRange, Source};
use culvert_protocol::chunk_map::{ChunkContent, ChunkMap};
use culvert_protocol::control::{
    FileError, FlowOffer, LIST_BYTES, LeftOut, Message, ReceiverSummary, RefusalCode, SenderSummary,
};
use culvert_protocol::names::printable;
use culvert_protocol::receipt::{Receipt, Statement, sign_line, verify_line};
use culvert_protocol::tree_hash::{ChunkHash, TreeHash, hash_of_zeros};
use tokio::sync::mpsc;

use super::flows::{SendingFlows, path_closed};
use super::manifest_exchange::{canceled, unexpected};
use super::packs::{FilledPack, fill};
use super::result::{ResultError, ResultParts, TransferResult, named_errors};
use super::usage::{CpuMeter, millicycles_per_byte};
use super::{ErrorList, Phase, TransferContext, TransferError, blocking};
use crate::connection::SILENCE_TIMEOUT;
use crate::dataplane::{SendEvent, Tagged};
use crate::metrics::Stage;
use crate::sources::SourceTree;
use files::{OpenedFile, OutgoingFiles};

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

/// Chunks of a measurement of `bytes`.
#[must_use]
pub fn memory_chunks(bytes: u64, chunk_bytes: u32) -> u32 {
    u32::try_from(bytes.div_ceil(chunk_bytes.into())).unwrap_or(u32::MAX)
}

/// What the partner already has, from its plan.
#[derive(Debug, Default)]
pub struct PartnerHas {
    /// Entries that need not be sent.
    pub skipped: HashSet<u32>,
    /// Files that an earlier attempt stored, with their hashes.
    pub resumed: HashMap<u32, ChunkHash>,
    /// Chunks that an earlier attempt stored.
    pub proofs: HashMap<u32, ChunkHash>,
    /// The flows.
    pub offers: Vec<FlowOffer>,
    /// Bytes of chunks and files that earlier attempts stored.
    pub stored_bytes: u64,
    /// Reports that overtook the plan's end, as urgent messages may.
    pub early_reports: Vec<Vec<u8>>,
}

/// A helper's work that has ended.
#[derive(Debug)]
enum Done {
    /// A file was opened, or not.
    Opened { file: u32, result: Result<OpenedFile, FileError> },
    /// A pack was filled.
    Filled { tag: usize, chunk: u32, pack: FilledPack },
    /// A hole was hashed.
    Hole { chunk: u32, hash: ChunkHash },
    /// A chunk that the partner says it has was hashed here: the hash, if it is the same.
    Proved { chunk: u32, same: Option<ChunkHash> },
    /// A file was looked at once more after its last chunk was delivered.
    Checked { file: u32, result: Result<(), FileError> },
}

/// A file with chunks of its own, on its way.
#[derive(Debug)]
struct OutgoingProgress {
    left: u64,
    tree: TreeHash,
}

struct Sending {
    context: TransferContext,
    payload: Payload,
    has: PartnerHas,
    flows: SendingFlows,
    files: OutgoingFiles,
    progress_of: HashMap<u32, OutgoingProgress>,
    hashes: Vec<ChunkHash>,
    /// The next chunk that nobody has looked at.
    next_chunk: u32,
    chunk_count: u32,
    /// Chunks to be prepared before `next_chunk`: sent again, or not the same as the partner's.
    again: VecDeque<u32>,
    /// Prepared chunks that wait for a flow.
    prepared: VecDeque<(u32, Source)>,
    /// Chunks in a flow's hands.
    assigned: HashMap<u32, usize>,
    /// Chunks that helpers work on.
    preparing: usize,
    /// Files that are looked at once more.
    checking: usize,
    hashed: HashMap<u32, ChunkHash>,
    outbox: Outbox,
    errors: ErrorList,
    failed: HashSet<u32>,
    said_all_sent: bool,
    bytes_delivered: u64,
    done: mpsc::UnboundedSender<Done>,
    cpu: CpuMeter,
    rate: RateMeter,
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

/// Bytes per second over about the last second.
#[derive(Debug)]
pub(super) struct RateMeter {
    since: Instant,
    bytes: u64,
    rate: u64,
}

impl RateMeter {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), bytes: 0, rate: 0 }
    }

    /// The rate in bits per second, given the bytes so far.
    pub(super) fn update(&mut self, bytes: u64) -> u64 {
        let elapsed = self.since.elapsed();
        if elapsed >= Duration::from_millis(900) {
            self.rate = (bytes.saturating_sub(self.bytes) as f64 * 8.0 / elapsed.as_secs_f64()) as u64;
            (self.since, self.bytes) = (Instant::now(), bytes);
        }
        self.rate
    }
}

/// What comes out of sending.
#[derive(Debug)]
pub struct Sent {
    /// The result.
    pub result: TransferResult,
    /// The receipt; none for a dry run.
    pub receipt: Option<Receipt>,
}

/// Sends `payload`. The partner's plan has been received.
///
/// # Errors
/// [`TransferError`]; the partner has been told if it was this side's doing.
pub async fn send(context: TransferContext, payload: Payload, has: PartnerHas) -> Result<Sent, TransferError> {
    let began = Instant::now();
    let (lane_events, events) = mpsc::unbounded_channel();
    let (done, finished_work) = mpsc::unbounded_channel();
    let flows = SendingFlows::open(&context, &has.offers, &lane_events).await?;
    let chunk_count = payload.chunk_count(context.options.chunk_bytes);
    let file_count = match &payload {
        Payload::Files { tree, .. } => tree.manifest.len(),
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
    let mut sending = Sending {
        files: OutgoingFiles::new(context.plane.clone()),
        cpu: CpuMeter::begin(context.plane.process_id()),
        context,
        payload,
        has,
        flows,
        progress_of: HashMap::new(),
        hashes,
        next_chunk: 0,
        chunk_count,
        again: VecDeque::new(),
        prepared: VecDeque::new(),
        assigned: HashMap::new(),
        preparing: 0,
        checking: 0,
        hashed: HashMap::new(),
        outbox: Outbox::default(),
        errors: ErrorList::default(),
        failed: HashSet::new(),
        said_all_sent: false,
        bytes_delivered: stored_bytes,
        done,
        rate: RateMeter::new(),
    };
    for report in std::mem::take(&mut sending.has.early_reports) {
        sending.flows.on_report(&report)?;
    }
    sending.run(events, finished_work, began).await
}

impl Sending {
    async fn run(
        mut self,
        mut events: mpsc::UnboundedReceiver<Tagged<SendEvent>>,
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
                how = plane.died() => return Err(crate::dataplane::DataPlaneError::Died(how).into()),
                message = self.context.connection.reader.next() => {
                    heard = Instant::now();
                    if let Some(sent) = self.message(message?, began).await? {
                        return Ok(sent);
                    }
                }
                Some((tag, event)) = events.recv() => {
                    self.event(tag, event)?;
                    // Events come in bursts; one round of pumping serves them all.
                    while let Ok((tag, event)) = events.try_recv() {
                        self.event(tag, event)?;
                    }
                }
                Some(done) = finished_work.recv() => self.work_done(done),
                _ = tick.tick() => {
                    if heard.elapsed() > SILENCE_TIMEOUT {
                        return Err(TransferError::here(RefusalCode::Temporary, "the partner has not been heard of for 30 s"));
                    }
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
        self.send_outbox().await
    }

    /// Begins the preparation of the next chunks; whether there was any to begin.
    fn prepare_ahead(&mut self) -> bool {
        let ahead = PREPARING_PER_FLOW * self.flows.len();
        let mut began = false;
        while self.preparing + self.prepared.len() < ahead {
            let chunk = match self.again.pop_front() {
                Some(chunk) => chunk,
                None if self.next_chunk < self.chunk_count => {
                    self.next_chunk += 1;
                    self.next_chunk - 1
                }
                None => break,
            };
            self.prepare(chunk);
            began = true;
        }
        began
    }

    /// Hands prepared chunks to flows that have room; whether any was handed over.
    fn assign_prepared(&mut self) -> bool {
        let mut assigned = false;
        while let Some(&(chunk, source)) = self.prepared.front() {
            let Some(tag) = self.flows.with_room(self.left()) else { break };
            self.prepared.pop_front();
            assigned = true;
            if self.is_given_up(chunk) {
                self.chunk_settled(chunk);
                continue;
            }
            self.assigned.insert(chunk, tag);
            self.flows.assign(tag, chunk, self.chunk_bytes(chunk), source);
        }
        assigned
    }

    /// Chunks that are not delivered yet.
    fn left(&self) -> usize {
        let untouched = (self.chunk_count - self.next_chunk) as usize;
        untouched + self.again.len() + self.prepared.len() + self.preparing + self.assigned.len()
    }

    /// Begins whatever a chunk needs before it can be assigned.
    fn prepare(&mut self, chunk: u32) {
        let Payload::Files { tree, chunks } = &self.payload else {
            self.prepared.push_back((chunk, Source::Memory));
            return;
        };
        match chunks.content(chunk) {
            None => {}
            Some(ChunkContent::Pack { .. }) => self.prepared.push_back((chunk, Source::Fill)),
            Some(ChunkContent::Range { file, .. }) => {
                if self.failed.contains(&file) {
                    return;
                }
                let (tree, chunks) = (tree.clone(), chunks.clone());
                if let Some(opened) = self.files.get(file) {
                    self.prepare_range(chunk, &opened, &tree, &chunks);
                } else {
                    self.preparing += 1;
                    if self.files.wait_for(file, chunk) {
                        let done = self.done.clone();
                        let plane = self.context.plane.clone();
                        tokio::spawn(async move {
                            let result = files::open(&plane, tree, file).await;
                            let _ = done.send(Done::Opened { file, result });
                        });
                    }
                }
            }
        }
    }

    /// A chunk of an open file: proof, hole, or to be sent.
    fn prepare_range(&mut self, chunk: u32, opened: &Arc<OpenedFile>, tree: &Arc<SourceTree>, chunks: &Arc<ChunkMap>) {
        let Some(ChunkContent::Range { file, offset, bytes, .. }) = chunks.content(chunk) else { return };
        let file_bytes = tree.manifest.file_bytes(file).unwrap_or(0);
        let range = FileRange { file: opened.slot, offset, file_bytes };
        self.files.begin_use(file);
        if let Some(theirs) = self.has.proofs.remove(&chunk) {
            self.preparing += 1;
            let (plane, done) = (self.context.plane.clone(), self.done.clone());
            let chunk_bytes = self.context.options.chunk_bytes;
            let lane = (chunk as usize % plane.lanes().len()) as u16;
            tokio::spawn(async move {
                let checked = plane.check(lane, range, bytes, chunk_bytes).await;
                // What cannot be read here is sent, and fails there by name.
                let same = matches!(checked, Ok(Ok(ours)) if ours == theirs).then_some(theirs);
                let _ = done.send(Done::Proved { chunk, same });
            });
        } else if opened.is_hole(offset, bytes) {
            self.preparing += 1;
            let (done, checksum, chunk_bytes) =
                (self.done.clone(), self.context.options.checksum, self.context.options.chunk_bytes);
            tokio::spawn(async move {
                let hash = if checksum {
                    blocking(move || hash_of_zeros(file_bytes, offset, bytes, chunk_bytes)).await
                } else {
                    [0; 32]
                };
                let _ = done.send(Done::Hole { chunk, hash });
            });
        } else {
            self.prepared.push_back((chunk, Source::File(range)));
        }
    }

    fn work_done(&mut self, done: Done) {
        match done {
            Done::Opened { file, result } => {
                let waiting = self.files.opened(file, result.as_ref().ok().cloned());
                self.preparing -= waiting.len();
                match result {
                    Ok(_) => waiting.into_iter().for_each(|chunk| self.prepare(chunk)),
                    Err(error) => self.fail_file(error),
                }
            }
            Done::Filled { tag, chunk, pack } => {
                for error in pack.failed {
                    self.fail_file(error);
                }
                self.note_pack_hashes(chunk, &pack.hashes);
                if self.context.options.checksum {
                    self.outbox.others.push(Message::PackHashes { chunk, hashes: pack.hashes });
                }
                self.flows.filled(tag, chunk);
            }
            Done::Hole { chunk, hash } => {
                self.preparing -= 1;
                self.outbox.holes.push((chunk, hash));
                self.hashed.insert(chunk, hash);
                self.chunk_delivered(chunk);
            }
            Done::Proved { chunk, same: Some(hash) } => {
                self.preparing -= 1;
                self.outbox.proven.push(chunk);
                self.hashed.insert(chunk, hash);
                // The bytes were counted when the partner's plan came.
                self.bytes_delivered = self.bytes_delivered.saturating_sub(self.chunk_bytes(chunk).into());
                self.chunk_delivered(chunk);
            }
            Done::Proved { chunk, same: None } => {
                self.preparing -= 1;
                self.bytes_delivered = self.bytes_delivered.saturating_sub(self.chunk_bytes(chunk).into());
                self.chunk_settled(chunk);
                self.again.push_back(chunk);
            }
            Done::Checked { file, result } => {
                self.checking -= 1;
                match result {
                    Ok(()) => {
                        let hash = self.hashes.get(file as usize).copied().unwrap_or_default();
                        self.outbox.complete.push((file, hash));
                        self.context.progress.send_modify(|progress| progress.files_done += 1);
                    }
                    Err(error) => self.fail_file(error),
                }
            }
        }
    }

    fn event(&mut self, tag: usize, event: SendEvent) -> Result<(), TransferError> {
        match event {
            SendEvent::PathOpen { stride, rtt_us } => self.flows.path_open(tag, stride, rtt_us),
            SendEvent::PathClosed { errno } => {
                let port = self.flows.port_of(tag, &self.context, &self.has.offers);
                return Err(path_closed(self.context.connection.address.ip(), port, errno));
            }
            SendEvent::Fill { chunk, mut buffer } => {
                let Payload::Files { tree, chunks } = &self.payload else {
                    return Err(TransferError::here(RefusalCode::Failed, "a lane wants a measurement filled"));
                };
                let (tree, chunks, done) = (tree.clone(), chunks.clone(), self.done.clone());
                let (checksum, metrics) = (self.context.options.checksum, self.context.metrics.clone());
                tokio::task::spawn_blocking(move || {
                    let began = Instant::now();
                    let pack = match chunks.content(chunk) {
                        Some(ChunkContent::Pack { files, .. }) => fill(&tree, files, &mut buffer, checksum),
                        _ => FilledPack { hashes: Vec::new(), failed: Vec::new() },
                    };
                    drop(buffer);
                    metrics.note_stage(Stage::Read, began.elapsed());
                    let _ = done.send(Done::Filled { tag, chunk, pack });
                });
            }
            SendEvent::Hashed { chunk, hash } => {
                self.outbox.chunk_hashes.push((chunk, hash));
                self.hashed.insert(chunk, hash);
            }
            SendEvent::Delivered { chunk, times } => {
                self.context.metrics.note_chunk(times, true);
                self.unassign(tag, chunk);
                self.chunk_delivered(chunk);
            }
            SendEvent::ReadFailed { chunk, error } => {
                self.unassign(tag, chunk);
                self.chunk_settled(chunk);
                if let Some(file) = self.file_of(chunk) {
                    let error = self.read_error(file, error);
                    self.fail_file(error);
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
        self.assigned.remove(&chunk);
    }

    /// The receiver has a chunk, however it came by it.
    fn chunk_delivered(&mut self, chunk: u32) {
        self.bytes_delivered += u64::from(self.chunk_bytes(chunk));
        let hash = self.hashed.remove(&chunk);
        self.chunk_settled(chunk);
        let Payload::Files { tree, chunks } = &self.payload else { return };
        match chunks.content(chunk) {
            Some(ChunkContent::Range { file, part, .. }) => {
                let count = chunks.chunks_of_file(tree.manifest.file_bytes(file).unwrap_or(0));
                let progress = self
                    .progress_of
                    .entry(file)
                    .or_insert_with(|| OutgoingProgress { left: count, tree: TreeHash::new(count) });
                // A chunk that went once more because its bytes were damaged on the other side counts once.
                if progress.left == 0 {
                    return;
                }
                progress.left -= 1;
                if let Some(hash) = hash {
                    progress.tree.add(part, hash);
                }
                if progress.left == 0 {
                    if let (Some(hash), Some(place)) = (progress.tree.finish(), self.hashes.get_mut(file as usize)) {
                        *place = *hash.as_bytes();
                    }
                    self.check_once_more(file);
                }
            }
            Some(ChunkContent::Pack { files, .. }) => {
                let count = files.len() as u64;
                self.context.progress.send_modify(|progress| progress.files_done += count);
            }
            None => {}
        }
    }

    /// Looks at a file after its last chunk was delivered: did it change while it was read?
    fn check_once_more(&mut self, file: u32) {
        let Payload::Files { tree, .. } = &self.payload else { return };
        if self.failed.contains(&file) {
            return;
        }
        self.checking += 1;
        let (tree, done, opened) = (tree.clone(), self.done.clone(), self.files.get(file));
        tokio::task::spawn_blocking(move || {
            let result = files::check(&tree, file, opened.as_deref());
            let _ = done.send(Done::Checked { file, result });
        });
    }

    /// A chunk needs its file no longer.
    fn chunk_settled(&mut self, chunk: u32) {
        if let Some(file) = self.file_of(chunk) {
            // Chunks are prepared in order, so a file is done with once the next chunk is another file's.
            let is_over = self.file_of(self.next_chunk) != Some(file);
            self.files.end_use(file, is_over);
        }
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
        self.file_of(chunk).is_some_and(|file| self.failed.contains(&file))
    }

    fn note_pack_hashes(&mut self, chunk: u32, hashes: &[ChunkHash]) {
        if self.hashes.is_empty() {
            return;
        }
        let Payload::Files { chunks, .. } = &self.payload else { return };
        if let Some(ChunkContent::Pack { files, .. }) = chunks.content(chunk) {
            for (&file, &hash) in files.iter().zip(hashes) {
                self.hashes[file as usize] = hash;
            }
        }
    }

    fn read_error(&self, file: u32, error: culvert_dataplane::link::commands::DiskError) -> FileError {
        let Payload::Files { tree, .. } = &self.payload else {
            return FileError { file, code: "unreadable".to_owned(), text: error.to_string() };
        };
        match error {
            culvert_dataplane::link::commands::DiskError::Short => super::packs::changed(tree, file),
            culvert_dataplane::link::commands::DiskError::Os(_) => {
                let name = printable(tree.manifest.entry(file).name);
                FileError { file, code: "unreadable".to_owned(), text: format!("'{name}' cannot be read: {error}") }
            }
        }
    }

    /// Gives a file up: tells the receiver, and takes its chunks back.
    fn fail_file(&mut self, error: FileError) {
        let file = error.file;
        if !self.failed.insert(file) {
            return;
        }
        self.outbox.others.push(Message::FileFailed(error.clone()));
        self.errors.push(error);
        self.take_chunks_back(file);
    }

    fn take_chunks_back(&mut self, file: u32) {
        if let Some(place) = self.hashes.get_mut(file as usize) {
            *place = [0; 32];
        }
        let of_file: Vec<(u32, usize)> = self
            .assigned
            .iter()
            .filter(|&(&chunk, _)| self.file_of(chunk) == Some(file))
            .map(|(&chunk, &tag)| (chunk, tag))
            .collect();
        for (chunk, tag) in of_file {
            self.flows.withdraw(tag, chunk);
        }
        let prepared = std::mem::take(&mut self.prepared);
        for (chunk, source) in prepared {
            if self.file_of(chunk) == Some(file) {
                self.chunk_settled(chunk);
            } else {
                self.prepared.push_back((chunk, source));
            }
        }
        self.files.close_when_unused(file);
    }

    /// Says that everything is sent, when it is; again if something had to go once more.
    fn say_all_sent(&mut self) {
        let is_idle = self.next_chunk >= self.chunk_count
            && self.again.is_empty()
            && self.prepared.is_empty()
            && self.preparing == 0
            && self.assigned.is_empty()
            && self.checking == 0;
        if !is_idle || self.said_all_sent {
            return;
        }
        self.said_all_sent = true;
        if let Payload::Files { tree, .. } = &self.payload
            && !tree.problems.is_empty()
        {
            self.outbox.others.push(Message::LeftOut(left_out(tree)));
        }
        let summary = self.summary();
        self.outbox.others.push(Message::AllSent(summary));
        self.context.progress.send_modify(|progress| progress.phase = Phase::Finishing);
    }

    fn summary(&self) -> SenderSummary {
        let cpu_us = self.cpu.elapsed_us();
        let problems = match &self.payload {
            Payload::Files { tree, .. } => tree.problem_count,
            Payload::Memory { .. } => 0,
        };
        SenderSummary {
            cpu_us,
            millicycles_per_byte: millicycles_per_byte(cpu_us, self.bytes_delivered),
            problems,
            ..self.flows.summary()
        }
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
                    let rtt = Duration::from_micros(self.flows.newest_rtt_us().into());
                    let pacing = self.flows.pacing_bits_per_second();
                    self.context.metrics.note_report(&self.context.peer, rtt, pacing);
                }
            }
            Message::Stored(_) | Message::Pong(_) => {}
            Message::Ping(number) => self.context.connection.writer.send_urgent(Message::Pong(number))?,
            Message::SendAgain(chunks) => {
                for chunk in chunks.into_iter().filter(|&chunk| chunk < self.chunk_count) {
                    self.said_all_sent = false;
                    self.bytes_delivered = self.bytes_delivered.saturating_sub(u64::from(self.chunk_bytes(chunk)));
                    self.again.push_back(chunk);
                }
            }
            Message::FileRefused(error) => {
                let is_file =
                    matches!(&self.payload, Payload::Files { tree, .. } if (error.file as usize) < tree.manifest.len());
                if is_file && self.failed.insert(error.file) {
                    self.take_chunks_back(error.file);
                    self.errors.push(error);
                }
            }
            Message::Finished { line, signature, summary } => {
                return self.finish(&line, &signature, &summary, began).await.map(Some);
            }
            Message::Refused(refusal) => return Err(TransferError::Partner(refusal)),
            other => return Err(unexpected(&other, "feedback")),
        }
        Ok(None)
    }

    /// Checks the receiver's statement, signs it, and makes the result.
    async fn finish(
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
        let is_ours = statement.transfer == self.context.id.to_string()
            && statement.sender == identity.public_key()
            && statement.receiver == partner
            && statement.root_blake3 == self.root();
        if !is_ours || !self.said_all_sent {
            let text = "the partner's receipt does not say what this node sent: the data must be checked by hand";
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
        let summary = self.summary();
        let (files_total, errors) = match &self.payload {
            Payload::Files { tree, .. } => {
                let name = |file| printable(tree.manifest.entry(file).name);
                let problems = tree.problems.iter().map(|problem| ResultError {
                    path: problem.name.clone(),
                    code: problem.code.to_owned(),
                    text: problem.text.clone(),
                });
                (tree.manifest.file_count(), named_errors(&self.errors, name).chain(problems).collect())
            }
            Payload::Memory { .. } => (0, Vec::new()),
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
            errors,
            error_count: self.errors.count + summary.problems,
        });
        self.flows.close();
        Ok(Sent { result, receipt: Some(receipt) })
    }

    /// The root of everything that was stored, as the receiver computes it too.
    fn root(&self) -> String {
        match &self.payload {
            Payload::Files { tree, .. } if self.context.options.checksum => {
                let stored = |file: u32| !self.has.skipped.contains(&file) && !self.failed.contains(&file);
                super::root_of(&tree.manifest, &self.hashes, stored)
            }
            _ => String::new(),
        }
    }

    fn show_progress(&mut self) {
        let rate = self.rate.update(self.bytes_delivered);
        let (bytes_done, pacing, rtt_us) =
            (self.bytes_delivered, self.flows.pacing_bits_per_second(), self.flows.newest_rtt_us());
        self.context.progress.send_modify(|progress| {
            progress.bytes_done = bytes_done;
            progress.rate_bits_per_second = rate;
            progress.pacing_bits_per_second = pacing;
            progress.rtt_us = rtt_us;
        });
    }
}

/// The first of what was left out, as far as it fits a message.
fn left_out(tree: &SourceTree) -> Vec<LeftOut> {
    let mut bytes = 0;
    let told = tree.problems.iter().take_while(|problem| {
        bytes += problem.name.len() + problem.text.len() + 32;
        bytes <= LIST_BYTES
    });
    told.map(|problem| LeftOut {
        name: problem.name.clone(),
        code: problem.code.to_owned(),
        text: problem.text.clone(),
    })
    .collect()
}
