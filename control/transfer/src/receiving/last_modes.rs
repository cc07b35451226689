//! The modes and times that are set after the last file.
//!
//! Files that exist with the source's bytes and another mode get the source's mode together with
//! the directories, whose new modes may forbid to enter them. No bytes of such files move, and they
//! count as skipped.

use std::sync::PoisonError;

use culvert_journal::not_journaled;
use culvert_objects::fs::destination::Destination;
use culvert_objects::fs::destination::attributes::{Attributes, Refused, set_directory_attributes};
use culvert_objects::fs::destination::old_files::set_mode_of_same;
use culvert_objects::fs::destination::small_files::staged::StoredFile;
use culvert_protocol::control::{Overwrite, Refusal};
use culvert_protocol::manifest::EntryKind;
use culvert_protocol::names::printable;
use culvert_system::os_error;

use crate::receiving::intake::Intake;
use crate::receiving::stored_records::records_of;

/// Files whose new modes are journaled at once.
const AT_ONCE: usize = 4_096;

impl Intake {
    /// After the last file: files that were not sent get their modes; directories get their
    /// modes and times, deepest first. Those that were there before keep theirs, unless what is
    /// there may be replaced; those that were opened get back what they had.
    ///
    /// # Errors
    /// What to end the transfer with.
    pub fn finish(&self, preserve: bool, overwrite: Overwrite) -> Result<(), Refusal> {
        let Some(destination) = self.destination.as_ref().filter(|_| preserve) else { return Ok(()) };
        let mut has_changed = self.set_other_modes(destination)?;
        for file in (0..self.manifest.len() as u32).rev() {
            let entry = self.manifest.entry(file);
            let is_own = self.own_directories.contains(&file);
            if entry.kind == EntryKind::Directory && (is_own || overwrite != Overwrite::Never) {
                let attributes = Attributes::of(&entry, preserve);
                let refused =
                    set_directory_attributes(destination, entry.name, &attributes, is_own).map_err(|error| {
                        let name = printable(entry.name);
                        os_error::refusal(error, format!("the mode and time of '{name}' cannot be set: {error}"))
                    })?;
                self.note_refused(file, refused);
                has_changed = true;
            }
        }
        self.close_opened();
        if has_changed {
            destination.sync().map_err(|error| {
                os_error::refusal(error, format!("the directories' modes cannot be made durable: {error}"))
            })?;
        }
        Ok(())
    }

    /// Sets modes; whether there were any to be set. What is refused is noted.
    ///
    /// # Errors
    /// What to end the transfer with.
    fn set_other_modes(&self, destination: &Destination) -> Result<bool, Refusal> {
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
