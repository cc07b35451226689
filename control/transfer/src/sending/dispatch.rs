//! Handles messages of the receiver, events of the lanes and outcomes of helpers by passing them to
//! the parts concerned.

use std::time::Duration;

use culvert_link::handles::LentBuffer;
use culvert_plane::SendEvent;
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{FileError, Message, PACKS_ARE_TOLD_SINCE, ReceiverSummary, Run};
use culvert_protocol::tree_hash::ChunkHash;

use crate::error::TransferError;
use crate::events::Event;
use crate::flows::path_closed;
use crate::manifest_exchange::unexpected;
use crate::packs::FilledPack;
use crate::sending::checking::begin_to_check;
use crate::sending::done::Done;
use crate::sending::ending::{Outcome, check_statement, countersign, read_statement};
use crate::sending::failures::read_error;
use crate::sending::filling::begin_to_fill;
use crate::sending::impossible_events::{chunk_of, impossible};
use crate::sending::payload::Payload;
use crate::sending::sent::Sent;
use crate::sending::state::Sending;

impl Sending {
    /// Handles a message of the receiver; returns the outcome if it was the last.
    pub(super) async fn message(&mut self, message: Message) -> Result<Option<Sent>, TransferError> {
        let context = &self.job.context;
        match message {
            Message::Feedback(bytes) => self.report(&bytes)?,
            Message::Stored(stored) => self.note_stored(&stored),
            Message::Pong(_) => {}
            Message::Ping(number) => context.connection.writer.send_urgent(Message::Pong(number))?,
            Message::MoveFlow { flow_id, source_port } => self.pipeline.flows.move_flow(flow_id, source_port)?,
            Message::SendAgain(chunks) => {
                for chunk in chunks {
                    self.asked_again(chunk)?;
                }
            }
            Message::FileRefused(error) => {
                let file = error.file;
                if (file as usize) < self.job.payload.entry_count() && self.failures.note(error) {
                    self.pace.step();
                    self.take_back(file);
                }
            }
            Message::NotKept { count, first } => {
                self.failures.note_not_kept(self.job.payload.entry_count(), count, first)?;
            }
            Message::Finished { line, signature, summary } => {
                return self.finish(&line, &signature, &summary).await.map(Some);
            }
            Message::Refused(refusal) => return Err(TransferError::Partner(refusal)),
            other => return Err(unexpected(&other, "feedback")),
        }
        Ok(None)
    }

    /// Handles an event of a flow's lane.
    pub(super) fn event(&mut self, tag: usize, event: SendEvent) -> Result<(), TransferError> {
        // A path may open again and again.
        if !matches!(event, SendEvent::PathOpen { .. } | SendEvent::OthersWait { .. }) {
            self.pace.step();
        }
        let (job, failed) = (&self.job, &self.failures.failed);
        if let Some(what) = impossible(job, &self.pipeline, &self.hashing, failed, tag, &event) {
            return Err(job.context.plane.nonsense(what).into());
        }
        if chunk_of(&event).is_some_and(|chunk| !self.pipeline.queue.is_assigned_to(chunk, tag)) {
            return Ok(());
        }
        match event {
            SendEvent::OthersWait { held } => {
                self.pace.check_held_buffers(&job.context, &self.pipeline.queue, held)?;
            }
            SendEvent::PathOpen { stride, rtt_us } => self.pipeline.flows.path_open(tag, stride, rtt_us),
            SendEvent::PathClosed { errno } => return Err(path_closed(&job.context, &self.pipeline.flows, errno)),
            SendEvent::Fill { chunk, buffer } => self.fill(chunk, buffer)?,
            SendEvent::Hashed { chunk, hash } => {
                self.outbox.chunk_hashes.push((chunk, hash));
                self.hashing.note_chunk(chunk, hash);
            }
            SendEvent::Delivered { chunk, times } => {
                job.context.observer.note(Event::ChunkMoved { times, is_sender: true });
                self.standstill.note_delivery(&self.pipeline.flows);
                self.pipeline.unassign(tag, chunk);
                self.pipeline.queue.forget_filling(chunk);
                self.chunk_delivered(chunk);
                if self.pipeline.queue.is_wanted_again(chunk) {
                    self.send_again(chunk);
                }
            }
            SendEvent::ReadFailed { chunk, error } => {
                self.pipeline.unassign(tag, chunk);
                self.pipeline.settle(&self.job.payload, chunk);
                if let Some(file) = self.job.payload.file_of(chunk) {
                    self.fail_file_or_end(read_error(&self.job.payload, file, error))?;
                }
            }
            SendEvent::Withdrawn { chunk } => {
                self.pipeline.unassign(tag, chunk);
                self.pipeline.settle(&self.job.payload, chunk);
            }
            SendEvent::Closed => {}
        }
        Ok(())
    }

    /// Handles the outcome of a helper.
    pub(super) fn work_done(&mut self, done: Done) -> Result<(), TransferError> {
        self.pace.step();
        match done {
            Done::Opened { file, result } => {
                let waiting = self.pipeline.opened(file, result.as_ref().ok().cloned());
                match result {
                    Ok(_) => {
                        let (job, failed) = (&self.job, &self.failures.failed);
                        waiting.into_iter().for_each(|chunk| self.pipeline.prepare(job, failed, chunk));
                    }
                    Err(error) => self.fail_file_or_end(error)?,
                }
            }
            Done::Filled { chunk, pack, buffer } => self.pack_filled(chunk, pack, buffer)?,
            Done::RangeFilled { chunk, hash, buffer } => self.range_filled(chunk, hash, buffer)?,
            Done::Hole { chunk, hash } => {
                self.pipeline.queue.end_preparing(1);
                self.outbox.holes.push((chunk, hash));
                self.hashing.note_chunk(chunk, hash);
                self.chunk_delivered(chunk);
            }
            Done::Proved { chunk, same } => self.proof_checked(chunk, same),
            Done::Checked { file, result } => self.file_checked(file, result)?,
        }
        Ok(())
    }

    /// A report of the receiver's about a flow.
    fn report(&mut self, bytes: &[u8]) -> Result<(), TransferError> {
        let flows = &mut self.pipeline.flows;
        if flows.on_report(bytes)? {
            self.standstill.note_arrival(flows.moved());
            self.job.context.observer.note(Event::Reported {
                partner: &self.job.context.peer,
                round_trip: Duration::from_micros(flows.newest_rtt_us().into()),
                pacing_bits_per_second: flows.pacing_bits_per_second(),
            });
        }
        Ok(())
    }

    /// The receiver acknowledges chunks as stored. Repeated acknowledgements have no effect.
    fn note_stored(&mut self, stored: &[Run]) {
        for run in stored {
            for chunk in self.pipeline.queue.chunks_of(run) {
                if self.pipeline.queue.note_stored(chunk) {
                    self.pace.step();
                    if let Some(announcements) = &mut self.announcements {
                        announcements.chunk_stored(&self.job.payload, &self.failures.failed, chunk);
                    }
                }
            }
        }
    }

    /// The receiver found a chunk's data damaged.
    fn asked_again(&mut self, chunk: u32) -> Result<(), TransferError> {
        let can_go = self.pipeline.queue.request_again(chunk)?;
        self.pace.said_all_sent = false;
        self.hashing.forget_root();
        if can_go {
            self.send_again(chunk);
        }
        Ok(())
    }

    fn send_again(&mut self, chunk: u32) {
        self.pace.discount_delivered(self.job.chunk_bytes(chunk));
        self.pipeline.queue.grant_request(chunk);
    }

    /// The receiver has a chunk, however it got it.
    ///
    /// A chunk counts once, however often it is sent. When all of a file's chunks count, the file
    /// is checked for changes, and its hash is announced.
    fn chunk_delivered(&mut self, chunk: u32) {
        self.pace.add_delivered(self.job.chunk_bytes(chunk));
        let hash = self.hashing.take_chunk(chunk);
        let payload = &self.job.payload;
        // Settling may close the file, which is checked as it was opened.
        let opened = payload.file_of(chunk).and_then(|file| self.pipeline.files.get(file));
        self.pipeline.settle(payload, chunk);
        if !self.pipeline.queue.count_delivery(chunk) {
            return;
        }
        match payload.content(chunk) {
            Some(ChunkContent::Range { file, part, .. }) => {
                let is_last = self.hashing.count_part(file, payload.chunks_of_file(file), part, hash);
                if is_last && !self.failures.failed.contains(&file) {
                    self.pipeline.queue.begin_checking();
                    begin_to_check(&self.job, file, opened, self.hashing.of(file));
                }
            }
            Some(ChunkContent::Pack { files, .. }) => {
                let count = files.len() as u64;
                self.job.context.progress.send_modify(|progress| progress.files_done += count);
            }
            None => {}
        }
    }

    /// A lane has a buffer for a chunk that is read here.
    fn fill(&mut self, chunk: u32, buffer: LentBuffer) -> Result<(), TransferError> {
        let (job, plane) = (&self.job, &self.job.context.plane);
        let Payload::Files { tree, chunks } = &job.payload else {
            return Err(plane.nonsense("it asks for a measurement to be filled").into());
        };
        let is_filled_here = self.pipeline.is_filled_here(&job.payload, chunk);
        if !is_filled_here || !self.pipeline.queue.begin_filling(chunk) {
            let what = "it asks for something to be filled that lanes read, or for one twice";
            return Err(plane.nonsense(what).into());
        }
        let reader = job.payload.file_of(chunk).and_then(|file| self.pipeline.reader_of(file));
        begin_to_fill(job, tree, chunks, chunk, reader, buffer);
        Ok(())
    }

    /// A range is in its buffer, or cannot be read.
    fn range_filled(
        &mut self,
        chunk: u32,
        hash: Result<ChunkHash, FileError>,
        buffer: LentBuffer,
    ) -> Result<(), TransferError> {
        self.pipeline.queue.end_filling(chunk);
        match hash {
            Ok(hash) if self.job.context.options.checksum => {
                self.outbox.chunk_hashes.push((chunk, hash));
                self.hashing.note_chunk(chunk, hash);
            }
            Ok(_) => {}
            // Its chunks are taken back before this one can go.
            Err(error) => self.fail_file_or_end(error)?,
        }
        // From here on it may go.
        drop(buffer);
        Ok(())
    }

    /// A pack is in its buffer.
    fn pack_filled(&mut self, chunk: u32, pack: FilledPack, buffer: LentBuffer) -> Result<(), TransferError> {
        self.pipeline.queue.end_filling(chunk);
        //= W-55
        //# Since version 5, a sender sends `PackHashes` for every pack after reading it, without
        //# hashes if the transfer has none. Before that, it sends `FileFailed` for each of the
        //# pack's files that could not be read.
        let checksum = self.job.context.options.checksum;
        let is_told = checksum || self.job.context.connection.version >= PACKS_ARE_TOLD_SINCE;
        for error in pack.failed {
            // An older receiver would store the file as it is in the pack.
            if is_told { self.fail_file_or_end(error)? } else { self.fail_file(error) }
        }
        self.hashing.note_pack(&self.job.payload, chunk, &pack.hashes);
        if checksum {
            self.outbox.others.push(Message::PackHashes { chunk, hashes: pack.hashes });
        } else if is_told {
            self.outbox.others.push(Message::PackHashes { chunk, hashes: Vec::new() });
        }
        // From here on it may go.
        drop(buffer);
        Ok(())
    }

    /// A chunk that the receiver says it has was hashed here; `same` is its hash if it is the same.
    fn proof_checked(&mut self, chunk: u32, same: Option<ChunkHash>) {
        self.pipeline.queue.end_preparing(1);
        if same.is_some() {
            self.outbox.proven.push(chunk);
            if let Some(announcements) = &mut self.announcements {
                announcements.chunk_proven(&self.job.payload, chunk);
            }
        }
        // The bytes were counted when the receiver's plan came.
        self.pace.discount_delivered(self.job.chunk_bytes(chunk));
        match same {
            Some(hash) => {
                self.hashing.note_chunk(chunk, hash);
                self.chunk_delivered(chunk);
            }
            None => {
                self.pipeline.settle(&self.job.payload, chunk);
                self.pipeline.queue.push_again(chunk);
            }
        }
    }

    /// A file was checked for changes after its last chunk was delivered.
    fn file_checked(&mut self, file: u32, result: Result<(), FileError>) -> Result<(), TransferError> {
        self.pipeline.queue.end_checking();
        self.pipeline.files.forget(file);
        match result {
            Ok(()) => {
                //= W-41
                //# `FilesComplete` follows when all chunks of a file are delivered and the file has
                //# not changed since it was listed.
                self.outbox.complete.push((file, self.hashing.of(file).unwrap_or_default()));
                self.job.context.progress.send_modify(|progress| progress.files_done += 1);
                Ok(())
            }
            Err(error) => self.fail_file_or_end(error),
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
        if self.failures.note(error.clone()) {
            self.outbox.others.push(Message::FileFailed(error));
            self.take_back(file);
        }
    }

    fn take_back(&mut self, file: u32) {
        self.hashing.set(file, [0; 32]);
        self.pipeline.take_back(&self.job.payload, file);
    }

    /// The receiver has stored everything: checks its statement, signs it, and makes the result.
    async fn finish(
        &mut self,
        line: &str,
        signature: &[u8],
        receiver: &ReceiverSummary,
    ) -> Result<Sent, TransferError> {
        let context = &self.job.context;
        let statement = read_statement(context, line, signature)?;
        let root = self.hashing.root(&self.job, &self.has, &self.failures).await;
        check_statement(context, &statement, &root, self.pace.said_all_sent)?;
        let receipt = countersign(context, line, signature).await?;
        if let Some(announcements) = &mut self.announcements {
            announcements.rest(&self.job.payload, &self.has, &self.failures.failed);
        }
        let flows = &mut self.pipeline.flows;
        let outcome = Outcome {
            context,
            payload: &self.job.payload,
            has: &self.has,
            failures: &self.failures,
            statement: &statement,
            sender: &self.pace.summary(flows, self.job.payload.problem_count()),
            receiver,
            flows: flows.len(),
            began: self.began,
        };
        let result = outcome.result();
        flows.close();
        Ok(Sent { result, receipt: Some(receipt), partner: self.job.context.connection.reader.take() })
    }
}
