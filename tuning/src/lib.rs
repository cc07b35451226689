//! Host tuning: what this host is, what it should be, and the way there and back.
//!
//! The way of the data through it:
//!
//! ```text
//! collect ──> facts ──> rules (with profile and site) ──> findings ──> audit ──> plan ──> transaction ─> watch
//! netlink,    JSON      pure functions                                 report    what     snapshot,      keeps what
//! sysfs,      document                                                 doctor    would    journal,       was confirmed
//! procfs                                                                         change   guard
//!
//! ```
//!
//! Everything that is read or written goes through [`host::Host`], so that a plan for a host that
//! is not here, and every crash of a transaction, run on a fake one. [`command`] is `culvert tune`
//! and `culvert doctor`.
//!
//! For the node: [`watch::Watcher::keep`] at its start and every [`watch::Watcher::interval`],
//! [`audit::FindingCounts::labels`] for its metrics, [`latency_hold::LatencyHold`] while transfers
//! run.
#![deny(unsafe_code)]

pub mod audit;
pub mod collect;
pub mod command;
pub mod cpu_set;
pub mod doctor;
pub mod facts;
pub mod file_tree;
pub mod finding;
pub mod guard;
pub mod host;
pub mod kernel_version;
pub mod latency_hold;
pub mod measure;
pub mod netlink;
pub mod persist;
pub mod plan;
pub mod profile;
pub mod receive_hash;
pub mod report;
pub mod rules;
pub mod setting;
pub mod site;
pub mod site_file;
pub mod targets;
pub mod transaction;
pub mod watch;

// The only module with unsafe code.
#[allow(unsafe_code)]
mod kernel_calls;
