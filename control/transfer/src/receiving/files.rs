//! Files with chunks of their own that are being received: which are open, what of them is
//! verified, and what is durable.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use culvert_journal::{Record, not_journaled};
use culvert_objects::fs::destination::files::{LeftFile, PartialFile};
use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::control::Refusal;
use culvert_protocol::tree_hash::{ChunkHash, TreeHash};
use culvert_system::os_error::{self};

use crate::receiving::intake::Intake;
use crate::receiving::open_file::{Discarded, InitialContent, OpenFile, OpenPartial, WholeFile, Writing};

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
    /// such file any longer.
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
    pub fn next_to_open(&mut self, is_full: bool) -> Option<(u32, InitialContent)> {
        if is_full && self.opened() > 0 {
            return None;
        }
        loop {
            let file = self.deferred.pop_front()?;
            // Given up meanwhile.
            let Some(incoming) = self.files.get_mut(&file) else { continue };
            incoming.is_opening = true;
            let left = self.left.get(&file).map(|&left| InitialContent::Left(left));
            let closed = incoming.closed.map(|(left, number)| InitialContent::Closed(left, number));
            return Some((file, closed.or(left).unwrap_or(InitialContent::Empty)));
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

    /// Files whose chunks are all verified, and which the sender has not confirmed as unchanged.
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
        // Invariant I-receiving-chunks-left: each chunk of a file is counted once as verified.
        assert!(incoming.chunks_left > 0, "more chunks of a file were verified than it has");
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
        assert_eq!(files.next_to_open(false), Some((7, InitialContent::Empty)));
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
        assert_eq!(files.next_to_open(true), Some((1, InitialContent::Empty)), "it has none");
        files.wait_for(2, chunk);
        assert_eq!(files.next_to_open(true), None, "it has one, which will be idle some time");
        assert!(files.wants_room());
        assert_eq!(files.next_to_open(false), Some((2, InitialContent::Left(LeftFile { token: 5, inode: 6 }))));
        files.wait_for(3, chunk);
        assert!(files.discard(3).is_none());
        assert_eq!(files.next_to_open(false), None, "it was given up");
    }
}
