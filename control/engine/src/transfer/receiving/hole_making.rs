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

use std::time::Instant;

use culvert_objects::fs::destination::file_errors::unwritable;
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::FileError;
use culvert_protocol::tree_hash::ChunkHash;

use crate::limits::HOLE_HASHING_REST;
use crate::transfer::blocking;
use crate::transfer::error::TransferError;
use crate::transfer::receiving::done::Done;
use crate::transfer::receiving::files::WaitingChunk;
use crate::transfer::receiving::holes::{HashedHole, Hole, hash_all};
use crate::transfer::receiving::open_file::Writing;
use crate::transfer::receiving::state::Receiving;

/// Holes that a helper hashes before it reports.
const AT_ONCE: usize = 16;

impl Receiving {
    /// Chunks that the sender's file has as holes.
    pub(super) fn take_holes(&mut self, holes: Vec<(u32, ChunkHash)>) -> Result<(), TransferError> {
        for (chunk, hash) in holes {
            self.check_chunk_number(chunk)?;
            let Some(ChunkContent::Range { file, .. }) = self.arriving.chunks.content(chunk) else {
                return Err(TransferError::protocol("it has a hole in a pack"));
            };
            if self.failures.failed.contains(&file) {
                continue;
            }
            // There can be a hole only where nothing has come, nor come and been found wrong.
            let has_come = self.arriving.verified.contains(chunk) || self.arriving.came_by.contains_key(&chunk);
            if has_come || self.arriving.tries.contains_key(&chunk) || !self.holes.under_way.insert(chunk) {
                return Err(TransferError::protocol(format!(
                    "it has a hole where it has sent bytes, or a hole already (chunk {chunk})"
                )));
            }
            // What was found in its place will be zeros.
            self.arriving.offered.remove(&chunk);
            self.holes.waiting.push_back(Hole { chunk, hash });
        }
        self.hash_holes();
        Ok(())
    }

    /// Lets a helper hash the next holes, unless one is at it.
    fn hash_holes(&mut self) {
        if self.holes.is_hashing || self.holes.waiting.is_empty() {
            return;
        }
        self.holes.is_hashing = true;
        let next: Vec<Hole> = self.holes.waiting.drain(..AT_ONCE.min(self.holes.waiting.len())).collect();
        let (checksum, chunk_bytes) = (self.context.options.checksum, self.context.options.chunk_bytes);
        let (intake, chunks, done) = (self.intake.clone(), self.arriving.chunks.clone(), self.done.clone());
        let helper = self.context.share.hole_helper();
        tokio::spawn(async move {
            // One at a time for each partner, and not all of the time: what a message of a few
            // bytes costs here is the same as what it costs an honest sender, who reads nothing
            // either.
            let Ok(_permit) = helper.acquire().await else { return };
            let began = Instant::now();
            let hashed: Vec<HashedHole> =
                blocking(move || hash_all(&next, &intake, &chunks, checksum, chunk_bytes)).await;
            let spent = began.elapsed();
            let _ = done.send(Done::HolesHashed(hashed));
            tokio::time::sleep(spent.saturating_mul(HOLE_HASHING_REST)).await;
        });
    }

    /// Holes were hashed: those that are what the sender says are made.
    pub(super) fn holes_hashed(&mut self, hashed: Vec<HashedHole>) -> Result<(), TransferError> {
        self.holes.is_hashing = false;
        self.hash_holes();
        for HashedHole { chunk, hash, is_of_zeros } in hashed {
            if !is_of_zeros {
                return Err(TransferError::protocol("its hash of a hole is not that of zeros"));
            }
            let Some(ChunkContent::Range { file, .. }) = self.arriving.chunks.content(chunk) else { continue };
            if self.failures.failed.contains(&file) {
                self.holes.under_way.remove(&chunk);
            } else if self.files.get(file).is_some() {
                self.punch(chunk, hash);
            } else {
                self.wait_for_file(file, WaitingChunk::Hole { chunk, hash });
            }
        }
        Ok(())
    }

    /// Makes a hole in a file that is open, unless it was given up.
    pub(super) fn punch(&mut self, chunk: u32, hash: ChunkHash) {
        let Some(ChunkContent::Range { file, offset, bytes, .. }) = self.arriving.chunks.content(chunk) else { return };
        if let Some(Writing::Here(writer)) = self.files.get(file).filter(|_| !self.failures.failed.contains(&file)) {
            return self.write_zeros(chunk, hash, writer);
        }
        let partial = self.files.partial(file).filter(|_| !self.failures.failed.contains(&file));
        let Some(partial) = partial else {
            self.holes.under_way.remove(&chunk);
            return;
        };
        let (intake, done) = (self.intake.clone(), self.done.clone());
        tokio::task::spawn_blocking(move || {
            let punched = partial.punch(offset, bytes.into());
            let result = punched.map_err(|error| unwritable(&intake.name(file), file, error));
            let _ = done.send(Done::Punched { chunk, hash, result });
        });
    }

    /// A hole was made, or not.
    pub(super) fn punched(
        &mut self,
        chunk: u32,
        hash: ChunkHash,
        result: Result<(), FileError>,
    ) -> Result<(), TransferError> {
        self.holes.under_way.remove(&chunk);
        let Some(ChunkContent::Range { file, bytes, .. }) = self.arriving.chunks.content(chunk) else { return Ok(()) };
        if self.failures.failed.contains(&file) {
            return Ok(());
        }
        match result {
            Ok(()) => {
                self.tally.bytes_arrived = self.tally.bytes_arrived.saturating_add(bytes.into());
                self.chunk_verified(chunk, hash);
                Ok(())
            }
            Err(error) => self.fail_file_or_end(error),
        }
    }
}
