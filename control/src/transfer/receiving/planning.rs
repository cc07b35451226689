//! What the receiver knows before the first byte: where to, what to do with each entry, and what an earlier attempt left.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::control::{Options, Overwrite, Refusal, RefusalCode};
use culvert_protocol::identity::PublicKey;
use culvert_protocol::manifest::{EntryKind, Manifest};
use culvert_protocol::names::printable;
use culvert_protocol::tree_hash::ChunkHash;
use rustix::fs::{AtFlags, Dir, FileType, statat, unlinkat};

use super::is_left_alone;
use crate::destination::files::{Attributes, set_directory_attributes};
use crate::destination::fresh_directories::{self, FreshDirectories};
use crate::destination::plan::{Action, Policy, check_room, decide, make_directories_and_symlinks};
use crate::destination::small_files::Unpacking;
use crate::destination::{Destination, Reach, partial_name_of};
use crate::journal::{Journal, JournalError, Past, Record};
use crate::sources::hash_of;
use crate::transfer::manifest_exchange::ReceivedManifest;

/// What is to be received.
#[derive(Debug)]
pub enum Incoming {
    /// Files.
    Files(FileRequest),
    /// Bytes that are verified and forgotten.
    Memory {
        /// How many.
        bytes: u64,
    },
}

/// Where files are to be stored.
#[derive(Debug)]
pub struct FileRequest {
    /// What may be reached.
    pub reach: Reach,
    /// The destination, as the user wrote it.
    pub destination: Vec<u8>,
    /// Where journals lie.
    pub journals: PathBuf,
}

/// A file that an earlier attempt began.
#[derive(Debug)]
pub struct Begun {
    /// Its entry.
    pub file: u32,
    /// Its stored chunks with their hashes, ascending.
    pub chunks: Vec<(u64, Option<ChunkHash>)>,
}

/// A file whose chunks may be the same in the file that it replaces.
#[derive(Clone, Copy, Debug)]
pub struct Compared {
    /// Its entry.
    pub file: u32,
    /// Chunks that the old file has whole.
    pub parts: u64,
}

/// The plan of a transfer, and everything that carrying it out needs.
#[derive(Debug)]
pub struct Intake {
    /// The files.
    pub manifest: Manifest,
    /// Where to; none for a measurement.
    pub destination: Option<Destination>,
    /// What becomes of each entry.
    pub actions: Vec<Action>,
    /// Files that an earlier attempt stored, with their hashes.
    pub resumed: Vec<(u32, ChunkHash)>,
    /// Files that an earlier attempt began, ascending.
    pub begun: Vec<Begun>,
    /// Files to be compared with those that they replace, ascending.
    pub compared: Vec<Compared>,
    /// Bytes of what earlier attempts stored and began.
    pub resumed_bytes: u64,
    /// The transfer's chunk size.
    pub chunk_bytes: u32,
    /// Bytes of a measurement.
    pub memory_bytes: Option<u64>,
    /// Whether an earlier attempt has left a journal.
    pub is_continued: bool,
    /// Directories that are filled beside their place. What is left of them goes before the journal does, which keeps others out.
    pub fresh: FreshDirectories,
    /// The journal; none for a measurement and a dry run.
    pub journal: Mutex<Option<Journal>>,
}

impl Intake {
    /// A measurement.
    #[must_use]
    pub fn memory(bytes: u64, chunk_bytes: u32) -> Self {
        Self {
            manifest: Manifest::default(),
            destination: None,
            actions: Vec::new(),
            resumed: Vec::new(),
            begun: Vec::new(),
            compared: Vec::new(),
            resumed_bytes: 0,
            chunk_bytes,
            memory_bytes: Some(bytes),
            is_continued: false,
            fresh: FreshDirectories::default(),
            journal: Mutex::new(None),
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
        !is_left_alone(self.actions[file as usize])
    }

    /// Regular files that are left as they are.
    #[must_use]
    pub fn skipped_files(&self) -> u64 {
        let is_file = |file: u32| self.manifest.file_bytes(file).is_some();
        (0..self.manifest.len() as u32).filter(|&file| is_file(file) && self.is_skipped(file)).count() as u64
    }

    /// What unpacking small files needs; none for a measurement.
    #[must_use]
    pub fn unpacking(&self, preserve: bool) -> Option<Unpacking<'_>> {
        let destination = self.destination.as_ref()?;
        let is_continued = self.is_continued;
        let (manifest, actions, fresh) = (&self.manifest, self.actions.as_slice(), &self.fresh);
        Some(Unpacking { destination, manifest, actions, preserve, is_continued, fresh })
    }

    /// After the last file: directories get their modes and times, deepest first.
    ///
    /// # Errors
    /// In words.
    pub fn finish(&self, preserve: bool) -> Result<(), String> {
        let Some(destination) = self.destination.as_ref().filter(|_| preserve) else { return Ok(()) };
        let mut has_changed = false;
        for file in (0..self.manifest.len() as u32).rev() {
            let entry = self.manifest.entry(file);
            if entry.kind == EntryKind::Directory {
                let attributes = Attributes::of(&entry, preserve);
                set_directory_attributes(destination, entry.name, &attributes).map_err(|error| {
                    format!("the mode and time of '{}' cannot be set: {error}", printable(entry.name))
                })?;
                has_changed = true;
            }
        }
        if has_changed {
            destination.sync().map_err(|error| format!("the directories' modes cannot be made durable: {error}"))?;
        }
        Ok(())
    }

    /// Everything is stored and the sender will be told so: from here on the journal is of use only until the sender has signed.
    ///
    /// # Errors
    /// In words.
    pub fn note_complete(&self) -> Result<(), String> {
        let mut journal = self.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(journal) = journal.as_mut() else { return Ok(()) };
        journal.append([Record::Complete]).map_err(|error| format!("the journal cannot be written: {error}"))
    }

    /// The transfer is over: its journal has nothing more to tell.
    pub fn forget_journal(&self) {
        let journal = self.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(journal) = journal {
            // A journal that cannot be removed makes the next transfer look at files that are there: no harm.
            let _ = journal.remove();
        }
    }
}

/// Makes the plan, and directories and symlinks with it.
///
/// # Errors
/// [`Refusal`] before anything was changed, except that the destination directory may have been made.
pub fn plan(
    request: &FileRequest,
    received: ReceivedManifest,
    options: &Options,
    partner: PublicKey,
) -> Result<Intake, Refusal> {
    let ReceivedManifest { manifest, allocated_bytes, is_single_file } = received;
    let destination = request.reach.open_destination(&request.destination, is_single_file, !options.dry_run)?;
    let (journal, past) = open_journal(request, &destination, options, partner)?;
    let plan = match decide(&destination, &manifest, Policy::of(options), &past) {
        Ok(plan) => plan,
        Err(refusal) => {
            // A journal of which nothing came need not stay.
            if let Some(journal) = journal.filter(|_| past.is_empty()) {
                let _ = journal.remove();
            }
            return Err(refusal);
        }
    };
    let mut intake = Intake {
        manifest,
        destination: Some(destination),
        actions: plan.actions,
        resumed: Vec::new(),
        begun: Vec::new(),
        compared: Vec::new(),
        resumed_bytes: 0,
        chunk_bytes: options.chunk_bytes,
        memory_bytes: None,
        is_continued: journal.as_ref().is_some_and(Journal::was_there),
        fresh: FreshDirectories::default(),
        journal: Mutex::new(journal),
    };
    find_resumed(&mut intake, &past, options);
    if options.overwrite == Overwrite::Content && options.checksum {
        find_compared(&mut intake, options);
    }
    if !options.dry_run {
        remove_forgotten(&intake, &past);
        remove_half_filled(&intake, &past);
    }
    let Some(destination) = &intake.destination else { return Ok(intake) };
    let sent_bytes: u64 = (0..intake.manifest.len() as u32)
        .filter(|&file| intake.is_sent(file))
        .filter_map(|file| intake.manifest.file_bytes(file))
        .sum();
    check_room(destination, allocated_bytes.min(sent_bytes).saturating_sub(intake.resumed_bytes)).inspect_err(
        |_| {
            if past.is_empty() {
                intake.forget_journal();
            }
        },
    )?;
    if !options.dry_run && make_directories_and_symlinks(destination, &intake.manifest, &intake.actions)? {
        // What the journal calls stored lies in them.
        destination.sync().map_err(|error| {
            let path = destination.path.display();
            Refusal::new(RefusalCode::Failed, format!("the directories in {path} cannot be made durable: {error}"))
        })?;
        intake.fresh = find_fresh(&intake, options)?;
    }
    Ok(intake)
}

/// Finds the directories that are to be filled beside their place, and says in the journal which they are.
fn find_fresh(intake: &Intake, options: &Options) -> Result<FreshDirectories, Refusal> {
    let mut journal = intake.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let Some(journal) = journal.as_mut() else { return Ok(FreshDirectories::default()) };
    let fresh = FreshDirectories::find(&intake.manifest, &intake.actions, options.chunk_bytes, journal.seed());
    let records = fresh.staging_names().map(|staging| Record::Filling { staging });
    journal.append(records).map_err(|error| {
        Refusal::new(RefusalCode::Failed, format!("the journal of the transfer cannot be written: {error}"))
    })?;
    Ok(fresh)
}

/// Removes the directories that an earlier attempt was filling when it died.
fn remove_half_filled(intake: &Intake, past: &Past) {
    let Some(destination) = intake.destination.as_ref().filter(|_| !past.filling().is_empty()) else { return };
    let names: HashSet<PathBuf> = past.filling().iter().copied().map(partial_name_of).collect();
    // What cannot be looked at or removed stays under its temporary name, which no result shows as stored.
    for_each_named(intake, destination, &names, |directory, name| {
        let _ = fresh_directories::remove(directory, name);
    });
}

/// Looks for `names` in the destination and in every directory of the manifest that is there.
fn for_each_named(
    intake: &Intake,
    destination: &Destination,
    names: &HashSet<PathBuf>,
    act: impl Fn(BorrowedFd<'_>, &Path),
) {
    let directories = intake.manifest.entries().filter(|(_, entry)| entry.kind == EntryKind::Directory);
    for directory in directories.map(|(_, entry)| entry.name).chain([b"".as_slice()]) {
        let Ok(directory) = destination.open_directory(directory) else { continue };
        let Ok(entries) = Dir::read_from(&directory) else { continue };
        for name in entries.flatten().map(|entry| PathBuf::from(OsStr::from_bytes(entry.file_name().to_bytes()))) {
            if names.contains(&name) {
                act(directory.as_fd(), &name);
            }
        }
    }
}

fn open_journal(
    request: &FileRequest,
    destination: &Destination,
    options: &Options,
    partner: PublicKey,
) -> Result<(Option<Journal>, Past), Refusal> {
    if options.dry_run {
        return Ok((None, Past::default()));
    }
    let path = Journal::path_of(&request.journals, partner, destination.path.as_os_str().as_bytes());
    let (journal, past) = Journal::open(path).map_err(|error| {
        let code = match error {
            JournalError::InUse => RefusalCode::Temporary,
            JournalError::Os { .. } => RefusalCode::Failed,
        };
        Refusal::new(code, error.to_string())
    })?;
    Ok((Some(journal), past))
}

/// Removes the partial files of an earlier attempt that this one's sources do not have any more.
fn remove_forgotten(intake: &Intake, past: &Past) {
    let mut forgotten: HashSet<u128> = past.begun_names().collect();
    if forgotten.is_empty() {
        return;
    }
    for (_, entry) in intake.manifest.entries() {
        forgotten.remove(&hash_of(entry.name));
    }
    let Some(destination) = intake.destination.as_ref().filter(|_| !forgotten.is_empty()) else { return };
    let names: HashSet<PathBuf> = forgotten.into_iter().map(partial_name_of).collect();
    // What cannot be looked at or removed stays, as it would without this.
    for_each_named(intake, destination, &names, |directory, name| {
        let _ = unlinkat(directory, name, AtFlags::empty());
    });
}

/// Finds what an earlier attempt left of the files that are wanted.
fn find_resumed(intake: &mut Intake, past: &Past, options: &Options) {
    if past.is_empty() {
        return;
    }
    let Some(destination) = &intake.destination else { return };
    for (file, entry) in intake.manifest.entries() {
        let EntryKind::File { bytes, .. } = entry.kind else { continue };
        match intake.actions[file as usize] {
            Action::Resumed => {
                let hash = past.done(&entry).map_or([0; 32], |done| done.hash);
                intake.resumed.push((file, hash));
                intake.resumed_bytes += bytes;
            }
            Action::Create | Action::Replace => {
                let Some(begun) = past.begun(&entry, options.chunk_bytes) else { continue };
                let name = destination.name(&intake.manifest, file);
                let partial = crate::destination::partial_name(&name);
                let is_there = destination
                    .parent_of(&name)
                    .and_then(|(parent, _)| statat(&parent, &partial, AtFlags::SYMLINK_NOFOLLOW))
                    .is_ok_and(|stat| stat.st_size as u64 == bytes);
                if is_there {
                    let mut chunks: Vec<_> = begun.chunks.iter().map(|(&part, &hash)| (part, hash)).collect();
                    chunks.sort_unstable_by_key(|&(part, _)| part);
                    let chunk_bytes = u64::from(options.chunk_bytes);
                    chunks.retain(|&(part, _)| part * chunk_bytes < bytes);
                    intake.resumed_bytes +=
                        chunks.iter().map(|&(part, _)| (bytes - part * chunk_bytes).min(chunk_bytes)).sum::<u64>();
                    intake.begun.push(Begun { file, chunks });
                }
            }
            Action::Skip => {}
        }
    }
}

/// Finds files with chunks of their own that replace a regular file, and of which no earlier attempt left anything.
fn find_compared(intake: &mut Intake, options: &Options) {
    let Some(destination) = &intake.destination else { return };
    let (chunk_bytes, packed_bytes) =
        (u64::from(options.chunk_bytes), ChunkMap::pack_file_bytes_max(options.chunk_bytes));
    for (file, entry) in intake.manifest.entries() {
        let EntryKind::File { bytes, .. } = entry.kind else { continue };
        let is_wanted = bytes > packed_bytes && intake.actions[file as usize] == Action::Replace;
        if !is_wanted || intake.begun.binary_search_by_key(&file, |begun| begun.file).is_ok() {
            continue;
        }
        let name = destination.name(&intake.manifest, file);
        let old =
            destination.parent_of(&name).and_then(|(parent, last)| statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW));
        let Ok(old) = old else { continue };
        if FileType::from_raw_mode(old.st_mode) != FileType::RegularFile {
            continue;
        }
        let old_bytes = old.st_size as u64;
        // A chunk is whole in the old file if the old file goes on to the chunk's end, or ends with it where the new one does.
        let parts = if old_bytes >= bytes { bytes.div_ceil(chunk_bytes) } else { old_bytes / chunk_bytes };
        if parts > 0 {
            intake.compared.push(Compared { file, parts });
        }
    }
}
