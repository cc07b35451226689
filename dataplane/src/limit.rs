//! The raw limit of a path: segmented, sealed datagrams from one core to another, with nothing of the protocol.
//!
//! What the engine reaches is told as a part of this, measured in the same run. So it must be a limit: it seals out of place from a source that
//! stays in the cache and opens into a sink that does, copies nothing of its own, sends whole super-buffers, and keeps a window
//! of bytes under way that the receiver acknowledges every few super-buffers, so that nothing is lost and neither side waits for the
//! other longer than it must.

mod end;
mod hops;
mod measuring;

pub use end::{LimitEnd, LimitReceiver, send_limit};
pub use hops::FindHop;
pub use measuring::{LimitError, LimitResult, Work};
