//! What the receiver knows before the first byte: where to, what to do with each entry, and what an
//! earlier attempt left.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_objects::fs::destination::action::Action;
use culvert_objects::fs::destination::attributes::{Attributes, NotKept, Refused, set_directory_attributes};
use culvert_objects::fs::destination::files::LeftFile;
use culvert_objects::fs::destination::fresh_directories::FreshDirectories;
use culvert_objects::fs::destination::identity::Identity;
use culvert_objects::fs::destination::making::{Made, make_directories_and_symlinks};
use culvert_objects::fs::destination::plan::{Policy, decide, foretell};
use culvert_objects::fs::destination::room::{self, Free, Needs};
use culvert_objects::fs::destination::small_files::Unpacking;
use culvert_objects::fs::destination::temporary::temporary_name;
use culvert_objects::fs::destination::{Destination, Making, Whereabouts, rights};
use culvert_objects::fs::reach::Reach;
use culvert_objects::fs::sources::hash_of;
use culvert_objects::sink::ObjectSink;
use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::control::{FileError, Options, Overwrite, Refusal, RefusalCode};
use culvert_protocol::dry_run::{Fate, Room};
use culvert_protocol::identity::PublicKey;
use culvert_protocol::manifest::{EntryKind, Manifest};
use culvert_protocol::names::printable;
use culvert_protocol::tree_hash::ChunkHash;
use culvert_system::os_error;
use rustix::fs::{AtFlags, FileType, statat};
use rustix::io::Errno;

use crate::events::{Event, Observer};
use crate::journal::{Journal, JournalError, Past, Place, Record, absorb_others, bound, glimpse, not_journaled};
use crate::limits::{JOURNALS_PER_PARTNER, Limit};
use crate::transfer::manifest_exchange::ReceivedManifest;
use crate::transfer::receiving::opened_in_journal::{OpenedInJournal, SharedJournal, lock};
use crate::transfer::receiving::{is_left_alone, leftovers};

/// What is to be received.
#[derive(Debug)]
pub enum Incoming {
    /// Files.
    Files(FileRequest),
    /// Objects of a store.
    Objects(Arc<dyn ObjectSink>),
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
    /// Where limits that are reached are counted.
    pub observer: Arc<dyn Observer>,
    /// In a dry run: whether obstacles to the transfer are reported instead of refusing it.
    pub foretells: bool,
}

/// What a dry run found of the destination.
#[derive(Debug)]
pub struct Foretold {
    /// The outcome for each entry.
    pub fates: Vec<Fate>,
    /// What would be needed, and is free.
    pub room: Room,
}

/// A file that an earlier attempt began.
#[derive(Debug)]
pub struct Begun {
    /// Its entry.
    pub file: u32,
    /// Where it is.
    pub left: LeftFile,
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
    pub begun: Vec<Begun>,
    /// Files to be compared with those that they replace, ascending.
    pub compared: Vec<Compared>,
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
    pub foretold: Option<Foretold>,
}

impl Intake {
    /// A measurement.
    #[must_use]
    pub fn memory(bytes: u64, chunk_bytes: u32) -> Self {
        Self { memory_bytes: Some(bytes), ..Self::without_place(Manifest::default(), chunk_bytes) }
    }

    /// Entries of which nothing is known yet, with no directory to store them in.
    fn without_place(manifest: Manifest, chunk_bytes: u32) -> Self {
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
        !is_left_alone(self.actions[file as usize])
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

    /// After the last file: files that need not be sent get their modes; directories get their
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
            Whereabouts::InPlace => Ok(()),
            Whereabouts::Moved => Err(Refusal::new(
                RefusalCode::Failed,
                format!(
                    "{path} was moved or removed while this transfer stored files in it: they are \
                     in the original directory, wherever that is now; move it back, or send again"
                ),
            )),
            Whereabouts::Removed => Err(Refusal::new(
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

/// Makes the plan, and directories and symlinks with it.
///
/// # Errors
/// [`Refusal`] before anything was changed, except that the destination directory may have been
/// made.
pub fn plan(
    request: &FileRequest,
    received: ReceivedManifest,
    options: &Options,
    partner: PublicKey,
) -> Result<Intake, Refusal> {
    let ReceivedManifest { manifest, allocated_bytes, is_single_file, contents_mode, .. } = received;
    let making = if options.dry_run { Making::Nothing } else { Making::WithMode(contents_mode) };
    let mut destination = request.reach.open_destination(&request.destination, is_single_file, making)?;
    let (journal, past) = open_journal(request, &destination, &manifest, options, partner)?;
    let journal = SharedJournal::new(Mutex::new(journal));
    // Even without modes, if an attempt with modes has left some open: nothing else would close
    // them.
    if (options.preserve || past.has_opened()) && !options.dry_run {
        destination.may_open(Box::new(OpenedInJournal(journal.clone()))).map_err(|error| {
            let path = destination.path.display();
            os_error::refusal(error, format!("cannot use {path}: {error}"))
        })?;
        adopt_opened(&destination, &manifest, &past);
    }
    let decided = if request.foretells {
        foretell(&destination, &manifest, Policy::of(options), &past).map(|(plan, fates)| (plan, Some(fates)))
    } else {
        decide(&destination, &manifest, Policy::of(options), &past).map(|plan| (plan, None))
    };
    // A dry run reports collisions first, as the transfer does.
    let decided = decided.and_then(|(plan, mut fates)| {
        if !fates.as_ref().is_some_and(|fates| fates.iter().any(|fate| fate.collides())) {
            rights::check(&destination, &manifest, &plan.actions, options.preserve, fates.as_deref_mut())?;
        }
        Ok((plan, fates))
    });
    let (plan, fates) = match decided {
        Ok(decided) => decided,
        Err(refusal) => {
            drop(destination);
            // A journal of which nothing came need not stay.
            if let Some(journal) = lock(&journal).take().filter(|_| past.is_empty()) {
                let _ = journal.remove();
            }
            return Err(refusal);
        }
    };
    let mut intake = Intake {
        destination: Some(destination),
        actions: plan.actions,
        other_modes: plan.other_modes,
        journal,
        ..Intake::without_place(manifest, options.chunk_bytes)
    };
    find_resumed(&mut intake, &past, options);
    if options.checksum {
        find_compared(&mut intake, &past, options);
    }
    if !options.dry_run {
        leftovers::remove(&intake, &past);
    }
    let Some(destination) = &intake.destination else { return Ok(intake) };
    let room = room_for(&intake, destination, allocated_bytes);
    if let Some(fates) = fates {
        intake.foretold = Some(Foretold { fates: begun_fates(fates, &intake), room });
        return Ok(intake);
    }
    room::check(&room, &destination.path.display().to_string()).inspect_err(|_| {
        if past.is_empty() {
            intake.forget_journal();
        }
    })?;
    if options.dry_run {
        return Ok(intake);
    }
    let wanted = if options.preserve { wanted_directories(&intake) } else { Vec::new() };
    // Before they are made: a process that dies in between must not leave directories of which the
    // attempt after it does not know whose they are.
    note_directories(&intake, &wanted, Record::made_directory)?;
    let mut made = Made::default();
    let making = make_directories_and_symlinks(destination, &intake.manifest, &intake.actions, &mut made);
    let others: Vec<u32> = wanted.into_iter().filter(|file| !made.directories.contains_key(file)).collect();
    note_directories(&intake, &others, Record::not_made_directory)?;
    making?;
    if made.has_made {
        // What the journal calls stored lies in them.
        destination.sync().map_err(|error| {
            let path = destination.path.display();
            os_error::refusal(error, format!("the directories in {path} cannot be made durable: {error}"))
        })?;
        intake.fresh = find_fresh(&intake, options, &made);
    }
    intake.failed_others = made.failed;
    if options.preserve {
        intake.own_directories = own_directories(&intake.manifest, &made.directories, &past);
    }
    Ok(intake)
}

/// Makes the plan of a transfer into a store, as the store sees it.
///
/// # Errors
/// [`Refusal`] before anything was changed.
pub fn plan_objects(
    sink: Arc<dyn ObjectSink>,
    received: ReceivedManifest,
    options: &Options,
    foretells: bool,
) -> Result<Intake, Refusal> {
    let manifest = received.manifest;
    let fates = sink.plan(&manifest, options)?;
    if fates.len() != manifest.len() {
        let text = "the store does not say what would become of every entry";
        return Err(Refusal::new(RefusalCode::Failed, text));
    }
    let colliding = fates.iter().position(|fate| fate.collides());
    if let Some(file) = colliding.filter(|_| !foretells) {
        let name = printable(manifest.entry(file as u32).name);
        let text = format!("'{name}' exists already and may not be replaced: use another destination or --overwrite");
        return Err(Refusal::new(RefusalCode::Collision, text));
    }
    let action = |fate: &Fate| match fate {
        Fate::New => Action::Create,
        fate if fate.is_sent() => Action::Replace,
        _ => Action::Skip,
    };
    let actions = fates.iter().map(action).collect();
    let room = Room { needed_bytes: received.allocated_bytes, ..Room::default() };
    let foretold = foretells.then_some(Foretold { fates, room });
    Ok(Intake { actions, sink: Some(sink), foretold, ..Intake::without_place(manifest, options.chunk_bytes) })
}

/// What a transfer needs of its destination, where its files take `allocated_bytes` at the sender.
fn room_for(intake: &Intake, destination: &Destination, allocated_bytes: u64) -> Room {
    let mut needs = Needs::of(Free::at(destination));
    let may_be_same: HashSet<u32> =
        intake.compared.iter().filter(|compared| compared.may_be_same).map(|compared| compared.file).collect();
    let is_wanted = |file: u32| intake.is_sent(file) && !may_be_same.contains(&file);
    let wanted = intake.manifest.entries().filter(|&(file, _)| is_wanted(file));
    wanted.for_each(|(file, entry)| needs.add(&entry, intake.actions[file as usize]));
    // The sender tells what all of its files take. What is not wanted and has no holes takes at
    // least its bytes of that.
    let unwanted = intake.manifest.entries().filter(|&(file, _)| !is_wanted(file));
    let unwanted_bytes = unwanted.fold(0u64, |sum, (_, entry)| match entry.kind {
        EntryKind::File { bytes, is_sparse: false } => sum.saturating_add(bytes),
        _ => sum,
    });
    let allocated_bytes = allocated_bytes.saturating_sub(unwanted_bytes);
    // Of what earlier attempts stored only the parts of files are among these.
    let whole: u64 = intake.resumed.iter().filter_map(|&(file, _)| intake.manifest.file_bytes(file)).sum();
    needs.room(allocated_bytes, intake.resumed_bytes.saturating_sub(whole))
}

/// Outcomes in which data from an earlier attempt is distinguished from new or changed data.
fn begun_fates(mut fates: Vec<Fate>, intake: &Intake) -> Vec<Fate> {
    for begun in intake.begun.iter().filter(|begun| !begun.chunks.is_empty()) {
        if let Some(fate) = fates.get_mut(begun.file as usize) {
            *fate = Fate::BegunBefore;
        }
    }
    fates
}

/// Goes on with the directories that an earlier attempt has opened.
fn adopt_opened(destination: &Destination, manifest: &Manifest, past: &Past) {
    if !past.has_opened() {
        return;
    }
    for (_, entry) in manifest.entries().filter(|(_, entry)| entry.kind == EntryKind::Directory) {
        if let Some((inode, mode)) = past.opened(entry.name) {
            destination.adopt_opened(entry.name, inode, mode);
        }
    }
}

/// The directories that this attempt or an earlier one has made.
fn own_directories(manifest: &Manifest, made: &HashMap<u32, Identity>, past: &Past) -> HashSet<u32> {
    let directories = manifest.entries().filter(|(_, entry)| entry.kind == EntryKind::Directory);
    let own = directories.filter(|(file, entry)| made.contains_key(file) || past.has_made(entry));
    own.map(|(file, _)| file).collect()
}

/// The directories that are not there.
fn wanted_directories(intake: &Intake) -> Vec<u32> {
    let directories = intake.manifest.entries().filter(|(_, entry)| entry.kind == EntryKind::Directory);
    let wanted = directories.filter(|&(file, _)| intake.actions[file as usize] != Action::Skip);
    wanted.map(|(file, _)| file).collect()
}

/// Tells the journal whose directories are, for the attempt that may have to come after this one.
fn note_directories(intake: &Intake, directories: &[u32], record: fn(u128) -> Record) -> Result<(), Refusal> {
    /// Records that are appended at once.
    const AT_ONCE: usize = 4_096;
    let mut journal = intake.journal.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(journal) = journal.as_mut() else { return Ok(()) };
    for directories in directories.chunks(AT_ONCE) {
        let records = directories.iter().map(|&file| record(hash_of(intake.manifest.entry(file).name)));
        journal.append(records).map_err(|error| not_journaled(&error))?;
    }
    Ok(())
}

/// Finds the directories to fill under a temporary name.
fn find_fresh(intake: &Intake, options: &Options, made: &Made) -> FreshDirectories {
    let of = |entry: u32| made.directories.get(&entry).copied();
    FreshDirectories::find(&intake.manifest, &intake.actions, options.chunk_bytes, of)
}

/// Opens the journal and says in it that an attempt begins, with what earlier attempts left.
fn open_journal(
    request: &FileRequest,
    destination: &Destination,
    manifest: &Manifest,
    options: &Options,
    partner: PublicKey,
) -> Result<(Option<Journal>, Past), Refusal> {
    let top_name = |name: &'_ [u8]| name.iter().position(|&byte| byte == b'/').unwrap_or(name.len());
    let (path, single_name) = (destination.path.as_os_str().as_bytes(), destination.single_name.as_deref());
    // A single file may get another name than it has: two names are two places.
    let top_names = manifest.entries().map(|(_, entry)| single_name.unwrap_or(&entry.name[..top_name(entry.name)]));
    let place = Place::new(&request.journals, partner, path, top_names);
    if options.dry_run {
        let mut past = if request.foretells { glimpse(&place, manifest) } else { Past::default() };
        if options.checksum {
            past.need_hashes();
        }
        return Ok((None, past));
    }
    let refusal = |error: JournalError| Refusal::new(error.code(), error.to_string());
    let (mut journal, mut past) = Journal::open(place.path(), single_name).map_err(refusal)?;
    absorb_others(&place, manifest, single_name, &mut journal, &mut past).map_err(refusal)?;
    journal.begin_attempt(destination.attempt, &place).map_err(refusal)?;
    for _ in 0..bound(&place, JOURNALS_PER_PARTNER) {
        request.observer.note(Event::LimitReached(Limit::Journals));
    }
    if options.checksum {
        past.need_hashes();
    }
    Ok((Some(journal), past))
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
                if let Some(refused) = past.refused(&entry) {
                    // It has its mode by now, or that is tried once more.
                    let mode = refused.mode.filter(|_| !options.preserve);
                    intake.note_refused(file, Refused { mode, ..refused });
                }
            }
            Action::Create | Action::Replace => {
                let Some(begun) = past.begun(&entry, options.chunk_bytes) else { continue };
                let name = destination.name(&intake.manifest, file);
                let left = LeftFile { token: begun.token, inode: begun.inode };
                // Its size says nothing: a direct write of its last block made it longer. Its
                // chunks are read and hashed.
                let is_there = destination
                    .parent_of(&name)
                    .and_then(|(parent, _)| statat(&parent, temporary_name(left.token), AtFlags::SYMLINK_NOFOLLOW))
                    .is_ok_and(|stat| left.is_this(&stat));
                if is_there {
                    let mut chunks: Vec<_> = begun.chunks.iter().map(|(&part, &hash)| (part, hash)).collect();
                    chunks.sort_unstable_by_key(|&(part, _)| part);
                    let chunk_bytes = u64::from(options.chunk_bytes);
                    // Without a hash nothing proves it: it is sent again.
                    chunks.retain(|&(part, hash)| hash.is_some() && part * chunk_bytes < bytes);
                    intake.resumed_bytes +=
                        chunks.iter().map(|&(part, _)| (bytes - part * chunk_bytes).min(chunk_bytes)).sum::<u64>();
                    intake.begun.push(Begun { file, left, chunks });
                }
            }
            Action::Skip => {}
        }
    }
}

/// Finds files with chunks of their own that replace a regular file, and of which no earlier
/// attempt left anything.
fn find_compared(intake: &mut Intake, past: &Past, options: &Options) {
    let Some(destination) = &intake.destination else { return };
    let (chunk_bytes, packed_bytes) =
        (u64::from(options.chunk_bytes), ChunkMap::pack_file_bytes_max(options.chunk_bytes));
    for (file, entry) in intake.manifest.entries() {
        let EntryKind::File { bytes, .. } = entry.kind else { continue };
        let is_compared = match options.overwrite {
            Overwrite::Content => true,
            // What an earlier attempt stored need not be sent again if the source still has it.
            Overwrite::Always => past.done(&entry).is_some(),
            // Those that an earlier attempt stored without a hash.
            Overwrite::Never | Overwrite::Changed => past.done(&entry).is_some_and(|done| !done.has_hash()),
        };
        let is_wanted = is_compared && bytes > packed_bytes && intake.actions[file as usize] == Action::Replace;
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
        // A chunk is complete in the old file if the old file extends to the chunk's end, or ends
        // with it where the new one does.
        let parts = if old_bytes >= bytes { bytes.div_ceil(chunk_bytes) } else { old_bytes / chunk_bytes };
        if parts > 0 {
            let (may_be_same, was_stored) = (old_bytes == bytes, past.done(&entry).is_some());
            intake.compared.push(Compared { file, parts, may_be_same, was_stored });
        }
    }
}
