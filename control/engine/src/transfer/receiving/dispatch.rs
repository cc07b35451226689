//! What becomes of whatever the receiving side hears: from the sender, from lanes, from helpers.
//! Each is passed to the parts that it concerns. Nothing that the sender names is believed to exist
//! before it was looked up.
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
use culvert_objects::fs::destination::small_files::staged::StagedPack;
use culvert_plane::dataplane::ReceiveEvent;
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{FileError, Message, RefusalCode, runs};
use culvert_protocol::feedback::Report;
use culvert_protocol::tree_hash::ChunkHash;

use crate::events::Event;
use crate::limits::{HOLDING_PATIENCE, Limit};
use crate::transfer::error::TransferError;
use crate::transfer::manifest_exchange::unexpected;
use crate::transfer::receiving::arriving::Compared;
use crate::transfer::receiving::committer::Committed;
use crate::transfer::receiving::comparing::WrongWhole;
use crate::transfer::receiving::done::Done;
use crate::transfer::receiving::ending::{Stored, begin_to_conclude, conclude, send_statement, tell_not_kept};
use crate::transfer::receiving::failures::{full, write_error, wrong_whole};
use crate::transfer::receiving::files::WaitingChunk;
use crate::transfer::receiving::hole_making::{hash_next, punch, take_holes};
use crate::transfer::receiving::holes::HashedHole;
use crate::transfer::receiving::old_files::{Copied, OldFileRetention, ProvedChunk};
use crate::transfer::receiving::open_file::{Discarded, OpenFile, Writing};
use crate::transfer::receiving::opening::empty_files;
use crate::transfer::receiving::parts::{put_empty, write_part};
use crate::transfer::receiving::put_objects::Put;
use crate::transfer::receiving::received::{LeftJournal, Received};
use crate::transfer::receiving::stalling::{is_senders_turn, outstanding};
use crate::transfer::receiving::state::Receiving;
use crate::transfer::receiving::storing::begin_to_finish;
use crate::transfer::receiving::unpacking::unpack_if_ready;

impl Receiving {
    /// A message of the sender's; what was received, if it was the last. By itself it is no
    /// progress: only its effect is.
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

    /// An event of a flow's lane.
    pub(super) async fn event(&mut self, tag: usize, event: ReceiveEvent) -> Result<(), TransferError> {
        self.require_possible(&event)?;
        let (job, arriving) = (&self.job, &mut self.arriving);
        match event {
            ReceiveEvent::Report(bytes) => self.report(tag, bytes)?,
            ReceiveEvent::Astray => self.inbound.astray(&job.context, tag).await?,
            ReceiveEvent::OthersWait { incomplete, whole } => self.others_wait(incomplete, whole)?,
            ReceiveEvent::PlacementNeeded { chunk, chunk_bytes } => self.place(tag, chunk, chunk_bytes)?,
            // Of a chunk that was given up, or comes by two flows, nothing is taken.
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
            // Flows are closed when they have no listener any more.
            ReceiveEvent::Closed => return Err(job.nonsense("it closed a flow of its own accord")),
        }
        Ok(())
    }

    /// A helper has ended its work.
    pub(super) async fn work_done(&mut self, done: Done) -> Result<(), TransferError> {
        match done {
            Done::Removed => self.storing.end_motion(),
            Done::Opened { file, result } => self.file_opened(file, result)?,
            Done::Unpacked { chunk, pack } => self.unpacked(chunk, pack).await?,
            Done::PartWritten { chunk, written } => self.part_written(chunk, written).await?,
            Done::Put(put) => self.objects_put(put).await?,
            Done::Committed(committed) => self.committed(committed).await?,
            Done::Finished { file, result } => self.file_finished(file, result).await?,
            Done::Synced { chunks, result } => {
                self.storing.committing.end_sync();
                result.map_err(TransferError::Here)?;
                self.tally.add_steps(chunks.len() as u64);
                self.storing.open_wanted(&self.job, &self.arriving);
                self.say_stored(chunks).await?;
            }
            Done::Kept { file, hash, result } => self.old_kept(file, hash, result)?,
            Done::Copied { file, copied } => self.old_copied(file, copied).await?,
            Done::HolesHashed(hashed) => self.holes_hashed(hashed)?,
            Done::Punched { chunk, hash, result } => self.hole_punched(chunk, hash, result)?,
            Done::Concluded(root) => self.state_what_is_stored(root.map_err(TransferError::Here)?).await?,
        }
        Ok(())
    }

    /// Files without bytes, which have no chunk, are stored at once.
    pub(super) fn store_empty_files(&mut self) {
        let empty = empty_files(&self.job);
        if let Some(sink) = self.job.intake.sink.clone() {
            // The transfer does not end before.
            self.storing.begin_motion();
            return put_empty(&self.job, sink, empty);
        }
        for part in empty.chunks(1_024) {
            self.storing.committing.committer.store_empty(part.to_vec());
        }
    }

    /// When everything is stored: begins to make the last of it durable.
    pub(super) fn conclude_if_done(&mut self) {
        let has_work = !self.tally.is_complete() || self.storing.is_in_motion();
        if !has_work && self.ending.begin() {
            // Nothing is stored any more, so nothing needs the hashes but the root.
            begin_to_conclude(&self.job, self.tally.take_hashes(), self.failures.failed.clone());
        }
    }

    /// Checks whether the transfer gets anywhere.
    pub(super) fn check_patience(&mut self) -> Result<(), TransferError> {
        // What has come is the lanes' word.
        let progress = self.tally.steps().saturating_add(self.inbound.new_bytes());
        let outstanding = || outstanding(&self.tally, &self.arriving, &self.storing, &self.ending);
        self.patience.check(progress, Instant::now(), outstanding)
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

    /// A chunk's bytes are written, and have this hash.
    async fn chunk_written(&mut self, chunk: u32, hash: Option<ChunkHash>) -> Result<(), TransferError> {
        self.tally.add_arrived(self.job.chunk_bytes(chunk));
        match hash {
            Some(hash) => {
                self.arriving.note_ours(chunk, hash);
                self.compare(chunk).await
            }
            None => {
                self.chunk_verified(chunk, [0; 32]);
                Ok(())
            }
        }
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

    /// Compares both sides' hashes of a chunk once both are there.
    async fn compare(&mut self, chunk: u32) -> Result<(), TransferError> {
        match self.arriving.compare(chunk) {
            Compared::Incomplete => Ok(()),
            Compared::Same(hash) => {
                self.chunk_verified(chunk, hash);
                Ok(())
            }
            Compared::Different => {
                self.tally.discount_arrived(self.job.chunk_bytes(chunk));
                self.try_again(chunk).await
            }
        }
    }

    /// Asks for a chunk once more, unless that has been done often enough.
    async fn try_again(&mut self, chunk: u32) -> Result<(), TransferError> {
        if let Some(tag) = self.arriving.reopen(chunk)? {
            self.inbound.reopen(self.job.plane(), tag, chunk);
        }
        self.job.writer().send(Message::SendAgain(vec![chunk])).await?;
        Ok(())
    }

    /// A chunk's bytes are written and are the sender's.
    fn chunk_verified(&mut self, chunk: u32, hash: ChunkHash) {
        self.arriving.verify(chunk);
        self.tally.step();
        if self.job.is_measurement() {
            self.tally.note_memory();
            return;
        }
        let Some(ChunkContent::Range { file, part, .. }) = self.job.chunks.content(chunk) else { return };
        let hash = self.job.context.options.checksum.then_some(hash);
        self.storing.files.chunk_verified(file, chunk, part, hash, false);
        self.finish_file_if_ready(file);
    }

    /// Gives a file its name if all of it is there and the sender says that it did not change.
    fn finish_file_if_ready(&mut self, file: u32) {
        if self.failures.failed.contains(&file) {
            return;
        }
        self.use_old(file);
        match self.storing.files.take_if_ready(file) {
            None => self.storing.open_wanted(&self.job, &self.arriving),
            Some(Err(())) => self.fail_file(wrong_whole(&self.job.intake, file), true),
            Some(Ok(whole)) => {
                if let Some(hash) = whole.hash {
                    self.tally.set_hash(file, hash);
                }
                begin_to_finish(&self.job, file, whole);
            }
        }
    }

    /// Does what can be done with what was proved of a file that would be replaced.
    fn use_old(&mut self, file: u32) {
        let used = self.storing.use_old(&self.job, &self.arriving, &self.failures.failed, file);
        if let Err(WrongWhole) = used {
            self.fail_file(wrong_whole(&self.job.intake, file), true);
        }
    }

    /// A file is open, or cannot be opened: the chunks that waited for it go on.
    fn file_opened(&mut self, file: u32, result: Result<OpenFile, FileError>) -> Result<(), TransferError> {
        self.storing.end_motion();
        let waiting = match result {
            Ok(opened) if self.failures.failed.contains(&file) => {
                self.storing.remove_beside(&self.job, file, Discarded::Open(opened));
                self.storing.files.take_waiting(file)
            }
            Ok(opened) => self.storing.files.insert(file, opened).unwrap_or_else(|opened| {
                self.storing.remove_beside(&self.job, file, Discarded::Open(opened));
                Vec::new()
            }),
            Err(error) => {
                if let Some(full) = full(&error) {
                    return Err(full);
                }
                self.fail_file_or_end(error)?;
                self.storing.files.take_waiting(file)
            }
        };
        let (job, failed) = (&self.job, &self.failures.failed);
        for chunk in waiting {
            match chunk {
                WaitingChunk::Segments { tag, chunk } if failed.contains(&file) => {
                    self.inbound.abandon(job.plane(), tag, chunk);
                }
                WaitingChunk::Segments { tag, chunk } => {
                    if let Some(sink) = self.storing.sink_of(job, chunk) {
                        self.inbound.place(job.plane(), tag, chunk, sink);
                    }
                }
                WaitingChunk::Hole { chunk, hash } => {
                    punch(job, &self.storing.files, &mut self.arriving.holes, failed, chunk, hash);
                }
            }
        }
        // It may have been wanted for its name only.
        self.finish_file_if_ready(file);
        Ok(())
    }

    /// The files of a pack are written under temporary names.
    async fn unpacked(&mut self, chunk: u32, pack: StagedPack) -> Result<(), TransferError> {
        if !pack.mismatched.is_empty() {
            // The files that were right are dropped with it; they come again with the chunk. Who
            // ends the transfer waits for those that can report.
            let done = self.job.where_helpers_report();
            tokio::task::spawn_blocking(move || {
                drop(pack);
                drop(done);
            });
            return self.try_again(chunk).await;
        }
        self.pack_verified(chunk);
        if let Some(full) = pack.failed.iter().find_map(full) {
            return Err(full);
        }
        for error in pack.failed {
            self.fail_file_or_end(error)?;
        }
        let staged = pack.staged.into_iter().map(|staged| (self.tally.hash_of(staged.file), staged)).collect();
        self.storing.committing.committer.commit(chunk, staged, pack.settled);
        Ok(())
    }

    /// A part of an object was written, or not.
    async fn part_written(
        &mut self,
        chunk: u32,
        written: Result<Option<ChunkHash>, FileError>,
    ) -> Result<(), TransferError> {
        // Its file was given up meanwhile.
        if !self.arriving.is_coming(chunk) {
            return Ok(());
        }
        self.arriving.end_handing(chunk);
        match written {
            Err(error) => self.fail_file_or_end(error),
            Ok(hash) => self.chunk_written(chunk, hash).await,
        }
    }

    /// Small objects are stored, or not.
    async fn objects_put(&mut self, put: Put) -> Result<(), TransferError> {
        let Put { pack, is_mismatched, stored, failed } = put;
        match pack {
            Some(chunk) if is_mismatched => return self.try_again(chunk).await,
            Some(chunk) => self.pack_verified(chunk),
            None => self.storing.end_motion(),
        }
        for error in failed {
            if self.job.intake.manifest.file_bytes(error.file).is_some() {
                self.fail_file_or_end(error)?;
            } else {
                self.failures.errors.push(error.clone());
                self.job.writer().send(Message::FileRefused(error)).await?;
            }
        }
        let is_file = |file: &u32| self.job.intake.manifest.file_bytes(*file).is_some();
        let files: Vec<u32> = stored.into_iter().filter(is_file).collect();
        self.files_stored(&files);
        self.say_stored(pack.into_iter().collect()).await
    }

    /// The bytes of a pack are the sender's.
    fn pack_verified(&mut self, chunk: u32) {
        self.arriving.verify(chunk);
        self.tally.step();
        self.tally.add_arrived(self.job.chunk_bytes(chunk));
    }

    /// The committer has ended a round.
    async fn committed(&mut self, committed: Committed) -> Result<(), TransferError> {
        if let Some(error) = committed.fatal {
            return Err(error);
        }
        self.files_stored(&committed.stored);
        for error in committed.failed {
            self.fail_file_or_end(error)?;
        }
        if committed.chunks.is_empty() {
            return Ok(());
        }
        self.say_stored(committed.chunks).await
    }

    /// A large file has its name for good, or not.
    async fn file_finished(&mut self, file: u32, result: Result<(), FileError>) -> Result<(), TransferError> {
        match result {
            // Given up while it got its name.
            Ok(()) if self.failures.failed.contains(&file) => Ok(()),
            Ok(()) => {
                let (chunks, closing) = self.storing.files.close(file);
                // To close a file may wait for its server.
                tokio::task::spawn_blocking(move || drop(closing));
                self.files_stored(&[file]);
                self.storing.open_wanted(&self.job, &self.arriving);
                self.say_stored(chunks).await
            }
            // Its partial file goes with it.
            Err(error) => self.fail_file_or_end(error),
        }
    }

    /// A file that has the sender's bytes stays, or not.
    fn old_kept(
        &mut self,
        file: u32,
        hash: ChunkHash,
        result: Result<OldFileRetention, FileError>,
    ) -> Result<(), TransferError> {
        if self.failures.failed.contains(&file) {
            return Ok(());
        }
        match result {
            Ok(OldFileRetention::Yes) => {
                self.storing.old.files.remove(&file);
                self.tally.set_hash(file, hash);
                let _ = self.storing.files.close(file);
                self.note_same(file);
                Ok(())
            }
            Ok(OldFileRetention::Changed) => {
                self.storing.old.cannot_stay(file);
                self.use_old(file);
                Ok(())
            }
            Err(error) => self.fail_file_or_end(error),
        }
    }

    /// Counts a file that was there with the sender's bytes: as stored, if this transfer has stored
    /// it in an earlier attempt, else as there already.
    fn note_same(&mut self, file: u32) {
        let is_own = self.job.intake.compared.iter().any(|compared| compared.file == file && compared.was_stored);
        if is_own {
            self.files_stored(&[file]);
        } else if self.tally.note_same(&self.job, file) {
            self.storing.old.note_same(file, self.job.file_bytes(file));
        }
    }

    /// Chunks of an old file were copied, or not.
    async fn old_copied(&mut self, file: u32, copied: Copied) -> Result<(), TransferError> {
        self.storing.old.end_copying(file);
        if self.failures.failed.contains(&file) {
            return Ok(());
        }
        let Copied { right, wrong, error } = copied;
        if let Some(error) = error {
            return match full(&error) {
                Some(full) => Err(full),
                None => self.fail_file_or_end(error),
            };
        }
        for ProvedChunk { chunk, part, hash } in right {
            self.storing.files.chunk_verified(file, chunk, part, Some(hash), false);
        }
        for &chunk in &wrong {
            self.arriving.discount(chunk);
            self.tally.discount_reused(self.job.chunk_bytes(chunk));
        }
        //= W-47
        //# if the old file has changed since, it requests what was lost with `SendAgain`
        for part in wrong.chunks(1_000) {
            self.job.writer().send(Message::SendAgain(part.to_vec())).await?;
        }
        self.tally.step();
        self.finish_file_if_ready(file);
        Ok(())
    }

    /// Holes were hashed: those that are what the sender says are made.
    fn holes_hashed(&mut self, hashed: Vec<HashedHole>) -> Result<(), TransferError> {
        self.arriving.holes.end_hashing();
        hash_next(&self.job, &mut self.arriving.holes);
        for HashedHole { chunk, hash, is_of_zeros } in hashed {
            if !is_of_zeros {
                return Err(TransferError::protocol("its hash of a hole is not that of zeros"));
            }
            let Some(file) = self.job.file_of(chunk) else { continue };
            let (job, failed) = (&self.job, &self.failures.failed);
            if failed.contains(&file) {
                self.arriving.holes.end(chunk);
            } else if self.storing.files.get(file).is_some() {
                punch(job, &self.storing.files, &mut self.arriving.holes, failed, chunk, hash);
            } else {
                self.storing.wait_for(job, &self.arriving, file, WaitingChunk::Hole { chunk, hash });
            }
        }
        Ok(())
    }

    /// A hole was made, or not.
    fn hole_punched(
        &mut self,
        chunk: u32,
        hash: ChunkHash,
        result: Result<(), FileError>,
    ) -> Result<(), TransferError> {
        self.arriving.holes.end(chunk);
        let Some(ChunkContent::Range { file, bytes, .. }) = self.job.chunks.content(chunk) else { return Ok(()) };
        if self.failures.failed.contains(&file) {
            return Ok(());
        }
        match result {
            Ok(()) => {
                self.tally.add_arrived(bytes);
                self.chunk_verified(chunk, hash);
                Ok(())
            }
            Err(error) => self.fail_file_or_end(error),
        }
    }

    /// Everything is stored: states it, signs it, and sends it.
    async fn state_what_is_stored(&mut self, root: String) -> Result<(), TransferError> {
        let Some(sender) = self.ending.sender else { return Ok(()) };
        let failed_count = self.failures.errors.count;
        let stored = Stored { job: &self.job, tally: &self.tally, old: &self.storing.old, failed_count };
        let stated = stored.state(&self.ending, &sender, root);
        self.failures.not_kept = tell_not_kept(&self.job).await?;
        send_statement(&self.job, &stated).await?;
        self.ending.stated = Some(stated);
        Ok(())
    }

    /// Files have their names for good.
    fn files_stored(&mut self, files: &[u32]) {
        self.tally.note_stored(&self.job, &self.failures.failed, files);
    }

    /// Tells the sender which chunks are on stable storage.
    async fn say_stored(&self, mut chunks: Vec<u32>) -> Result<(), TransferError> {
        //= W-42
        //# `Stored` lists chunks that are on stable storage.
        chunks.sort_unstable();
        for part in runs(chunks).chunks(2_048) {
            self.job.writer().send(Message::Stored(part.to_vec())).await?;
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
        let (job, file) = (&self.job, error.file);
        if self.tally.is_stored(file) || !self.failures.failed.insert(file) {
            return;
        }
        self.tally.note_failed(file);
        if tell {
            // The order against other messages does not matter, and a closed connection shows when
            // it is read.
            let _ = job.writer().send_urgent(Message::FileRefused(error.clone()));
        }
        self.failures.errors.push(error);
        for (chunk, tag) in self.arriving.give_up(|chunk| job.file_of(chunk) == Some(file)) {
            self.inbound.abandon(job.plane(), tag, chunk);
        }
        if let Some(discarded) = self.storing.files.discard(file) {
            self.storing.remove_beside(job, file, discarded);
        }
        self.storing.open_wanted(job, &self.arriving);
    }
}
