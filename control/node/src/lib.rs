//! The node: its identity, partners, records and metrics, and the servers for partners and users.
//!
//! Partners' connections, the API and metrics are served here, without privileges. [`node::Node`]
//! assembles the parts, and passes to [`culvert_engine`] those that transfers need.
//!
//! ```text
//! partner ──> listener (connection limiter, handshakes, slots) ──> engine ──> registry, metrics
//! user    ──> api ───────────────────────────────────────────────────┘            │
//!                                                                          state directory
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
pub mod listener;
pub mod log_lines;
pub mod metrics;
pub mod node;
pub mod partner_hosts;
pub mod path_services;
pub mod profiles;
pub mod registry;
pub mod settings;
pub mod slots;
pub mod tuning;
