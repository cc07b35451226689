//! One flow, segment by segment: the real sender and receiver flows, sealing, pacer, reports and
//! controller on a virtual network.
//!
//! What the batch simulator abstracts from is real here: packet numbers, lost ranges, decided
//! packets, retransmission, the size of reports, the end of a transfer.

pub mod addresses;
mod advancing;
mod ends;
mod following;
pub(crate) mod moving;

use std::collections::HashMap;

use crate::flow::FlowOptions;
use crate::link::Path;
pub use ends::ExactOutcome;
use ends::{Restarts, Transfer};

/// Moves chunks like [`transfer`], while the segment size changes to one of `strides` repeatedly.
/// Returns how often a chunk started over.
///
/// # Panics
/// If it does not end, or if the hash that a lane computes while a chunk arrives is not that of the
/// bytes in its buffer.
#[must_use]
pub fn transfer_over_changing_mtu(
    path: Path,
    options: &FlowOptions,
    chunks: u32,
    seed: u64,
    strides: &[u16],
) -> (ExactOutcome, u64) {
    let mut transfer = Transfer::new(path, options, chunks, seed);
    let (strides, hashed) = (strides.to_vec(), HashMap::new());
    transfer.restarts = Some(Restarts { strides, next_ns: 0, version: 0, hashed, begun_anew: 0 });
    let outcome = transfer.run(seed);
    (outcome, transfer.restarts.map_or(0, |restarts| restarts.begun_anew))
}

/// Moves `chunks` chunks of a mebibyte over `path`.
///
/// # Panics
/// If it does not end within ten virtual minutes.
#[must_use]
pub fn transfer(path: Path, options: &FlowOptions, chunks: u32, seed: u64) -> ExactOutcome {
    Transfer::new(path, options, chunks, seed).run(seed)
}
