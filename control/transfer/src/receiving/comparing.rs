//! Files that are compared by their chunks with those that they would replace.
//!
//! The chunks of the old file are hashed where they are, and the sender proves those that its own
//! file has too. If that is all of them, and nobody has touched the old file, it stays, and nothing
//! is written. Else the file is made as any other, and what was proved is copied into it beside
//! what comes by the flows. If the old file has changed by then the copies are hashed once more,
//! and what is not right is asked for: so whatever is written to the old file meanwhile, what is
//! stored is the sender's.

use std::collections::{HashMap, HashSet};

use culvert_link::commands::FileRange;
use culvert_objects::fs::destination::file_errors::unwritable;
use culvert_objects::fs::destination::old_files::{OldFile, Range, copy_ranges};
use culvert_protocol::control::RefusalCode;
use culvert_protocol::tree_hash::ChunkHash;
use culvert_system::os_error;
use rustix::io::Errno;

use crate::blocking;
use crate::error::TransferError;
use crate::receiving::arriving::Arriving;
use crate::receiving::chunk_hashes::hash_chunks;
use crate::receiving::done::Done;
use crate::receiving::job::Job;
use crate::receiving::old_files::{Comparison, Copied, OldFiles, keep_old};
use crate::receiving::open_file::OpenPartial;
use crate::receiving::storing::Storing;
use crate::shares::Kind;

/// A file whose chunks are all proved, and whose hash is not what the sender says.
#[derive(Debug)]
pub(super) struct WrongWhole;

/// Hashes files that would be replaced, and offers their chunks to the sender: what its file has
/// too is not sent. Returns the bytes that were hashed.
///
/// # Errors
/// [`TransferError`] if the data plane died.
pub(super) async fn prove_old_files(
    job: &Job,
    arriving: &mut Arriving,
    old_files: &mut OldFiles,
) -> Result<u64, TransferError> {
    //= W-47
    //# For each regular file that is replaced by a file with chunks of its own (W-37), the receiver
    //# hashes the old file. In `Proofs` it lists the hashes of those of the new file's chunks for
    //# which the old file has bytes.
    let first_chunks: HashMap<u32, u32> = job.chunks.files().collect();
    let mut bytes = 0u64;
    for compared in &job.intake.compared {
        let Some(&first) = first_chunks.get(&compared.file) else { continue };
        let (opening, file) = (job.intake.clone(), compared.file);
        let opened = blocking(move || {
            let destination = opening.destination.as_ref().ok_or(Errno::INVAL)?;
            OldFile::open(destination, &destination.name(&opening.manifest, file))
        });
        let _place = job.context.share.piece(Kind::Files);
        // What cannot be read is replaced by what is sent.
        let Ok(old) = opened.await else { continue };
        let Ok(installed) = job.plane().install_file(&old.buffered, old.direct.as_ref()).await else { continue };
        let hashed = hash_chunks(job, installed.slot(), first..first + compared.parts as u32).await?;
        bytes += hashed.iter().map(|&(chunk, _)| u64::from(job.chunk_bytes(chunk))).sum::<u64>();
        arriving.offer(hashed);
        let new_bytes = job.file_bytes(file);
        let (chunks, may_be_same) = (job.chunks.chunks_of_file(new_bytes), old.version.bytes == new_bytes);
        old_files.files.insert(file, Comparison::new(old.version, chunks, may_be_same));
        tokio::task::spawn_blocking(move || drop((installed, old)));
    }
    Ok(bytes)
}

impl Storing {
    /// Does what can be done with what was proved of a file: keeps it, copies from it, or waits.
    ///
    /// # Errors
    /// [`WrongWhole`] if its hash is not the one that the sender states.
    pub(super) fn use_old(
        &mut self,
        job: &Job,
        arriving: &Arriving,
        failed: &HashSet<u32>,
        file: u32,
    ) -> Result<(), WrongWhole> {
        let Some(old) = self.old.files.get_mut(&file) else { return Ok(()) };
        if old.proved.is_empty() || old.is_keeping || failed.contains(&file) {
            return Ok(());
        }
        let has_all = old.has_all();
        if has_all && old.may_be_same {
            if let Some(theirs) = self.files.complete(file) {
                keep_if_same(job, file, old, theirs)?;
            }
        } else if self.files.get(file).is_some() {
            if let Some(opened) = self.files.opened_file(file) {
                copy_from_old(job, file, old, opened);
            }
        } else if has_all || self.files.is_closed(file) {
            // Nothing else would open it.
            self.files.want_open(file);
            self.open_wanted(job, arriving);
        }
        Ok(())
    }
}

/// Lets a helper keep an old file if all of it is what the sender has.
fn keep_if_same(job: &Job, file: u32, old: &mut Comparison, theirs: ChunkHash) -> Result<(), WrongWhole> {
    if old.hash() != Some(theirs) {
        return Err(WrongWhole);
    }
    old.is_keeping = true;
    let (intake, version, preserve) = (job.intake.clone(), old.version, job.context.options.preserve);
    job.help_blocking(move || {
        let result = keep_old(&intake, file, version, preserve);
        Done::Kept { file, hash: theirs, result }
    });
    Ok(())
}

/// Copies what was proved into the file, which is open.
fn copy_from_old(job: &Job, file: u32, old: &mut Comparison, opened: OpenPartial) {
    let (proved, version) = (old.begin_copying(), old.version);
    let ranges: Vec<(FileRange, u32)> =
        proved.iter().filter_map(|proved| job.range_of(proved.chunk, opened.slot())).collect();
    let (intake, plane, chunk_bytes) = (job.intake.clone(), job.plane().clone(), job.context.options.chunk_bytes);
    job.help(async move {
        let to = opened.partial();
        let wanted: Vec<Range> = ranges.iter().map(|&(range, bytes)| (range.offset, bytes)).collect();
        let copied = blocking(move || {
            let destination = intake.destination.as_ref().ok_or(Errno::INVAL);
            let copied = destination.and_then(|destination| {
                let name = destination.name(&intake.manifest, file);
                copy_ranges(destination, &name, version, &to, &wanted)
            });
            copied.map_err(|error| (error, unwritable(&intake.name(file), file, error)))
        });
        let mut result = Copied::default();
        match copied.await {
            Ok(true) => result.right = proved,
            Err((error, text)) if os_error::code(error) == RefusalCode::NoSpace => result.error = Some(text),
            // Some of it may still be right.
            Ok(false) | Err(_) => {
                for (proved, &(range, bytes)) in proved.into_iter().zip(&ranges) {
                    let lane = (proved.chunk as usize % plane.lanes().len()) as u16;
                    match plane.check(lane, range, bytes, chunk_bytes).await {
                        Ok(Ok(hash)) if hash == proved.hash => result.right.push(proved),
                        _ => result.wrong.push(proved.chunk),
                    }
                }
            }
        }
        tokio::task::spawn_blocking(move || drop(opened));
        Done::Copied { file, copied: result }
    });
}
