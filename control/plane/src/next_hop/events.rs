//! That the kernel's tables have changed. What has changed is not read out of the messages: a route
//! or a neighbour decides the way to a partner together with rules, links and addresses, and asking
//! the kernel again gives its own answer.

use std::io::{self, ErrorKind};
use std::os::unix::net::UnixDatagram as StdDatagram;

use culvert_link::rtnetlink;
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::net::netlink::SocketAddrNetlink;
use tokio::net::UnixDatagram;

use crate::next_hop::number::RTNLGRPS;

/// Messages taken at once: in a storm of routes others get their turn too.
const DRAIN_MAX: usize = 4_096;

/// A subscription to changes.
#[derive(Debug)]
pub struct Changes {
    /// A netlink socket in the dress of another kind of datagram socket: what the runtime offers
    /// for bare descriptors takes unsafe code, and this does the same, which is to wait for a
    /// descriptor and to call `recv` on it.
    socket: UnixDatagram,
}

impl Changes {
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

    /// Takes all pending events. Returns whether there were any, or some were lost because the
    /// buffer was full: then something has changed too.
    ///
    /// # Errors
    /// As [`Changes::next`].
    pub fn take(&self) -> io::Result<bool> {
        let mut has_changed = false;
        for _ in 0..DRAIN_MAX {
            // The rest of a longer message is dropped.
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
        let changes = Changes { socket };
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
        // Something may have changed since; that it can be asked is what counts.
        Changes::subscribe().unwrap().take().unwrap();
    }
}
