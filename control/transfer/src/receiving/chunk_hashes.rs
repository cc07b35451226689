//! Chunks of files that are here already, read back and hashed by the lanes.

use std::collections::HashMap;

use culvert_link::commands::FileSlot;
use culvert_protocol::tree_hash::ChunkHash;
use tokio::task::JoinSet;

use crate::error::TransferError;
use crate::receiving::arriving::Arriving;
use crate::receiving::files::IncomingFiles;
use crate::receiving::job::Job;
use crate::receiving::open_file::{self, InitialContent};
use crate::shares::Kind;

/// Chunks that each lane reads back and hashes at once.
const CHECKS_PER_LANE: usize = 4;

/// Reads the chunks that an earlier attempt stored, and offers those that still have their hash to
/// the sender.
///
/// # Errors
/// [`TransferError`] if the data plane died.
pub(super) async fn prove_stored_chunks(
    job: &Job,
    arriving: &mut Arriving,
    files: &mut IncomingFiles,
) -> Result<(), TransferError> {
    //= W-38
    //# `Proofs` (hashes, freshly read back, of chunks stored by an earlier attempt or contained in
    //# the file to be replaced)
    let first_chunks: HashMap<u32, u32> = job.chunks.files().collect();
    for begun in &job.intake.begun {
        let Some(&first) = first_chunks.get(&begun.file) else { continue };
        let (left, place) = (InitialContent::Left(begun.left), job.context.share.piece(Kind::Files));
        let opened = open_file::open_in_directory(job.plane(), job.intake.clone(), begun.file, left, place).await;
        let Ok(opened) = opened else { continue };
        let chunks: Vec<u32> = begun.chunks.iter().map(|&(part, _)| first + part as u32).collect();
        let then: HashMap<u32, ChunkHash> =
            begun.chunks.iter().filter_map(|&(part, hash)| Some((first + part as u32, hash?))).collect();
        let now = hash_chunks(job, opened.slot(), chunks.into_iter()).await?;
        arriving.offer(now.into_iter().filter(|(chunk, hash)| then.get(chunk) == Some(hash)));
        files.leave(begun.file, opened.left());
        tokio::task::spawn_blocking(move || drop(opened));
    }
    Ok(())
}

/// Reads chunks of an open file back and hashes them, on all lanes at once. Those that cannot be
/// read are left out.
///
/// # Errors
/// [`TransferError`] if the data plane died.
pub(super) async fn hash_chunks(
    job: &Job,
    slot: FileSlot,
    mut chunks: impl Iterator<Item = u32>,
) -> Result<Vec<(u32, ChunkHash)>, TransferError> {
    let plane = job.plane();
    let (lanes, chunk_bytes) = (plane.lanes().len(), job.context.options.chunk_bytes);
    let (mut running, mut hashed) = (JoinSet::new(), Vec::new());
    loop {
        while running.len() < CHECKS_PER_LANE * lanes
            && let Some(chunk) = chunks.next()
        {
            let Some((range, bytes)) = job.range_of(chunk, slot) else { continue };
            let (plane, lane) = (plane.clone(), (chunk as usize % lanes) as u16);
            running.spawn(async move { (chunk, plane.check(lane, range, bytes, chunk_bytes).await) });
        }
        match running.join_next().await {
            None => return Ok(hashed),
            Some(Ok((chunk, checked))) => hashed.extend(checked?.ok().map(|hash| (chunk, hash))),
            Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}
