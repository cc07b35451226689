//! The state of the sending side: each part has one owner.

use std::time::Instant;

use tokio::sync::mpsc::UnboundedSender;

use crate::TransferContext;
use crate::error::TransferError;
use crate::flows::SendingFlows;
use crate::sending::announcements::Announcements;
use crate::sending::done::Done;
use crate::sending::failures::Failures;
use crate::sending::hashing::Hashing;
use crate::sending::job::Job;
use crate::sending::outbox::Outbox;
use crate::sending::pace::Pace;
use crate::sending::payload::{PartnerHas, Payload};
use crate::sending::pipeline::Pipeline;
use crate::sending::standstill::Standstill;

/// The state of the sending side. Each part has one owner.
pub(super) struct Sending {
    pub(super) job: Job,
    pub(super) has: PartnerHas,
    pub(super) pipeline: Pipeline,
    pub(super) hashing: Hashing,
    pub(super) failures: Failures,
    pub(super) pace: Pace,
    pub(super) standstill: Standstill,
    pub(super) outbox: Outbox,
    /// Which files the user was told of by name; none if nobody reads that.
    pub(super) announcements: Option<Announcements>,
    pub(super) began: Instant,
}

impl Sending {
    /// Nothing sent yet.
    ///
    /// # Errors
    /// [`TransferError`] for malformed reports that came with the receiver's plan.
    pub(super) fn new(
        context: TransferContext,
        payload: Payload,
        mut has: PartnerHas,
        flows: SendingFlows,
        done: UnboundedSender<Done>,
        began: Instant,
    ) -> Result<Self, TransferError> {
        let file_count = payload.entry_count();
        let chunk_count = payload.chunk_count(context.options.chunk_bytes);
        let mut pipeline = Pipeline::new(chunk_count, flows, std::mem::take(&mut has.proofs));
        for report in std::mem::take(&mut has.early_reports) {
            pipeline.flows.on_report(&report)?;
        }
        Ok(Self {
            pipeline,
            hashing: Hashing::new(if context.options.checksum { file_count } else { 0 }, &has.resumed),
            failures: Failures::default(),
            pace: Pace::new(&context, began, has.stored_bytes),
            standstill: Standstill::new(),
            outbox: Outbox::default(),
            announcements: context.names.clone().map(|names| Announcements::new(names, file_count)),
            job: Job::new(context, payload, done),
            has,
            began,
        })
    }
}
