//! The protocol between two Culvert nodes: wire formats, and the state that each end keeps.
//!
//! This crate is the sans-IO core: it opens no socket or file, reads no clock, starts no thread and
//! contains no unsafe code. Packets, reports and the time come in as values; segments, reports and
//! rates go out as values. The lanes of the data plane, the control process, the simulator and the
//! tests all run this same code.
//!
//! How data passes through it:
//!
//! ```text
//! manifest ── chunk_map ──> sender_flow ── seal ──> wire ═══ datagrams ═══> wire ── seal ──> receiver_flow
//!                              ^                                                                  |
//!                   rate_control, pacer  <═══════════════ feedback (over TCP) ═══════════════ arrivals
//! ```
//!
//! `docs/wire.md` numbers the rules of the protocol; code quotes each rule where it implements it.
#![forbid(unsafe_code)]
// Most values here come from a partner, a stranger or a path, and none of them may end the process.
// Every exemption explains why it cannot.
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
#![cfg_attr(not(feature = "std"), no_std)]

pub mod wire;

#[cfg(feature = "std")]
pub mod arrivals;
#[cfg(feature = "std")]
pub mod chunk_map;
#[cfg(feature = "std")]
pub mod chunk_memory;
#[cfg(feature = "std")]
pub mod control;
#[cfg(feature = "std")]
pub mod counted;
#[cfg(feature = "std")]
pub mod destination;
#[cfg(feature = "std")]
pub mod dry_run;
#[cfg(feature = "std")]
pub mod feedback;
#[cfg(feature = "std")]
pub mod fingerprint_words;
#[cfg(feature = "std")]
pub mod foreign_text;
#[cfg(feature = "std")]
pub mod heap_buffers;
#[cfg(feature = "std")]
pub mod identity;
#[cfg(feature = "std")]
pub mod keys;
#[cfg(feature = "std")]
pub mod manifest;
#[cfg(feature = "std")]
pub mod names;
#[cfg(feature = "std")]
pub mod openings;
#[cfg(feature = "std")]
pub mod pacer;
#[cfg(feature = "std")]
pub mod path;
#[cfg(feature = "std")]
pub mod path_mtu;
#[cfg(feature = "std")]
pub mod rate_control;
#[cfg(feature = "std")]
pub mod receipt;
#[cfg(feature = "std")]
pub mod receiver_flow;
#[cfg(feature = "std")]
pub mod seal;
#[cfg(feature = "std")]
pub mod segments;
#[cfg(feature = "std")]
pub mod sender_flow;
#[cfg(feature = "std")]
pub mod tree_hash;
#[cfg(feature = "std")]
pub mod varint;
#[cfg(feature = "std")]
pub mod verdict;
