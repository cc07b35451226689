//! Events that a sending flow's lane cannot report: it is another process, and may be compromised.
//!
//! An event for a chunk that the flow does not have, or no longer has, is ignored. An event that no
//! lane ever reports ends the data plane: otherwise the transfer would wait forever, or the
//! receiver would be blamed for what this host's data plane did.
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

use culvert_plane::SendEvent;

use crate::sending::hashing::Hashing;
use crate::sending::job::Job;
use crate::sending::pipeline::Pipeline;

/// The chunk that an event concerns, if it concerns one.
pub(super) const fn chunk_of(event: &SendEvent) -> Option<u32> {
    match *event {
        SendEvent::Fill { chunk, .. }
        | SendEvent::Hashed { chunk, .. }
        | SendEvent::Delivered { chunk, .. }
        | SendEvent::ReadFailed { chunk, .. }
        | SendEvent::Withdrawn { chunk } => Some(chunk),
        _ => None,
    }
}

/// Why an event is impossible, if it is.
pub(super) fn impossible(
    job: &Job,
    pipeline: &Pipeline,
    hashing: &Hashing,
    failed: &HashSet<u32>,
    tag: usize,
    event: &SendEvent,
) -> Option<&'static str> {
    match chunk_of(event) {
        Some(chunk) if !pipeline.queue.has(chunk) => {
            return Some("it sent an event of a chunk that the transfer does not have");
        }
        Some(chunk) if !pipeline.queue.is_assigned_to(chunk, tag) => return None,
        _ => {}
    }
    let is_filled_here = |chunk| pipeline.is_filled_here(&job.payload, chunk);
    // What this process fills it hashes too.
    let is_hashed_there = |chunk| job.context.options.checksum && !is_filled_here(chunk);
    match *event {
        SendEvent::Hashed { chunk, .. } if !is_hashed_there(chunk) => Some("it hashed something it was not to hash"),
        SendEvent::Hashed { chunk, .. } if hashing.has_chunk(chunk) => Some("it hashed a chunk twice"),
        SendEvent::Delivered { chunk, .. } if is_hashed_there(chunk) && !hashing.has_chunk(chunk) => {
            Some("it delivered a chunk that it has not hashed")
        }
        SendEvent::Delivered { chunk, .. } if is_filled_here(chunk) && !pipeline.queue.is_filled(chunk) => {
            Some("it delivered a chunk that is not filled")
        }
        SendEvent::ReadFailed { chunk, .. } if job.payload.file_of(chunk).is_none() => {
            Some("it reports a failed read that it was not to make")
        }
        // Chunks are taken back of files that were given up, and of no others.
        SendEvent::Withdrawn { chunk } if !job.payload.file_of(chunk).is_some_and(|file| failed.contains(&file)) => {
            Some("it gave up a chunk of its own accord")
        }
        SendEvent::PathClosed { .. } if pipeline.flows.was_open(tag) => Some("it reports an open path as closed"),
        // Flows are closed only after their listener is gone.
        SendEvent::Closed => Some("it closed a flow of its own accord"),
        _ => None,
    }
}
