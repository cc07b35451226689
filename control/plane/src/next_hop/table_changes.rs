//! Notices that the kernel's tables have changed.
//!
//! The messages themselves are not parsed: routes, rules, links, addresses and neighbors together
//! decide the next hop to a partner, and only another request to the kernel gives its own answer.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram as StdDatagram;

use culvert_link::rtnetlink;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::net::netlink::SocketAddrNetlink;
use tokio::net::UnixDatagram;

use crate::next_hop::constants::RTNLGRPS;

/// Messages taken at once: during a storm of route changes other tasks must get their turn.
const DRAIN_MAX: usize = 4_096;

/// A subscription to changes of the kernel's tables.
#[derive(Debug)]
pub struct TableChanges {
    /// A netlink socket wrapped as a Unix datagram socket. The runtime's wrapper for bare
    /// descriptors would need unsafe code; this one does the same, which is to wait for the
    /// descriptor and to call `recv` on it.
    socket: UnixDatagram,
}

impl TableChanges {
    /// Subscribes.
    ///
    /// # Errors
    /// The operating system's.
    pub fn subscribe() -> io::Result<Self> {
        let socket = rtnetlink::socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?;
        let groups = RTNLGRPS.iter().fold(0u32, |mask, group| mask | 1u32.unbounded_shl(group.wrapping_sub(1)));
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { socket: UnixDatagram::from_std(StdDatagram::from(socket))? })
    }

    /// Waits for a change.
    ///
    /// # Errors
    /// The operating system's; the subscription is over then.
    pub async fn next(&self) -> io::Result<()> {
        loop {
            self.socket.readable().await?;
            if self.take()? {
                return Ok(());
            }
        }
    }

    /// Takes all pending messages. Returns whether there were any, or some were lost because the
    /// buffer was full, which also means a change.
    ///
    /// # Errors
    /// As [`TableChanges::next`].
    pub fn take(&self) -> io::Result<bool> {
        let mut has_changed = false;
        for _ in 0..DRAIN_MAX {
            // The kernel drops the rest of a longer message.
            match self.socket.try_recv(&mut [0; 16]) {
                Ok(_) => has_changed = true,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(Errno::NOBUFS.raw_os_error()) => has_changed = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(has_changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn many_changes_are_one() {
        let (kernel, socket) = UnixDatagram::pair().unwrap();
        let changes = TableChanges { socket };
        assert!(!changes.take().unwrap());
        for _ in 0..3 {
            kernel.send(&[0; 100]).await.unwrap();
        }
        changes.next().await.unwrap();
        assert!(!changes.take().unwrap(), "all three were taken");
        kernel.send(&[0; 100]).await.unwrap();
        changes.next().await.unwrap();
    }

    #[tokio::test]
    async fn anybody_may_subscribe() {
        // Whether something has changed since does not matter here.
        TableChanges::subscribe().unwrap().take().unwrap();
    }
}
