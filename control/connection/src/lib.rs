//! A control connection between two nodes: framed messages over TLS over TCP.
//!
//! ```text
//! connecting ──> TCP ──> tls ──┐
//!                              ├──> connection: both ends send Hello ──> MessageReader, MessageWriter
//! incoming (ClientHello) ──────┘
//! ```
//!
//! Reports must not wait behind a manifest of a million entries. One task therefore writes each
//! connection, and takes urgent messages before ordinary ones at every message boundary.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

mod connecting;
mod connection;
mod error;
pub mod incoming;
mod reading;
pub mod tls;
mod writing;

pub use crate::connecting::{UNANSWERED_NOTICE, Unanswered, connect_to_host, connect_to_host_telling};
pub use crate::connection::{Connection, INTRODUCTION_TIMEOUT, PendingClose, refuse};
pub use crate::error::{ConnectionError, tells_unknown_host};
pub use crate::reading::{MessageReader, SILENCE_TIMEOUT};
pub use crate::writing::{Closed, MessageWriter};
