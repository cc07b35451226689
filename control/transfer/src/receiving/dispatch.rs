//! Handles what arrives from outside, messages of the sender and events of the lanes, by passing it
//! to the parts concerned. Nothing that the sender names is assumed to exist before it is looked
//! up.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use std::time::Instant;

use culvert_link::commands::{DiskError, Sink};
use culvert_link::handles::LentBuffer;
use culvert_model::progress::Phase;
use culvert_plane::ReceiveEvent;
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{Message, RefusalCode};
use culvert_protocol::feedback::Report;
use culvert_protocol::tree_hash::ChunkHash;

use crate::error::TransferError;
use crate::events::Event;
use crate::limits::{HOLDING_PATIENCE, Limit};
use crate::manifest_exchange::unexpected;
use crate::receiving::ending::conclude;
use crate::receiving::failures::write_error;
use crate::receiving::files::WaitingChunk;
use crate::receiving::hole_making::take_holes;
use crate::receiving::old_files::ProvedChunk;
use crate::receiving::open_file::Writing;
use crate::receiving::parts::write_part;
use crate::receiving::received::{LeftJournal, Received};
use crate::receiving::stalling::{is_senders_turn, outstanding};
use crate::receiving::state::Receiving;
use crate::receiving::unpacking::unpack_if_ready;

impl Receiving {
    /// Handles a message of the sender; returns the outcome if it was the last. A message is not
    /// progress by itself: only its effect is.
    pub(super) async fn message(&mut self, message: Message) -> Result<Option<Received>, TransferError> {
        let Self { job, arriving, tally, failures, .. } = self;
        match message {
            Message::ChunkHashes(hashes) => {
                for (chunk, hash) in hashes {
                    self.note_hash(chunk, hash).await?;
                }
            }
            Message::PackHashes { chunk, hashes } => {
                let wanted = |files: &[u32]| if job.context.options.checksum { files.len() } else { 0 };
                let content = job.chunks.content(chunk);
                if !matches!(content, Some(ChunkContent::Pack { files, .. }) if hashes.len() == wanted(files)) {
                    return Err(TransferError::protocol(format!(
                        "it names hashes of chunk {chunk}, which is not a pack"
                    )));
                }
                if !arriving.is_verified(chunk) {
                    arriving.note_pack_hashes(chunk, hashes);
                    unpack_if_ready(job, arriving, tally, &failures.failed, chunk);
                }
            }
            Message::Holes(holes) => take_holes(job, arriving, &failures.failed, holes)?,
            Message::Proven(chunks) => {
                for chunk in chunks {
                    self.proven(chunk)?;
                }
            }
            Message::FilesComplete(complete) => {
                for (file, hash) in complete {
                    self.file_complete(file, hash)?;
                }
            }
            Message::FileFailed(error) => {
                let file = error.file;
                if !job.is_sent_file(file) || tally.is_stored(file) || self.storing.files.is_finishing(file) {
                    return Err(TransferError::protocol("it gives up a file that it does not send"));
                }
                self.fail_file(error, false);
            }
            Message::RefusedHere => self.inbound.is_refused_there = true,
            Message::LeftOut(left_out) => failures.left_out = left_out,
            Message::AllSent(summary) => {
                self.ending.sender = Some(summary);
                job.context.progress.send_modify(|progress| progress.phase = Phase::Finishing);
            }
            Message::Countersigned { signature } => {
                let flows = self.inbound.flows.len();
                let (result, receipt) = conclude(job, &self.ending, failures, flows, &signature)?;
                let (partner, journal) = (job.context.connection.reader.take(), LeftJournal(job.intake.clone()));
                return Ok(Some(Received { result, receipt: Some(receipt), partner, journal }));
            }
            Message::Refused(refusal) => return Err(self.inbound.refused(&job.context, refusal)),
            other => return Err(unexpected(&other, "hashes")),
        }
        Ok(None)
    }

    /// Handles an event of a flow's lane.
    pub(super) async fn event(&mut self, tag: usize, event: ReceiveEvent) -> Result<(), TransferError> {
        self.require_possible(&event)?;
        let (job, arriving) = (&self.job, &mut self.arriving);
        match event {
            ReceiveEvent::Report(bytes) => self.report(tag, bytes)?,
            ReceiveEvent::Astray => self.inbound.astray(&job.context, tag).await?,
            ReceiveEvent::OthersWait { incomplete, whole } => self.others_wait(incomplete, whole)?,
            ReceiveEvent::PlacementNeeded { chunk, chunk_bytes } => self.place(tag, chunk, chunk_bytes)?,
            // Nothing is accepted for a chunk that was given up, or belongs to another flow.
            ReceiveEvent::Lend { chunk, .. }
            | ReceiveEvent::Written { chunk, .. }
            | ReceiveEvent::WriteFailed { chunk, .. }
                if !arriving.comes_by(chunk, tag) => {}
            ReceiveEvent::Lend { chunk, buffer } => self.handed_over(chunk, buffer)?,
            ReceiveEvent::Written { chunk, hash, times } => {
                // Without its hash it would be taken for verified.
                let is_possible = self.storing.is_placed(job, chunk)
                    && hash.is_some() == job.context.options.checksum
                    && !arriving.has_ours(chunk);
                if !is_possible {
                    return Err(job.nonsense("it reports a chunk as written that it was not to write"));
                }
                job.context.observer.note(Event::ChunkMoved { times, is_sender: false });
                self.chunk_written(chunk, hash).await?;
            }
            ReceiveEvent::WriteFailed { chunk, error } => self.write_failed(chunk, error)?,
            // Flows are closed only after their listener is gone.
            ReceiveEvent::Closed => return Err(job.nonsense("it closed a flow of its own accord")),
        }
        Ok(())
    }

    /// The sender names its hash of a chunk.
    async fn note_hash(&mut self, chunk: u32, hash: ChunkHash) -> Result<(), TransferError> {
        self.job.check_chunk_number(chunk)?;
        // Files in packs have hashes of their own, and what is verified needs no other.
        let is_pack = matches!(self.job.chunks.content(chunk), Some(ChunkContent::Pack { .. }));
        if is_pack || self.arriving.is_verified(chunk) {
            return Ok(());
        }
        self.arriving.note_theirs(chunk, hash)?;
        self.compare(chunk).await
    }

    /// A chunk that was here already is the sender's.
    fn proven(&mut self, chunk: u32) -> Result<(), TransferError> {
        self.job.check_chunk_number(chunk)?;
        let Some(ChunkContent::Range { file, part, .. }) = self.job.chunks.content(chunk) else {
            return Err(TransferError::protocol("it proves a pack, which nobody asked for"));
        };
        let Some(hash) = self.arriving.take_offer(chunk) else {
            return Err(TransferError::protocol("it proves a chunk that is not stored"));
        };
        self.arriving.verify(chunk);
        self.tally.step();
        // What an earlier attempt stored is where it belongs, stands in its journal and counted
        // from the beginning; what the old file has does neither.
        if self.storing.old.note_proved(file, ProvedChunk { chunk, part, hash }) {
            self.tally.add_reused(self.job.chunk_bytes(chunk));
        } else {
            self.storing.files.chunk_verified(file, chunk, part, Some(hash), true);
        }
        self.finish_file_if_ready(file);
        Ok(())
    }

    /// The sender says that a file is complete and did not change.
    fn file_complete(&mut self, file: u32, hash: ChunkHash) -> Result<(), TransferError> {
        if self.job.intake.manifest.len() <= file as usize {
            return Err(TransferError::protocol("it completes a file that it does not have"));
        }
        self.storing.files.note_complete(file, hash);
        self.finish_file_if_ready(file);
        Ok(())
    }

    /// # Errors
    /// [`TransferError`] for an event of a chunk that the transfer does not have. Lanes know how
    /// many it has, and their maximum size, and pass on nothing about others, whatever the sender
    /// sends.
    fn require_possible(&self, event: &ReceiveEvent) -> Result<(), TransferError> {
        let job = &self.job;
        let is_possible = match *event {
            ReceiveEvent::PlacementNeeded { chunk, chunk_bytes } => {
                chunk < job.chunk_count && chunk_bytes <= job.context.options.chunk_bytes
            }
            ReceiveEvent::Lend { chunk, .. }
            | ReceiveEvent::Written { chunk, .. }
            | ReceiveEvent::WriteFailed { chunk, .. } => chunk < job.chunk_count,
            _ => true,
        };
        if is_possible {
            return Ok(());
        }
        Err(job.nonsense("it sent an event of a chunk that the transfer does not have"))
    }

    /// A lane's report of a flow, on its way to the sender.
    fn report(&mut self, tag: usize, bytes: Vec<u8>) -> Result<(), TransferError> {
        let Ok(report) = Report::parse(&bytes) else {
            return Err(self.job.nonsense("it sent an invalid report"));
        };
        let summary = report.summary;
        if let Some(is_late) = self.inbound.note_report(tag, &summary, Instant::now()) {
            self.job.context.observer.note(Event::ReportSent { is_late });
        }
        self.ending.note_report(&summary);
        self.job.writer().send_urgent(Message::Feedback(bytes))?;
        Ok(())
    }

    /// The flows hold more buffers than the partner's share, and others wait: the transfer is ended
    /// if it has made no progress with them for a while, and the sender is the reason.
    fn others_wait(&mut self, incomplete: u32, whole: u32) -> Result<(), TransferError> {
        self.check_patience()?;
        let still = self.patience.still_for(Instant::now());
        if still < HOLDING_PATIENCE || !is_senders_turn(&self.arriving, &self.storing, incomplete, whole) {
            return Ok(());
        }
        self.job.context.observer.note(Event::LimitReached(Limit::Buffers));
        let text = format!(
            "the transfer holds buffers that other partners' transfers are waiting for, and made no \
             progress for {} s ({}): it was ended, and resumes from what is stored when it is requested again",
            still.as_secs(),
            outstanding(&self.tally, &self.arriving, &self.storing, &self.ending)
        );
        Err(TransferError::here(RefusalCode::Temporary, text))
    }

    /// A lane asks where a chunk goes.
    fn place(&mut self, tag: usize, chunk: u32, chunk_bytes: u32) -> Result<(), TransferError> {
        let (job, plane) = (&self.job, self.job.plane());
        let expected = job.chunk_bytes(chunk);
        if chunk_bytes != expected {
            // Only lanes can decrypt what it sends: this process cannot know which of the two is
            // wrong.
            let text = format!(
                "it sends chunk {chunk} with {chunk_bytes} bytes instead of {expected}, unless this \
                 node's data plane reports it wrongly"
            );
            return Err(TransferError::protocol(text));
        }
        if self.arriving.comes_by(chunk, tag) {
            return Err(job.nonsense("it asks twice where a chunk goes"));
        }
        let is_given_up = |file| self.failures.failed.contains(&file);
        if self.arriving.is_closed(chunk) || job.file_of(chunk).is_some_and(is_given_up) {
            self.inbound.abandon(plane, tag, chunk);
            return Ok(());
        }
        let content = job.chunks.content(chunk);
        if job.is_measurement() || content.is_some() {
            self.arriving.begin(chunk, tag);
        }
        match content {
            _ if job.is_measurement() => self.inbound.place(plane, tag, chunk, Sink::Discard),
            None => {}
            Some(ChunkContent::Pack { .. }) => self.inbound.place(plane, tag, chunk, Sink::Lend),
            Some(ChunkContent::Range { file, .. }) => {
                // What was found in its place will be overwritten, whatever happens to what
                // arrives.
                self.arriving.withdraw_offer(chunk);
                match self.storing.sink_of(job, chunk) {
                    Some(sink) => self.inbound.place(plane, tag, chunk, sink),
                    None => {
                        let waiting = WaitingChunk::Segments { tag, chunk };
                        self.storing.wait_for(job, &self.arriving, file, waiting);
                    }
                }
            }
        }
        Ok(())
    }

    /// A lane hands a whole chunk over.
    fn handed_over(&mut self, chunk: u32, buffer: LentBuffer) -> Result<(), TransferError> {
        let (job, arriving) = (&self.job, &mut self.arriving);
        let is_whole = buffer.bytes().len() == job.chunk_bytes(chunk) as usize;
        if !self.storing.is_handed(job, chunk) || !is_whole || !arriving.hand_over(chunk) {
            return Err(job.nonsense("it delivered something that is not a complete pack or part"));
        }
        if let Some(ChunkContent::Range { file, offset, .. }) = job.chunks.content(chunk) {
            if let Some(Writing::Here(writer)) = self.storing.files.get(file) {
                write_part(job, writer, chunk, file, offset, buffer);
            }
        } else {
            arriving.note_pack(chunk, buffer);
            unpack_if_ready(job, arriving, &mut self.tally, &self.failures.failed, chunk);
        }
        Ok(())
    }

    /// A lane could not write a chunk.
    fn write_failed(&mut self, chunk: u32, error: DiskError) -> Result<(), TransferError> {
        if self.job.is_measurement() || !self.storing.is_placed(&self.job, chunk) {
            return Err(self.job.nonsense("it reports a failed write that it was not to make"));
        }
        let Some(file) = self.job.file_of(chunk) else { return Ok(()) };
        let error = write_error(&self.job.intake, file, error)?;
        if self.failures.failed.contains(&file) {
            return Ok(());
        }
        self.fail_file_or_end(error)
    }
}
