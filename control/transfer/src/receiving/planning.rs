//! What the receiver knows before the first byte: where to, what to do with each entry, and what an
//! earlier attempt left.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_journal::{
    EarlierAttempts, Journal, JournalError, Place, Record, absorb_others, bound, glimpse, not_journaled,
};
use culvert_objects::fs::destination::action::Action;
use culvert_objects::fs::destination::attributes::Refused;
use culvert_objects::fs::destination::files::LeftFile;
use culvert_objects::fs::destination::fresh_directories::FreshDirectories;
use culvert_objects::fs::destination::identity::Identity;
use culvert_objects::fs::destination::making::{Made, make_directories_and_symlinks};
use culvert_objects::fs::destination::plan::{Plan, Policy, decide, foretell};
use culvert_objects::fs::destination::room::{self, Free, Needs};
use culvert_objects::fs::destination::temporary::temporary_name;
use culvert_objects::fs::destination::{Destination, MissingDestination, rights};
use culvert_objects::fs::sources::hash_of;
use culvert_objects::sink::ObjectSink;
use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::control::{Options, Overwrite, Refusal, RefusalCode};
use culvert_protocol::dry_run::{Fate, Room};
use culvert_protocol::identity::PublicKey;
use culvert_protocol::manifest::{EntryKind, Manifest};
use culvert_protocol::names::printable;
use culvert_system::os_error;
use rustix::fs::{AtFlags, FileType, statat};

use crate::events::Event;
use crate::limits::{JOURNALS_PER_PARTNER, Limit};
use crate::manifest_exchange::ReceivedManifest;
use crate::receiving::incoming::FileRequest;
use crate::receiving::intake::{DeltaCandidate, DestinationForecast, Intake, ResumableFile};
use crate::receiving::leftovers;
use crate::receiving::opened_in_journal::{OpenedInJournal, SharedJournal, lock};

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
    let making =
        if options.dry_run { MissingDestination::Nothing } else { MissingDestination::WithMode(contents_mode) };
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
    let decided = decide_fates(request, &destination, &manifest, options, &past);
    let (plan, fates) = match decided {
        Ok(decided) => decided,
        Err(refusal) => {
            drop(destination);
            // A journal without content is of no use.
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
        intake.foretold = Some(DestinationForecast { fates: begun_fates(fates, &intake), room });
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
    make_places(&mut intake, options, &past)?;
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
    let foretold = foretells.then_some(DestinationForecast { fates, room });
    Ok(Intake { actions, sink: Some(sink), foretold, ..Intake::without_place(manifest, options.chunk_bytes) })
}

/// Decides what happens to each entry; in a dry run whose requester understands it, what would.
fn decide_fates(
    request: &FileRequest,
    destination: &Destination,
    manifest: &Manifest,
    options: &Options,
    past: &EarlierAttempts,
) -> Result<(Plan, Option<Vec<Fate>>), Refusal> {
    let policy = Policy::of(options);
    let (plan, mut fates) = if request.foretells {
        let (plan, fates) = foretell(destination, manifest, policy, past)?;
        (plan, Some(fates))
    } else {
        (decide(destination, manifest, policy, past)?, None)
    };
    // A dry run reports collisions first, as the transfer does.
    if !fates.as_ref().is_some_and(|fates| fates.iter().any(|fate| fate.collides())) {
        rights::check(destination, manifest, &plan.actions, options.preserve, fates.as_deref_mut())?;
    }
    Ok((plan, fates))
}

/// Makes the directories and symlinks of a plan.
fn make_places(intake: &mut Intake, options: &Options, past: &EarlierAttempts) -> Result<(), Refusal> {
    let Some(destination) = &intake.destination else { return Ok(()) };
    let wanted = if options.preserve { wanted_directories(intake) } else { Vec::new() };
    // Before they are made: a process that dies in between must not leave directories of which the
    // attempt after it does not know whose they are.
    note_directories(intake, &wanted, Record::made_directory)?;
    let mut made = Made::default();
    let making = make_directories_and_symlinks(destination, &intake.manifest, &intake.actions, &mut made);
    let others: Vec<u32> = wanted.into_iter().filter(|file| !made.directories.contains_key(file)).collect();
    note_directories(intake, &others, Record::not_made_directory)?;
    making?;
    if made.has_made {
        // What the journal calls stored lies in them.
        destination.sync().map_err(|error| {
            let path = destination.path.display();
            os_error::refusal(error, format!("the directories in {path} cannot be made durable: {error}"))
        })?;
        intake.fresh = find_fresh(intake, options, &made);
    }
    intake.failed_others = made.failed;
    if options.preserve {
        intake.own_directories = own_directories(&intake.manifest, &made.directories, past);
    }
    Ok(())
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
fn adopt_opened(destination: &Destination, manifest: &Manifest, past: &EarlierAttempts) {
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
fn own_directories(manifest: &Manifest, made: &HashMap<u32, Identity>, past: &EarlierAttempts) -> HashSet<u32> {
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
) -> Result<(Option<Journal>, EarlierAttempts), Refusal> {
    let top_name = |name: &'_ [u8]| name.iter().position(|&byte| byte == b'/').unwrap_or(name.len());
    let (path, single_name) = (destination.path.as_os_str().as_bytes(), destination.single_name.as_deref());
    // A single file may get another name than it has: two names are two places.
    let top_names = manifest.entries().map(|(_, entry)| single_name.unwrap_or(&entry.name[..top_name(entry.name)]));
    let place = Place::new(&request.journals, partner, path, top_names);
    if options.dry_run {
        let mut past = if request.foretells { glimpse(&place, manifest) } else { EarlierAttempts::default() };
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
fn find_resumed(intake: &mut Intake, past: &EarlierAttempts, options: &Options) {
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
                    intake.begun.push(ResumableFile { file, left, chunks });
                }
            }
            Action::Skip => {}
        }
    }
}

/// Finds files with chunks of their own that replace a regular file, and of which no earlier
/// attempt left anything.
fn find_compared(intake: &mut Intake, past: &EarlierAttempts, options: &Options) {
    let Some(destination) = &intake.destination else { return };
    let (chunk_bytes, packed_bytes) =
        (u64::from(options.chunk_bytes), ChunkMap::pack_file_bytes_max(options.chunk_bytes));
    for (file, entry) in intake.manifest.entries() {
        let EntryKind::File { bytes, .. } = entry.kind else { continue };
        let is_compared = match options.overwrite {
            Overwrite::Content => true,
            // A file that an earlier attempt stored is not sent again if the source still has it.
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
            intake.compared.push(DeltaCandidate { file, parts, may_be_same, was_stored });
        }
    }
}
