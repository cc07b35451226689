//! What happens to chunks: where they go, whether both sides compute the same hash, and when a file
//! has all of its own.

use std::collections::HashSet;
use std::time::Instant;

use culvert_link::commands::{Command, FileRange, Sink};
use culvert_plane::dataplane::ReceiveEvent;
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{Message, PACKS_ARE_TOLD_SINCE, RefusalCode};
use culvert_protocol::feedback::Report;
use culvert_protocol::tree_hash::ChunkHash;

use crate::events::{Event, Stage};
use crate::limits::{Limit, files_per_partner};
use crate::shares::Kind;
use crate::transfer::error::TransferError;
use crate::transfer::open_files;
use crate::transfer::receiving::done::Done;
use crate::transfer::receiving::files::WaitingChunk;
use crate::transfer::receiving::open_file::Writing;
use crate::transfer::receiving::state::Receiving;
use crate::transfer::tries::TRIES_MAX;

impl Receiving {
    pub(super) async fn event(&mut self, tag: usize, event: ReceiveEvent) -> Result<(), TransferError> {
        if self.cannot_be_of(&event) {
            return Err(self
                .context
                .plane
                .nonsense("it sent an event of a chunk that the transfer does not have")
                .into());
        }
        match event {
            ReceiveEvent::Report(bytes) => {
                let Ok(report) = Report::parse(&bytes) else {
                    return Err(self.context.plane.nonsense("it sent an invalid report").into());
                };
                let summary = report.summary;
                if let Some(new_bytes) = self.inbound.new_bytes.get_mut(tag) {
                    *new_bytes = summary.bytes.saturating_sub(summary.duplicate_bytes);
                }
                if let Some(opening) = self.inbound.opening.get_mut(tag) {
                    opening.note(&summary, Instant::now());
                }
                if let Some(delay) = self.inbound.report_delays.get_mut(tag) {
                    let is_late = delay.is_late(summary.interval_us, self.inbound.report_interval, Instant::now());
                    self.context.observer.note(Event::ReportSent { is_late });
                }
                self.ending.busy.add(summary.busy_permille, summary.interval_us);
                self.ending.writing.add(summary.disk_stall_permille, summary.interval_us);
                self.context.connection.writer.send_urgent(Message::Feedback(bytes))?;
            }
            ReceiveEvent::Astray => self.inbound.astray(&self.context, tag).await?,
            ReceiveEvent::OthersWait { incomplete, whole } => self.others_wait(incomplete, whole)?,
            ReceiveEvent::PlacementNeeded { chunk, chunk_bytes } => self.asks(tag, chunk, chunk_bytes)?,
            // Of a chunk that was given up, or comes by two flows, nothing is taken.
            ReceiveEvent::Lend { chunk, .. }
            | ReceiveEvent::Written { chunk, .. }
            | ReceiveEvent::WriteFailed { chunk, .. }
                if self.arriving.came_by.get(&chunk) != Some(&tag) => {}
            ReceiveEvent::Lend { chunk, buffer } => {
                let is_whole = buffer.bytes().len() == self.chunk_bytes(chunk) as usize;
                if !self.is_handed(chunk) || !is_whole || !self.arriving.handed.insert(chunk) {
                    return Err(self
                        .context
                        .plane
                        .nonsense("it delivered something that is not a complete pack or part")
                        .into());
                }
                if let Some(ChunkContent::Range { file, offset, .. }) = self.arriving.chunks.content(chunk) {
                    self.write_part(chunk, file, offset, buffer);
                } else {
                    self.arriving.packs.insert(chunk, buffer);
                    self.unpack_if_ready(chunk);
                }
            }
            ReceiveEvent::Written { chunk, hash, times } => {
                // Without its hash it would be taken for verified.
                let is_possible = self.is_placed(chunk)
                    && hash.is_some() == self.context.options.checksum
                    && !self.arriving.ours.contains_key(&chunk);
                if !is_possible {
                    return Err(self
                        .context
                        .plane
                        .nonsense("it reports a chunk as written that it was not to write")
                        .into());
                }
                self.context.observer.note(Event::ChunkMoved { times, is_sender: false });
                self.tally.bytes_arrived += u64::from(self.chunk_bytes(chunk));
                match hash {
                    Some(hash) => {
                        self.arriving.ours.insert(chunk, hash);
                        self.compare(chunk).await?;
                    }
                    None => self.chunk_verified(chunk, [0; 32]),
                }
            }
            ReceiveEvent::WriteFailed { chunk, error } => {
                if self.intake.memory_bytes.is_some() || !self.is_placed(chunk) {
                    return Err(self
                        .context
                        .plane
                        .nonsense("it reports a failed write that it was not to make")
                        .into());
                }
                self.write_failed(chunk, error)?;
            }
            // Flows are closed when they have no listener any more.
            ReceiveEvent::Closed => {
                return Err(self.context.plane.nonsense("it closed a flow of its own accord").into());
            }
        }
        Ok(())
    }

    /// Whether an event concerns a chunk that the transfer does not have. Lanes know how many it
    /// has, and their maximum size, and pass on nothing about others, whatever the sender sends.
    fn cannot_be_of(&self, event: &ReceiveEvent) -> bool {
        match *event {
            ReceiveEvent::PlacementNeeded { chunk, chunk_bytes } => {
                chunk >= self.arriving.chunk_count || chunk_bytes > self.context.options.chunk_bytes
            }
            ReceiveEvent::Lend { chunk, .. }
            | ReceiveEvent::Written { chunk, .. }
            | ReceiveEvent::WriteFailed { chunk, .. } => chunk >= self.arriving.chunk_count,
            _ => false,
        }
    }

    /// Whether a chunk that comes by a flow was given a place to which its lane writes it, or is to
    /// be dropped there. A file is not closed while chunks of it come, and its chunks are placed
    /// when it is open.
    fn is_placed(&self, chunk: u32) -> bool {
        if self.intake.memory_bytes.is_some() {
            return true;
        }
        let content = self.arriving.chunks.content(chunk);
        matches!(content, Some(ChunkContent::Range { file, .. }) if matches!(self.files.get(file), Some(Writing::Lane(_))))
    }

    /// Whether a chunk is handed over when it is whole, and not written by its lane.
    fn is_handed(&self, chunk: u32) -> bool {
        match self.arriving.chunks.content(chunk) {
            _ if self.intake.memory_bytes.is_some() => false,
            Some(ChunkContent::Pack { .. }) => true,
            Some(ChunkContent::Range { file, .. }) => matches!(self.files.get(file), Some(Writing::Here(_))),
            None => false,
        }
    }

    /// A lane asks where a chunk goes.
    pub(super) fn asks(&mut self, tag: usize, chunk: u32, chunk_bytes: u32) -> Result<(), TransferError> {
        let expected = self.chunk_bytes(chunk);
        if chunk_bytes != expected {
            // Only lanes can decrypt what it sends: this process cannot know which of the two is
            // wrong.
            let text = format!(
                "it sends chunk {chunk} with {chunk_bytes} bytes instead of {expected}, unless this \
                 node's data plane reports it wrongly"
            );
            return Err(TransferError::protocol(text));
        }
        if self.arriving.came_by.get(&chunk) == Some(&tag) {
            return Err(self.context.plane.nonsense("it asks twice where a chunk goes").into());
        }
        if self.arriving.verified.contains(chunk)
            || self.arriving.came_by.contains_key(&chunk)
            || self.holes.contains(chunk)
        {
            // It is there, or comes by another flow: what was verified is not written over.
            self.inbound.abandon(&self.context.plane, tag, chunk);
            return Ok(());
        }
        if self.intake.memory_bytes.is_some() {
            self.arriving.came_by.insert(chunk, tag);
            self.inbound.place(&self.context.plane, tag, chunk, Sink::Discard);
            return Ok(());
        }
        let chunks = self.arriving.chunks.clone();
        match chunks.content(chunk) {
            None => {}
            Some(ChunkContent::Pack { .. }) => {
                self.arriving.came_by.insert(chunk, tag);
                self.inbound.place(&self.context.plane, tag, chunk, Sink::Lend);
            }
            Some(ChunkContent::Range { file, .. }) if self.failures.failed.contains(&file) => {
                self.inbound.abandon(&self.context.plane, tag, chunk);
            }
            Some(ChunkContent::Range { file, .. }) => {
                self.arriving.came_by.insert(chunk, tag);
                // What was found in its place will be overwritten, whatever happens to what
                // arrives.
                self.arriving.offered.remove(&chunk);
                if self.files.get(file).is_some() {
                    self.place_in_file(tag, chunk);
                } else {
                    self.wait_for_file(file, WaitingChunk::Segments { tag, chunk });
                }
            }
        }
        Ok(())
    }

    /// Lets a chunk wait until its file is open, and opens it if it is not being opened.
    pub(super) fn wait_for_file(&mut self, file: u32, chunk: WaitingChunk) {
        self.files.wait_for(file, chunk);
        self.open_files();
    }

    /// Opens the files that are wanted, as far as there may be more open.
    pub(super) fn open_files(&mut self) {
        loop {
            let is_full = self.has_too_many_files();
            if is_full && self.files.wants_room() {
                self.make_room_for_files();
            }
            let Some((file, beginning)) = self.files.next_to_open(is_full && self.has_too_many_files()) else { return };
            self.tally.partials_in_motion += 1;
            let place = self.context.share.piece(Kind::Files);
            let (plane, intake, done) = (self.context.plane.clone(), self.intake.clone(), self.done.clone());
            tokio::spawn(async move {
                let result = crate::transfer::receiving::open_file::open(&plane, intake, file, beginning, place).await;
                let _ = done.send(Done::Opened { file, result });
            });
        }
    }

    fn has_too_many_files(&self) -> bool {
        self.context.share.count(Kind::Files) >= files_per_partner()
            || self.context.plane.files_open() >= open_files::at_once_max()
    }

    /// Closes a file for which nothing comes just now.
    fn make_room_for_files(&mut self) {
        self.context.observer.note(Event::LimitReached(Limit::Files));
        let of = |&chunk: &u32| match self.arriving.chunks.content(chunk) {
            Some(ChunkContent::Range { file, .. }) => Some(file),
            _ => None,
        };
        let busy: HashSet<u32> = self.arriving.came_by.keys().chain(self.holes.under_way()).filter_map(of).collect();
        match self.files.close_idle(|file| busy.contains(&file) || self.old.is_copying(file)) {
            // Closing may wait for a file server.
            Some(closing) => drop(tokio::task::spawn_blocking(move || drop(closing))),
            // What is written so far is made durable first.
            None => self.committing.commit_soon(&mut self.files, &self.intake, &self.done),
        }
    }

    pub(super) fn place_in_file(&mut self, tag: usize, chunk: u32) {
        let Some(ChunkContent::Range { file, offset, .. }) = self.arriving.chunks.content(chunk) else { return };
        let sink = match self.files.get(file) {
            None => return,
            Some(Writing::Here(_)) => Sink::Lend,
            Some(Writing::Lane(slot)) => {
                let file_bytes = self.intake.manifest.file_bytes(file).unwrap_or(0);
                Sink::File(FileRange { file: slot, offset, file_bytes })
            }
        };
        self.inbound.place(&self.context.plane, tag, chunk, sink);
    }

    /// A pack is unpacked when it and its hashes are there.
    pub(super) fn unpack_if_ready(&mut self, chunk: u32) {
        let checksum = self.context.options.checksum;
        // Before that files may have failed whose zeros are in the pack.
        let is_told = checksum || self.context.connection.version >= PACKS_ARE_TOLD_SINCE;
        if !self.arriving.packs.contains_key(&chunk) || (is_told && !self.arriving.pack_hashes.contains_key(&chunk)) {
            return;
        }
        let Some(buffer) = self.arriving.packs.remove(&chunk) else { return };
        let hashes = self.arriving.pack_hashes.remove(&chunk).filter(|_| checksum);
        if let (Some(hashes), Some(ChunkContent::Pack { files, .. })) = (&hashes, self.arriving.chunks.content(chunk)) {
            for (&file, &hash) in files.iter().zip(hashes) {
                if let Some(place) = self.tally.hashes.get_mut(file as usize) {
                    *place = hash;
                }
            }
        }
        let (intake, chunks, done) = (self.intake.clone(), self.arriving.chunks.clone(), self.done.clone());
        let preserve = self.context.options.preserve;
        let Some(ChunkContent::Pack { files, .. }) = self.arriving.chunks.content(chunk) else { return };
        let failed: HashSet<u32> = files.iter().copied().filter(|file| self.failures.failed.contains(file)).collect();
        let observer = self.context.observer.clone();
        if let Some(sink) = intake.sink.clone() {
            return self.put_pack(chunk, sink, buffer, hashes, failed);
        }
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let pack = match (chunks.content(chunk), intake.unpacking(preserve)) {
                (Some(ChunkContent::Pack { files, .. }), Some(unpacking)) => {
                    unpacking.stage(files, buffer.bytes(), hashes.as_deref(), |file| failed.contains(&file))
                }
                _ => Default::default(),
            };
            drop(buffer);
            observer.note(Event::StageTook { stage: Stage::Write, time: began.elapsed() });
            let _ = done.send(Done::Unpacked { chunk, pack });
        });
    }

    /// Compares both sides' hashes of a chunk once both are there.
    pub(super) async fn compare(&mut self, chunk: u32) -> Result<(), TransferError> {
        let (Some(&ours), Some(&theirs)) = (self.arriving.ours.get(&chunk), self.arriving.theirs.get(&chunk)) else {
            return Ok(());
        };
        self.arriving.ours.remove(&chunk);
        if ours == theirs {
            self.arriving.theirs.remove(&chunk);
            self.chunk_verified(chunk, ours);
            return Ok(());
        }
        self.tally.bytes_arrived = self.tally.bytes_arrived.saturating_sub(self.chunk_bytes(chunk).into());
        self.arriving.theirs.remove(&chunk);
        self.try_again(chunk).await
    }

    /// Asks for a chunk once more, unless that has been done often enough.
    pub(super) async fn try_again(&mut self, chunk: u32) -> Result<(), TransferError> {
        let tries = self.arriving.tries.entry(chunk).or_insert(0);
        *tries += 1;
        if *tries >= TRIES_MAX {
            let text = format!(
                "chunk {chunk} arrived {TRIES_MAX} times with data that does not match the sender's \
                 hash: memory or disk of one of the hosts is faulty"
            );
            return Err(TransferError::here(RefusalCode::Verification, text));
        }
        self.arriving.handed.remove(&chunk);
        // It may come by any flow now.
        if let Some(flow) = self.arriving.came_by.remove(&chunk).and_then(|tag| self.inbound.flows.get(tag)) {
            self.context.plane.command(flow.lane, &Command::Reopen { flow: flow.slot, chunk });
        }
        self.context.connection.writer.send(Message::SendAgain(vec![chunk])).await?;
        Ok(())
    }

    /// A chunk's bytes are written and are the sender's.
    pub(super) fn chunk_verified(&mut self, chunk: u32, hash: ChunkHash) {
        self.arriving.came_by.remove(&chunk);
        self.arriving.verified.insert(chunk);
        self.tally.steps += 1;
        if self.intake.memory_bytes.is_some() {
            self.tally.memory_left = self.tally.memory_left.saturating_sub(1);
            return;
        }
        let chunks = self.arriving.chunks.clone();
        let Some(ChunkContent::Range { file, part, .. }) = chunks.content(chunk) else { return };
        let hash = self.context.options.checksum.then_some(hash);
        self.files.chunk_verified(file, chunk, part, hash, false);
        self.finish_file_if_ready(file);
    }

    pub(super) fn finish_file_if_ready(&mut self, file: u32) {
        if self.failures.failed.contains(&file) {
            return;
        }
        self.use_old(file);
        let Some(whole) = self.files.take_if_ready(file) else {
            self.open_files();
            return;
        };
        let Ok(whole) = whole else {
            self.fail_wrong_whole(file);
            return;
        };
        if let (Some(place), Some(hash)) = (self.tally.hashes.get_mut(file as usize), whole.hash) {
            *place = hash;
        }
        let (intake, done) = (self.intake.clone(), self.done.clone());
        let preserve = self.context.options.preserve;
        tokio::task::spawn_blocking(move || {
            let result = crate::transfer::receiving::open_file::finish(&intake, file, &whole, preserve);
            let _ = done.send(Done::Finished { file, result });
        });
    }
}
