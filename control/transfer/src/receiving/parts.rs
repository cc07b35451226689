//! Chunks that are stored into a store without descriptors: lanes hand them over when they are
//! whole, and helpers give them to the store.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use culvert_link::handles::LentBuffer;
use culvert_objects::sink::{ObjectSink, PartWriter};
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::tree_hash::{ChunkHash, ChunkHasher};

use crate::events::{Event, Stage};
use crate::receiving::done::Done;
use crate::receiving::job::Job;
use crate::receiving::open_file::not_accepted;
use crate::receiving::put_objects::Put;

/// Zeros that are written at once for a hole.
static ZEROS: [u8; 256 << 10] = [0; 256 << 10];

/// A part of an object is whole: it is hashed, and given to the store.
pub(super) fn write_part(
    job: &Job,
    writer: Arc<dyn PartWriter>,
    chunk: u32,
    file: u32,
    offset: u64,
    buffer: LentBuffer,
) {
    let (intake, observer) = (job.intake.clone(), job.context.observer.clone());
    let (checksum, chunk_bytes) = (job.context.options.checksum, job.context.options.chunk_bytes);
    job.help_blocking(move || {
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
        Done::PartWritten { chunk, written: written.map(|()| hash) }
    });
}

/// Writes the zeros of a hole.
pub(super) fn write_zeros(job: &Job, writer: Arc<dyn PartWriter>, chunk: u32, hash: ChunkHash) {
    let Some(ChunkContent::Range { file, offset, bytes, .. }) = job.chunks.content(chunk) else { return };
    let intake = job.intake.clone();
    job.help_blocking(move || {
        let steps = (0..bytes).step_by(ZEROS.len());
        let mut written = steps.map(|at| {
            let piece = ZEROS.get(..(bytes - at) as usize).unwrap_or(&ZEROS);
            writer.write(offset + u64::from(at), piece)
        });
        let result = written.try_for_each(|written| written).map_err(|why| not_accepted(&intake, file, &why));
        Done::Punched { chunk, hash, result }
    });
}

/// Gives the files of a pack to the store, if they are what the sender hashed.
pub(super) fn put_pack(
    job: &Job,
    sink: Arc<dyn ObjectSink>,
    chunk: u32,
    buffer: LentBuffer,
    hashes: Option<Vec<ChunkHash>>,
    failed: HashSet<u32>,
) {
    let (intake, chunks, observer) = (job.intake.clone(), job.chunks.clone(), job.context.observer.clone());
    job.help_blocking(move || {
        let began = Instant::now();
        let mut put = Put { pack: Some(chunk), ..Put::default() };
        if let Some(ChunkContent::Pack { files, .. }) = chunks.content(chunk) {
            put.all(&*sink, &intake, files, buffer.bytes(), hashes.as_deref(), &failed);
        }
        drop(buffer);
        observer.note(Event::StageTook { stage: Stage::Write, time: began.elapsed() });
        Done::Put(put)
    });
}

/// Gives files without bytes to the store, and what is no file.
pub(super) fn put_empty(job: &Job, sink: Arc<dyn ObjectSink>, files: Vec<u32>) {
    let intake = job.intake.clone();
    let is_file = |file: &u32| intake.manifest.file_bytes(*file).is_some();
    let others: Vec<u32> =
        (0..intake.manifest.len() as u32).filter(|file| !is_file(file) && intake.is_sent(*file)).collect();
    job.help_blocking(move || {
        let mut put = Put::default();
        for file in others.into_iter().chain(files) {
            put.one(&*sink, &intake, file, &[]);
        }
        Done::Put(put)
    });
}
