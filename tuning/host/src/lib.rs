//! What this host is, and how its settings are read and written.
//!
//! ```text
//! netlink, sysfs, procfs ──> collect ──> facts ──> the rules of culvert-tuning
//!                                                                │
//! kernel <── real (or fake, in tests) <── Host: read, write <── plan and transaction
//! ```
//!
//! Nothing here judges a value: the rules, the plan and the transaction of `culvert-tuning` decide
//! what to write. They read and write through [`Host`] only, so that plans for a host that is
//! elsewhere, and every crash of a transaction, run on [`fake::FakeHost`].
//!
//! For the data plane's placement: [`receive_hash`] predicts the receive queue of a flow. For the
//! node: [`latency_hold::LatencyHold`] keeps CPUs awake while transfers run.
#![deny(unsafe_code)]

mod access;
pub mod collect;
pub mod cpu_set;
pub mod facts;
pub mod fake;
pub mod file_tree;
pub mod kernel_version;
pub mod latency_hold;
pub mod netlink;
mod real;
pub mod receive_hash;
pub mod setting;

// The only module with unsafe code.
#[allow(unsafe_code)]
mod kernel_calls;

pub use access::{Host, HostError, OWNED_FILE_FIRST_LINE, Place, disturbed_by};
pub use real::RealHost;
