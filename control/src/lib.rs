//! The control process: sessions with partners, transfers, profiles, the API, and the command line
//! around them.
//!
//! Everything that speaks to the outside in TCP, TLS, HTTP or JSON is here, and runs without
//! privileges. What moves data is in the data plane process, which [`dataplane`] starts and talks
//! to.
//!
//! ```text
//! cli ──> request ──> connection ═══ TLS ═══> session <── listener of a partner's node
//!            │                                   │
//!            └──> transfer::sending <═══════> transfer::receiving ──> destination, journal
//!                        │     the same tasks on both sides     │
//!                        └──────────> dataplane <───────────────┘
//! ```
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

#[macro_use(say_aside)]
extern crate culvert_link;

pub mod api;
pub mod api_client;
pub mod capture;
pub mod cli;
pub mod doorman;
pub mod host;
pub mod lobby;
pub mod log_lines;
pub mod metrics;
pub mod node;
pub mod partner_hosts;
pub mod path;
pub mod places;
pub mod profiles;
pub mod reception;
pub mod registry;
pub mod settings;
pub mod ssh;
pub mod state;
pub mod tuning;
