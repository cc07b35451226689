//! Takes over other journals of the same partner and destination.
//!
//! The next attempt may name its sources differently: one more, one less, a directory's contents
//! instead of the directory. It then has another journal. A journal that knows one of the same
//! files is taken over as a whole and removed. A journal in use is left to its transfer, and one of
//! other files to its own next attempt.

use std::path::{Path, PathBuf};

use culvert_objects::fs::sources::hash_of;
use culvert_protocol::control::RefusalCode;
use culvert_protocol::manifest::Manifest;
use culvert_system::regular_file::{self, Links, sync_directory};

use crate::appending::Journal;
use crate::error::JournalError;
use crate::file::{JOURNAL_BYTES_MAX, directory_of};
use crate::place::Place;
use crate::reading::{EarlierAttempts, read};
use crate::record::VERSION;

/// Journals of one partner and destination that are examined; only malice leaves more.
const OTHERS_MAX: usize = 1_024;

/// Takes over, into `journal` and `past`, what other journals say of `manifest`'s files.
/// `single_name` is as for [`Journal::open`]. Each other journal is removed only after its records
/// are durable in `journal`.
///
/// # Errors
/// [`JournalError::Os`] if `journal` cannot be written; the journal then read is not removed.
pub fn absorb_others(
    place: &Place,
    manifest: &Manifest,
    single_name: Option<&[u8]>,
    journal: &mut Journal,
    past: &mut EarlierAttempts,
) -> Result<(), JournalError> {
    for path in others(place) {
        // A journal that is in use, unreadable, or of a newer version is left alone.
        let (other, theirs) = match Journal::open(path, single_name) {
            Ok(opened) => opened,
            // Skipping a journal that is merely unreadable now would send its files again.
            Err(error) if error.code() == RefusalCode::Temporary && !matches!(error, JournalError::InUse) => {
                return Err(error);
            }
            Err(_) => continue,
        };
        if !theirs.is_about(&place.top_names, manifest.entries().map(|(_, entry)| hash_of(entry.name))) {
            continue;
        }
        // Invariant I-journal-absorb: a journal is never taken over into itself.
        assert_ne!(other.path, journal.path, "a journal is never taken over into itself");
        let records = theirs.to_records(journal.next_begun());
        journal.append(records).map_err(|error| JournalError::Os { path: journal.path.clone(), error })?;
        past.absorb(theirs);
        let path = other.path.clone();
        // If it cannot be removed, the next attempt takes the same records over again.
        let _ = other.remove().and_then(|()| sync_directory(directory_of(&path)));
    }
    Ok(())
}

/// What the journal and those that [`absorb_others`] would take over contain, read without locking
/// or changing any: a dry run may run during the transfer itself. Unreadable journals are skipped.
#[must_use]
pub fn glimpse(place: &Place, manifest: &Manifest) -> EarlierAttempts {
    let past_of = |path: &Path| {
        let bytes = regular_file::read(path, JOURNAL_BYTES_MAX, Links::Refused).ok()?;
        read(&bytes).ok().filter(|contents| contents.version == VERSION).map(|contents| contents.past)
    };
    let mut past = past_of(&place.path()).unwrap_or_default();
    let theirs = others(place).into_iter().filter_map(|path| past_of(&path));
    let names = || manifest.entries().map(|(_, entry)| hash_of(entry.name));
    theirs.filter(|theirs| theirs.is_about(&place.top_names, names())).for_each(|theirs| past.absorb(theirs));
    past
}

fn others(place: &Place) -> Vec<PathBuf> {
    let own = place.path();
    let names = std::fs::read_dir(&place.directory).into_iter().flatten().flatten();
    let is_other = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        *path != own && name.is_some_and(|name| place.has(name))
    };
    let files = names.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    files.map(|entry| entry.path()).filter(is_other).take(OTHERS_MAX).collect()
}
