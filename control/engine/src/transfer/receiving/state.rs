//! The receiving side of a transfer: each part of what it knows has one owner.

use std::time::Instant;

use culvert_protocol::control::LeftOut;
use culvert_system::processor_time::CpuMeter;
use tokio::sync::mpsc::UnboundedSender;

use crate::transfer::TransferContext;
use crate::transfer::error::TransferError;
use crate::transfer::progress_watchdog::ProgressWatchdog;
use crate::transfer::receiving::arriving::Arriving;
use crate::transfer::receiving::done::Done;
use crate::transfer::receiving::failures::Failures;
use crate::transfer::receiving::inbound::Inbound;
use crate::transfer::receiving::intake::Intake;
use crate::transfer::receiving::job::Job;
use crate::transfer::receiving::statement::Ending;
use crate::transfer::receiving::storing::Storing;
use crate::transfer::receiving::tally::Tally;

/// The receiving side. Each part of what it knows has one owner.
pub(super) struct Receiving {
    pub(super) job: Job,
    pub(super) inbound: Inbound,
    pub(super) arriving: Arriving,
    pub(super) storing: Storing,
    pub(super) tally: Tally,
    pub(super) patience: ProgressWatchdog,
    pub(super) failures: Failures,
    pub(super) ending: Ending,
}

impl Receiving {
    /// Nothing received yet. `would_leave_out` is what the sender of a dry run would not send.
    pub(super) fn new(
        context: TransferContext,
        intake: Intake,
        would_leave_out: (u64, Vec<LeftOut>),
        done: UnboundedSender<Done>,
        began: Instant,
        began_unix_ms: u64,
    ) -> Result<Self, TransferError> {
        let job = Job::new(context, intake, done)?;
        let cpu = CpuMeter::begin(job.plane().process_id());
        Ok(Self {
            inbound: Inbound::new(),
            arriving: Arriving::new(job.chunk_count),
            storing: Storing::new(&job),
            tally: Tally::new(&job),
            patience: ProgressWatchdog::new(job.context.patience, Instant::now()),
            failures: Failures { would_leave_out, ..Failures::default() },
            ending: Ending::new(cpu, began, began_unix_ms),
            job,
        })
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        self.inbound.close(self.job.plane());
    }
}
