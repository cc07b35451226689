//! Measures paths: probes between two nodes, TWAMP and STAMP, perfSONAR's pScheduler and archives.
//!
//! ```text
//! statistics <── stamp, twamp (pure: packets and times come in as values) <── responder, tester (tokio sockets)
//!      ^
//!      └──────── probe (threads: echoes, MTU, trains, traces between two nodes; control carries the conversation)
//!
//! pscheduler ──> http <── archive          psconfig: what a site's mesh needs to include this node
//! ```
//!
//! The codecs and state machines do no I/O and read no clock; thin drivers around them do.

pub mod archive;
pub mod clock;
pub mod http;
mod kernel_calls;
pub mod probe;
pub mod pscheduler;
pub mod psconfig;
pub mod responder;
pub mod socket;
pub mod sources;
pub mod stamp;
pub mod statistics;
pub mod tester;
pub mod timestamp;
pub mod twamp;
