//! Gives small files their names, many at a time: first everything durable, then the names, then the names durable too.
//!
//! One `syncfs` (of each file system below the destination) makes the bytes of all packs that wait durable, and with them the names that the round before gave. So in
//! steady state each round costs one flush of the file system, however many files it has.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use culvert_protocol::control::{FileError, RefusalCode};
use culvert_protocol::tree_hash::ChunkHash;

use super::files::record_of;
use super::planning::Intake;
use crate::destination::small_files::{StagedFile, store_empty};
use crate::journal::Record;
use crate::transfer::TransferError;

/// Work for the committer.
#[derive(Debug)]
enum Work {
    /// A written pack.
    Pack { chunk: u32, staged: Vec<(ChunkHash, StagedFile)> },
    /// Files without bytes.
    Empty(Vec<u32>),
}

/// What a round of the committer came to.
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
}

impl Committer {
    /// Starts the thread; `report` gets each round's outcome. It ends when the committer is dropped.
    pub fn start(intake: Arc<Intake>, preserve: bool, report: impl Fn(Committed) + Send + 'static) -> Self {
        if intake.destination.is_none() {
            return Self { work: None };
        }
        let (work, waiting) = channel();
        std::thread::spawn(move || commit_rounds(&intake, preserve, &waiting, &report));
        Self { work: Some(work) }
    }

    /// Gives a written pack to the committer.
    pub fn commit(&self, chunk: u32, staged: Vec<(ChunkHash, StagedFile)>) {
        self.send(Work::Pack { chunk, staged });
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
    files: Vec<(u32, Record)>,
    chunks: Vec<u32>,
}

fn commit_rounds(intake: &Intake, preserve: bool, waiting: &Receiver<Work>, report: &dyn Fn(Committed)) {
    let mut linked = Linked::default();
    loop {
        let batch = take_batch(waiting, linked.files.is_empty());
        let Some(batch) = batch else { return };
        let mut committed = Committed::default();
        if let Err(error) = make_durable(intake, &mut linked, &mut committed) {
            committed.fatal = Some(error);
            report(committed);
            return;
        }
        for work in batch {
            link(intake, preserve, work, &mut linked, &mut committed);
        }
        report(committed);
    }
}

/// Everything that waits; waits for the first if there is nothing else to do. `None` when the transfer is over.
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

/// Flushes the file system: the bytes that wait for names, and the names that were given in the last round.
fn make_durable(intake: &Intake, linked: &mut Linked, committed: &mut Committed) -> Result<(), TransferError> {
    let Some(destination) = &intake.destination else { return Ok(()) };
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        let path = destination.path.display();
        TransferError::here(RefusalCode::Failed, format!("{what} in {path} cannot be made durable: {error}"))
    };
    destination.sync().map_err(|error| failed("the files", &error))?;
    let Linked { files, chunks } = std::mem::take(linked);
    if files.is_empty() {
        return Ok(());
    }
    let (files, records): (Vec<u32>, Vec<Record>) = files.into_iter().unzip();
    let mut journal = intake.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(journal) = journal.as_mut() {
        journal.append(records).map_err(|error| failed("the journal of the transfer", &error))?;
    }
    committed.stored.extend(files);
    committed.chunks.extend(chunks);
    Ok(())
}

fn link(intake: &Intake, preserve: bool, work: Work, linked: &mut Linked, committed: &mut Committed) {
    let Some(unpacking) = intake.unpacking(preserve) else { return };
    match work {
        Work::Pack { chunk, staged } => {
            for (hash, staged) in staged {
                match unpacking.link(staged) {
                    Ok((file, stat)) => linked.files.push((file, record_of(&intake.manifest.entry(file), hash, &stat))),
                    Err(error) => committed.failed.push(error),
                }
            }
            linked.chunks.push(chunk);
        }
        Work::Empty(files) => {
            for file in files {
                match store_empty(&unpacking, file) {
                    Ok((file, stat)) => {
                        let record = record_of(&intake.manifest.entry(file), *blake3::hash(&[]).as_bytes(), &stat);
                        linked.files.push((file, record));
                    }
                    Err(error) => committed.failed.push(error),
                }
            }
        }
    }
}
