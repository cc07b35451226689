//! A transfer between two nodes, from the request to the receipt.
//!
//! ```text
//! requester ──> connecting ──> connection ═══ TLS ═══> responder
//!     │                                                   │
//!     └──> pushing, transfer::sending <═══> transfer::receiving ──> journal
//!                         └──── data plane ────┘
//!                 both ends: outcome ──> records, events
//! ```
//!
//! The engine knows no node: what it needs of one is in [`engine::Engine`]: records, partners,
//! advice, observers, a clock. It keeps what it is told in no files of its own but its journals.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

#[macro_use(say_aside)]
extern crate culvert_link;

pub mod clock;
pub mod connecting;
pub mod connection;
pub mod engine;
pub mod events;
pub mod journal;
pub mod limits;
pub mod outcome;
pub mod partners;
pub mod pushing;
pub mod records;
pub mod requester;
pub mod responder;
pub mod shares;
pub mod tls;
pub mod transfer;
