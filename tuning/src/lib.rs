//! Host tuning: what a host should be, and the way there and back.
//!
//! `culvert-host` supplies the facts of a host and access to its settings. Data passes through this
//! crate as follows:
//!
//! ```text
//! facts ──> rules (with profile and site) ──> findings ──> audit ──> plan ──> transaction ──> watch
//!           pure functions                                report    what     snapshot,       keeps
//!                                                         doctor    would    journal,        confirmed
//!                                                                   change   guard           settings
//! ```
//!
//! A plan and a transaction read and write only through [`culvert_host::Host`]. [`command`] is
//! `culvert tune` and `culvert doctor`.
//!
//! The node calls [`watch::Watcher::keep`] at its start and every [`watch::Watcher::interval`], and
//! takes [`audit::FindingCounts::labels`] for its metrics.
#![forbid(unsafe_code)]

pub mod audit;
pub mod command;
pub mod doctor;
pub mod finding;
pub mod guard;
pub mod measure;
pub mod persist;
pub mod plan;
pub mod profile;
pub mod report;
pub mod rules;
pub mod site;
pub mod site_file;
pub mod targets;
pub mod transaction;
pub mod watch;
