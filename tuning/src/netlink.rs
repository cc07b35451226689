//! The kernel's netlink interfaces, as much of them as host tuning needs: rtnetlink for links and queueing disciplines,
//! the generic families `ethtool` and `netdev` for NICs.
//!
//! Requests block; there is one socket per protocol and one request in flight. Messages are read and written as raw
//! attributes, so that what is put back is byte for byte what was read (`docs/decisions/0010-netlink.md`). Numbers are
//! those of `include/uapi/linux` and of `Documentation/netlink/specs`.

mod attributes;
mod ethtool;
mod netdev;
mod numbers;
mod qdisc;
mod route;
mod socket;

pub use ethtool::{CoalesceField, PauseField};
pub use qdisc::{QdiscEntry, QdiscTree};
pub use route::LinkBytes;
pub(crate) use route::RawLink;

use socket::{GenericSocket, RouteSocket};

/// A request that the kernel refused, or that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{request}: {reason}")]
pub struct NetlinkError {
    /// What was asked.
    pub request: String,
    /// The kernel's errno, if it answered with one.
    pub errno: Option<i32>,
    /// The reason in words: the kernel's own where it gives one.
    pub reason: String,
}

/// Connections to the kernel's netlink families in the network namespace of the thread that opened them.
#[derive(Debug)]
pub struct Netlink {
    route: RouteSocket,
    generic: GenericSocket,
    /// The family's number, if the kernel has it.
    ethtool: Option<u16>,
    /// The family's number, if the kernel has it (6.3).
    netdev: Option<u16>,
}

impl Netlink {
    /// Opens the sockets and looks up the families.
    ///
    /// # Errors
    /// [`NetlinkError`] if the kernel or a sandbox refuses netlink sockets.
    pub fn open() -> Result<Self, NetlinkError> {
        let route = RouteSocket::open()?;
        let mut generic = GenericSocket::open()?;
        let ethtool = generic.family("ethtool")?;
        let netdev = generic.family("netdev")?;
        Ok(Self { route, generic, ethtool, netdev })
    }
}
