//! The progress of a transfer that is being sent.

use std::time::Instant;

use culvert_protocol::control::{RefusalCode, SenderSummary};
use culvert_protocol::counted::{agree, counted};
use culvert_system::processor_time::{CpuMeter, millicycles_per_byte};

use crate::TransferContext;
use crate::error::TransferError;
use crate::events::Event;
use crate::flows::SendingFlows;
use crate::limits::{HOLDING_PATIENCE, Limit};
use crate::progress_watchdog::ProgressWatchdog;
use crate::rate_meter::RateMeter;
use crate::sending::queue::Queue;

/// The progress of a transfer, and the watchdog over it.
#[derive(Debug)]
pub(super) struct Pace {
    patience: ProgressWatchdog,
    /// Counts what brought the transfer further.
    steps: u64,
    rate: RateMeter,
    cpu: CpuMeter,
    bytes_delivered: u64,
    /// Whether the receiver was told that everything is sent.
    pub(super) said_all_sent: bool,
}

impl Pace {
    /// A transfer that began at `began`, of which the receiver had `stored_bytes` already.
    pub(super) fn new(context: &TransferContext, began: Instant, stored_bytes: u64) -> Self {
        Self {
            patience: ProgressWatchdog::new(context.patience, began),
            steps: 0,
            rate: RateMeter::new(),
            cpu: CpuMeter::begin(context.plane.process_id()),
            bytes_delivered: stored_bytes,
            said_all_sent: false,
        }
    }

    /// Something brought the transfer further.
    pub(super) const fn step(&mut self) {
        self.steps += 1;
    }

    /// A chunk of `bytes` is delivered.
    pub(super) fn add_delivered(&mut self, bytes: u32) {
        self.bytes_delivered += u64::from(bytes);
    }

    /// A chunk of `bytes` that counted as delivered is not, or goes again.
    pub(super) fn discount_delivered(&mut self, bytes: u32) {
        self.bytes_delivered = self.bytes_delivered.saturating_sub(u64::from(bytes));
    }

    /// The flows' summary, with what the transfer cost so far.
    pub(super) fn summary(&self, flows: &SendingFlows, problems: u64) -> SenderSummary {
        let cpu_us = self.cpu.elapsed_us();
        SenderSummary {
            cpu_us,
            millicycles_per_byte: millicycles_per_byte(cpu_us, self.bytes_delivered),
            problems,
            ..flows.summary()
        }
    }

    /// Shows the progress to the transfer's user.
    pub(super) fn show(&mut self, context: &TransferContext, flows: &SendingFlows) {
        let rate = self.rate.update(self.bytes_delivered);
        let (bytes_done, pacing, rtt_us) =
            (self.bytes_delivered, flows.pacing_bits_per_second(), flows.newest_rtt_us());
        context.progress.send_modify(|progress| {
            progress.bytes_done = bytes_done;
            progress.rate_bits_per_second = rate;
            progress.pacing_bits_per_second = pacing;
            progress.rtt_us = rtt_us;
        });
    }

    /// Checks that the transfer makes progress.
    ///
    /// # Errors
    /// [`TransferError`] that says what is outstanding.
    pub(super) fn check(&mut self, flows: &SendingFlows, queue: &Queue) -> Result<(), TransferError> {
        // No more can have arrived than was sent, whatever the reports say.
        let arrived = flows.arrived_bytes().min(flows.moved().sent_bytes);
        let (assigned, preparing, checking) = (queue.assigned().len(), queue.preparing(), queue.checking());
        let owes = match (preparing + checking, assigned) {
            (0, 0) => "waiting for the receiver's statement of what is stored",
            (0, _) => "waiting for the receiver to give credit for them or to confirm their arrival",
            _ => "waiting for this host's disks",
        };
        let outstanding = || {
            format!(
                "{} {} in flight, {preparing} {} being prepared, {} {} being rechecked, and the \
                 receiver has not finished; {owes}",
                counted(assigned, "chunk"),
                agree(assigned, "is", "are"),
                agree(preparing, "is", "are"),
                counted(checking, "file"),
                agree(checking, "is", "are")
            )
        };
        self.patience.check(self.steps.saturating_add(arrived), Instant::now(), outstanding)
    }

    /// The flows hold `held` buffers more than the partner's share, and others wait: the transfer
    /// is ended if the receiver accepts nothing of what they hold.
    ///
    /// # Errors
    /// [`TransferError`] that says so.
    pub(super) fn check_held_buffers(
        &self,
        context: &TransferContext,
        queue: &Queue,
        held: u32,
    ) -> Result<(), TransferError> {
        // What waits for this host's disks is not the receiver's doing.
        let is_ours = queue.preparing() > 0 || queue.checking() > 0;
        let still = self.patience.still_for(Instant::now());
        if is_ours || held == 0 || still < HOLDING_PATIENCE {
            return Ok(());
        }
        context.observer.note(Event::LimitReached(Limit::Buffers));
        let text = format!(
            "the transfer holds buffers that other partners' transfers are waiting for, and the \
             receiver has taken nothing for {} s ({} in flight): it was ended, and resumes from what \
             is stored when it is requested again",
            still.as_secs(),
            counted(queue.assigned().len(), "chunk")
        );
        Err(TransferError::here(RefusalCode::Temporary, text))
    }
}
