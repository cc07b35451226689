//! The progress of a transfer that is being received.

use std::collections::HashSet;

use culvert_protocol::names::printable;
use culvert_protocol::tree_hash::ChunkHash;

use crate::bit_set::BitSet;
use crate::rate_meter::RateMeter;
use crate::receiving::job::Job;

/// What has arrived and is stored, and the hashes of it.
#[derive(Debug)]
pub(super) struct Tally {
    /// Files that are neither stored nor given up.
    files_left: u64,
    pub(super) files_stored: u64,
    pub(super) bytes_stored: u64,
    pub(super) bytes_arrived: u64,
    /// Bytes of chunks that the file to be replaced had, and the sender's has too.
    pub(super) reused_bytes: u64,
    /// Chunks of a measurement that are not verified yet.
    memory_left: u32,
    /// Counts what brought the transfer further: chunks that were verified and made durable, files
    /// that are stored or given up.
    steps: u64,
    /// Files that have their final names, durably.
    stored: BitSet,
    /// The files' hashes; none without checksums.
    hashes: Vec<ChunkHash>,
    rate: RateMeter,
}

impl Tally {
    /// What earlier attempts stored.
    pub(super) fn new(job: &Job) -> Self {
        let intake = &job.intake;
        let files = intake.manifest.len();
        let files_left = (0..files as u32).filter(|&file| job.is_sent_file(file)).count() as u64;
        job.context.progress.send_modify(|progress| {
            progress.files_done = intake.manifest.file_count() - files_left;
            progress.bytes_total = intake.memory_bytes.unwrap_or(intake.manifest.total_bytes());
        });
        let mut tally = Self {
            files_left,
            files_stored: intake.resumed.len() as u64,
            bytes_stored: intake.resumed.iter().map(|&(file, _)| job.file_bytes(file)).sum(),
            bytes_arrived: intake.resumed_bytes,
            reused_bytes: 0,
            memory_left: if job.is_measurement() { job.chunk_count } else { 0 },
            steps: 0,
            stored: BitSet::new(files),
            hashes: vec![[0; 32]; if job.context.options.checksum { files } else { 0 }],
            rate: RateMeter::new(),
        };
        intake.resumed.iter().for_each(|&(file, hash)| tally.set_hash(file, hash));
        tally
    }

    /// Whether every file is stored or given up, and every chunk of a measurement verified.
    pub(super) const fn is_complete(&self) -> bool {
        self.files_left == 0 && self.memory_left == 0
    }

    pub(super) const fn files_left(&self) -> u64 {
        self.files_left
    }

    /// Grows with everything that brings the transfer further.
    pub(super) const fn steps(&self) -> u64 {
        self.steps
    }

    /// Something brought the transfer further.
    pub(super) const fn step(&mut self) {
        self.add_steps(1);
    }

    pub(super) const fn add_steps(&mut self, steps: u64) {
        self.steps = self.steps.saturating_add(steps);
    }

    /// Bytes arrived that had not before.
    pub(super) fn add_arrived(&mut self, bytes: u32) {
        self.bytes_arrived = self.bytes_arrived.saturating_add(bytes.into());
    }

    /// Bytes that arrived are wrong.
    pub(super) fn discount_arrived(&mut self, bytes: u32) {
        self.bytes_arrived = self.bytes_arrived.saturating_sub(bytes.into());
    }

    /// A chunk is in the file to be replaced, and in the sender's.
    pub(super) fn add_reused(&mut self, bytes: u32) {
        self.reused_bytes = self.reused_bytes.saturating_add(bytes.into());
        self.add_arrived(bytes);
    }

    /// A chunk is in the file to be replaced no longer.
    pub(super) fn discount_reused(&mut self, bytes: u32) {
        self.reused_bytes = self.reused_bytes.saturating_sub(bytes.into());
        self.discount_arrived(bytes);
    }

    /// A chunk of a measurement is verified.
    pub(super) const fn note_memory(&mut self) {
        self.memory_left = self.memory_left.saturating_sub(1);
    }

    /// Notes a file's hash, if the transfer has hashes.
    pub(super) fn set_hash(&mut self, file: u32, hash: ChunkHash) {
        if let Some(place) = self.hashes.get_mut(file as usize) {
            *place = hash;
        }
    }

    /// A file's hash; zeros if the transfer has none.
    pub(super) fn hash_of(&self, file: u32) -> ChunkHash {
        self.hashes.get(file as usize).copied().unwrap_or_default()
    }

    /// Takes the files' hashes, which only the root still needs.
    pub(super) fn take_hashes(&mut self) -> Vec<ChunkHash> {
        std::mem::take(&mut self.hashes)
    }

    /// Whether a file has its final name, durably.
    pub(super) fn is_stored(&self, file: u32) -> bool {
        self.stored.contains(file)
    }

    /// Files have their final names, durably, except those that are given up.
    pub(super) fn note_stored(&mut self, job: &Job, failed: &HashSet<u32>, files: &[u32]) {
        let before = self.files_stored;
        for &file in files {
            if failed.contains(&file) || !self.stored.insert(file) {
                continue;
            }
            self.settle_file();
            let bytes = job.file_bytes(file);
            self.files_stored += 1;
            self.bytes_stored += bytes;
            if let Some(names) = &job.context.names {
                names.add(&printable(&job.intake.name(file)), bytes);
            }
        }
        let stored = self.files_stored - before;
        job.context.progress.send_modify(|progress| progress.files_done += stored);
    }

    /// A file was there with the sender's bytes, and stays; false if it counted before.
    pub(super) fn note_same(&mut self, job: &Job, file: u32) -> bool {
        let is_new = self.stored.insert(file);
        if is_new {
            self.reused_bytes = self.reused_bytes.saturating_sub(job.file_bytes(file));
            self.settle_file();
            job.context.progress.send_modify(|progress| progress.files_done += 1);
        }
        is_new
    }

    /// A file is given up.
    pub(super) fn note_failed(&mut self, file: u32) {
        self.settle_file();
        self.set_hash(file, [0; 32]);
    }

    /// Shows the progress to the transfer's user.
    pub(super) fn show(&mut self, job: &Job) {
        let rate = self.rate.update(self.bytes_arrived);
        let bytes_done = self.bytes_arrived;
        job.context.progress.send_modify(|progress| {
            progress.bytes_done = bytes_done;
            progress.rate_bits_per_second = rate;
        });
    }

    /// A file is stored or given up.
    fn settle_file(&mut self) {
        // Invariant I-receiving-files-left: each file that is sent is stored or given up once.
        assert!(self.files_left > 0, "more files were stored or given up than were sent");
        self.files_left -= 1;
        self.step();
    }
}
