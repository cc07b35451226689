//! Files that are there with the source's bytes and another mode, which `--preserve` sets.
//!
//! They get it after the last file, when the directories get theirs: a directory may be one that
//! nobody enters any more. No bytes of them move, and they count as what they are, there already.

use std::sync::PoisonError;

use culvert_objects::fs::destination::Destination;
use culvert_objects::fs::destination::attributes::Refused;
use culvert_objects::fs::destination::old_files::set_mode_of_same;
use culvert_objects::fs::destination::small_files::staged::StoredFile;
use culvert_protocol::control::Refusal;

use crate::journal::not_journaled;
use crate::transfer::receiving::files::records_of;
use crate::transfer::receiving::planning::Intake;

/// Files whose new modes are journaled at once.
const AT_ONCE: usize = 4_096;

impl Intake {
    /// Sets modes; whether there were any to be set. What is refused is noted.
    ///
    /// # Errors
    /// What to end the transfer with.
    pub(super) fn set_other_modes(&self, destination: &Destination) -> Result<bool, Refusal> {
        for files in self.other_modes.chunks(AT_ONCE) {
            let mut records = Vec::new();
            for &(file, there) in files {
                let entry = self.manifest.entry(file);
                let name = destination.name(&self.manifest, file);
                let (refused, stat) = set_mode_of_same(destination, &name, there, entry.mode);
                self.note_refused(file, refused);
                // What an earlier attempt stored is known by the time of its last change.
                let resumed = self.resumed.binary_search_by_key(&file, |&(file, _)| file);
                if let (Ok(at), Some(stat)) = (resumed, stat) {
                    let stored = StoredFile { file, stat, refused: Refused::default() };
                    records.extend(records_of(&entry, self.resumed[at].1, &stored));
                }
            }
            let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(journal) = journal.as_mut().filter(|_| !records.is_empty()) {
                journal.append(records).map_err(|error| not_journaled(&error))?;
            }
        }
        Ok(!self.other_modes.is_empty())
    }
}
