//! Files with chunks of their own that are being received: open partial files, what of them is
//! verified, and what is durable.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use culvert_link::commands::FileSlot;
use culvert_objects::fs::destination::Destination;
use culvert_objects::fs::destination::attributes::Attributes;
use culvert_objects::fs::destination::file_errors::unwritable;
use culvert_objects::fs::destination::files::{LeftFile, PartialFile};
use culvert_objects::fs::destination::names::split_name;
use culvert_objects::fs::destination::small_files::staged::StoredFile;
use culvert_objects::fs::sources::hash_of;
use culvert_objects::sink::PartWriter;
use culvert_plane::dataplane::{DataPlane, InstalledFile};
use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::control::{FileError, Refusal};
use culvert_protocol::manifest::{Entry, EntryKind};
use culvert_protocol::names::printable;
use culvert_protocol::tree_hash::{ChunkHash, TreeHash};
use culvert_system::os_error::{self, SHORTAGE, errno_or_io};
use rustix::fs::fstat;
use rustix::io::Errno;

use crate::journal::{DIRECTORY_BYTES_MAX, Record, change_time, not_journaled};
use crate::shares::Piece;
use crate::transfer::blocking;
use crate::transfer::receiving::planning::Intake;

/// A partial file that is open here and in the data plane.
#[derive(Clone, Debug)]
pub struct OpenPartial {
    installed: Arc<InstalledFile>,
    partial: Arc<PartialFile>,
    /// Its number in the journal.
    number: u32,
    /// Its place among the partner's open files.
    _place: Arc<Piece>,
}

impl OpenPartial {
    /// Where the data plane has it.
    #[must_use]
    pub fn slot(&self) -> FileSlot {
        self.installed.slot()
    }

    /// The file.
    #[must_use]
    pub fn partial(&self) -> Arc<PartialFile> {
        self.partial.clone()
    }

    /// How it is found again when it is closed.
    #[must_use]
    pub fn left(&self) -> LeftFile {
        self.partial.left
    }

    /// Gives its places to others at once; what is returned is to be dropped where a disk may be
    /// waited for.
    fn give_way(self) -> Arc<PartialFile> {
        self.partial
    }

    /// Closes and removes it. May wait for the disk.
    pub fn discard(self, destination: &Destination) {
        self.partial.discard(destination);
    }
}

/// An object of a store without descriptors, whose parts this process writes.
#[derive(Clone, Debug)]
pub struct OpenParts {
    writer: Arc<dyn PartWriter>,
    /// Its place among the partner's open files.
    _place: Arc<Piece>,
}

/// What is open to be written to.
#[derive(Clone, Debug)]
pub enum OpenFile {
    /// A partial file of a directory.
    Partial(OpenPartial),
    /// An object of a store.
    Parts(OpenParts),
}

impl OpenFile {
    /// Who writes a chunk of it.
    fn writing(&self) -> Writing {
        match self {
            Self::Partial(partial) => Writing::Lane(partial.slot()),
            Self::Parts(parts) => Writing::Here(parts.writer.clone()),
        }
    }

    /// The partial file, if it is one.
    const fn partial(&self) -> Option<&OpenPartial> {
        match self {
            Self::Partial(partial) => Some(partial),
            Self::Parts(_) => None,
        }
    }
}

/// Who writes the chunks of an open file.
#[derive(Clone, Debug)]
pub enum Writing {
    /// The lane that a chunk comes by, into this file.
    Lane(FileSlot),
    /// This process.
    Here(Arc<dyn PartWriter>),
}

/// What a partial file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beginning {
    /// Nothing.
    Empty,
    /// What an earlier attempt left.
    Left(LeftFile),
    /// What this attempt closed, with its number in the journal.
    Closed(LeftFile, u32),
}

impl Beginning {
    /// Whether there are bytes in it that the next attempt can use.
    const fn is_of_use(self) -> bool {
        matches!(self, Self::Left(_) | Self::Closed(..))
    }
}

/// Opens what a file is written to.
///
/// # Errors
/// What to say of the file.
pub async fn open(
    plane: &Arc<DataPlane>,
    intake: Arc<Intake>,
    file: u32,
    beginning: Beginning,
    place: Piece,
) -> Result<OpenFile, FileError> {
    if let Some(sink) = intake.sink.clone() {
        let writer = blocking(move || sink.begin(&intake.manifest, file)).await?;
        return Ok(OpenFile::Parts(OpenParts { writer, _place: Arc::new(place) }));
    }
    open_in_directory(plane, intake, file, beginning, place).await.map(OpenFile::Partial)
}

/// Makes a partial file, or opens the one that an earlier attempt left, and notes it in the
/// journal.
///
/// # Errors
/// What to say of the file.
pub async fn open_in_directory(
    plane: &Arc<DataPlane>,
    intake: Arc<Intake>,
    file: u32,
    beginning: Beginning,
    place: Piece,
) -> Result<OpenPartial, FileError> {
    let opening = intake.clone();
    let (partial, number) = blocking(move || open_partial(&opening, file, beginning)).await?;
    let installed = match plane.install_file(&partial.buffered, partial.direct.as_ref()).await {
        Ok(installed) => installed,
        Err(error) => {
            // What was left before may be of use to the next attempt; what was made just now is
            // not.
            if !beginning.is_of_use() {
                blocking(move || intake.destination.iter().for_each(|destination| partial.discard(destination))).await;
            }
            return Err(FileError { file, code: SHORTAGE.to_owned(), text: error.to_string() });
        }
    };
    Ok(OpenPartial { installed: Arc::new(installed), partial: Arc::new(partial), number, _place: Arc::new(place) })
}

fn open_partial(intake: &Intake, file: u32, beginning: Beginning) -> Result<(PartialFile, u32), FileError> {
    let fail = |error| unwritable(&intake.name(file), file, error);
    let destination = intake.destination.as_ref().ok_or_else(|| fail(Errno::INVAL))?;
    let entry = intake.manifest.entry(file);
    let EntryKind::File { bytes, is_sparse } = entry.kind else { return Err(fail(Errno::INVAL)) };
    let name = destination.name(&intake.manifest, file);
    let partial = match beginning {
        Beginning::Left(left) | Beginning::Closed(left, _) => {
            PartialFile::reopen(destination, &name, left, bytes, is_sparse)
        }
        Beginning::Empty => PartialFile::create(destination, &name, bytes, is_sparse),
    };
    let partial = partial.map_err(fail)?;
    let begun = fill_and_note(intake, file, &partial, beginning);
    // What was left before may be of use to the next attempt; what was made just now is not.
    let number = begun.inspect_err(|_| {
        if !beginning.is_of_use() {
            partial.discard(destination);
        }
    });
    Ok((partial, number.map_err(fail)?))
}

/// Fills a partial file with what it begins with, and notes it in the journal; its number there.
fn fill_and_note(intake: &Intake, file: u32, partial: &PartialFile, beginning: Beginning) -> Result<u32, Errno> {
    if let Beginning::Closed(_, number) = beginning {
        return Ok(number);
    }
    let entry = intake.manifest.entry(file);
    let bytes = intake.manifest.file_bytes(file).unwrap_or(0);
    let mut journal = intake.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut number = 0;
    if let Some(journal) = journal.as_mut() {
        number = journal.next_begun();
        let LeftFile { token, inode } = partial.left;
        let (name, modified, chunk_bytes) = (hash_of(entry.name), entry.modified, intake.chunk_bytes);
        let (directory, _) = split_name(entry.name);
        let directory = if directory.len() <= DIRECTORY_BYTES_MAX { directory.to_vec() } else { Vec::new() };
        let begun = Record::Begun { name, bytes, modified, chunk_bytes, token, inode, directory };
        // What the journal says of chunks belongs to the beginning before them.
        let known = intake.begun.iter().find(|begun| begun.file == file && begun.left.token == token);
        let chunks = known.into_iter().flat_map(|begun| &begun.chunks);
        let chunks = chunks.map(|&(part, hash)| Record::Chunk { file: number, part, hash });
        journal.append(std::iter::once(begun).chain(chunks)).map_err(|error| errno_or_io(&error))?;
    }
    Ok(number)
}

/// What is there of a file that was given up.
#[derive(Debug)]
pub enum Discarded {
    /// It is open.
    Open(OpenFile),
    /// It was closed.
    Left(LeftFile),
}

impl Discarded {
    /// Removes it. May wait for the disk.
    pub fn remove(self, intake: &Intake, file: u32) {
        let open = match self {
            Self::Open(OpenFile::Parts(parts)) => return parts.writer.abandon(),
            Self::Open(OpenFile::Partial(partial)) => Ok(partial),
            Self::Left(left) => Err(left),
        };
        let Some(destination) = intake.destination.as_ref() else { return };
        let left = match open {
            Ok(partial) => return partial.discard(destination),
            Err(left) => left,
        };
        let name = destination.name(&intake.manifest, file);
        let bytes = intake.manifest.file_bytes(file).unwrap_or(0);
        // What is not the file that was left is not removed, and what cannot be removed stays under
        // its temporary name.
        if let Ok(partial) = PartialFile::reopen(destination, &name, left, bytes, true) {
            partial.discard(destination);
        }
    }
}

/// A file whose every chunk is written and verified.
#[derive(Clone, Debug)]
pub struct WholeFile {
    open: OpenFile,
    /// Its hash, if the transfer has hashes.
    pub hash: Option<ChunkHash>,
}

/// Gives a whole file its name, and notes it in the journal.
///
/// # Errors
/// What to say of the file.
pub fn finish(intake: &Intake, file: u32, whole: &WholeFile, preserve: bool) -> Result<(), FileError> {
    let partial = match &whole.open {
        OpenFile::Parts(parts) => {
            return parts.writer.commit(whole.hash).map_err(|why| not_accepted(intake, file, &why));
        }
        OpenFile::Partial(open) => &open.partial,
    };
    let fail = |error| unwritable(&intake.name(file), file, error);
    let destination = intake.destination.as_ref().ok_or_else(|| fail(Errno::INVAL))?;
    let entry = intake.manifest.entry(file);
    let bytes = intake.manifest.file_bytes(file).unwrap_or(0);
    let attributes = Attributes::of(&entry, preserve);
    let action = intake.actions[file as usize];
    let refused = partial.finish(destination, bytes, &attributes, action).map_err(fail)?;
    // By its descriptor: under its name there may be another transfer's by now.
    let stat = fstat(&partial.buffered).map_err(fail)?;
    let records = records_of(&entry, whole.hash.unwrap_or_default(), &StoredFile { file, stat, refused });
    let mut journal = intake.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(journal) = journal.as_mut() {
        let io_error = |error: std::io::Error| fail(errno_or_io(&error));
        journal.append(records).map_err(io_error)?;
    }
    intake.note_refused(file, refused);
    Ok(())
}

/// What is said of an object that a store does not take.
#[must_use]
pub fn not_accepted(intake: &Intake, file: u32, why: &str) -> FileError {
    let text = format!("'{}' cannot be stored: {why}", printable(&intake.name(file)));
    FileError { file, code: "unwritable".to_owned(), text }
}

/// The journal's records of a file that is stored: what it could not get, and that it is done.
pub fn records_of(entry: &Entry<'_>, hash: ChunkHash, stored: &StoredFile) -> impl Iterator<Item = Record> + use<> {
    let StoredFile { stat, refused, .. } = stored;
    let not_kept = (!refused.is_nothing()).then(|| Record::not_kept(entry.name, stat.st_ino, *refused));
    let done = Record::Done {
        name: hash_of(entry.name),
        bytes: stat.st_size as u64,
        modified: entry.modified,
        hash,
        inode: stat.st_ino,
        changed: change_time(stat),
    };
    not_kept.into_iter().chain([done])
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
    open: Option<OpenFile>,
    /// Chunks that wait until the file is open. `None` while it is not being opened.
    waiting: Option<Vec<WaitingChunk>>,
    /// How it is opened again, if it was closed to make room.
    closed: Option<(LeftFile, u32)>,
    /// What the sender says its hash is, once it says that the file did not change.
    complete: Option<ChunkHash>,
    /// Verified chunks that are not in the journal yet: number, part, hash.
    uncommitted: Vec<(u32, u64, Option<ChunkHash>)>,
    /// Whether it is being opened.
    is_opening: bool,
    /// Whether it has been handed over to be finished.
    is_finishing: bool,
    verified: HashSet<u64>,
}

/// The files of a transfer that have chunks of their own. Only those in progress take memory. When
/// this is dropped, partial files stay: the next attempt continues with them.
#[derive(Debug)]
pub struct IncomingFiles {
    files: HashMap<u32, IncomingFile>,
    /// How many chunks each file has that has not been touched yet.
    untouched: HashMap<u32, u64>,
    /// Partial files with bytes in them that are not open.
    left: HashMap<u32, LeftFile>,
    /// Files that are to be opened when another was closed.
    deferred: VecDeque<u32>,
}

impl IncomingFiles {
    /// None in progress.
    #[must_use]
    pub fn new(intake: &Intake, chunks: &ChunkMap) -> Self {
        let untouched = chunks
            .files()
            .map(|(file, _)| (file, chunks.chunks_of_file(intake.manifest.file_bytes(file).unwrap_or(0))))
            .collect();
        Self { files: HashMap::new(), untouched, left: HashMap::new(), deferred: VecDeque::new() }
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
                    closed: None,
                    complete: None,
                    uncommitted: Vec::new(),
                    is_opening: false,
                    is_finishing: false,
                    verified: HashSet::new(),
                },
            );
        }
        self.files.get_mut(&file)
    }

    /// Who writes the chunks of a file, if it is open.
    #[must_use]
    pub fn get(&self, file: u32) -> Option<Writing> {
        self.files.get(&file)?.open.as_ref().map(OpenFile::writing)
    }

    /// Lets a chunk wait for its file. The file is opened only once, whoever needs it: opening
    /// truncates it.
    pub fn wait_for(&mut self, file: u32, chunk: WaitingChunk) {
        if self.want_open(file)
            && let Some(waiting) = self.files.get_mut(&file).and_then(|incoming| incoming.waiting.as_mut())
        {
            waiting.push(chunk);
        }
    }

    /// A file is to be opened, if it is not: for a chunk, or for its name. False if there is no
    /// such file any more.
    pub fn want_open(&mut self, file: u32) -> bool {
        let Some(incoming) = self.file(file) else { return false };
        if incoming.open.is_none() && incoming.waiting.is_none() {
            incoming.waiting = Some(Vec::new());
            self.deferred.push_back(file);
        }
        true
    }

    /// The next file to open now, and what it starts with. `is_full` says whether this node or the
    /// partner has as many open as permitted. Then the transfer waits for one that is about to get
    /// its name, or closes an idle one ([`IncomingFiles::close_idle`]). A transfer without any open
    /// file opens one all the same: otherwise two could wait for each other.
    pub fn next_to_open(&mut self, is_full: bool) -> Option<(u32, Beginning)> {
        if is_full && self.opened() > 0 {
            return None;
        }
        loop {
            let file = self.deferred.pop_front()?;
            // Given up meanwhile.
            let Some(incoming) = self.files.get_mut(&file) else { continue };
            incoming.is_opening = true;
            let left = self.left.get(&file).map(|&left| Beginning::Left(left));
            let closed = incoming.closed.map(|(left, number)| Beginning::Closed(left, number));
            return Some((file, closed.or(left).unwrap_or(Beginning::Empty)));
        }
    }

    /// Files that are open or being opened.
    fn opened(&self) -> usize {
        self.files.values().filter(|incoming| incoming.open.is_some() || incoming.is_opening).count()
    }

    /// Whether files wait to be opened, and none is about to be closed by itself.
    #[must_use]
    pub fn wants_room(&self) -> bool {
        let is_closing = |incoming: &IncomingFile| incoming.is_finishing && incoming.open.is_some();
        !self.deferred.is_empty() && !self.files.values().any(is_closing)
    }

    /// Closes a file for which nothing comes just now, and which is open again when it is wanted.
    /// `is_busy` says of which files chunks are on their way. What is returned is to be dropped
    /// where a disk may be waited for.
    pub fn close_idle(&mut self, is_busy: impl Fn(u32) -> bool) -> Option<Arc<PartialFile>> {
        let is_idle = |file: u32, incoming: &IncomingFile| {
            incoming.open.as_ref().is_some_and(|open| open.partial().is_some())
                && !incoming.is_finishing
                && incoming.uncommitted.is_empty()
                && !is_busy(file)
        };
        let file = self.files.iter().find(|&(&file, incoming)| is_idle(file, incoming)).map(|(&file, _)| file)?;
        let incoming = self.files.get_mut(&file)?;
        let open = incoming.open.take_if(|open| open.partial().is_some())?;
        let OpenFile::Partial(open) = open else { return None };
        incoming.closed = Some((open.left(), open.number));
        Some(open.give_way())
    }

    /// A partial file has bytes in it, and is closed until it is wanted.
    pub fn leave(&mut self, file: u32, left: LeftFile) {
        self.left.insert(file, left);
    }

    /// A file is open; returns the chunks that waited.
    ///
    /// # Errors
    /// What was opened, if the file is done with.
    pub fn insert(&mut self, file: u32, opened: OpenFile) -> Result<Vec<WaitingChunk>, OpenFile> {
        let Some(incoming) = self.file(file) else { return Err(opened) };
        incoming.is_opening = false;
        incoming.open.get_or_insert(opened);
        Ok(incoming.waiting.take().unwrap_or_default())
    }

    /// The chunks that waited for a file that will not be opened.
    pub fn take_waiting(&mut self, file: u32) -> Vec<WaitingChunk> {
        self.files.get_mut(&file).and_then(|incoming| incoming.waiting.take()).unwrap_or_default()
    }

    /// Files whose chunks are all verified, and of which the sender has not said that they did not
    /// change.
    #[must_use]
    pub fn without_word(&self) -> usize {
        self.files.values().filter(|incoming| incoming.chunks_left == 0 && incoming.complete.is_none()).count()
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

    /// A file that can get its name now; an error if its hash is not the sender's. One that is
    /// whole and not open is to be opened first.
    pub fn take_if_ready(&mut self, file: u32) -> Option<Result<WholeFile, ()>> {
        let incoming = self.files.get_mut(&file)?;
        let theirs = incoming.complete?;
        if incoming.chunks_left > 0 || incoming.is_finishing {
            return None;
        }
        let Some(open) = incoming.open.clone() else {
            self.want_open(file);
            return None;
        };
        incoming.is_finishing = true;
        let hash = incoming.tree.as_ref().and_then(TreeHash::finish).map(|hash| *hash.as_bytes());
        if hash.is_some_and(|ours| ours != theirs) {
            return Some(Err(()));
        }
        Some(Ok(WholeFile { open, hash }))
    }

    /// Forgets a file that has its name; returns its chunks that were not said to be stored yet,
    /// and what is to be closed.
    pub fn close(&mut self, file: u32) -> (Vec<u32>, Option<OpenFile>) {
        let Some(incoming) = self.files.remove(&file) else { return (Vec::new(), None) };
        (incoming.uncommitted.into_iter().map(|(chunk, ..)| chunk).collect(), incoming.open)
    }

    /// Forgets a file that was given up; returns its partial file, which is to be removed.
    #[must_use]
    pub fn discard(&mut self, file: u32) -> Option<Discarded> {
        self.untouched.remove(&file);
        let left = self.left.remove(&file);
        let (open, closed) = self.files.remove(&file).map_or((None, None), |incoming| (incoming.open, incoming.closed));
        let left = closed.map(|(left, _)| left).or(left);
        open.map(Discarded::Open).or(left.map(Discarded::Left))
    }

    /// The partial file of a file, if it is open.
    #[must_use]
    pub fn partial(&self, file: u32) -> Option<Arc<PartialFile>> {
        Some(self.files.get(&file)?.open.as_ref()?.partial()?.partial())
    }

    /// A partial file that is open.
    #[must_use]
    pub fn opened_file(&self, file: u32) -> Option<OpenPartial> {
        self.files.get(&file)?.open.as_ref()?.partial().cloned()
    }

    /// Whether a file was closed to make room, and nobody wants it just now.
    #[must_use]
    pub fn is_closed(&self, file: u32) -> bool {
        self.files.get(&file).is_some_and(|one| one.open.is_none() && one.closed.is_some() && one.waiting.is_none())
    }

    /// What the sender says the hash of a file is, if it has said that the file did not change.
    #[must_use]
    pub fn complete(&self, file: u32) -> Option<ChunkHash> {
        self.files.get(&file)?.complete
    }

    /// What is verified and not in the journal yet; `None` if there is nothing.
    pub fn take_uncommitted(&mut self) -> Option<Uncommitted> {
        let mut work = Uncommitted { files: Vec::new() };
        for incoming in self.files.values_mut().filter(|incoming| !incoming.is_finishing) {
            // Of an object nothing is durable before all of it is.
            let open = incoming.open.as_ref().and_then(OpenFile::partial);
            if let Some(open) = open.filter(|_| !incoming.uncommitted.is_empty()) {
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
    /// What to end the transfer with.
    pub fn commit(self, intake: &Intake) -> Result<(), Refusal> {
        let mut records = Vec::new();
        for (partial, number, chunks) in self.files {
            partial.sync().map_err(|error| {
                os_error::refusal(error, format!("what was received cannot be made durable: {error}"))
            })?;
            let record = |(_, part, hash)| Record::Chunk { file: number, part, hash };
            records.extend(chunks.into_iter().map(record));
        }
        let mut journal = intake.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match journal.as_mut() {
            Some(journal) => journal.append(records).map_err(|error| not_journaled(&error)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that a hole and a chunk wanted at the same time was opened twice, and the second
    /// opening emptied what the first had got.
    #[test]
    fn a_file_is_opened_once_for_holes_and_for_chunks() {
        let mut files = IncomingFiles {
            files: HashMap::new(),
            untouched: HashMap::from([(7, 3)]),
            left: HashMap::new(),
            deferred: VecDeque::new(),
        };
        let (hole, segments) =
            (WaitingChunk::Hole { chunk: 1, hash: [1; 32] }, WaitingChunk::Segments { tag: 0, chunk: 0 });
        files.wait_for(7, segments);
        files.wait_for(7, hole);
        // A file that the transfer does not have is not opened at all.
        files.wait_for(8, hole);
        assert_eq!(files.next_to_open(false), Some((7, Beginning::Empty)));
        assert_eq!(files.next_to_open(false), None);
        assert_eq!(files.take_waiting(7), [segments, hole]);
    }

    #[test]
    fn with_too_many_files_open_a_transfer_opens_one_and_the_next_waits() {
        let chunk = WaitingChunk::Segments { tag: 0, chunk: 0 };
        let mut files = IncomingFiles {
            files: HashMap::new(),
            untouched: (0..10).map(|file| (file, 2)).collect(),
            left: HashMap::from([(2, LeftFile { token: 5, inode: 6 })]),
            deferred: VecDeque::new(),
        };
        files.wait_for(1, chunk);
        assert_eq!(files.next_to_open(true), Some((1, Beginning::Empty)), "it has none");
        files.wait_for(2, chunk);
        assert_eq!(files.next_to_open(true), None, "it has one, which will be idle some time");
        assert!(files.wants_room());
        assert_eq!(files.next_to_open(false), Some((2, Beginning::Left(LeftFile { token: 5, inode: 6 }))));
        files.wait_for(3, chunk);
        assert!(files.discard(3).is_none());
        assert_eq!(files.next_to_open(false), None, "it was given up");
    }
}
