//! Chunks that are stored into a store without descriptors: lanes hand them over when they are
//! whole, and helpers give them to the store.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use culvert_link::handles::LentBuffer;
use culvert_objects::sink::{ObjectSink, PartWriter};
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{FileError, Message};
use culvert_protocol::tree_hash::{ChunkHash, ChunkHasher};

use crate::events::{Event, Stage};
use crate::transfer::error::TransferError;
use crate::transfer::receiving::done::Done;
use crate::transfer::receiving::open_file::{Writing, not_accepted};
use crate::transfer::receiving::put_objects::Put;
use crate::transfer::receiving::state::Receiving;

/// Zeros that are written at once for a hole.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

impl Receiving {
    /// A part of an object is whole: it is hashed, and given to the store.
    pub(super) fn write_part(&self, chunk: u32, file: u32, offset: u64, buffer: LentBuffer) {
        let Some(Writing::Here(writer)) = self.files.get(file) else { return };
        let (intake, done, observer) = (self.intake.clone(), self.done.clone(), self.context.observer.clone());
        let (checksum, chunk_bytes) = (self.context.options.checksum, self.context.options.chunk_bytes);
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let hash = checksum.then(|| {
                let file_bytes = intake.manifest.file_bytes(file).unwrap_or(0);
                let mut hasher = ChunkHasher::new(file_bytes, offset, chunk_bytes);
                hasher.update(buffer.bytes());
                hasher.finish()
            });
            let written = writer.write(offset, buffer.bytes()).map_err(|why| not_accepted(&intake, file, &why));
            drop(buffer);
            observer.note(Event::StageTook { stage: Stage::Write, time: began.elapsed() });
            let _ = done.send(Done::PartWritten { chunk, written: written.map(|()| hash) });
        });
    }

    /// A part was written, or not.
    pub(super) async fn part_written(
        &mut self,
        chunk: u32,
        written: Result<Option<ChunkHash>, FileError>,
    ) -> Result<(), TransferError> {
        // Its file was given up meanwhile.
        if !self.arriving.came_by.contains_key(&chunk) {
            return Ok(());
        }
        self.arriving.handed.remove(&chunk);
        match written {
            Err(error) => self.fail_file_or_end(error),
            Ok(hash) => {
                self.tally.bytes_arrived = self.tally.bytes_arrived.saturating_add(self.chunk_bytes(chunk).into());
                let Some(hash) = hash else {
                    self.chunk_verified(chunk, [0; 32]);
                    return Ok(());
                };
                self.arriving.ours.insert(chunk, hash);
                self.compare(chunk).await
            }
        }
    }

    /// Writes the zeros of a hole.
    pub(super) fn write_zeros(&self, chunk: u32, hash: ChunkHash, writer: Arc<dyn PartWriter>) {
        let Some(ChunkContent::Range { file, offset, bytes, .. }) = self.arriving.chunks.content(chunk) else { return };
        let (intake, done) = (self.intake.clone(), self.done.clone());
        tokio::task::spawn_blocking(move || {
            let steps = (0..bytes).step_by(ZEROS.len());
            let mut written = steps.map(|at| {
                let piece = ZEROS.get(..(bytes - at) as usize).unwrap_or(&ZEROS);
                writer.write(offset + u64::from(at), piece)
            });
            let result = written.try_for_each(|written| written).map_err(|why| not_accepted(&intake, file, &why));
            let _ = done.send(Done::Punched { chunk, hash, result });
        });
    }

    /// Gives the files of a pack to the store, if they are what the sender hashed.
    pub(super) fn put_pack(
        &self,
        chunk: u32,
        sink: Arc<dyn ObjectSink>,
        buffer: LentBuffer,
        hashes: Option<Vec<ChunkHash>>,
        failed: HashSet<u32>,
    ) {
        let (intake, chunks, done) = (self.intake.clone(), self.arriving.chunks.clone(), self.done.clone());
        let observer = self.context.observer.clone();
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let mut put = Put { pack: Some(chunk), ..Put::default() };
            if let Some(ChunkContent::Pack { files, .. }) = chunks.content(chunk) {
                let mut rest = buffer.bytes();
                let mut pieces = Vec::with_capacity(files.len());
                for &file in files {
                    let bytes = intake.manifest.file_bytes(file).unwrap_or(0) as usize;
                    let Some((piece, after)) = rest.split_at_checked(bytes) else { break };
                    pieces.push((file, piece));
                    rest = after;
                }
                pieces.retain(|(file, _)| !failed.contains(file));
                let hash_of = |file: u32| {
                    let at = files.iter().position(|&one| one == file)?;
                    hashes.as_ref()?.get(at)
                };
                let is_right = |&(file, piece): &(u32, &[u8])| match (&hashes, hash_of(file)) {
                    (None, _) => true,
                    (Some(_), Some(hash)) => blake3::hash(piece).as_bytes() == hash,
                    (Some(_), None) => false,
                };
                put.is_mismatched = !pieces.iter().all(is_right);
                for (file, piece) in pieces.into_iter().filter(|_| !put.is_mismatched).collect::<Vec<_>>() {
                    put.one(&*sink, &intake, file, piece);
                }
            }
            drop(buffer);
            observer.note(Event::StageTook { stage: Stage::Write, time: began.elapsed() });
            let _ = done.send(Done::Put(put));
        });
    }

    /// Gives files without bytes to the store, and what is no file.
    pub(super) fn put_empty(&mut self, files: Vec<u32>) {
        let Some(sink) = self.intake.sink.clone() else { return };
        let (intake, done) = (self.intake.clone(), self.done.clone());
        let is_file = |file: &u32| self.intake.manifest.file_bytes(*file).is_some();
        let others: Vec<u32> = (0..self.intake.manifest.len() as u32)
            .filter(|file| !is_file(file) && self.intake.is_sent(*file))
            .collect();
        // The transfer does not end before.
        self.tally.partials_in_motion += 1;
        tokio::task::spawn_blocking(move || {
            let mut put = Put::default();
            for file in others.into_iter().chain(files) {
                put.one(&*sink, &intake, file, &[]);
            }
            let _ = done.send(Done::Put(put));
        });
    }

    /// Small objects are stored, or not.
    pub(super) async fn objects_put(&mut self, put: Put) -> Result<(), TransferError> {
        let Put { pack, is_mismatched, stored, failed } = put;
        if let Some(chunk) = pack {
            if is_mismatched {
                return self.try_again(chunk).await;
            }
            self.arriving.came_by.remove(&chunk);
            self.arriving.verified.insert(chunk);
            self.tally.steps += 1;
            self.tally.bytes_arrived = self.tally.bytes_arrived.saturating_add(self.chunk_bytes(chunk).into());
        } else {
            self.tally.partials_in_motion -= 1;
        }
        for error in failed {
            if self.intake.manifest.file_bytes(error.file).is_some() {
                self.fail_file_or_end(error)?;
            } else {
                self.failures.errors.push(error.clone());
                self.context.connection.writer.send(Message::FileRefused(error)).await?;
            }
        }
        let is_file = |file: &u32| self.intake.manifest.file_bytes(*file).is_some();
        let files: Vec<u32> = stored.into_iter().filter(is_file).collect();
        self.files_stored(&files);
        self.say_stored(pack.into_iter().collect()).await
    }
}
