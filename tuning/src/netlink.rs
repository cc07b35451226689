//! The kernel's netlink interfaces, as much of them as host tuning needs: rtnetlink for links and
//! queueing disciplines, the generic families `ethtool` and `netdev` for NICs.
//!
//! Requests block; there is one socket per protocol and one request in flight. Messages are read
//! and written as raw attributes, so that what is put back is byte for byte what was read
//! (`docs/decisions/0010-netlink.md`). Numbers are those of `include/uapi/linux` and of
//! `Documentation/netlink/specs`.

mod attributes;
mod error;
mod ethtool;
mod netdev;
mod numbers;
mod qdisc;
mod route;
mod socket;
mod sockets;

pub use ethtool::{CoalesceField, PauseField};
pub use qdisc::{QdiscEntry, QdiscTree};
pub use route::LinkBytes;
pub(crate) use route::RawLink;

pub use error::NetlinkError;
pub use sockets::Netlink;
