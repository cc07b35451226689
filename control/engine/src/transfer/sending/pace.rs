//! How far a transfer is that is being sent, and what of it failed.

use std::collections::HashSet;

use culvert_objects::fs::destination::attributes::NotKept;
use culvert_system::processor_time::CpuMeter;

use crate::transfer::file_errors::ErrorList;
use crate::transfer::progress_watchdog::ProgressWatchdog;
use crate::transfer::rate_meter::RateMeter;
use crate::transfer::sending::standstill::Standstill;

/// How far a transfer is, and whether it gets any further.
#[derive(Debug)]
pub(super) struct Pace {
    pub(super) standstill: Standstill,
    pub(super) patience: ProgressWatchdog,
    /// Counts what brought the transfer further.
    pub(super) steps: u64,
    pub(super) rate: RateMeter,
    pub(super) cpu: CpuMeter,
    pub(super) bytes_delivered: u64,
    pub(super) said_all_sent: bool,
}

/// What is not sent, or not stored as it was.
#[derive(Debug)]
pub(super) struct Failures {
    pub(super) errors: ErrorList,
    pub(super) failed: HashSet<u32>,
    /// What the receiver stores without some of its attributes.
    pub(super) not_kept: NotKept,
}
