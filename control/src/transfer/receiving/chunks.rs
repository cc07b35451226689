//! What becomes of chunks: where they go, whether both sides hash them alike, and when a file has all of its own.

use std::collections::HashSet;
use std::time::Instant;

use culvert_dataplane::link::commands::{Command, DiskError, FileRange, Sink};
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{FileError, Message, RefusalCode};
use culvert_protocol::feedback::Report;
use culvert_protocol::names::printable;
use culvert_protocol::tree_hash::ChunkHash;

use super::files::Beginning;
use super::{Done, Receiving, TRIES_MAX};
use crate::dataplane::ReceiveEvent;
use crate::metrics::Stage;
use crate::transfer::TransferError;

impl Receiving {
    pub(super) async fn event(&mut self, tag: usize, event: ReceiveEvent) -> Result<(), TransferError> {
        match event {
            ReceiveEvent::Report(bytes) => {
                if let Ok(report) = Report::parse(&bytes) {
                    let summary = report.summary;
                    self.busy.add(summary.busy_permille, summary.interval_us);
                    self.writing.add(summary.disk_stall_permille, summary.interval_us);
                }
                self.context.connection.writer.send_urgent(Message::Feedback(bytes))?;
            }
            ReceiveEvent::Astray => self.astray(tag).await?,
            ReceiveEvent::Asks { chunk, chunk_bytes } => self.asks(tag, chunk, chunk_bytes)?,
            // Of a chunk that was given up, or comes by two flows, nothing is taken.
            ReceiveEvent::Hand { chunk, buffer } if self.came_by.get(&chunk) != Some(&tag) => {
                self.return_buffer(tag, buffer.number());
            }
            ReceiveEvent::Written { chunk, .. } | ReceiveEvent::WriteFailed { chunk, .. }
                if self.came_by.get(&chunk) != Some(&tag) => {}
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
    pub(super) fn asks(&mut self, tag: usize, chunk: u32, chunk_bytes: u32) -> Result<(), TransferError> {
        if chunk_bytes != self.chunk_bytes(chunk) {
            return Err(TransferError::protocol(format!("it sends chunk {chunk} with a size that it does not have")));
        }
        if self.verified.contains(chunk) || self.came_by.contains_key(&chunk) {
            // It is there, or comes by another flow: what was verified is not written over.
            self.abandon(tag, chunk);
            return Ok(());
        }
        if self.intake.memory_bytes.is_some() {
            self.came_by.insert(chunk, tag);
            self.place(tag, chunk, Sink::Discard);
            return Ok(());
        }
        let chunks = self.chunks.clone();
        match chunks.content(chunk) {
            None => {}
            Some(ChunkContent::Pack { .. }) => {
                self.came_by.insert(chunk, tag);
                self.place(tag, chunk, Sink::Hand);
            }
            Some(ChunkContent::Range { file, .. }) if self.failed.contains(&file) => self.abandon(tag, chunk),
            Some(ChunkContent::Range { file, .. }) => {
                self.came_by.insert(chunk, tag);
                if self.files.get(file).is_some() {
                    self.place_in_file(tag, chunk);
                } else if self.files.wait_for(file, tag, chunk) {
                    let (plane, intake, done) = (self.context.plane.clone(), self.intake.clone(), self.done.clone());
                    tokio::spawn(async move {
                        let result = super::files::open(&plane, intake, file, Beginning::Empty).await;
                        let _ = done.send(Done::Opened { file, result });
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn place(&self, tag: usize, chunk: u32, sink: Sink) {
        let flow = &self.flows[tag];
        self.context.plane.command(flow.lane, &Command::Place { flow: flow.slot, chunk, sink });
    }

    pub(super) fn place_in_file(&mut self, tag: usize, chunk: u32) {
        let Some(ChunkContent::Range { file, offset, .. }) = self.chunks.content(chunk) else { return };
        let Some(slot) = self.files.get(file) else { return };
        let file_bytes = self.intake.manifest.file_bytes(file).unwrap_or(0);
        self.place(tag, chunk, Sink::File(FileRange { file: slot, offset, file_bytes }));
    }

    pub(super) fn return_buffer(&self, tag: usize, buffer: u32) {
        let flow = &self.flows[tag];
        self.context.plane.command(flow.lane, &Command::Return { flow: flow.slot, buffer });
    }

    pub(super) fn abandon(&self, tag: usize, chunk: u32) {
        let flow = &self.flows[tag];
        self.context.plane.command(flow.lane, &Command::Abandon { flow: flow.slot, chunk });
    }

    /// A pack is unpacked when it and its hashes are there.
    pub(super) fn unpack_if_ready(&mut self, chunk: u32) {
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
    pub(super) async fn compare(&mut self, chunk: u32) -> Result<(), TransferError> {
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
    pub(super) async fn try_again(&mut self, chunk: u32) -> Result<(), TransferError> {
        let tries = self.tries.entry(chunk).or_insert(0);
        *tries += 1;
        if *tries >= TRIES_MAX {
            let text = format!(
                "chunk {chunk} arrived {TRIES_MAX} times with bytes that do not have the sender's hash: memory or disk of one of the hosts is faulty"
            );
            return Err(TransferError::here(RefusalCode::Verification, text));
        }
        // It may come by any flow now.
        if let Some(flow) = self.came_by.remove(&chunk).and_then(|tag| self.flows.get(tag)) {
            self.context.plane.command(flow.lane, &Command::Reopen { flow: flow.slot, chunk });
        }
        self.context.connection.writer.send(Message::SendAgain(vec![chunk])).await?;
        Ok(())
    }

    /// A chunk's bytes are written and are the sender's.
    pub(super) fn chunk_verified(&mut self, chunk: u32, hash: ChunkHash) {
        self.came_by.remove(&chunk);
        self.verified.insert(chunk);
        if self.intake.memory_bytes.is_some() {
            self.memory_left = self.memory_left.saturating_sub(1);
            return;
        }
        let chunks = self.chunks.clone();
        let Some(ChunkContent::Range { file, part, .. }) = chunks.content(chunk) else { return };
        let hash = self.context.options.checksum.then_some(hash);
        self.files.chunk_verified(file, chunk, part, hash, false);
        self.finish_file_if_ready(file);
    }

    pub(super) fn finish_file_if_ready(&mut self, file: u32) {
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
            let result = super::files::finish(&intake, file, &whole, preserve);
            let _ = done.send(Done::Finished { file, result });
        });
    }

    pub(super) fn write_failed(&mut self, chunk: u32, error: DiskError) -> Result<(), TransferError> {
        let path = self.intake.destination.as_ref().map(|destination| destination.path.display().to_string());
        let path = path.unwrap_or_default();
        let no_space = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT].map(rustix::io::Errno::raw_os_error);
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
}
