//! Packs that are whole: their files are written by helpers, under temporary names or into a store.

use std::collections::HashSet;
use std::time::Instant;

use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::PACKS_ARE_TOLD_SINCE;

use crate::events::{Event, Stage};
use crate::receiving::arriving::Arriving;
use crate::receiving::done::Done;
use crate::receiving::job::Job;
use crate::receiving::parts::put_pack;
use crate::receiving::tally::Tally;

/// Lets a helper unpack a pack when it and its hashes are there.
pub(super) fn unpack_if_ready(
    job: &Job,
    arriving: &mut Arriving,
    tally: &mut Tally,
    failed: &HashSet<u32>,
    chunk: u32,
) {
    //= W-55
    //# The receiver stores a pack only after that message, and does not store the data in the place
    //# of a failed file.
    let checksum = job.context.options.checksum;
    let is_told = checksum || job.context.connection.version >= PACKS_ARE_TOLD_SINCE;
    let Some((buffer, hashes)) = arriving.take_pack(chunk, is_told) else { return };
    let hashes = hashes.filter(|_| checksum);
    let Some(ChunkContent::Pack { files, .. }) = job.chunks.content(chunk) else { return };
    for (&file, &hash) in files.iter().zip(hashes.iter().flatten()) {
        tally.set_hash(file, hash);
    }
    let failed: HashSet<u32> = files.iter().copied().filter(|file| failed.contains(file)).collect();
    if let Some(sink) = job.intake.sink.clone() {
        return put_pack(job, sink, chunk, buffer, hashes, failed);
    }
    let (intake, chunks, observer) = (job.intake.clone(), job.chunks.clone(), job.context.observer.clone());
    let preserve = job.context.options.preserve;
    job.help_blocking(move || {
        let began = Instant::now();
        let pack = match (chunks.content(chunk), intake.unpacking(preserve)) {
            (Some(ChunkContent::Pack { files, .. }), Some(unpacking)) => {
                unpacking.stage(files, buffer.bytes(), hashes.as_deref(), |file| failed.contains(&file))
            }
            _ => Default::default(),
        };
        drop(buffer);
        observer.note(Event::StageTook { stage: Stage::Write, time: began.elapsed() });
        Done::Unpacked { chunk, pack }
    });
}
