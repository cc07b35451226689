//! Chunks that this process fills: a lane lends a buffer, a helper reads into it, and the chunk
//! goes when the buffer is given back.

use std::sync::Arc;
use std::time::Instant;

use culvert_link::handles::LentBuffer;
use culvert_objects::source::{RangeReader, SourceTree};
use culvert_protocol::chunk_map::{ChunkContent, ChunkMap};
use culvert_protocol::control::FileError;
use culvert_protocol::names::printable;

use crate::events::{Event, Stage};
use crate::packs::{FilledPack, fill};
use crate::sending::done::Done;
use crate::sending::job::Job;
use crate::sending::range::Range;

/// Lets a helper fill the buffer of a chunk: from `reader` if it is a range of an object, from the
/// tree's files if it is a pack.
pub(super) fn begin_to_fill(
    job: &Job,
    tree: &Arc<SourceTree>,
    chunks: &Arc<ChunkMap>,
    chunk: u32,
    reader: Option<Arc<dyn RangeReader>>,
    mut buffer: LentBuffer,
) {
    let (tree, chunks) = (tree.clone(), chunks.clone());
    let (checksum, chunk_bytes) = (job.context.options.checksum, job.context.options.chunk_bytes);
    let observer = job.context.observer.clone();
    job.help_blocking(move || {
        let began = Instant::now();
        let filled = match (chunks.content(chunk), reader) {
            (Some(ChunkContent::Range { file, offset, bytes, .. }), Some(reader)) => {
                let file_bytes = tree.listing.manifest.file_bytes(file).unwrap_or(0);
                let range = Range { file_bytes, offset, bytes };
                let hash = range.read(&*reader, buffer.bytes_mut(), chunk_bytes, checksum).map_err(|why| {
                    let name = printable(tree.listing.manifest.entry(file).name);
                    let text = format!("'{name}' cannot be read: {why}");
                    FileError { file, code: "unreadable".to_owned(), text }
                });
                Done::RangeFilled { chunk, hash, buffer }
            }
            (Some(ChunkContent::Pack { files, .. }), _) => {
                let pack = fill(&tree, files, &mut buffer, checksum);
                Done::Filled { chunk, pack, buffer }
            }
            _ => Done::Filled { chunk, pack: FilledPack { hashes: Vec::new(), failed: Vec::new() }, buffer },
        };
        observer.note(Event::StageTook { stage: Stage::Read, time: began.elapsed() });
        filled
    });
}
