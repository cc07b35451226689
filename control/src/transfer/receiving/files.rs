//! Files with chunks of their own that are being received: open partial files, what of them is verified, and what is durable.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use culvert_dataplane::link::commands::FileSlot;
use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::control::FileError;
use culvert_protocol::manifest::{Entry, EntryKind};
use culvert_protocol::tree_hash::{ChunkHash, TreeHash};
use rustix::fs::{AtFlags, Stat, statat};
use rustix::io::Errno;

use super::planning::Intake;
use crate::dataplane::{DataPlane, InstalledFile};
use crate::destination::files::{Attributes, PartialFile};
use crate::destination::small_files::unwritable;
use crate::journal::{Record, change_time};
use crate::sources::hash_of;
use crate::transfer::blocking;

/// A partial file that is open here and in the data plane.
#[derive(Clone, Debug)]
pub struct OpenPartial {
    installed: Arc<InstalledFile>,
    partial: Arc<PartialFile>,
    /// Its number in the journal.
    number: u32,
}

impl OpenPartial {
    /// Where the data plane has it.
    #[must_use]
    pub fn slot(&self) -> FileSlot {
        self.installed.slot()
    }

    /// Closes and removes it.
    pub fn discard(self) {
        self.partial.discard();
    }
}

/// What a partial file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing.
    Empty,
    /// What an earlier attempt left.
    Resumed,
    /// A copy of the file that it replaces.
    OldFile,
}

/// Makes a partial file, or opens the one that an earlier attempt left, and notes it in the journal.
///
/// # Errors
/// What to say of the file.
pub async fn open(
    plane: &Arc<DataPlane>,
    intake: Arc<Intake>,
    file: u32,
    beginning: Beginning,
) -> Result<OpenPartial, FileError> {
    let (partial, number) = blocking(move || open_partial(&intake, file, beginning)).await?;
    let installed = plane
        .install_file(&partial.buffered, partial.direct.as_ref())
        .await
        .map_err(|error| FileError { file, code: "unwritable".to_owned(), text: error.to_string() })?;
    Ok(OpenPartial { installed: Arc::new(installed), partial: Arc::new(partial), number })
}

fn open_partial(intake: &Intake, file: u32, beginning: Beginning) -> Result<(PartialFile, u32), FileError> {
    let fail = |error| unwritable(&intake.manifest, file, error);
    let destination = intake.destination.as_ref().ok_or_else(|| fail(Errno::INVAL))?;
    let entry = intake.manifest.entry(file);
    let EntryKind::File { bytes, is_sparse } = entry.kind else { return Err(fail(Errno::INVAL)) };
    let name = destination.name(&intake.manifest, file);
    let resumed = beginning == Beginning::Resumed;
    let partial = PartialFile::open(destination, &name, bytes, is_sparse, resumed).map_err(fail)?;
    if beginning == Beginning::OldFile {
        partial.copy_old(bytes).map_err(fail)?;
    }
    let mut journal = intake.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut number = 0;
    if let Some(journal) = journal.as_mut() {
        number = journal.next_begun();
        let (name, modified, chunk_bytes) = (hash_of(entry.name), entry.modified, intake.chunk_bytes);
        let begun = Record::Begun { name, bytes, modified, chunk_bytes };
        let known = intake.begun.iter().find(|begun| resumed && begun.file == file);
        let chunks = known.into_iter().flat_map(|begun| &begun.chunks);
        let chunks = chunks.map(|&(part, hash)| Record::Chunk { file: number, part, hash });
        journal
            .append(std::iter::once(begun).chain(chunks))
            .map_err(|error| fail(error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)))?;
    }
    Ok((partial, number))
}

/// A file whose every chunk is written and verified.
#[derive(Clone, Debug)]
pub struct WholeFile {
    partial: Arc<PartialFile>,
    /// Its hash, if the transfer has hashes.
    pub hash: Option<ChunkHash>,
}

/// Gives a whole file its name, and notes it in the journal.
///
/// # Errors
/// What to say of the file.
pub fn finish(intake: &Intake, file: u32, whole: &WholeFile, preserve: bool) -> Result<(), FileError> {
    let fail = |error| unwritable(&intake.manifest, file, error);
    let destination = intake.destination.as_ref().ok_or_else(|| fail(Errno::INVAL))?;
    let entry = intake.manifest.entry(file);
    let bytes = intake.manifest.file_bytes(file).unwrap_or(0);
    let attributes = Attributes::of(&entry, preserve);
    let action = intake.actions[file as usize];
    whole.partial.finish(destination, bytes, &attributes, action).map_err(fail)?;
    let record = done_record(intake, file, whole.hash.unwrap_or_default()).map_err(fail)?;
    let mut journal = intake.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(journal) = journal.as_mut() {
        let io_error = |error: std::io::Error| fail(error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error));
        journal.append([record]).map_err(io_error)?;
    }
    Ok(())
}

/// The journal's record of a file that has its name.
///
/// # Errors
/// The operating system's.
pub fn done_record(intake: &Intake, file: u32, hash: ChunkHash) -> Result<Record, Errno> {
    let destination = intake.destination.as_ref().ok_or(Errno::INVAL)?;
    let entry = intake.manifest.entry(file);
    let name = destination.name(&intake.manifest, file);
    let (parent, last) = destination.parent_of(&name)?;
    let stat = statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(record_of(&entry, hash, &stat))
}

/// The journal's record of a file that is what `stat` says.
pub fn record_of(entry: &Entry<'_>, hash: ChunkHash, stat: &Stat) -> Record {
    Record::Done {
        name: hash_of(entry.name),
        bytes: stat.st_size as u64,
        modified: entry.modified,
        hash,
        inode: stat.st_ino,
        changed: change_time(stat),
    }
}

/// A chunk that waits until its file is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WaitingChunk {
    /// It comes by a flow.
    Segments {
        /// The flow.
        tag: usize,
        /// The chunk.
        chunk: u32,
    },
    /// It is a hole.
    Hole {
        /// The chunk.
        chunk: u32,
        /// Its hash.
        hash: ChunkHash,
    },
}

#[derive(Debug)]
struct IncomingFile {
    chunks_left: u64,
    tree: Option<TreeHash>,
    open: Option<OpenPartial>,
    /// Chunks that wait until the file is open. `None` while nobody opens it.
    waiting: Option<Vec<WaitingChunk>>,
    /// What the sender says its hash is, once it says that the file did not change.
    complete: Option<ChunkHash>,
    /// Verified chunks that are not in the journal yet: number, part, hash.
    uncommitted: Vec<(u32, u64, Option<ChunkHash>)>,
    /// Whether it has been handed over to be finished.
    is_finishing: bool,
    verified: HashSet<u64>,
}

/// The files of a transfer that have chunks of their own. Only those under way take memory. When this is dropped partial files stay:
/// the next attempt goes on with them.
#[derive(Debug)]
pub struct IncomingFiles {
    files: HashMap<u32, IncomingFile>,
    /// How many chunks each file has that has not been touched yet.
    untouched: HashMap<u32, u64>,
}

impl IncomingFiles {
    /// None under way.
    #[must_use]
    pub fn new(intake: &Intake, chunks: &ChunkMap) -> Self {
        let untouched = chunks
            .files()
            .map(|(file, _)| (file, chunks.chunks_of_file(intake.manifest.file_bytes(file).unwrap_or(0))))
            .collect();
        Self { files: HashMap::new(), untouched }
    }

    /// The state of a file; begins it. `None` if the file has no chunks of its own or is done with.
    fn file(&mut self, file: u32) -> Option<&mut IncomingFile> {
        if let Some(chunks) = self.untouched.remove(&file) {
            self.files.insert(
                file,
                IncomingFile {
                    chunks_left: chunks,
                    tree: Some(TreeHash::new(chunks)),
                    open: None,
                    waiting: None,
                    complete: None,
                    uncommitted: Vec::new(),
                    is_finishing: false,
                    verified: HashSet::new(),
                },
            );
        }
        self.files.get_mut(&file)
    }

    /// Where the data plane has a file, if it is open.
    #[must_use]
    pub fn get(&self, file: u32) -> Option<FileSlot> {
        self.files.get(&file)?.open.as_ref().map(OpenPartial::slot)
    }

    /// Lets a chunk wait for its file; true if the file must be opened. It is opened once, whoever wants it: opening it empties it.
    pub fn wait_for(&mut self, file: u32, chunk: WaitingChunk) -> bool {
        let Some(incoming) = self.file(file) else { return false };
        if let Some(waiting) = incoming.waiting.as_mut() {
            waiting.push(chunk);
            return false;
        }
        incoming.waiting = Some(vec![chunk]);
        true
    }

    /// A file is open; returns the chunks that waited.
    pub fn insert(&mut self, file: u32, opened: OpenPartial) -> Vec<WaitingChunk> {
        match self.file(file) {
            Some(incoming) => {
                incoming.open.get_or_insert(opened);
                incoming.waiting.take().unwrap_or_default()
            }
            None => {
                opened.discard();
                Vec::new()
            }
        }
    }

    /// The chunks that waited for a file that will not be opened.
    pub fn take_waiting(&mut self, file: u32) -> Vec<WaitingChunk> {
        self.files.get_mut(&file).and_then(|incoming| incoming.waiting.take()).unwrap_or_default()
    }

    /// Whether a file is getting its name.
    #[must_use]
    pub fn is_finishing(&self, file: u32) -> bool {
        self.files.get(&file).is_some_and(|incoming| incoming.is_finishing)
    }

    /// A chunk is written and verified, now or by an earlier attempt, whose journal has it.
    pub fn chunk_verified(&mut self, file: u32, chunk: u32, part: u64, hash: Option<ChunkHash>, in_journal: bool) {
        let Some(incoming) = self.file(file) else { return };
        if !incoming.verified.insert(part) {
            return;
        }
        incoming.chunks_left -= 1;
        match (hash, incoming.tree.as_mut()) {
            (Some(hash), Some(tree)) => tree.add(part, hash),
            _ => incoming.tree = None,
        }
        if !in_journal {
            incoming.uncommitted.push((chunk, part, hash));
        }
    }

    /// The sender says that a file is complete and did not change.
    pub fn note_complete(&mut self, file: u32, hash: ChunkHash) {
        if let Some(incoming) = self.file(file) {
            incoming.complete = Some(hash);
        }
    }

    /// A file that can get its name now; an error if its hash is not the sender's.
    pub fn take_if_ready(&mut self, file: u32) -> Option<Result<WholeFile, ()>> {
        let incoming = self.files.get_mut(&file)?;
        let theirs = incoming.complete?;
        if incoming.chunks_left > 0 || incoming.is_finishing {
            return None;
        }
        let partial = incoming.open.as_ref()?.partial.clone();
        incoming.is_finishing = true;
        let hash = incoming.tree.as_ref().and_then(TreeHash::finish).map(|hash| *hash.as_bytes());
        if hash.is_some_and(|ours| ours != theirs) {
            return Some(Err(()));
        }
        Some(Ok(WholeFile { partial, hash }))
    }

    /// Closes a file that has its name; returns its chunks that were not said to be stored yet.
    pub fn close(&mut self, file: u32) -> Vec<u32> {
        let Some(incoming) = self.files.remove(&file) else { return Vec::new() };
        incoming.uncommitted.into_iter().map(|(chunk, ..)| chunk).collect()
    }

    /// Removes a file that was given up.
    pub fn discard(&mut self, file: u32) {
        self.untouched.remove(&file);
        if let Some(open) = self.files.remove(&file).and_then(|incoming| incoming.open) {
            open.discard();
        }
    }

    /// Makes a range of a file a hole.
    ///
    /// # Errors
    /// The operating system's.
    pub fn punch(&self, file: u32, offset: u64, bytes: u32) -> Result<(), Errno> {
        match self.files.get(&file).and_then(|incoming| incoming.open.as_ref()) {
            Some(open) => open.partial.punch(offset, bytes.into()),
            None => Ok(()),
        }
    }

    /// What is verified and not in the journal yet; `None` if there is nothing.
    pub fn take_uncommitted(&mut self) -> Option<Uncommitted> {
        let mut work = Uncommitted { files: Vec::new() };
        for incoming in self.files.values_mut().filter(|incoming| !incoming.is_finishing) {
            if let Some(open) = incoming.open.as_ref().filter(|_| !incoming.uncommitted.is_empty()) {
                work.files.push((open.partial.clone(), open.number, std::mem::take(&mut incoming.uncommitted)));
            }
        }
        (!work.files.is_empty()).then_some(work)
    }
}

type CommitList = Vec<(u32, u64, Option<ChunkHash>)>;

/// Verified chunks to be made durable.
#[derive(Debug)]
pub struct Uncommitted {
    files: Vec<(Arc<PartialFile>, u32, CommitList)>,
}

impl Uncommitted {
    /// Their numbers.
    #[must_use]
    pub fn chunks(&self) -> Vec<u32> {
        self.files.iter().flat_map(|(_, _, chunks)| chunks.iter().map(|&(chunk, ..)| chunk)).collect()
    }

    /// Makes them durable, and only then writes the journal.
    ///
    /// # Errors
    /// In words.
    pub fn commit(self, intake: &Intake) -> Result<(), String> {
        let mut records = Vec::new();
        for (partial, number, chunks) in self.files {
            partial.sync().map_err(|error| format!("what was received cannot be made durable: {error}"))?;
            let record = |(_, part, hash)| Record::Chunk { file: number, part, hash };
            records.extend(chunks.into_iter().map(record));
        }
        let mut journal = intake.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match journal.as_mut() {
            Some(journal) => journal.append(records).map_err(|error| format!("the journal cannot be written: {error}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that a hole and a chunk wanted at the same time was opened twice, and the second opening emptied what the first had got.
    #[test]
    fn a_file_is_opened_once_for_holes_and_for_chunks() {
        let mut files = IncomingFiles { files: HashMap::new(), untouched: HashMap::from([(7, 3)]) };
        let (hole, segments) =
            (WaitingChunk::Hole { chunk: 1, hash: [1; 32] }, WaitingChunk::Segments { tag: 0, chunk: 0 });
        assert!(files.wait_for(7, segments));
        assert!(!files.wait_for(7, hole));
        assert_eq!(files.take_waiting(7), [segments, hole]);
        // A file that the transfer does not have is not opened at all.
        assert!(!files.wait_for(8, hole));
    }
}
