//! The netlink interfaces that host tuning needs: rtnetlink for links and queueing disciplines, the
//! generic families `ethtool` and `netdev` for NICs.
//!
//! Requests block; each protocol has one socket and one request in flight. Messages are read and
//! written as raw attributes, so that a restored value is byte for byte the one that was read
//! (`docs/decisions/0010-netlink.md`). Numbers come from `include/uapi/linux` and
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
