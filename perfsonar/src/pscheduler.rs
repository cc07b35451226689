//! A client of perfSONAR's pScheduler: tests between a perfSONAR host and this one, submitted,
//! followed, fetched and aborted.
//!
//! ```text
//! TestRequest ──task──> POST /tasks ──> GET task?detail ──> GET run?wait-merged … ──result──> Outcome
//! ```
//!
//! Facts of the API are from perfSONAR 5.2's sources; where peers differ by age, the lowest schema
//! that expresses a request is sent.

pub mod client;
pub mod outcome;
pub mod task;

pub use client::{Client, Discovery, Run, SchedulerError};
pub use outcome::Outcome;
pub use task::{TestKind, TestRequest};
