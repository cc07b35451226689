//! Queries to the kernel's tables of links, addresses, routes and neighbors (rtnetlink), which need
//! no privilege.
//!
//! Both processes use them: the control process for next hops to partners, the data plane, at
//! startup, to see whether an interface is already in use.
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

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

// Numbers of include/uapi/linux/netlink.h.
const NLM_F_REQUEST: u16 = 1;
/// Asks for all entries.
pub const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The kind of a question for links (include/uapi/linux/rtnetlink.h).
pub const RTM_GETLINK: u16 = 18;
/// Bytes of `struct ifinfomsg`, which precedes a link's attributes.
pub const LINK_BYTES: usize = 16;

const HEADER_BYTES: usize = 16;
/// The kernel's own limit for one part of a dump is 32 KiB.
const RECEIVE_BYTES: usize = 64 << 10;
/// An answer comes at once or not at all.
const PATIENCE: Duration = Duration::from_secs(2);

/// A socket for questions.
#[derive(Debug)]
pub struct RouteSocket {
    socket: OwnedFd,
}

impl RouteSocket {
    /// Opens the socket.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open() -> io::Result<Self> {
        let socket = socket(SocketFlags::CLOEXEC)?;
        rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket })
    }

    /// Asks, and returns the bodies of the answers.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask(&self, kind: u16, flags: u16, body: &[u8], attributes: &[(u16, &[u8])]) -> io::Result<Vec<Vec<u8>>> {
        let too_long = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let mut rest = body.to_vec();
        for (kind, value) in attributes {
            let length = u16::try_from(value.len().saturating_add(4)).map_err(too_long)?;
            rest.extend_from_slice(&length.to_ne_bytes());
            rest.extend_from_slice(&kind.to_ne_bytes());
            rest.extend_from_slice(value);
            rest.resize(rest.len().next_multiple_of(4), 0);
        }
        let length = u32::try_from(rest.len().saturating_add(HEADER_BYTES)).map_err(too_long)?;
        let mut message = length.to_ne_bytes().to_vec();
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        // The sequence number and the port are the kernel's to fill in.
        message.resize(HEADER_BYTES, 0);
        message.append(&mut rest);
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let (_, bytes) = rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            for (kind, body) in messages(buffer.get(..bytes).unwrap_or(&buffer)) {
                match kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => {
                        let errno = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                        return if errno == 0 {
                            Ok(answers)
                        } else {
                            Err(io::Error::from_raw_os_error(errno.saturating_neg()))
                        };
                    }
                    _ => answers.push(body.to_vec()),
                }
            }
            if flags & NLM_F_DUMP == 0 {
                return Ok(answers);
            }
        }
    }

    /// What the kernel says of one link, or of all.
    ///
    /// # Errors
    /// The kernel's.
    pub fn ask_links(&self, index: Option<u32>) -> io::Result<Vec<Vec<u8>>> {
        let mut request = [0u8; LINK_BYTES];
        request[4..8].copy_from_slice(&index.unwrap_or(0).to_ne_bytes());
        self.ask(RTM_GETLINK, if index.is_some() { 0 } else { NLM_F_DUMP }, &request, &[])
    }
}

/// A `NETLINK_ROUTE` socket.
///
/// # Errors
/// The operating system's.
pub fn socket(flags: SocketFlags) -> io::Result<OwnedFd> {
    // The protocol is 0, which is NETLINK_ROUTE.
    Ok(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?)
}

/// A number, if the value has its length.
#[must_use]
pub fn u32_of(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

/// A text that may end with a zero.
#[must_use]
pub fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// Attributes: kind without its flags, and value.
pub fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The messages of a datagram: kind and body.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_of(rest.get(..4)?)? as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let body = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_ends_the_list() {
        let whole = [8, 0, 1, 0, 1, 2, 3, 4, 8, 0, 2, 0, 5, 6, 7, 8];
        assert_eq!(attributes(&whole).count(), 2);
        for length in 0..whole.len() {
            assert!(attributes(&whole[..length]).count() < 2);
            assert_eq!(messages(&whole[..length]).count(), 0);
        }
    }

    #[test]
    fn a_question_that_the_kernel_refuses_is_an_error() {
        let error = RouteSocket::open().unwrap().ask_links(Some(999_999)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENODEV), "{error}");
    }
}
