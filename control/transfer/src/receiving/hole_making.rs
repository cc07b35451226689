//! How chunks become holes: their hashes are computed and the holes are made outside the runtime's
//! thread, while the task continues with everything else ([`super::holes`]).
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

use std::collections::HashSet;
use std::time::Instant;

use culvert_objects::fs::destination::file_errors::unwritable;
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::tree_hash::ChunkHash;

use crate::blocking;
use crate::error::TransferError;
use crate::limits::HOLE_HASHING_REST;
use crate::receiving::arriving::Arriving;
use crate::receiving::done::Done;
use crate::receiving::files::IncomingFiles;
use crate::receiving::holes::{HashedHole, Hole, Holes, hash_all};
use crate::receiving::job::Job;
use crate::receiving::open_file::Writing;
use crate::receiving::parts::write_zeros;

/// The sender names chunks that are holes in its file.
///
/// # Errors
/// [`TransferError`] for holes that cannot be.
pub(super) fn take_holes(
    job: &Job,
    arriving: &mut Arriving,
    failed: &HashSet<u32>,
    holes: Vec<(u32, ChunkHash)>,
) -> Result<(), TransferError> {
    for (chunk, hash) in holes {
        job.check_chunk_number(chunk)?;
        let Some(file) = job.file_of(chunk) else {
            return Err(TransferError::protocol("it has a hole in a pack"));
        };
        if failed.contains(&file) {
            continue;
        }
        //= W-40
        //# A hole is not accepted where data has arrived.
        if arriving.has_come(chunk) || !arriving.holes.name(Hole { chunk, hash }) {
            return Err(TransferError::protocol(format!(
                "it has a hole where it has sent bytes, or a hole already (chunk {chunk})"
            )));
        }
        // What was found in its place will be zeros.
        arriving.withdraw_offer(chunk);
    }
    hash_next(job, &mut arriving.holes);
    Ok(())
}

/// Lets a helper hash the next holes, unless one is at it.
pub(super) fn hash_next(job: &Job, holes: &mut Holes) {
    let next = holes.begin_hashing();
    if next.is_empty() {
        return;
    }
    let (checksum, chunk_bytes) = (job.context.options.checksum, job.context.options.chunk_bytes);
    let (intake, chunks, done) = (job.intake.clone(), job.chunks.clone(), job.where_helpers_report());
    let helper = job.context.share.hole_helper();
    tokio::spawn(async move {
        // One at a time for each partner, and not all of the time: what a message of a few bytes
        // costs here is the same as what it costs an honest sender, who reads nothing either.
        let Ok(_permit) = helper.acquire().await else { return };
        let began = Instant::now();
        let hashed: Vec<HashedHole> = blocking(move || hash_all(&next, &intake, &chunks, checksum, chunk_bytes)).await;
        let spent = began.elapsed();
        // The transfer may have ended meanwhile.
        let _ = done.send(Done::HolesHashed(hashed));
        tokio::time::sleep(spent.saturating_mul(HOLE_HASHING_REST)).await;
    });
}

/// Makes a hole in a file that is open, unless it was given up.
pub(super) fn punch(
    job: &Job,
    files: &IncomingFiles,
    holes: &mut Holes,
    failed: &HashSet<u32>,
    chunk: u32,
    hash: ChunkHash,
) {
    let Some(ChunkContent::Range { file, offset, bytes, .. }) = job.chunks.content(chunk) else { return };
    let writing = files.get(file).filter(|_| !failed.contains(&file));
    if let Some(Writing::Here(writer)) = writing {
        return write_zeros(job, writer, chunk, hash);
    }
    let Some(partial) = files.partial(file).filter(|_| !failed.contains(&file)) else {
        holes.end(chunk);
        return;
    };
    let intake = job.intake.clone();
    job.help_blocking(move || {
        let punched = partial.punch(offset, bytes.into());
        let result = punched.map_err(|error| unwritable(&intake.name(file), file, error));
        Done::Punched { chunk, hash, result }
    });
}
