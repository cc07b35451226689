//! Gives small files their names, many at a time: first all data is made durable, then the files
//! get their names, then the names are made durable too.
//!
//! One `syncfs` (of each file system below the destination) makes the data of all waiting packs
//! durable, and with it the names assigned in the previous round. In steady state, each round
//! therefore costs one flush of the file system, however many files it has. A directory filled
//! under a temporary name gives all its files their names at once, when the last of them is
//! durable.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use culvert_journal::{Record, not_journaled};
use culvert_objects::fs::destination::fresh_directories::FreshDirectory;
use culvert_objects::fs::destination::names::split_name;
use culvert_objects::fs::destination::small_files::staged::{StagedFile, StoredFile};
use culvert_objects::fs::destination::small_files::{Unpacking, store_empty};
use culvert_protocol::control::FileError;
use culvert_protocol::tree_hash::ChunkHash;
use rustix::io::Errno;

use crate::error::TransferError;
use crate::receiving::intake::Intake;
use crate::receiving::stored_records::records_of;

/// Work for the committer.
#[derive(Debug)]
enum Work {
    /// A written pack, and how many files of which directories came with it.
    Pack { chunk: u32, staged: Vec<(ChunkHash, StagedFile)>, settled: Vec<(Arc<FreshDirectory>, u32)> },
    /// Files without bytes.
    Empty(Vec<u32>),
}

/// The outcome of a round of the committer.
#[derive(Debug, Default)]
pub struct Committed {
    /// Files that have their names, durably.
    pub stored: Vec<u32>,
    /// Files that do not.
    pub failed: Vec<FileError>,
    /// Packs that are stored with all their files.
    pub chunks: Vec<u32>,
    /// The end of the transfer: nothing can be made durable.
    pub fatal: Option<TransferError>,
}

/// A thread that commits.
#[derive(Debug)]
pub struct Committer {
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
}

impl Committer {
    /// Starts the thread; `report` gets each round's outcome. It ends when the committer is
    /// dropped.
    pub fn start(intake: Arc<Intake>, preserve: bool, report: impl Fn(Committed) + Send + 'static) -> Self {
        if intake.destination.is_none() {
            return Self { work: None, thread: None };
        }
        let (work, waiting) = channel();
        let thread = std::thread::spawn(move || commit_rounds(&intake, preserve, &waiting, &report));
        Self { work: Some(work), thread: Some(thread) }
    }

    /// Ends the thread, and waits until it has.
    pub fn end(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so.
            let _ = thread.join();
        }
    }

    /// Gives a written pack to the committer: its files, and how many files of which directories
    /// came with it.
    pub fn commit(&self, chunk: u32, staged: Vec<(ChunkHash, StagedFile)>, settled: Vec<(Arc<FreshDirectory>, u32)>) {
        self.send(Work::Pack { chunk, staged, settled });
    }

    /// Gives files without bytes to the committer.
    pub fn store_empty(&self, files: Vec<u32>) {
        self.send(Work::Empty(files));
    }

    fn send(&self, item: Work) {
        if let Some(work) = &self.work {
            // The thread ends only after this sender.
            let _ = work.send(item);
        }
    }
}

/// Files that have their names, but not durably yet.
#[derive(Debug, Default)]
struct Linked {
    files: Vec<u32>,
    /// What the journal says of them.
    records: Vec<Record>,
    /// Packs with no other files than those, and those that were linked before.
    chunks: Vec<u32>,
}

impl Linked {
    const fn is_empty(&self) -> bool {
        self.files.is_empty() && self.chunks.is_empty()
    }

    fn add(&mut self, intake: &Intake, hash: ChunkHash, stored: &StoredFile) {
        self.records.extend(records_of(&intake.manifest.entry(stored.file), hash, stored));
        self.files.push(stored.file);
        intake.note_refused(stored.file, stored.refused);
    }
}

/// A directory that is being filled, and its durable files.
#[derive(Debug)]
struct Filling {
    directory: Arc<FreshDirectory>,
    /// Files that came, whatever became of them.
    settled: u32,
    staged: Vec<(ChunkHash, StagedFile)>,
    /// The packs that they came with.
    packs: Vec<u32>,
}

impl Filling {
    /// The name of the directory that it is in.
    fn parent(&self, intake: &Intake) -> Vec<u8> {
        let directory = self.staged.first().map_or(b"".as_slice(), |(_, staged)| {
            let (directory, _) = split_name(intake.manifest.entry(staged.file).name);
            directory
        });
        split_name(directory).0.to_vec()
    }
}

/// The directories that are being filled: as few as there are packs in progress, if the sender
/// keeps to the manifest's order.
#[derive(Debug, Default)]
struct FillingList {
    directories: Vec<Filling>,
    /// How often each pack stands in their lists.
    directories_of: HashMap<u32, usize>,
}

impl FillingList {
    fn of(&mut self, directory: &Arc<FreshDirectory>) -> &mut Filling {
        let is_it = |filling: &Filling| Arc::ptr_eq(&filling.directory, directory);
        let at = self.directories.iter().rposition(is_it).unwrap_or_else(|| {
            let (directory, staged, packs) = (directory.clone(), Vec::new(), Vec::new());
            self.directories.push(Filling { directory, settled: 0, staged, packs });
            self.directories.len() - 1
        });
        &mut self.directories[at]
    }

    /// `files` of a directory came with a pack.
    fn settle(&mut self, chunk: u32, directory: &Arc<FreshDirectory>, files: u32) {
        let filling = self.of(directory);
        filling.settled += files;
        filling.packs.push(chunk);
        *self.directories_of.entry(chunk).or_default() += 1;
    }

    /// Those of which all files came.
    fn take_full(&mut self) -> Vec<Filling> {
        self.directories.extract_if(.., |filling| filling.settled >= filling.directory.files).collect()
    }

    /// A directory's files have their names: whether a pack that some of them came with has none in
    /// others.
    fn is_last_of(&mut self, chunk: u32) -> bool {
        let Entry::Occupied(mut left) = self.directories_of.entry(chunk) else { return false };
        *left.get_mut() -= 1;
        let is_last = *left.get() == 0;
        if is_last {
            left.remove();
        }
        is_last
    }

    /// Whether a pack has files in directories that are not in their places.
    fn has_files_of(&self, chunk: u32) -> bool {
        self.directories_of.contains_key(&chunk)
    }
}

fn commit_rounds(intake: &Intake, preserve: bool, waiting: &Receiver<Work>, report: &dyn Fn(Committed)) {
    let (mut linked, mut filling) = (Linked::default(), FillingList::default());
    loop {
        let batch = take_batch(waiting, linked.is_empty());
        let Some(batch) = batch else { return };
        let mut committed = Committed::default();
        if let Err(error) = make_durable(intake, &mut linked, &mut committed) {
            committed.fatal = Some(error);
            report(committed);
            return;
        }
        for work in batch {
            link(intake, preserve, work, &mut filling, &mut linked, &mut committed);
        }
        report(committed);
    }
}

/// Everything that waits; waits for the first if there is nothing else to do. `None` when the
/// transfer is over.
fn take_batch(waiting: &Receiver<Work>, wait: bool) -> Option<Vec<Work>> {
    let mut batch = Vec::new();
    if wait {
        batch.push(waiting.recv().ok()?);
    }
    loop {
        match waiting.try_recv() {
            Ok(work) => batch.push(work),
            Err(TryRecvError::Disconnected) if batch.is_empty() => return None,
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Some(batch),
        }
    }
}

/// Flushes the file system: the bytes that wait for names, and the names that were given in the
/// last round.
fn make_durable(intake: &Intake, linked: &mut Linked, committed: &mut Committed) -> Result<(), TransferError> {
    let Some(destination) = &intake.destination else { return Ok(()) };
    let failed = |what: &str, error: Errno| {
        let path = destination.path.display();
        TransferError::os(error, format!("{what} in {path} cannot be made durable: {error}"))
    };
    destination.sync().map_err(|error| failed("the files", error))?;
    let Linked { files, records, chunks } = std::mem::take(linked);
    let mut journal = intake.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(journal) = journal.as_mut() {
        journal.append(records).map_err(|error| TransferError::Here(not_journaled(&error)))?;
    }
    committed.stored.extend(files);
    committed.chunks.extend(chunks);
    Ok(())
}

fn link(
    intake: &Intake,
    preserve: bool,
    work: Work,
    filling: &mut FillingList,
    linked: &mut Linked,
    committed: &mut Committed,
) {
    let Some(unpacking) = intake.unpacking(preserve) else { return };
    match work {
        Work::Pack { chunk, staged, settled } => {
            for (hash, staged) in staged {
                match staged.fresh().map(|(directory, _)| directory.clone()) {
                    Some(directory) => filling.of(&directory).staged.push((hash, staged)),
                    None => link_one(intake, &unpacking, hash, staged, linked, committed),
                }
            }
            for (directory, files) in settled {
                filling.settle(chunk, &directory, files);
            }
            if !filling.has_files_of(chunk) {
                linked.chunks.push(chunk);
            }
            for full in filling.take_full() {
                let packs = put_in_place(intake, &unpacking, full, linked, committed);
                linked.chunks.extend(packs.into_iter().filter(|&chunk| filling.is_last_of(chunk)));
            }
        }
        Work::Empty(files) => {
            for file in files {
                match store_empty(&unpacking, file) {
                    Ok(stored) => linked.add(intake, *blake3::hash(&[]).as_bytes(), &stored),
                    Err(error) => committed.failed.push(error),
                }
            }
        }
    }
}

fn link_one(
    intake: &Intake,
    unpacking: &Unpacking<'_>,
    hash: ChunkHash,
    staged: StagedFile,
    linked: &mut Linked,
    committed: &mut Committed,
) {
    match unpacking.link(staged) {
        Ok(stored) => linked.add(intake, hash, &stored),
        Err(error) => committed.failed.push(error),
    }
}

/// Moves a directory to its place; if something is there by now, its files one by one. Returns the
/// packs that they came with.
fn put_in_place(
    intake: &Intake,
    unpacking: &Unpacking<'_>,
    full: Filling,
    linked: &mut Linked,
    committed: &mut Committed,
) -> Vec<u32> {
    let is_in_place = unpacking.destination.opening(&full.parent(intake), || full.directory.put_in_place()).is_ok();
    for (hash, staged) in full.staged {
        match staged.fresh().filter(|_| is_in_place) {
            Some((_, stored)) => linked.add(intake, hash, &stored),
            None => link_one(intake, unpacking, hash, staged, linked, committed),
        }
    }
    intake.fresh.leave(&full.directory);
    full.packs
}

#[cfg(test)]
mod tests {
    use culvert_objects::fs::destination::MissingDestination;
    use culvert_objects::fs::destination::action::Action;
    use culvert_objects::fs::destination::fresh_directories::FreshDirectories;
    use culvert_objects::fs::reach::Reach;
    use culvert_protocol::manifest::{Entry, EntryKind, Manifest};

    use super::*;

    /// A pack was called stored when its files were written, and one with files in no other
    /// directory never.
    #[test]
    fn a_pack_is_stored_when_the_last_of_its_directories_is_in_its_place() {
        let room = tempfile::tempdir().unwrap();
        let mut manifest = Manifest::default();
        let mut push = |name: &str, kind| {
            let entry = Entry { name: name.as_bytes(), kind, target: b"", mode: 0o755, modified: Default::default() };
            manifest.push(&entry).unwrap();
        };
        for directory in ["a", "b"] {
            std::fs::create_dir(room.path().join(directory)).unwrap();
            push(directory, EntryKind::Directory);
            for file in 0..16 {
                push(&format!("{directory}/{file}"), EntryKind::File { bytes: 1, is_sparse: false });
            }
        }
        let reach = Reach::Owner { directory: room.path().to_owned() };
        let destination = reach.open_destination(b"", false, MissingDestination::WithMode(None)).unwrap();
        let fresh = FreshDirectories::find(&manifest, &[Action::Create; 34], 1 << 20, |_| Some((0, 0)));
        let [a, b] = [b"a", b"b"].map(|name| fresh.enter(&destination, name).unwrap());
        let mut filling = FillingList::default();
        let mut stored_after = |chunk, settled: &[(&Arc<FreshDirectory>, u32)]| -> Vec<u32> {
            for &(directory, files) in settled {
                filling.settle(chunk, directory, files);
            }
            assert!(filling.has_files_of(chunk));
            let packs: Vec<u32> = filling.take_full().into_iter().flat_map(|full| full.packs).collect();
            packs.into_iter().filter(|&chunk| filling.is_last_of(chunk)).collect()
        };
        assert_eq!(stored_after(1, &[(&a, 10)]), [] as [u32; 0]);
        // The second ends the first directory and begins the second one.
        assert_eq!(stored_after(2, &[(&a, 6), (&b, 4)]), [1]);
        assert_eq!(stored_after(3, &[(&b, 5), (&b, 7)]), [2, 3]);
        assert!(filling.directories.is_empty() && filling.directories_of.is_empty());
    }
}
