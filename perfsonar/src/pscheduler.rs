//! A client of perfSONAR's pScheduler: submits tests between a perfSONAR host and this one, follows
//! and aborts them, and fetches their results.
//!
//! ```text
//! TestRequest ──task──> POST /tasks ──> GET task?detail ──> GET run?wait-merged … ──result──> Outcome
//! ```
//!
//! The API is that of perfSONAR 5.2's sources. For older servers, the lowest schema that expresses
//! a request is sent.

pub mod client;
pub mod outcome;
pub mod task;

pub use client::{Client, Discovery, Run, SchedulerError};
pub use outcome::Outcome;
pub use task::{TestKind, TestRequest};
