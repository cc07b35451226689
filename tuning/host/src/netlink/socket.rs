//! Requests and answers: framing, sequence numbers, acknowledgements, dumps.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NLM_F_REQUEST, NLMSG_DONE,
    NLMSG_ERROR, NLMSG_OVERRUN, NetlinkBuffer,
};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};

use super::attributes::{Attributes, Body};
use super::error::NetlinkError;
use super::numbers::{CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME, CTRL_CMD_GETFAMILY, GENL_ID_CTRL};

/// Length of `struct nlmsghdr`.
const HEADER_BYTES: usize = 16;
/// Length of `struct genlmsghdr`.
const GENERIC_HEADER_BYTES: usize = 4;
/// The largest datagram accepted. The kernel's dumps use at most 32 KiB, single answers a few
/// pages.
const RECEIVE_BYTES: usize = 256 << 10;
/// Attempts at a dump while the kernel marks it as inconsistent because a table changed during
/// it.
const DUMP_TRIES: usize = 10;
/// `NLMSGERR_ATTR_MSG` of netlink.h: the kernel's explanation in words.
const NLMSGERR_ATTR_MSG: u16 = 1;

/// A socket of one netlink protocol.
#[derive(Debug)]
struct Connection {
    socket: Socket,
    sequence: u32,
}

/// The answer of an exchange: the body of every message, without its `nlmsghdr`.
struct Answer {
    bodies: Vec<Vec<u8>>,
    interrupted: bool,
}

impl Connection {
    fn open(protocol: isize, name: &str) -> Result<Self, NetlinkError> {
        let fail = |error: &io::Error| NetlinkError {
            request: format!("opening a netlink socket ({name})"),
            errno: error.raw_os_error(),
            reason: error.to_string(),
        };
        let mut socket = Socket::new(protocol).map_err(|error| fail(&error))?;
        socket.bind_auto().map_err(|error| fail(&error))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(|error| fail(&error))?;
        // Kernels before 4.12 lack both; their errors are plain numbers.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Self { socket, sequence: 1 })
    }

    /// Sends one message and reads until its acknowledgement or the end of its dump.
    fn exchange(&mut self, kind: u16, flags: u16, body: &[u8], request: &str) -> Result<Answer, NetlinkError> {
        let error = |error: io::Error| NetlinkError {
            request: request.to_owned(),
            errno: error.raw_os_error(),
            reason: error.to_string(),
        };
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = vec![0_u8; HEADER_BYTES];
        message.extend_from_slice(body);
        let mut header = NetlinkBuffer::new(&mut message);
        header.set_message_type(kind);
        header.set_flags(NLM_F_REQUEST | flags);
        header.set_sequence_number(self.sequence);
        header.set_length(u32::try_from(HEADER_BYTES + body.len()).expect("requests are short"));
        self.socket.send(&message, 0).map_err(error)?;

        let mut answer = Answer { bodies: Vec::new(), interrupted: false };
        let mut datagram = Vec::with_capacity(RECEIVE_BYTES);
        loop {
            datagram.clear();
            let length = self.socket.recv(&mut datagram, libc::MSG_TRUNC).map_err(error)?;
            if length > datagram.len() {
                return Err(error(io::Error::other(format!("the kernel's answer of {length} bytes is too long"))));
            }
            if self.take(&datagram, &mut answer, request)? {
                return Ok(answer);
            }
        }
    }

    /// Adds the messages of one datagram to the answer. Returns whether the exchange is complete.
    fn take(&self, datagram: &[u8], answer: &mut Answer, request: &str) -> Result<bool, NetlinkError> {
        let mut rest = datagram;
        while rest.len() >= HEADER_BYTES {
            let Ok(message) = NetlinkBuffer::new_checked(rest) else { break };
            let length = message.length() as usize;
            let body = &rest[HEADER_BYTES..length];
            let (kind, flags) = (message.message_type(), message.flags());
            if message.sequence_number() == self.sequence {
                answer.interrupted |= flags & NLM_F_DUMP_INTR != 0;
                match kind {
                    NLMSG_DONE => {
                        check_code(body, flags, 4, request)?;
                        return Ok(true);
                    }
                    NLMSG_ERROR => {
                        check_code(body, flags, 4 + HEADER_BYTES, request)?;
                        return Ok(true);
                    }
                    NLMSG_OVERRUN => answer.interrupted = true,
                    _ => answer.bodies.push(body.to_vec()),
                }
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(false)
    }

    fn get(&mut self, kind: u16, body: &[u8], request: &str) -> Result<Vec<Vec<u8>>, NetlinkError> {
        // The acknowledgement marks the end of an answer that is one message.
        self.exchange(kind, NLM_F_ACK, body, request).map(|answer| answer.bodies)
    }

    fn dump(&mut self, kind: u16, body: &[u8], request: &str) -> Result<Vec<Vec<u8>>, NetlinkError> {
        for _ in 0..DUMP_TRIES {
            let answer = self.exchange(kind, NLM_F_DUMP | NLM_F_MULTIPART, body, request)?;
            if !answer.interrupted {
                return Ok(answer.bodies);
            }
        }
        Err(NetlinkError {
            request: request.to_owned(),
            errno: None,
            reason: "the kernel's tables changed during every attempt: try again".to_owned(),
        })
    }
}

/// rtnetlink.
#[derive(Debug)]
pub(super) struct RouteSocket(Connection);

impl RouteSocket {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Connection::open(NETLINK_ROUTE, "rtnetlink").map(Self)
    }

    /// All entries of a table.
    pub(super) fn dump(&mut self, kind: u16, body: &Body, request: &str) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.0.dump(kind, &body.0, request)
    }

    /// One entry.
    pub(super) fn get(&mut self, kind: u16, body: &Body, request: &str) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.0.get(kind, &body.0, request)
    }

    /// Makes a change and waits for its acknowledgement.
    pub(super) fn change(&mut self, kind: u16, flags: u16, body: &Body, request: &str) -> Result<(), NetlinkError> {
        self.0.exchange(kind, NLM_F_ACK | flags, &body.0, request).map(|_| ())
    }
}

/// Generic netlink.
#[derive(Debug)]
pub(super) struct GenericSocket(Connection);

impl GenericSocket {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        Connection::open(NETLINK_GENERIC, "generic netlink").map(Self)
    }

    /// The number of a family; `None` if the kernel has no such family.
    pub(super) fn family(&mut self, name: &str) -> Result<Option<u16>, NetlinkError> {
        let mut body = Body::default();
        body.text(CTRL_ATTR_FAMILY_NAME, name);
        match self.get(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &body, &format!("looking up the netlink family {name}")) {
            Ok(answers) => Ok(answers.first().and_then(|answer| {
                let id = Attributes(answer).get(CTRL_ATTR_FAMILY_ID)?;
                Some(u16::from_ne_bytes(id.get(..2)?.try_into().ok()?))
            })),
            Err(error) if error.errno == Some(libc::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The attributes of the answers to one command.
    pub(super) fn get(
        &mut self,
        family: u16,
        command: u8,
        body: &Body,
        request: &str,
    ) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.0.get(family, &with_command(command, body), request).map(without_command)
    }

    /// The attributes of all objects that a command lists.
    pub(super) fn dump(
        &mut self,
        family: u16,
        command: u8,
        body: &Body,
        request: &str,
    ) -> Result<Vec<Vec<u8>>, NetlinkError> {
        self.0.dump(family, &with_command(command, body), request).map(without_command)
    }
}

/// Checks the errno at the start of an error or done message. The kernel's explanation, if any,
/// starts at byte `skip` of the body.
fn check_code(body: &[u8], flags: u16, skip: usize, request: &str) -> Result<(), NetlinkError> {
    let code = body.get(..4).map_or(0, |code| i32::from_ne_bytes(code.try_into().expect("four bytes")));
    if code >= 0 {
        return Ok(());
    }
    // Without `NLM_F_CAPPED` the explanation would follow a copy of the request; capped answers
    // were requested.
    let words = (flags & NLM_F_ACK_TLVS != 0 && (flags & NLM_F_CAPPED != 0 || skip == 4))
        .then(|| body.get(skip..))
        .flatten()
        .and_then(|rest| Attributes(rest).text(NLMSGERR_ATTR_MSG));
    let plain = io::Error::from_raw_os_error(-code).to_string();
    let reason = words.map_or_else(|| plain.clone(), |words| format!("{words} ({plain})"));
    Err(NetlinkError { request: request.to_owned(), errno: Some(-code), reason })
}

fn with_command(command: u8, body: &Body) -> Vec<u8> {
    // `struct genlmsghdr`: command, version, reserved.
    let mut bytes = vec![command, 1, 0, 0];
    bytes.extend_from_slice(&body.0);
    bytes
}

fn without_command(bodies: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    bodies.into_iter().map(|body| body.get(GENERIC_HEADER_BYTES..).unwrap_or_default().to_vec()).collect()
}
