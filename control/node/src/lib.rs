//! The node: who it is, whom it knows and lets in, what it writes down, counts and answers.
//!
//! The connections of partners, the API and the metrics are served here, without privileges.
//! [`node::Node`] puts it together; what a transfer needs of it is handed to [`culvert_engine`]
//! piece by piece.
//!
//! ```text
//! partner ──> reception (connection limiter, handshakes, slots) ──> engine ──> registry, metrics
//! user    ──> api ──────────────────────────────────────┘        │
//!                                                            state directory
//! ```
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

#[macro_use(say_aside)]
extern crate culvert_link;

pub mod admission;
pub mod api;
pub mod capture;
pub mod connection_limiter;
pub mod handshakes;
pub mod host;
pub mod log_lines;
pub mod metrics;
pub mod node;
pub mod partner_hosts;
pub mod path_services;
pub mod profiles;
pub mod reception;
pub mod registry;
pub mod settings;
pub mod slots;
pub mod tuning;
