//! The receiving side of a transfer: each part of what it knows has one owner.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_objects::fs::destination::attributes::NotKept;
use culvert_objects::fs::sources::TOO_MUCH_LISTED;
use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::control::RefusalCode;
use culvert_system::processor_time::CpuMeter;
use tokio::sync::mpsc;

use crate::events::Event;
use crate::limits::Limit;
use crate::transfer::TransferContext;
use crate::transfer::bit_set::BitSet;
use crate::transfer::error::TransferError;
use crate::transfer::file_errors::ErrorList;
use crate::transfer::measurement::memory_chunks;
use crate::transfer::progress_watchdog::ProgressWatchdog;
use crate::transfer::rate_meter::RateMeter;
use crate::transfer::receiving::arriving::Arriving;
use crate::transfer::receiving::committer::Committer;
use crate::transfer::receiving::committing::Committing;
use crate::transfer::receiving::done::Done;
use crate::transfer::receiving::files::IncomingFiles;
use crate::transfer::receiving::holes::Holes;
use crate::transfer::receiving::inbound::{Inbound, REPORT_INTERVAL_US};
use crate::transfer::receiving::intake::Intake;
use crate::transfer::receiving::old_files::OldFiles;
use crate::transfer::receiving::statement::{Ending, WeightedMean};
use crate::transfer::receiving::tally::{Failures, Tally};

/// The receiving side. Each part of what it knows has one owner.
pub(super) struct Receiving {
    pub(super) context: TransferContext,
    pub(super) intake: Arc<Intake>,
    pub(super) inbound: Inbound,
    pub(super) arriving: Arriving,
    pub(super) tally: Tally,
    pub(super) failures: Failures,
    pub(super) ending: Ending,
    pub(super) committing: Committing,
    pub(super) files: IncomingFiles,
    pub(super) old: OldFiles,
    pub(super) holes: Holes,
    pub(super) done: mpsc::UnboundedSender<Done>,
}

impl Receiving {
    /// Nothing received yet.
    pub(super) fn new(
        mut context: TransferContext,
        intake: Intake,
        done: mpsc::UnboundedSender<Done>,
        began: Instant,
        began_unix_ms: u64,
    ) -> Result<Self, TransferError> {
        let chunk_bytes = context.options.chunk_bytes;
        let chunks = ChunkMap::new(&intake.manifest, chunk_bytes, |file| intake.is_sent(file))
            .map_err(|error| TransferError::here(RefusalCode::Protocol, error.to_string()))?;
        let chunk_count = match intake.memory_bytes {
            Some(bytes) => memory_chunks(bytes, chunk_bytes),
            None => chunks.chunk_count(),
        };
        // A bit here, and one in the one flow that there is at least.
        if !context.share.take_bytes(u64::from(chunk_count) / 4) {
            context.observer.note(Event::LimitReached(Limit::ManifestBytes));
            return Err(TransferError::here(RefusalCode::Temporary, TOO_MUCH_LISTED));
        }
        let mut hashes = vec![[0; 32]; if context.options.checksum { intake.manifest.len() } else { 0 }];
        for &(file, hash) in &intake.resumed {
            if let Some(place) = hashes.get_mut(file as usize) {
                *place = hash;
            }
        }
        let intake = Arc::new(intake);
        let patience = ProgressWatchdog::new(context.patience, Instant::now());
        let files = intake.manifest.len();
        let files_left = (0..intake.manifest.len() as u32)
            .filter(|&file| intake.manifest.file_bytes(file).is_some() && intake.is_sent(file))
            .count() as u64;
        let resumed_file_bytes: u64 =
            intake.resumed.iter().filter_map(|&(file, _)| intake.manifest.file_bytes(file)).sum();
        let committed = done.clone();
        let committer = Committer::start(intake.clone(), context.options.preserve, move |result| {
            // The task may be gone; what was committed then stands in the journal.
            let _ = committed.send(Done::Committed(result));
        });
        context.progress.send_modify(|progress| {
            progress.files_done = intake.manifest.file_count() - files_left;
            progress.bytes_total = intake.memory_bytes.unwrap_or(intake.manifest.total_bytes());
        });
        Ok(Self {
            files: IncomingFiles::new(&intake, &chunks),
            tally: Tally {
                files_left,
                files_stored: intake.resumed.len() as u64,
                bytes_stored: resumed_file_bytes,
                bytes_arrived: intake.resumed_bytes,
                reused_bytes: 0,
                memory_left: if intake.memory_bytes.is_some() { chunk_count } else { 0 },
                partials_in_motion: 0,
                steps: 0,
                stored: BitSet::new(files),
                hashes,
                rate: RateMeter::new(),
                patience,
            },
            arriving: Arriving {
                chunks: Arc::new(chunks),
                chunk_count,
                came_by: HashMap::new(),
                handed: HashSet::new(),
                packs: HashMap::new(),
                pack_hashes: HashMap::new(),
                theirs: HashMap::new(),
                ours: HashMap::new(),
                tries: HashMap::new(),
                verified: BitSet::new(chunk_count as usize),
                offered: HashMap::new(),
            },
            inbound: Inbound {
                flows: Vec::new(),
                offered_at: None,
                is_refused_there: false,
                opening: Vec::new(),
                wrong_queue_seen: 0,
                new_bytes: Vec::new(),
                report_delays: Vec::new(),
                report_interval: Duration::from_micros(REPORT_INTERVAL_US.into()),
                rtt: Duration::ZERO,
            },
            failures: Failures {
                errors: ErrorList::default(),
                failed: HashSet::new(),
                left_out: Vec::new(),
                would_leave_out: (0, Vec::new()),
                not_kept: NotKept::default(),
            },
            ending: Ending {
                sender: None,
                is_concluding: false,
                finish_sent: None,
                line: String::new(),
                receiver: None,
                busy: WeightedMean::default(),
                writing: WeightedMean::default(),
                cpu: CpuMeter::begin(context.plane.process_id()),
                began,
                began_unix_ms,
            },
            committing: Committing { committer, committed_at: Instant::now(), syncing: false },
            context,
            intake,
            old: OldFiles::default(),
            holes: Holes::default(),
            done,
        })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.inbound.close(&self.context.plane);
    }
}
