//! A transfer between two nodes, from the request to the receipt.
//!
//! ```text
//! who asks:   requester ──> connecting ──> connection ═══ TLS ═══ responder
//! who sends:  pushing ──> transfer::sending   ═══ UDP, TCP ═══>   transfer::receiving ──> journal
//!             its data plane                                      its data plane
//! both ends:  outcome ──> records, events
//! ```
//!
//! Either end may ask, and either may send. The engine knows no node: what it needs of one is in
//! [`engine::Engine`]: records, partners, advice, observers, a clock. Apart from what it stores it
//! writes only journals.
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
