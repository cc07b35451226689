//! The raw limit of a path: segmented, encrypted datagrams from one core to another, without the
//! protocol.
//!
//! The engine's result is given as a fraction of this limit, measured in the same run, so it must
//! be a real limit. It encrypts out of place from a source that stays in the cache and decrypts
//! into a sink that does, copies nothing itself, sends whole super-buffers, and keeps a window of
//! bytes in flight that the receiver acknowledges every few super-buffers. Nothing is lost, and
//! neither side waits for the other longer than necessary.

mod end;
mod hops;
mod measuring;

pub use end::{LimitEnd, LimitReceiver, send_limit};
pub use hops::FindHop;
pub use measuring::{LimitError, LimitResult, Work};
