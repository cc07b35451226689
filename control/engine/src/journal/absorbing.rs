//! What other journals of the same partner and destination say of the same files.
//!
//! The sources of a transfer may be named differently the next time: one more, one less, a
//! directory's contents instead of the directory. Then its journal is another one, and what the
//! first has stored is found here: a journal that knows one of the files is taken over as a whole
//! and removed. One that is in use is left to its transfer, and one of other files to its next
//! attempt.

use std::path::{Path, PathBuf};

use culvert_objects::fs::sources::hash_of;
use culvert_protocol::control::RefusalCode;
use culvert_protocol::manifest::Manifest;
use culvert_system::regular_file::{self, Links, sync_directory};

use crate::journal::appending::Journal;
use crate::journal::error::JournalError;
use crate::journal::file::{JOURNAL_BYTES_MAX, directory_of};
use crate::journal::place::Place;
use crate::journal::reading::{EarlierAttempts, read};
use crate::journal::record::VERSION;

/// Journals of one partner and destination that are looked into; more are not left by anything but
/// malice.
const OTHERS_MAX: usize = 1_024;

/// Takes over what other journals say of `manifest`'s files, into `journal` and `past`.
/// `single_name` as for [`Journal::open`]. Their records are durable in `journal` before theirs are
/// removed.
///
/// # Errors
/// [`JournalError::Os`] if `journal` cannot be written; nothing is removed then.
pub fn absorb_others(
    place: &Place,
    manifest: &Manifest,
    single_name: Option<&[u8]>,
    journal: &mut Journal,
    past: &mut EarlierAttempts,
) -> Result<(), JournalError> {
    for path in others(place) {
        // One that is in use, cannot be read, or is of a newer version is left alone.
        let (other, theirs) = match Journal::open(path, single_name) {
            Ok(opened) => opened,
            // What only could not be looked at now would be sent once more.
            Err(error) if error.code() == RefusalCode::Temporary && !matches!(error, JournalError::InUse) => {
                return Err(error);
            }
            Err(_) => continue,
        };
        if !theirs.is_about(&place.top_names, manifest.entries().map(|(_, entry)| hash_of(entry.name))) {
            continue;
        }
        let records = theirs.to_records(journal.next_begun());
        journal.append(records).map_err(|error| JournalError::Os { path: journal.path.clone(), error })?;
        past.absorb(theirs);
        let path = other.path.clone();
        // If it stays, the next attempt finds the same once more.
        let _ = other.remove().and_then(|()| sync_directory(directory_of(&path)));
    }
    Ok(())
}

/// What the journals contain that [`absorb_others`] would find, without opening, locking or
/// changing any: for a dry run, which may run during the transfer itself. Unreadable journals are
/// skipped.
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
