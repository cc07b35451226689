//! The plan of a transfer, and everything that carrying it out needs.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use culvert_journal::{Record, not_journaled};
use culvert_objects::fs::destination::action::Action;
use culvert_objects::fs::destination::attributes::{NotKept, Refused};
use culvert_objects::fs::destination::files::LeftFile;
use culvert_objects::fs::destination::fresh_directories::FreshDirectories;
use culvert_objects::fs::destination::identity::Identity;
use culvert_objects::fs::destination::small_files::Unpacking;
use culvert_objects::fs::destination::{Destination, DestinationState};
use culvert_objects::sink::ObjectSink;
use culvert_protocol::control::{FileError, Refusal, RefusalCode};
use culvert_protocol::dry_run::{Fate, Room};
use culvert_protocol::manifest::Manifest;
use culvert_protocol::tree_hash::ChunkHash;
use rustix::io::Errno;

use crate::receiving::opened_in_journal::SharedJournal;

/// What a dry run found of the destination.
#[derive(Debug)]
pub struct DestinationForecast {
    /// The outcome for each entry.
    pub fates: Vec<Fate>,
    /// What would be needed, and is free.
    pub room: Room,
}

/// A file that an earlier attempt began.
#[derive(Debug)]
pub struct ResumableFile {
    /// Its entry.
    pub file: u32,
    /// Where it is.
    pub left: LeftFile,
    /// Its stored chunks with their hashes, ascending.
    pub chunks: Vec<(u64, Option<ChunkHash>)>,
}

/// A file whose chunks may be the same in the file that it replaces.
#[derive(Clone, Copy, Debug)]
pub struct DeltaCandidate {
    /// Its entry.
    pub file: u32,
    /// Chunks that the old file has whole.
    pub parts: u64,
    /// Whether the old file has the size of the new one, and may be the same.
    pub may_be_same: bool,
    /// Whether an earlier attempt of the transfer stored it.
    pub was_stored: bool,
}

/// The plan of a transfer, and everything that carrying it out needs.
#[derive(Debug)]
pub struct Intake {
    /// The files.
    pub manifest: Manifest,
    /// Where to; none for a measurement, and where a store takes objects.
    pub destination: Option<Destination>,
    /// The store, where there is no directory.
    pub sink: Option<Arc<dyn ObjectSink>>,
    /// What happens to each entry.
    pub actions: Vec<Action>,
    /// Files that are not sent and are to get another mode, ascending, and which they are.
    pub other_modes: Vec<(u32, Identity)>,
    /// Files that an earlier attempt stored, with their hashes, ascending.
    pub resumed: Vec<(u32, ChunkHash)>,
    /// Files that an earlier attempt began, ascending.
    pub begun: Vec<ResumableFile>,
    /// Files to be compared with those that they replace, ascending.
    pub compared: Vec<DeltaCandidate>,
    /// Symlinks that could not be made.
    pub failed_others: Vec<FileError>,
    /// Directories that this transfer has made, in this attempt or an earlier one.
    pub own_directories: HashSet<u32>,
    /// Bytes of what earlier attempts stored and began.
    pub resumed_bytes: u64,
    /// The transfer's chunk size.
    pub chunk_bytes: u32,
    /// Bytes of a measurement.
    pub memory_bytes: Option<u64>,
    /// Directories that are filled under a temporary name. Their remains are removed before the
    /// journal, which locks out others.
    pub fresh: FreshDirectories,
    /// What is stored without some of its attributes.
    pub not_kept: Mutex<NotKept>,
    /// The journal; none for a measurement and a dry run.
    pub journal: SharedJournal,
    /// The findings of a dry run, if the requester understands them.
    pub foretold: Option<DestinationForecast>,
}

impl Intake {
    /// A measurement.
    #[must_use]
    pub fn memory(bytes: u64, chunk_bytes: u32) -> Self {
        Self { memory_bytes: Some(bytes), ..Self::without_place(Manifest::default(), chunk_bytes) }
    }

    /// Entries of which nothing is known yet, with no directory to store them in.
    pub(super) fn without_place(manifest: Manifest, chunk_bytes: u32) -> Self {
        Self {
            manifest,
            destination: None,
            sink: None,
            actions: Vec::new(),
            other_modes: Vec::new(),
            resumed: Vec::new(),
            begun: Vec::new(),
            compared: Vec::new(),
            failed_others: Vec::new(),
            own_directories: HashSet::new(),
            resumed_bytes: 0,
            chunk_bytes,
            memory_bytes: None,
            fresh: FreshDirectories::default(),
            not_kept: Mutex::default(),
            journal: SharedJournal::default(),
            foretold: None,
        }
    }

    /// What an entry is called at the destination: a single file may be called otherwise than at
    /// the sender.
    #[must_use]
    pub fn name(&self, file: u32) -> Cow<'_, [u8]> {
        match &self.destination {
            Some(destination) => destination.name(&self.manifest, file),
            None => Cow::Borrowed(self.manifest.entry(file).name),
        }
    }

    /// Whether an entry is left as it is because the same is there.
    #[must_use]
    pub fn is_skipped(&self, file: u32) -> bool {
        self.actions[file as usize] == Action::Skip
    }

    /// Whether an entry's bytes are wanted.
    #[must_use]
    pub fn is_sent(&self, file: u32) -> bool {
        !matches!(self.actions[file as usize], Action::Skip | Action::Resumed)
    }

    /// Regular files that are left as they are.
    #[must_use]
    pub fn skipped_files(&self) -> u64 {
        let is_file = |file: u32| self.manifest.file_bytes(file).is_some();
        (0..self.manifest.len() as u32).filter(|&file| is_file(file) && self.is_skipped(file)).count() as u64
    }

    /// Directories and symlinks that this transfer makes or replaces.
    #[must_use]
    pub fn others_made(&self) -> u64 {
        let is_file = |file: u32| self.manifest.file_bytes(file).is_some();
        let wanted = (0..self.manifest.len() as u32).filter(|&file| !is_file(file) && !self.is_skipped(file)).count();
        wanted.saturating_sub(self.failed_others.len()) as u64
    }

    /// What unpacking small files needs; none for a measurement.
    #[must_use]
    pub fn unpacking(&self, preserve: bool) -> Option<Unpacking<'_>> {
        let destination = self.destination.as_ref()?;
        let (manifest, actions, fresh) = (&self.manifest, self.actions.as_slice(), &self.fresh);
        Some(Unpacking { destination, manifest, actions, preserve, fresh })
    }

    /// Gives directories that were opened the modes that they had. May wait for a disk.
    pub fn close_opened(&self) {
        let Some(destination) = &self.destination else { return };
        let failed: HashMap<Vec<u8>, Errno> = destination.close_opened().into_iter().collect();
        if failed.is_empty() {
            return;
        }
        for (file, entry) in self.manifest.entries() {
            if let Some(&error) = failed.get(entry.name) {
                self.note_refused(file, Refused { mode: Some(error), time: None });
            }
        }
    }

    /// Notes what an entry is stored without, if it is.
    pub fn note_refused(&self, file: u32, refused: Refused) {
        if !refused.is_nothing() {
            self.not_kept.lock().unwrap_or_else(PoisonError::into_inner).note(file, refused);
        }
    }

    /// Everything is stored, but somebody may have moved the directory: then it is not where the
    /// user was told that it would be.
    ///
    /// # Errors
    /// What to end the transfer with.
    pub fn require_place(&self) -> Result<(), Refusal> {
        let Some(destination) = &self.destination else { return Ok(()) };
        let path = destination.path.display();
        match destination.whereabouts() {
            DestinationState::InPlace => Ok(()),
            DestinationState::Moved => Err(Refusal::new(
                RefusalCode::Failed,
                format!(
                    "{path} was moved or removed while this transfer stored files in it: they are \
                     in the original directory, wherever that is now; move it back, or send again"
                ),
            )),
            DestinationState::Removed => Err(Refusal::new(
                RefusalCode::Temporary,
                format!("{path} was removed or replaced while this transfer stored files in it, and the files with it"),
            )),
        }
    }

    /// Everything is stored and the sender will be told so: from here on the journal is of use only
    /// until the sender has signed.
    ///
    /// # Errors
    /// What to end the transfer with.
    pub fn note_complete(&self) -> Result<(), Refusal> {
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(journal) = journal.as_mut() else { return Ok(()) };
        journal.append([Record::Complete]).map_err(|error| not_journaled(&error))
    }

    /// The transfer is over: its journal has no useful content left.
    pub fn forget_journal(&self) {
        let journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(journal) = journal {
            // A journal that cannot be removed makes the next transfer look at files that are
            // there: no harm.
            let _ = journal.remove();
        }
    }
}
