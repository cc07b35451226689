//! A transfer between two nodes, from the request to the receipt.
//!
//! ```text
//! requesting: requester ──> connecting ──> connection ═══ TLS ═══ responder
//! sending:    pushing ──> transfer::sending   ═══ UDP, TCP ═══>   transfer::receiving ──> journal
//!             its data plane                                      its data plane
//! both ends:  outcome ──> records, events
//! ```
//!
//! Either end may request, and either may send. The engine knows no node; [`engine::Engine`] holds
//! what it needs of one: records, partners, advice, an observer, a clock. It writes nothing but the
//! files it receives and their journals.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

#[macro_use(say_aside)]
extern crate culvert_link;

pub mod clock;
pub mod connecting;
pub mod engine;
pub mod events;
pub mod limits;
pub mod outcome;
pub mod partners;
pub mod pushing;
pub mod records;
pub mod requester;
pub mod responder;
pub mod shares;
pub mod transfer;

// Users of the engine name these crates through it.
pub use culvert_connection as connection;
pub use culvert_connection::tls;
pub use culvert_journal as journal;
