//! The two netlink sockets: rtnetlink, and the generic families.

use super::error::NetlinkError;
use super::socket::{GenericSocket, RouteSocket};

/// Connections to the kernel's netlink families in the network namespace of the thread that opened
/// them.
#[derive(Debug)]
pub struct Netlink {
    pub(super) route: RouteSocket,
    pub(super) generic: GenericSocket,
    /// The family's number, if the kernel has it.
    pub(super) ethtool: Option<u16>,
    /// The family's number, if the kernel has it (6.3).
    pub(super) netdev: Option<u16>,
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
