//! Finds and removes journals that nobody needs anymore.

use std::path::Path;
use std::time::Duration;

use culvert_system::file_lock;
use culvert_system::regular_file::{self, Links, read_opened};

use crate::file::{JOURNAL_BYTES_MAX, is_named};
use crate::reading::{read, records};
use crate::record::Record;

/// Removes the journals in `directory` that have no useful content: those of complete
/// transfers, and those without records. Journals younger than `age` stay: a partner whose
/// signature is missing may return.
///
/// Journals of interrupted transfers are also removed once they are `age_begun` old.
pub fn sweep(directory: &Path, age: Duration, age_begun: Duration) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let elapsed = modified.ok().and_then(|modified| modified.elapsed().ok()).unwrap_or_default();
        let is_old = elapsed >= age;
        let path = entry.path();
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !is_old || path.extension().is_none_or(|extension| extension != "journal") {
            continue;
        }
        remove_unused(&path, |bytes| is_over(bytes) || elapsed >= age_begun);
    }
}

/// Whether a journal has no useful content: nothing was begun or stored since the last
/// [`Record::Complete`], or at all.
pub(crate) fn is_over(bytes: &[u8]) -> bool {
    records(bytes).fold(true, |is_over, record| match record {
        Record::Complete => true,
        Record::Header { .. } | Record::Attempt { .. } => is_over,
        Record::Begun { .. } | Record::Chunk { .. } | Record::Done { .. } | Record::Filling { .. } => false,
    })
}

/// Removes a journal if `may` permits it, unless a transfer uses it, it cannot be read, or a newer
/// version wrote it. Returns whether it was removed.
pub(crate) fn remove_unused(path: &Path, may: impl FnOnce(&[u8]) -> bool) -> bool {
    let Ok(file) = regular_file::open(path, Links::Refused) else { return false };
    let Ok(_lock) = file_lock::lock(&file) else { return false };
    let may = read_opened(&file, JOURNAL_BYTES_MAX).is_ok_and(|bytes| read(&bytes).is_ok() && may(&bytes));
    may && is_named(&file, path).is_ok_and(|named| named) && std::fs::remove_file(path).is_ok()
}
