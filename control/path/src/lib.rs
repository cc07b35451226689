//! Measures the path to a partner, keeps records of the results, and gives them to transfers.
//!
//! A check has two ends: [`conduct`] asks, step by step over the control connection, and [`answer`]
//! permits and does what each step asks for. The probes themselves are in `culvert-perfsonar`.
//!
//! ```text
//! culvert path check ──> conduct ═══ control connection, UDP probes ═══ answer <── reception of the partner's node
//!                           │
//!                           └──> check ──> page, grades      records ──> history, metrics, start rates, warnings
//! ```
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

#[macro_use(say_aside)]
extern crate culvert_link;

pub mod advice;
pub mod answer;
pub mod check;
pub mod conduct;
pub mod delivery;
pub mod grades;
pub mod measurement_peers;
pub mod measurement_responder;
pub mod metrics;
pub mod page;
pub mod plan;
mod probing;
pub mod publish;
pub mod records;

pub mod service;
pub mod settings;
pub mod slots;
