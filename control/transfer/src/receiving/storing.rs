//! What a transfer is written to: files with chunks of their own, which are opened as they are
//! wanted and closed to make room, the old files that they replace, and the committer.

use std::collections::HashSet;

use culvert_link::commands::Sink;
use culvert_protocol::chunk_map::ChunkContent;

use crate::events::Event;
use crate::limits::{Limit, files_per_partner};
use crate::open_files;
use crate::receiving::arriving::Arriving;
use crate::receiving::committing::Committing;
use crate::receiving::done::Done;
use crate::receiving::files::{IncomingFiles, WaitingChunk};
use crate::receiving::job::Job;
use crate::receiving::old_files::OldFiles;
use crate::receiving::open_file::{self, Discarded, WholeFile, Writing};
use crate::shares::Kind;

/// What a transfer is written to.
#[derive(Debug)]
pub(super) struct Storing {
    pub(super) files: IncomingFiles,
    pub(super) old: OldFiles,
    pub(super) committing: Committing,
    /// Partial files that are being opened or removed, and small objects that are put into a store.
    /// The transfer does not end before that: nothing else would remove them.
    in_motion: u32,
}

impl Storing {
    /// Nothing written yet.
    pub(super) fn new(job: &Job) -> Self {
        Self {
            files: IncomingFiles::new(&job.intake, &job.chunks),
            old: OldFiles::default(),
            committing: Committing::begin(job),
            in_motion: 0,
        }
    }

    /// Whether helpers open or remove files.
    pub(super) const fn is_in_motion(&self) -> bool {
        self.in_motion > 0
    }

    /// A helper begins to open or to remove something.
    pub(super) const fn begin_motion(&mut self) {
        self.in_motion += 1;
    }

    /// A helper has opened or removed something.
    pub(super) const fn end_motion(&mut self) {
        // Invariant I-receiving-motion: no opening or removal ends that did not begin.
        assert!(self.in_motion > 0, "something was opened or removed that no helper had");
        self.in_motion -= 1;
    }

    /// Lets a chunk wait until its file is open, and opens it if it is not being opened.
    pub(super) fn wait_for(&mut self, job: &Job, arriving: &Arriving, file: u32, chunk: WaitingChunk) {
        self.files.wait_for(file, chunk);
        self.open_wanted(job, arriving);
    }

    /// Opens the files that are wanted, as far as there may be more open.
    pub(super) fn open_wanted(&mut self, job: &Job, arriving: &Arriving) {
        loop {
            let is_full = has_too_many_files(job);
            if is_full && self.files.wants_room() {
                self.make_room(job, arriving);
            }
            let is_full = is_full && has_too_many_files(job);
            let Some((file, beginning)) = self.files.next_to_open(is_full) else { return };
            self.begin_motion();
            let (plane, intake, place) =
                (job.plane().clone(), job.intake.clone(), job.context.share.piece(Kind::Files));
            job.help(async move {
                let result = open_file::open(&plane, intake, file, beginning, place).await;
                Done::Opened { file, result }
            });
        }
    }

    /// Removes a partial file outside the runtime's thread: freeing its blocks may take a while.
    pub(super) fn remove_beside(&mut self, job: &Job, file: u32, partial: Discarded) {
        self.begin_motion();
        // The journal, which the intake has, keeps the next attempt away until the name is free.
        let intake = job.intake.clone();
        job.help_blocking(move || {
            partial.remove(&intake, file);
            Done::Removed
        });
    }

    /// Where a lane puts a chunk of an open file; none if the file is not open.
    pub(super) fn sink_of(&self, job: &Job, chunk: u32) -> Option<Sink> {
        match self.files.get(job.file_of(chunk)?)? {
            Writing::Here(_) => Some(Sink::Lend),
            Writing::Lane(slot) => job.range_of(chunk, slot).map(|(range, _)| Sink::File(range)),
        }
    }

    /// Whether a chunk that comes by a flow was given a place to which its lane writes it, or is to
    /// be dropped there. A file is not closed while chunks of it come, and its chunks are placed
    /// when it is open.
    pub(super) fn is_placed(&self, job: &Job, chunk: u32) -> bool {
        let is_lanes = |file| matches!(self.files.get(file), Some(Writing::Lane(_)));
        job.is_measurement() || job.file_of(chunk).is_some_and(is_lanes)
    }

    /// Whether a chunk is handed over when it is whole, and not written by its lane.
    pub(super) fn is_handed(&self, job: &Job, chunk: u32) -> bool {
        match job.chunks.content(chunk) {
            _ if job.is_measurement() => false,
            Some(ChunkContent::Pack { .. }) => true,
            Some(ChunkContent::Range { file, .. }) => matches!(self.files.get(file), Some(Writing::Here(_))),
            None => false,
        }
    }

    /// Closes a file for which nothing comes just now.
    fn make_room(&mut self, job: &Job, arriving: &Arriving) {
        job.context.observer.note(Event::LimitReached(Limit::Files));
        let busy: HashSet<u32> = arriving.under_way().filter_map(|chunk| job.file_of(chunk)).collect();
        match self.files.close_idle(|file| busy.contains(&file) || self.old.is_copying(file)) {
            // Closing may wait for a file server.
            Some(closing) => drop(tokio::task::spawn_blocking(move || drop(closing))),
            // What is written so far is made durable first.
            None => self.committing.commit_soon(job, &mut self.files),
        }
    }
}

/// Lets a helper give a whole file its name.
pub(super) fn begin_to_finish(job: &Job, file: u32, whole: WholeFile) {
    let (intake, preserve) = (job.intake.clone(), job.context.options.preserve);
    job.help_blocking(move || {
        let result = open_file::finish(&intake, file, &whole, preserve);
        Done::Finished { file, result }
    });
}

fn has_too_many_files(job: &Job) -> bool {
    job.context.share.count(Kind::Files) >= files_per_partner() || job.plane().files_open() >= open_files::at_once_max()
}
