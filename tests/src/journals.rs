//! The contents of a node's journals.

use std::fs;
use std::path::{Path, PathBuf};

use culvert_engine::journal::{Record, records};

use crate::node::wait_for;

/// The journals of a state directory, with their records.
#[must_use]
pub fn journals(state: &Path) -> Vec<(PathBuf, Vec<Record>)> {
    let entries = fs::read_dir(state.join("journals")).into_iter().flatten().flatten();
    let of = |path: PathBuf| fs::read(&path).ok().map(|bytes| (path, records(&bytes).collect()));
    entries.filter_map(|entry| of(entry.path())).collect()
}

/// Waits until a journal has records that satisfy `is_enough`.
///
/// # Panics
/// If none ever does.
pub fn wait_for_records(state: &Path, what: &str, is_enough: impl Fn(&[Record]) -> bool) {
    wait_for(what, || journals(state).iter().any(|(_, records)| is_enough(records)).then_some(()));
}

/// Whether a record says that a chunk is stored.
#[must_use]
pub const fn is_chunk(record: &Record) -> bool {
    matches!(record, Record::Chunk { .. })
}

/// Whether a record says that a file is stored.
#[must_use]
pub const fn is_done(record: &Record) -> bool {
    matches!(record, Record::Done { .. })
}
