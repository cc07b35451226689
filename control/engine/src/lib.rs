//! A transfer between two nodes, from the request to the receipt.
//!
//! ```text
//! requesting: requester ──> connecting ──> connection ═══ TLS ═══ responder
//! carrying:   pushing ──> transfer::sending   ═══ UDP, TCP ═══>   transfer::receiving
//! both ends:  outcome ──> records, events
//! ```
//!
//! Either end may request, and either may send. The engine knows no node; [`engine::Engine`] holds
//! what it needs of one: records, partners, advice, an observer, a clock. What happens once two
//! nodes are connected is in [`transfer`], which writes nothing but the files it receives and their
//! journals.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

#[macro_use(say_aside)]
extern crate culvert_link;

pub mod connecting;
pub mod engine;
pub mod outcome;
pub mod partners;
pub mod pushing;
pub mod records;
pub mod requester;
pub mod responder;

// Users of the engine name these crates through it.
pub use culvert_connection as connection;
pub use culvert_connection::tls;
pub use culvert_journal as journal;
pub use culvert_transfer as transfer;
pub use culvert_transfer::{clock, events, limits, shares};
