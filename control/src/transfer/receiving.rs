//! The receiving side of a transfer.
//!
//! The plan is made before the first byte: what is there, what may be replaced, whether there is room, what an earlier attempt left. Then
//! the task answers the lanes' questions (where does this chunk go?), compares hashes as they come from both sides, makes what
//! is written durable, and gives files their names when the sender says that they did not change and every chunk is verified.

mod committer;
mod files;
mod planning;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use culvert_dataplane::link::commands::{Command, DiskError, FileRange, ReceiveSlot, Sink};
use culvert_dataplane::link::handles::LentBuffer;
use culvert_dataplane::link::messages::OpenReceive;
use culvert_protocol::chunk_map::{ChunkContent, ChunkMap};
use culvert_protocol::control::{
    FileError, FlowOffer, LeftOut, Message, ReceiverSummary, RefusalCode, Run, SenderSummary, runs,
};
use culvert_protocol::feedback::Report;
use culvert_protocol::manifest::EntryKind;
use culvert_protocol::names::printable;
use culvert_protocol::receipt::{Receipt, Statement, sign_line, verify_line};
use culvert_protocol::tree_hash::{ChunkHash, hash_of_zeros};
use culvert_protocol::verdict::{ReceiverTimes, verdict};
use tokio::sync::mpsc;

use super::flows::canonical;
use super::manifest_exchange::{ReceivedManifest, canceled, receive_manifest, unexpected};
use super::result::{ResultError, ResultParts, TransferResult, named_errors};
use super::sending::{RateMeter, memory_chunks};
use super::usage::{CpuMeter, millicycles_per_byte};
use super::{ErrorList, Phase, TransferContext, TransferError, blocking, root_of};
use crate::connection::SILENCE_TIMEOUT;
use crate::dataplane::{DataPlaneError, ReceiveEvent, Tagged};
use crate::destination::plan::Action;
use crate::metrics::Stage;
use committer::{Committed, Committer};
use files::IncomingFiles;
pub use planning::{FileRequest, Incoming, Intake};

/// How often progress is measured and written chunks are made durable.
const TICK: Duration = Duration::from_millis(250);
/// Written chunks are made durable and journaled this often, so that a crash costs no more than this.
const COMMIT_INTERVAL: Duration = Duration::from_secs(1);
/// The shortest time between two reports of a flow; the round trip's quarter if that is longer.
const REPORT_INTERVAL_US: u32 = 2_000;
/// A chunk whose bytes were wrong so often is not asked for again.
const TRIES_MAX: u32 = 3;

/// What comes out of receiving.
#[derive(Debug)]
pub struct Received {
    /// The result.
    pub result: TransferResult,
    /// The receipt; none for a dry run.
    pub receipt: Option<Receipt>,
}

/// A receiving flow.
#[derive(Debug)]
struct ReceivingFlow {
    lane: u16,
    slot: ReceiveSlot,
}

/// A helper's work that has ended.
#[derive(Debug)]
enum Done {
    /// A partial file was opened, or not.
    Opened { file: u32, result: Result<files::OpenPartial, FileError> },
    /// A pack was written; its files go to the committer.
    Unpacked { tag: usize, chunk: u32, buffer: u32, pack: crate::destination::small_files::StagedPack },
    /// Files of packs, and empty files, have their names for good.
    Committed(Committed),
    /// A large file has its name for good, or not.
    Finished { file: u32, result: Result<(), FileError> },
    /// What was written of some files so far is durable.
    Synced { chunks: Vec<u32>, result: Result<(), TransferErrorText> },
}

/// An error that travels between threads.
type TransferErrorText = String;

struct Receiving {
    context: TransferContext,
    intake: Arc<Intake>,
    chunks: Arc<ChunkMap>,
    chunk_count: u32,
    flows: Vec<ReceivingFlow>,
    files: IncomingFiles,
    committer: Committer,
    /// Packs that are whole and wait for their hashes.
    packs: HashMap<u32, (usize, LentBuffer)>,
    pack_hashes: HashMap<u32, Vec<ChunkHash>>,
    /// Hashes of one side that wait for the other's.
    theirs: HashMap<u32, ChunkHash>,
    ours: HashMap<u32, ChunkHash>,
    tries: HashMap<u32, u32>,
    /// Which flow a chunk came by.
    came_by: HashMap<u32, usize>,
    hashes: Vec<ChunkHash>,
    failed: HashSet<u32>,
    errors: ErrorList,
    /// What the sender did not send at all, in its own words.
    left_out: Vec<LeftOut>,
    /// Files whose fate is not known yet.
    files_left: u64,
    /// Chunks of a measurement that are not verified yet.
    memory_left: u32,
    files_stored: u64,
    bytes_stored: u64,
    bytes_arrived: u64,
    sender: Option<SenderSummary>,
    finish_sent: Option<Statement>,
    line: String,
    receiver: Option<ReceiverSummary>,
    busy: WeightedMean,
    writing: WeightedMean,
    done: mpsc::UnboundedSender<Done>,
    cpu: CpuMeter,
    rate: RateMeter,
    committed_at: Instant,
    syncing: bool,
    began_unix_ms: u64,
    began: Instant,
}

/// A mean of parts per thousand, weighted with the time that each stands for.
#[derive(Clone, Copy, Debug, Default)]
struct WeightedMean {
    sum: f64,
    weight: f64,
}

impl WeightedMean {
    fn add(&mut self, permille: u32, weight_us: u32) {
        self.sum += f64::from(permille) * f64::from(weight_us);
        self.weight += f64::from(weight_us);
    }

    fn part(self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight / 1e3 } else { 0.0 }
    }
}

/// Receives a transfer that both sides have agreed upon.
///
/// # Errors
/// [`TransferError`]; the caller tells the partner if it was this side's doing.
pub async fn receive(mut context: TransferContext, incoming: Incoming) -> Result<Received, TransferError> {
    let began = Instant::now();
    let began_unix_ms = unix_ms();
    let intake = match incoming {
        Incoming::Files(request) => {
            let manifest = receive_manifest(
                &mut context.connection.reader,
                &context.connection.writer,
                &context.progress,
                &mut context.cancel.clone(),
            )
            .await?;
            plan_files(&context, request, manifest).await?
        }
        Incoming::Memory { bytes } => Intake::memory(bytes, context.options.chunk_bytes),
    };
    let (lane_events, events) = mpsc::unbounded_channel();
    let (done, finished_work) = mpsc::unbounded_channel();
    let mut receiving = Receiving::new(context, intake, done, began, began_unix_ms)?;
    receiving.tell_plan().await?;
    if receiving.context.options.dry_run {
        let stored_bytes = receiving.intake.resumed_bytes;
        receiving.context.connection.writer.send(Message::PlanEnd { flows: Vec::new(), stored_bytes }).await?;
        let result = receiving.dry_result();
        return Ok(Received { result, receipt: None });
    }
    receiving.open_flows(&lane_events).await?;
    receiving.store_empty_files();
    receiving.run(events, finished_work).await
}

async fn plan_files(
    context: &TransferContext,
    request: FileRequest,
    manifest: ReceivedManifest,
) -> Result<Intake, TransferError> {
    context.progress.send_modify(|progress| progress.phase = Phase::Planning);
    let (options, partner) = (context.options, context.connection.partner);
    let planned = blocking(move || planning::plan(&request, manifest, &options, partner)).await;
    planned.map_err(TransferError::Here)
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

impl Receiving {
    fn new(
        context: TransferContext,
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
        let mut hashes = vec![[0; 32]; if context.options.checksum { intake.manifest.len() } else { 0 }];
        for &(file, hash) in &intake.resumed {
            if let Some(place) = hashes.get_mut(file as usize) {
                *place = hash;
            }
        }
        let intake = Arc::new(intake);
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
            files: IncomingFiles::new(context.plane.clone(), &intake, &chunks),
            cpu: CpuMeter::begin(context.plane.process_id()),
            memory_left: if intake.memory_bytes.is_some() { chunk_count } else { 0 },
            files_stored: intake.resumed.len() as u64,
            bytes_stored: resumed_file_bytes,
            bytes_arrived: intake.resumed_bytes,
            committer,
            context,
            intake,
            chunks: Arc::new(chunks),
            chunk_count,
            flows: Vec::new(),
            packs: HashMap::new(),
            pack_hashes: HashMap::new(),
            theirs: HashMap::new(),
            ours: HashMap::new(),
            tries: HashMap::new(),
            came_by: HashMap::new(),
            hashes,
            failed: HashSet::new(),
            errors: ErrorList::default(),
            left_out: Vec::new(),
            files_left,
            sender: None,
            finish_sent: None,
            line: String::new(),
            receiver: None,
            busy: WeightedMean::default(),
            writing: WeightedMean::default(),
            done,
            rate: RateMeter::new(),
            committed_at: Instant::now(),
            syncing: false,
            began_unix_ms,
            began,
        })
    }

    /// Tells the sender what need not be sent.
    async fn tell_plan(&mut self) -> Result<(), TransferError> {
        let writer = self.context.connection.writer.clone();
        let skipped = runs((0..self.intake.manifest.len() as u32).filter(|&file| self.intake.is_skipped(file)));
        for part in skipped.chunks(4_096) {
            writer.send(Message::PlanPart { skipped: part.to_vec() }).await?;
        }
        for part in self.intake.resumed.chunks(1_000) {
            writer.send(Message::Resumed(part.to_vec())).await?;
        }
        Ok(())
    }

    /// Proves what an earlier attempt stored, and opens the flows.
    async fn open_flows(&mut self, events: &mpsc::UnboundedSender<Tagged<ReceiveEvent>>) -> Result<(), TransferError> {
        let proofs = self.prove_stored_chunks().await?;
        for part in proofs.chunks(1_000) {
            self.context.connection.writer.send(Message::Proofs(part.to_vec())).await?;
        }
        let plane = self.context.plane.clone();
        let lanes = plane.lanes().len();
        let partner_lanes = self.context.partner_lane_ports.len().max(1);
        let wanted = match self.context.options.flows {
            0 => lanes.max(partner_lanes),
            flows => flows.into(),
        };
        let flows = wanted.min(self.chunk_count as usize).min(culvert_protocol::control::FLOWS_MAX.into());
        let mut offers = Vec::new();
        for tag in 0..flows {
            let (lane, partner_lane) = ((tag % lanes) as u16, tag % partner_lanes);
            let slot = plane.take_receive_slot(lane, tag, events)?;
            self.flows.push(ReceivingFlow { lane, slot });
            let flow_id = random_u32() & !0xff | u32::from(slot.0);
            let port = self.context.partner_lane_ports.get(partner_lane).copied().unwrap_or(0);
            let open = OpenReceive {
                lane,
                slot,
                flow_id,
                secret: *self.context.connection.secret.expose(),
                cipher: self.context.options.cipher,
                partner: SocketAddr::new(canonical(self.context.connection.address.ip()), port),
                chunk_count: self.chunk_count,
                chunk_bytes: self.context.options.chunk_bytes,
                checksum: self.context.options.checksum,
                interval_us: REPORT_INTERVAL_US,
            };
            plane.open_receive(open).await?;
            offers.push(FlowOffer { flow_id, receiver_lane: lane, sender_lane: partner_lane as u16 });
        }
        let stored_bytes = self.intake.resumed_bytes;
        self.context.connection.writer.send(Message::PlanEnd { flows: offers, stored_bytes }).await?;
        self.context.progress.send_modify(|progress| progress.phase = Phase::Moving);
        Ok(())
    }

    /// Reads the chunks that an earlier attempt stored and keeps those that still have their hash.
    async fn prove_stored_chunks(&mut self) -> Result<Vec<(u32, ChunkHash)>, TransferError> {
        let intake = self.intake.clone();
        let mut proofs = Vec::new();
        let first_chunks: HashMap<u32, u32> = self.chunks.files().collect();
        for begun in &intake.begun {
            let Some(&first) = first_chunks.get(&begun.file) else { continue };
            let opened = files::open(&self.context.plane, intake.clone(), begun.file, true).await;
            let Ok(opened) = opened else { continue };
            let file_bytes = intake.manifest.file_bytes(begun.file).unwrap_or(0);
            for &(part, hash) in &begun.chunks {
                let chunk = first + part as u32;
                let Some(ChunkContent::Range { offset, bytes, .. }) = self.chunks.content(chunk) else { continue };
                let range = FileRange { file: opened.slot, offset, file_bytes };
                let lane = (chunk as usize % self.context.plane.lanes().len()) as u16;
                let checked = self.context.plane.check(lane, range, bytes, self.context.options.chunk_bytes).await?;
                if let (Ok(now), Some(then)) = (checked, hash)
                    && now == then
                {
                    proofs.push((chunk, now));
                }
            }
            self.files.insert(begun.file, opened);
        }
        Ok(proofs)
    }

    /// Empty files have no chunk: they are made at once.
    fn store_empty_files(&mut self) {
        let empty: Vec<u32> = (0..self.intake.manifest.len() as u32)
            .filter(|&file| self.intake.manifest.file_bytes(file) == Some(0) && self.intake.is_sent(file))
            .collect();
        for part in empty.chunks(1_024) {
            self.committer.store_empty(part.to_vec());
        }
    }

    async fn run(
        mut self,
        mut events: mpsc::UnboundedReceiver<Tagged<ReceiveEvent>>,
        mut finished_work: mpsc::UnboundedReceiver<Done>,
    ) -> Result<Received, TransferError> {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        let mut ping_sent = Some((1, Instant::now()));
        self.context.connection.writer.send_urgent(Message::Ping(1))?;
        let mut cancel = self.context.cancel.clone();
        let plane = self.context.plane.clone();
        loop {
            self.finish_if_done().await?;
            tokio::select! {
                biased;
                () = TransferContext::canceled(&mut cancel) => return Err(canceled()),
                how = plane.died() => return Err(DataPlaneError::Died(how).into()),
                Some((tag, event)) = events.recv() => {
                    self.event(tag, event).await?;
                    while let Ok((tag, event)) = events.try_recv() {
                        self.event(tag, event).await?;
                    }
                }
                message = self.context.connection.reader.next() => {
                    heard = Instant::now();
                    match message? {
                        Message::Pong(number) => {
                            if let Some((_, sent)) = ping_sent.take_if(|&mut (expected, _)| expected == number) {
                                self.set_interval(sent.elapsed());
                            }
                        }
                        message => if let Some(received) = self.message(message).await? {
                            return Ok(received);
                        }
                    }
                }
                Some(done) = finished_work.recv() => self.work_done(done).await?,
                _ = tick.tick() => {
                    if heard.elapsed() > SILENCE_TIMEOUT {
                        return Err(TransferError::here(RefusalCode::Temporary, "the partner has not been heard of for 30 s"));
                    }
                    self.show_progress();
                    self.commit_written();
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
    fn set_interval(&self, rtt: Duration) {
        let interval_us = (rtt.as_micros() as u32 / 4).clamp(REPORT_INTERVAL_US, 100_000);
        for flow in &self.flows {
            self.context.plane.command(flow.lane, &Command::Interval { flow: flow.slot, interval_us });
        }
    }

    async fn event(&mut self, tag: usize, event: ReceiveEvent) -> Result<(), TransferError> {
        match event {
            ReceiveEvent::Report(bytes) => {
                if let Ok(report) = Report::parse(&bytes) {
                    let summary = report.summary;
                    self.busy.add(summary.busy_permille, summary.interval_us);
                    self.writing.add(summary.disk_stall_permille, summary.interval_us);
                }
                self.context.connection.writer.send_urgent(Message::Feedback(bytes))?;
            }
            ReceiveEvent::Asks { chunk, chunk_bytes } => self.asks(tag, chunk, chunk_bytes)?,
            ReceiveEvent::Hand { chunk, buffer } => {
                self.packs.insert(chunk, (tag, buffer));
                self.unpack_if_ready(chunk);
            }
            ReceiveEvent::Written { chunk, hash, times } => {
                self.context.metrics.note_chunk(times, false);
                self.bytes_arrived += u64::from(self.chunk_bytes(chunk));
                match hash {
                    Some(hash) => {
                        self.ours.insert(chunk, hash);
                        self.compare(chunk).await?;
                    }
                    None => self.chunk_verified(chunk, [0; 32]),
                }
            }
            ReceiveEvent::WriteFailed { chunk, error } => self.write_failed(chunk, error)?,
            ReceiveEvent::Closed => {}
        }
        Ok(())
    }

    /// A lane asks where a chunk goes.
    fn asks(&mut self, tag: usize, chunk: u32, chunk_bytes: u32) -> Result<(), TransferError> {
        self.came_by.insert(chunk, tag);
        if chunk_bytes != self.chunk_bytes(chunk) {
            return Err(TransferError::protocol(format!("it sends chunk {chunk} with a size that it does not have")));
        }
        if self.intake.memory_bytes.is_some() {
            self.place(tag, chunk, Sink::Discard);
            return Ok(());
        }
        let chunks = self.chunks.clone();
        match chunks.content(chunk) {
            None => {}
            Some(ChunkContent::Pack { .. }) => self.place(tag, chunk, Sink::Hand),
            Some(ChunkContent::Range { file, .. }) if self.failed.contains(&file) => self.abandon(tag, chunk),
            Some(ChunkContent::Range { file, .. }) => {
                if self.files.get(file).is_some() {
                    self.place_in_file(tag, chunk);
                } else if self.files.wait_for(file, tag, chunk) {
                    let (plane, intake, done) = (self.context.plane.clone(), self.intake.clone(), self.done.clone());
                    tokio::spawn(async move {
                        let result = files::open(&plane, intake, file, false).await;
                        let _ = done.send(Done::Opened { file, result });
                    });
                }
            }
        }
        Ok(())
    }

    fn place(&self, tag: usize, chunk: u32, sink: Sink) {
        let flow = &self.flows[tag];
        self.context.plane.command(flow.lane, &Command::Place { flow: flow.slot, chunk, sink });
    }

    fn place_in_file(&mut self, tag: usize, chunk: u32) {
        let Some(ChunkContent::Range { file, offset, .. }) = self.chunks.content(chunk) else { return };
        let Some(slot) = self.files.get(file) else { return };
        let file_bytes = self.intake.manifest.file_bytes(file).unwrap_or(0);
        self.place(tag, chunk, Sink::File(FileRange { file: slot, offset, file_bytes }));
    }

    fn abandon(&self, tag: usize, chunk: u32) {
        let flow = &self.flows[tag];
        self.context.plane.command(flow.lane, &Command::Abandon { flow: flow.slot, chunk });
    }

    /// A pack is unpacked when it and its hashes are there.
    fn unpack_if_ready(&mut self, chunk: u32) {
        let checksum = self.context.options.checksum;
        if !self.packs.contains_key(&chunk) || (checksum && !self.pack_hashes.contains_key(&chunk)) {
            return;
        }
        let Some((tag, buffer)) = self.packs.remove(&chunk) else { return };
        let hashes = self.pack_hashes.remove(&chunk);
        if let (Some(hashes), Some(ChunkContent::Pack { files, .. })) = (&hashes, self.chunks.content(chunk)) {
            for (&file, &hash) in files.iter().zip(hashes) {
                if let Some(place) = self.hashes.get_mut(file as usize) {
                    *place = hash;
                }
            }
        }
        let (intake, chunks, done) = (self.intake.clone(), self.chunks.clone(), self.done.clone());
        let preserve = self.context.options.preserve;
        let Some(ChunkContent::Pack { files, .. }) = self.chunks.content(chunk) else { return };
        let failed: HashSet<u32> = files.iter().copied().filter(|file| self.failed.contains(file)).collect();
        let metrics = self.context.metrics.clone();
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let pack = match (chunks.content(chunk), intake.unpacking(preserve)) {
                (Some(ChunkContent::Pack { files, .. }), Some(unpacking)) => {
                    unpacking.stage(files, buffer.bytes(), hashes.as_deref(), |file| failed.contains(&file))
                }
                _ => Default::default(),
            };
            metrics.note_stage(Stage::Write, began.elapsed());
            let _ = done.send(Done::Unpacked { tag, chunk, buffer: buffer.number(), pack });
        });
    }

    /// Compares both sides' hashes of a chunk once both are there.
    async fn compare(&mut self, chunk: u32) -> Result<(), TransferError> {
        let (Some(&ours), Some(&theirs)) = (self.ours.get(&chunk), self.theirs.get(&chunk)) else { return Ok(()) };
        self.ours.remove(&chunk);
        if ours == theirs {
            self.theirs.remove(&chunk);
            self.chunk_verified(chunk, ours);
            return Ok(());
        }
        self.bytes_arrived = self.bytes_arrived.saturating_sub(self.chunk_bytes(chunk).into());
        self.theirs.remove(&chunk);
        self.try_again(chunk).await
    }

    /// Asks for a chunk once more, unless that has been done often enough.
    async fn try_again(&mut self, chunk: u32) -> Result<(), TransferError> {
        let tries = self.tries.entry(chunk).or_insert(0);
        *tries += 1;
        if *tries >= TRIES_MAX {
            let text = format!(
                "chunk {chunk} arrived {TRIES_MAX} times with bytes that do not have the sender's hash: memory or disk of one of the hosts is faulty"
            );
            return Err(TransferError::here(RefusalCode::Verification, text));
        }
        if let Some(flow) = self.came_by.get(&chunk).and_then(|&tag| self.flows.get(tag)) {
            self.context.plane.command(flow.lane, &Command::Reopen { flow: flow.slot, chunk });
        }
        self.context.connection.writer.send(Message::SendAgain(vec![chunk])).await?;
        Ok(())
    }

    /// A chunk's bytes are written and are the sender's.
    fn chunk_verified(&mut self, chunk: u32, hash: ChunkHash) {
        self.came_by.remove(&chunk);
        if self.intake.memory_bytes.is_some() {
            self.memory_left = self.memory_left.saturating_sub(1);
            return;
        }
        let chunks = self.chunks.clone();
        let Some(ChunkContent::Range { file, part, .. }) = chunks.content(chunk) else { return };
        let hash = self.context.options.checksum.then_some(hash);
        self.files.chunk_verified(file, chunk, part, hash);
        self.finish_file_if_ready(file);
    }

    fn finish_file_if_ready(&mut self, file: u32) {
        if self.failed.contains(&file) {
            return;
        }
        let Some(whole) = self.files.take_if_ready(file) else { return };
        let whole = match whole {
            Ok(whole) => whole,
            Err(()) => {
                let name = printable(self.intake.manifest.entry(file).name);
                let text = format!("'{name}' does not have the sender's hash although all its chunks do");
                self.fail_file(FileError { file, code: "verification".to_owned(), text }, true);
                return;
            }
        };
        if let (Some(place), Some(hash)) = (self.hashes.get_mut(file as usize), whole.hash) {
            *place = hash;
        }
        let (intake, done) = (self.intake.clone(), self.done.clone());
        let preserve = self.context.options.preserve;
        tokio::task::spawn_blocking(move || {
            let result = files::finish(&intake, file, &whole, preserve);
            let _ = done.send(Done::Finished { file, result });
        });
    }

    fn write_failed(&mut self, chunk: u32, error: DiskError) -> Result<(), TransferError> {
        let path = self.intake.destination.as_ref().map(|destination| destination.path.display().to_string());
        let path = path.unwrap_or_default();
        let no_space = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT].map(|errno| errno.raw_os_error());
        if let DiskError::Os(errno) = error
            && no_space.contains(&errno)
        {
            let text = format!("{path} is full: make room and start the transfer again; it goes on where it stopped");
            return Err(TransferError::here(RefusalCode::NoSpace, text));
        }
        let chunks = self.chunks.clone();
        match chunks.content(chunk) {
            Some(ChunkContent::Range { file, .. }) if !self.failed.contains(&file) => {
                let name = printable(self.intake.manifest.entry(file).name);
                let text = format!("'{name}' cannot be written: {error}");
                self.fail_file(FileError { file, code: "unwritable".to_owned(), text }, true);
            }
            _ => {}
        }
        Ok(())
    }

    async fn work_done(&mut self, done: Done) -> Result<(), TransferError> {
        match done {
            Done::Opened { file, result } => {
                let waiting = match result {
                    Ok(opened) if self.failed.contains(&file) => {
                        opened.discard(&self.context.plane);
                        self.files.take_waiting(file)
                    }
                    Ok(opened) => self.files.insert(file, opened),
                    Err(error) => {
                        if error.code == "no_space" {
                            return Err(TransferError::here(RefusalCode::NoSpace, error.text));
                        }
                        self.fail_file(error, true);
                        self.files.take_waiting(file)
                    }
                };
                for (tag, chunk) in waiting {
                    if self.failed.contains(&file) { self.abandon(tag, chunk) } else { self.place_in_file(tag, chunk) }
                }
            }
            Done::Unpacked { tag, chunk, buffer, pack } => self.unpacked(tag, chunk, buffer, pack).await?,
            Done::Committed(committed) => {
                if let Some(error) = committed.fatal {
                    return Err(error);
                }
                for file in committed.stored {
                    self.file_stored(file);
                }
                for error in committed.failed {
                    self.fail_file(error, true);
                }
                if !committed.chunks.is_empty() {
                    self.say_stored(committed.chunks).await?;
                }
            }
            Done::Finished { file, result } => match result {
                Ok(()) => {
                    let chunks = self.files.close(file);
                    self.file_stored(file);
                    self.say_stored(chunks).await?;
                }
                Err(error) => {
                    self.files.close(file);
                    self.fail_file(error, true);
                }
            },
            Done::Synced { chunks, result } => {
                self.syncing = false;
                if let Err(text) = result {
                    return Err(TransferError::here(RefusalCode::Failed, text));
                }
                self.say_stored(chunks).await?;
            }
        }
        Ok(())
    }

    async fn unpacked(
        &mut self,
        tag: usize,
        chunk: u32,
        buffer: u32,
        pack: crate::destination::small_files::StagedPack,
    ) -> Result<(), TransferError> {
        let flow = &self.flows[tag];
        self.context.plane.command(flow.lane, &Command::Return { flow: flow.slot, buffer });
        if !pack.mismatched.is_empty() {
            // The files that were right are dropped with it; they come again with the chunk.
            return self.try_again(chunk).await;
        }
        self.bytes_arrived += u64::from(self.chunk_bytes(chunk));
        if let Some(full) = pack.failed.iter().find(|error| error.code == "no_space") {
            return Err(TransferError::here(RefusalCode::NoSpace, full.text.clone()));
        }
        for error in pack.failed {
            self.fail_file(error, true);
        }
        let hash_of = |file: u32| self.hashes.get(file as usize).copied().unwrap_or_default();
        let staged = pack.staged.into_iter().map(|staged| (hash_of(staged.file), staged)).collect();
        self.committer.commit(chunk, staged);
        Ok(())
    }

    fn file_stored(&mut self, file: u32) {
        self.files_left -= 1;
        self.files_stored += 1;
        self.bytes_stored += self.intake.manifest.file_bytes(file).unwrap_or(0);
        self.context.progress.send_modify(|progress| progress.files_done += 1);
    }

    async fn say_stored(&self, mut chunks: Vec<u32>) -> Result<(), TransferError> {
        chunks.sort_unstable();
        let stored: Vec<Run> = runs(chunks);
        for part in stored.chunks(2_048) {
            self.context.connection.writer.send(Message::Stored(part.to_vec())).await?;
        }
        Ok(())
    }

    /// Gives a file up. `tell` if the sender does not know yet.
    fn fail_file(&mut self, error: FileError, tell: bool) {
        let file = error.file;
        if !self.failed.insert(file) {
            return;
        }
        self.files_left -= 1;
        if let Some(place) = self.hashes.get_mut(file as usize) {
            *place = [0; 32];
        }
        if tell {
            let message = Message::FileRefused(error.clone());
            // The order against other messages does not matter, and a closed connection shows when it is read.
            let _ = self.context.connection.writer.send_urgent(message);
        }
        self.errors.push(error);
        let of_file: Vec<(u32, usize)> = self
            .came_by
            .iter()
            .filter(|&(&chunk, _)| matches!(self.chunks.content(chunk), Some(ChunkContent::Range { file: of, .. }) if of == file))
            .map(|(&chunk, &tag)| (chunk, tag))
            .collect();
        for (chunk, tag) in of_file {
            self.came_by.remove(&chunk);
            self.abandon(tag, chunk);
        }
        self.files.discard(file);
    }

    /// Makes what is written so far durable, and says so in the journal.
    fn commit_written(&mut self) {
        if self.syncing || self.committed_at.elapsed() < COMMIT_INTERVAL {
            return;
        }
        self.committed_at = Instant::now();
        let Some(work) = self.files.take_uncommitted() else { return };
        self.syncing = true;
        let (intake, done) = (self.intake.clone(), self.done.clone());
        tokio::task::spawn_blocking(move || {
            let chunks = work.chunks();
            let result = work.commit(&intake);
            let _ = done.send(Done::Synced { chunks, result });
        });
    }

    async fn message(&mut self, message: Message) -> Result<Option<Received>, TransferError> {
        match message {
            Message::ChunkHashes(hashes) => {
                for (chunk, hash) in hashes {
                    self.check_chunk_number(chunk)?;
                    self.theirs.insert(chunk, hash);
                    self.compare(chunk).await?;
                }
            }
            Message::PackHashes { chunk, hashes } => {
                let fits = matches!(self.chunks.content(chunk), Some(ChunkContent::Pack { files, .. }) if files.len() == hashes.len());
                if !fits {
                    return Err(TransferError::protocol(format!("it names hashes of a pack {chunk} that is none")));
                }
                self.pack_hashes.insert(chunk, hashes);
                self.unpack_if_ready(chunk);
            }
            Message::Holes(holes) => self.holes(holes).await?,
            Message::Proven(chunks) => {
                for chunk in chunks {
                    self.check_chunk_number(chunk)?;
                    self.proven(chunk)?;
                }
            }
            Message::FilesComplete(complete) => {
                for (file, hash) in complete {
                    if self.intake.manifest.len() as u32 <= file {
                        return Err(TransferError::protocol("it completes a file that it does not have"));
                    }
                    self.files.note_complete(file, hash);
                    self.finish_file_if_ready(file);
                }
            }
            Message::FileFailed(error) => {
                let is_left = (error.file as usize) < self.intake.manifest.len()
                    && self.intake.manifest.file_bytes(error.file).is_some()
                    && self.intake.is_sent(error.file);
                if !is_left {
                    return Err(TransferError::protocol("it gives up a file that it does not send"));
                }
                self.fail_file(error, false);
            }
            Message::LeftOut(left_out) => self.left_out = left_out,
            Message::AllSent(summary) => {
                self.sender = Some(summary);
                self.context.progress.send_modify(|progress| progress.phase = Phase::Finishing);
            }
            Message::Countersigned { signature } => return self.countersigned(&signature).map(Some),
            Message::Ping(number) => self.context.connection.writer.send_urgent(Message::Pong(number))?,
            Message::Refused(refusal) => return Err(TransferError::Partner(refusal)),
            other => return Err(unexpected(&other, "hashes")),
        }
        Ok(None)
    }

    fn check_chunk_number(&self, chunk: u32) -> Result<(), TransferError> {
        if chunk < self.chunk_count {
            return Ok(());
        }
        Err(TransferError::protocol(format!("it names a chunk {chunk} that the transfer does not have")))
    }

    /// Chunks that the sender's file has as holes.
    async fn holes(&mut self, holes: Vec<(u32, ChunkHash)>) -> Result<(), TransferError> {
        let (checksum, chunk_bytes) = (self.context.options.checksum, self.context.options.chunk_bytes);
        for (chunk, theirs) in holes {
            self.check_chunk_number(chunk)?;
            let Some(ChunkContent::Range { file, offset, bytes, .. }) = self.chunks.content(chunk) else {
                return Err(TransferError::protocol("it has a hole in a pack"));
            };
            if self.failed.contains(&file) {
                continue;
            }
            let file_bytes = self.intake.manifest.file_bytes(file).unwrap_or(0);
            if checksum {
                let ours = blocking(move || hash_of_zeros(file_bytes, offset, bytes, chunk_bytes)).await;
                if ours != theirs {
                    return Err(TransferError::protocol("its hash of a hole is not that of zeros"));
                }
            }
            if self.files.get(file).is_none() {
                match files::open(&self.context.plane, self.intake.clone(), file, false).await {
                    Ok(opened) => {
                        for (tag, chunk) in self.files.insert(file, opened) {
                            self.place_in_file(tag, chunk);
                        }
                    }
                    Err(error) => {
                        self.fail_file(error, true);
                        continue;
                    }
                }
            }
            if let Err(error) = self.files.punch(file, offset, bytes) {
                let error = crate::destination::small_files::unwritable(&self.intake.manifest, file, error);
                self.fail_file(error, true);
                continue;
            }
            self.bytes_arrived += u64::from(bytes);
            self.chunk_verified(chunk, theirs);
        }
        Ok(())
    }

    /// A chunk that an earlier attempt stored is the sender's.
    fn proven(&mut self, chunk: u32) -> Result<(), TransferError> {
        let chunks = self.chunks.clone();
        let Some(ChunkContent::Range { file, part, .. }) = chunks.content(chunk) else {
            return Err(TransferError::protocol("it proves a pack, which nobody asked for"));
        };
        let known = self.intake.begun.iter().find(|begun| begun.file == file);
        let hash = known.and_then(|begun| begun.chunks.iter().find(|(at, _)| *at == part)).and_then(|(_, hash)| *hash);
        let Some(hash) = hash else {
            return Err(TransferError::protocol("it proves a chunk that is not stored"));
        };
        self.chunk_verified(chunk, hash);
        Ok(())
    }

    fn chunk_bytes(&self, chunk: u32) -> u32 {
        match self.intake.memory_bytes {
            Some(bytes) => {
                let chunk_bytes = u64::from(self.context.options.chunk_bytes);
                bytes.saturating_sub(u64::from(chunk) * chunk_bytes).min(chunk_bytes) as u32
            }
            None => self.chunks.content(chunk).map_or(0, |content| content.bytes()),
        }
    }

    /// When everything is stored: states it, signs it, and sends it.
    async fn finish_if_done(&mut self) -> Result<(), TransferError> {
        let Some(sender) = self.sender else { return Ok(()) };
        if self.finish_sent.is_some() || self.files_left > 0 || self.memory_left > 0 {
            return Ok(());
        }
        let intake = self.intake.clone();
        let preserve = self.context.options.preserve;
        let finished = blocking(move || intake.finish(preserve)).await;
        finished.map_err(|error| TransferError::here(RefusalCode::Failed, error))?;
        let stored = |file: u32| !self.intake.is_skipped(file) && !self.failed.contains(&file);
        let root = if self.context.options.checksum && self.intake.memory_bytes.is_none() {
            root_of(&self.intake.manifest, &self.hashes, stored)
        } else {
            String::new()
        };
        let bytes_stored = self.intake.memory_bytes.unwrap_or(self.bytes_stored);
        let times = ReceiverTimes { busy: self.busy.part(), writing: self.writing.part() };
        let verdict = verdict(&sender.times, &times, sender.rate_was_asked_for);
        let statement = Statement {
            culvert_receipt: 1,
            transfer: self.context.id.to_string(),
            sender: self.context.connection.partner,
            receiver: self.context.identity.public_key(),
            began_unix_ms: self.began_unix_ms,
            ended_unix_ms: unix_ms(),
            files: self.files_stored,
            files_failed: self.errors.count,
            bytes: bytes_stored,
            root_blake3: root,
            segments_sent: sender.segments_sent,
            segments_resent: sender.segments_resent,
            cipher: self.context.options.cipher.name().to_owned(),
            verdict: verdict.text.clone(),
        };
        let cpu_us = self.cpu.elapsed_us();
        let moved = self.bytes_arrived.saturating_sub(self.intake.resumed_bytes);
        let summary = ReceiverSummary {
            files_stored: self.files_stored,
            files_skipped: self.intake.skipped_files(),
            files_failed: self.errors.count,
            bytes_stored,
            resumed_bytes: self.intake.resumed_bytes,
            cpu_us,
            millicycles_per_byte: millicycles_per_byte(cpu_us, moved),
            verdict,
        };
        self.line = statement.to_line();
        let signature = sign_line(&self.context.identity, &self.line).to_vec();
        let message = Message::Finished { line: self.line.clone(), signature, summary: summary.clone() };
        self.context.connection.writer.send(message).await?;
        self.receiver = Some(summary);
        self.finish_sent = Some(statement);
        Ok(())
    }

    /// The sender has signed too: the transfer is over.
    fn countersigned(&mut self, signature: &[u8]) -> Result<Received, TransferError> {
        let (Some(statement), Some(receiver), Some(sender)) = (&self.finish_sent, &self.receiver, &self.sender) else {
            return Err(TransferError::protocol("it signs a receipt that was not stated"));
        };
        verify_line(self.context.connection.partner, &self.line, signature).map_err(|_| {
            TransferError::here(RefusalCode::Verification, "the partner's signature does not belong to the receipt")
        })?;
        let receipt = Receipt {
            line: self.line.clone(),
            sender_signature: signature.try_into().unwrap_or([0; 64]),
            receiver_signature: sign_line(&self.context.identity, &self.line),
        };
        let name = |file| printable(self.intake.manifest.entry(file).name);
        // The partner's words reach a terminal: nothing but what can be printed.
        let plain = |text: &str| text.chars().filter(|character| !character.is_control()).collect();
        let left_out = self.left_out.iter().map(|left| ResultError {
            path: plain(&left.name),
            code: plain(&left.code),
            text: plain(&left.text),
        });
        let result = TransferResult::new(ResultParts {
            id: self.context.id,
            statement,
            sender,
            receiver,
            seconds: self.began.elapsed().as_secs_f64(),
            flows: self.flows.len() as u16,
            cipher: self.context.options.cipher,
            files_total: self.intake.manifest.file_count(),
            errors: named_errors(&self.errors, name).chain(left_out).collect::<Vec<ResultError>>(),
            error_count: self.errors.count + sender.problems,
        });
        self.intake.forget_journal();
        Ok(Received { result, receipt: Some(receipt) })
    }

    /// What a dry run comes to.
    fn dry_result(&self) -> TransferResult {
        let manifest = &self.intake.manifest;
        let would = |wanted: &dyn Fn(u32) -> bool| {
            manifest
                .entries()
                .filter(|(file, entry)| matches!(entry.kind, EntryKind::File { .. }) && wanted(*file))
                .count() as u64
        };
        let bytes = (0..manifest.len() as u32)
            .filter(|&file| self.intake.is_sent(file))
            .filter_map(|file| manifest.file_bytes(file))
            .sum();
        super::result::dry_run(
            self.context.id,
            would(&|file| self.intake.is_sent(file)),
            would(&|file| self.intake.is_skipped(file)),
            bytes,
            self.context.options.cipher,
        )
    }

    fn show_progress(&mut self) {
        let rate = self.rate.update(self.bytes_arrived);
        let bytes_done = self.bytes_arrived;
        self.context.progress.send_modify(|progress| {
            progress.bytes_done = bytes_done;
            progress.rate_bits_per_second = rate;
        });
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        for flow in &self.flows {
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

/// Whether an action leaves an entry as it is.
const fn is_left_alone(action: Action) -> bool {
    matches!(action, Action::Skip | Action::Resumed)
}
