//! Messages with descriptors over a `SOCK_SEQPACKET` unix socket.
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

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, connect, recvmsg, sendmsg, shutdown, socket_with,
    socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// The longest message: the steering program's counts on 256 queues, six numbers of up to ten bytes
/// each.
const MESSAGE_BYTES_MAX: usize = 32 << 10;
/// The most descriptors in a message; the kernel's own limit is 253.
pub const DESCRIPTORS_MAX: usize = 250;

/// One end of the socket between the processes.
#[derive(Debug)]
pub struct LinkSocket {
    fd: OwnedFd,
}

impl LinkSocket {
    /// Both ends. Neither is inherited by a started program unless explicitly passed.
    ///
    /// # Errors
    /// The operating system's.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self { fd: ours }, Self { fd: theirs }))
    }

    /// Connects to a service that starts data planes at `path`, for example systemd: the other end
    /// becomes a new data plane's standard input.
    ///
    /// # Errors
    /// The operating system's.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        connect(&fd, &SocketAddrUnix::new(path)?)?;
        Ok(Self { fd })
    }

    /// Ends the conversation for all handles on either end.
    pub fn close(&self) {
        // An end whose other end is gone has nothing to close.
        let _ = shutdown(&self.fd, Shutdown::Both);
    }

    /// Takes an end over, for instance one that was inherited.
    #[must_use]
    pub const fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// A second handle on the same end.
    ///
    /// # Errors
    /// The operating system's.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The operating system's; `BrokenPipe` when the other process is gone.
    ///
    /// # Panics
    /// If the message or the number of descriptors exceeds its limit: both are bounded by
    /// construction.
    pub fn send(&self, message: &impl Serialize, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        assert!(descriptors.len() <= DESCRIPTORS_MAX, "{} descriptors in a message", descriptors.len());
        // Some messages contain secrets: the buffer is wiped, and never moved while it grows.
        let mut room = Zeroizing::new(vec![0; MESSAGE_BYTES_MAX]);
        let bytes = match postcard::to_slice(message, &mut room) {
            Ok(bytes) => &*bytes,
            Err(postcard::Error::SerializeBufferFull) => panic!("a message of more than {MESSAGE_BYTES_MAX} bytes"),
            Err(error) => return Err(io::Error::other(error)),
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)), "the space was sized for it");
        }
        rustix::io::retry_on_intr(|| sendmsg(&self.fd, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// Waits for a message; `None` when the other process is gone.
    ///
    /// # Errors
    /// The operating system's; `InvalidData` for bytes that are no message.
    pub fn receive<M: DeserializeOwned>(&self) -> io::Result<Option<(M, Vec<OwnedFd>)>> {
        let mut bytes = Zeroizing::new(vec![0; MESSAGE_BYTES_MAX]);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.fd, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)
        })?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        let message = postcard::from_bytes(bytes.get(..received.bytes).unwrap_or_default())
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a malformed message between the processes"))?;
        Ok(Some((message, descriptors)))
    }
}

impl From<LinkSocket> for OwnedFd {
    fn from(socket: LinkSocket) -> Self {
        socket.fd
    }
}

impl AsFd for LinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::FileSlot;
    use crate::messages::ToDataPlane;

    #[test]
    fn messages_and_descriptors_arrive_together() {
        let (ours, theirs) = LinkSocket::pair().unwrap();
        let file = tempfile::tempfile().unwrap();
        let message = ToDataPlane::InstallFile { slot: FileSlot(7), direct: false };
        ours.send(&message, &[file.as_fd()]).unwrap();
        let (received, descriptors) = theirs.receive::<ToDataPlane>().unwrap().unwrap();
        assert_eq!(received, message);
        let (before, after) = (rustix::fs::fstat(&file).unwrap(), rustix::fs::fstat(&descriptors[0]).unwrap());
        assert_eq!(before.st_ino, after.st_ino);
        drop(ours);
        assert!(theirs.receive::<ToDataPlane>().unwrap().is_none());
    }
}
