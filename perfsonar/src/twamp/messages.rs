//! The messages of TWAMP-Control as bytes (RFC 4656 3.1 … 3.8, RFC 5357 3).
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

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of each message.
pub const GREETING_BYTES: usize = 64;
/// See [`GREETING_BYTES`].
pub const SET_UP_BYTES: usize = 164;
/// See [`GREETING_BYTES`].
pub const SERVER_START_BYTES: usize = 48;
/// See [`GREETING_BYTES`].
pub const REQUEST_BYTES: usize = 112;
/// See [`GREETING_BYTES`].
pub const ACCEPT_BYTES: usize = 48;
/// Start-Sessions, Start-Ack and Stop-Sessions.
pub const SHORT_BYTES: usize = 32;
/// The unauthenticated mode, the only one that is offered.
pub const MODE_UNAUTHENTICATED: u32 = 1;

/// Commands: the first byte of what a client sends.
pub const REQUEST_TW_SESSION: u8 = 5;
/// See [`REQUEST_TW_SESSION`].
pub const START_SESSIONS: u8 = 2;
/// See [`REQUEST_TW_SESSION`].
pub const STOP_SESSIONS: u8 = 3;

/// A server's answer to a request (RFC 4656 3.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Accept {
    /// Accepted.
    Ok = 0,
    /// Rejected, without a reason.
    Rejected = 1,
    /// Internal error of the server.
    Internal = 2,
    /// Some aspect of the request is not supported.
    Unsupported = 3,
    /// Exceeds a permanent limit of the server.
    PermanentLimit = 4,
    /// Exceeds what the server can offer at present.
    TemporaryLimit = 5,
}

impl Accept {
    fn of(code: u8) -> Self {
        match code {
            0 => Self::Ok,
            2 => Self::Internal,
            3 => Self::Unsupported,
            4 => Self::PermanentLimit,
            5 => Self::TemporaryLimit,
            _ => Self::Rejected,
        }
    }
}

/// Why a control connection cannot continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// The other end does not speak TWAMP-Control.
    #[error("the other end does not speak TWAMP-Control: {0}")]
    Malformed(&'static str),
    /// The server does not offer the unauthenticated mode.
    #[error(
        "the TWAMP server offers no unauthenticated mode (its modes are {0:#x}): its admin would have to permit it"
    )]
    NoCommonMode(u32),
    /// The server refuses.
    #[error("the TWAMP server refuses {what}: {}", why(*.accept))]
    Refused {
        /// What it refuses.
        what: &'static str,
        /// Its answer.
        accept: Accept,
    },
}

/// The greeting of a server that offers the unauthenticated mode. Challenge and salt belong to the
/// other modes, but are random all the same.
#[must_use]
pub fn greeting(challenge: [u8; 16], salt: [u8; 16]) -> [u8; GREETING_BYTES] {
    let mut message = [0; GREETING_BYTES];
    put(&mut message, 12, &MODE_UNAUTHENTICATED.to_be_bytes());
    put(&mut message, 16, &challenge);
    put(&mut message, 32, &salt);
    put(&mut message, 48, &2_048u32.to_be_bytes());
    message
}

/// The greeting of a server that offers no mode because it accepts no clients at present.
#[must_use]
pub const fn closed_greeting() -> [u8; GREETING_BYTES] {
    [0; GREETING_BYTES]
}

/// Reads a greeting and answers it with the unauthenticated mode.
///
/// # Errors
/// [`ControlError`] if the server does not offer it.
pub fn set_up_response(greeting: &[u8; GREETING_BYTES]) -> Result<[u8; SET_UP_BYTES], ControlError> {
    let modes = u32_at(greeting, 12);
    if modes & MODE_UNAUTHENTICATED == 0 {
        return Err(if modes == 0 {
            ControlError::Refused { what: "the connection", accept: Accept::Rejected }
        } else {
            ControlError::NoCommonMode(modes)
        });
    }
    let mut message = [0; SET_UP_BYTES];
    put(&mut message, 0, &MODE_UNAUTHENTICATED.to_be_bytes());
    Ok(message)
}

/// The mode that a client chose.
#[must_use]
pub fn chosen_mode(set_up: &[u8; SET_UP_BYTES]) -> u32 {
    u32_at(set_up, 0)
}

/// Server-Start.
#[must_use]
pub fn server_start(accept: Accept, initialization: [u8; 16], started: [u8; 8]) -> [u8; SERVER_START_BYTES] {
    let mut message = [0; SERVER_START_BYTES];
    message[15] = accept as u8;
    put(&mut message, 16, &initialization);
    put(&mut message, 32, &started);
    message
}

/// Checks that the server accepts the connection.
///
/// # Errors
/// [`ControlError::Refused`].
pub fn check_server_start(message: &[u8; SERVER_START_BYTES]) -> Result<(), ControlError> {
    accepted("the connection", message[15])
}

/// Checks that the server starts the sessions.
///
/// # Errors
/// [`ControlError::Refused`].
pub fn check_start_ack(message: &[u8; SHORT_BYTES]) -> Result<(), ControlError> {
    accepted("to start the session", message[0])
}

/// Request-TW-Session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionRequest {
    /// Whether addresses are IPv6.
    pub is_ipv6: bool,
    /// The port that test packets come from.
    pub sender_port: u16,
    /// The port that they should go to, as a suggestion.
    pub receiver_port: u16,
    /// The address that they come from; unspecified for the control connection's.
    pub sender_address: IpAddr,
    /// The address that they go to; unspecified for the control connection's.
    pub receiver_address: IpAddr,
    /// Bytes after the first 14 of a test packet.
    pub padding_bytes: u32,
    /// How long the reflector runs after Stop-Sessions, as on the wire.
    pub timeout: [u8; 8],
    /// The DSCP of test packets.
    pub dscp: u8,
}

impl SessionRequest {
    /// As bytes.
    #[must_use]
    pub fn write(&self) -> [u8; REQUEST_BYTES] {
        let mut message = [0; REQUEST_BYTES];
        message[0] = REQUEST_TW_SESSION;
        message[1] = if self.is_ipv6 { 6 } else { 4 };
        put(&mut message, 12, &self.sender_port.to_be_bytes());
        put(&mut message, 14, &self.receiver_port.to_be_bytes());
        put(&mut message, 16, &address_bytes(self.sender_address));
        put(&mut message, 32, &address_bytes(self.receiver_address));
        put(&mut message, 64, &self.padding_bytes.to_be_bytes());
        put(&mut message, 76, &self.timeout);
        // The first two bits 00, then the DSCP (RFC 4656 3.5).
        message[84] = self.dscp & 0x3f;
        message
    }

    /// Reads a request.
    ///
    /// # Errors
    /// The server's answer to a request that it does not support.
    pub fn read(message: &[u8; REQUEST_BYTES]) -> Result<Self, Accept> {
        let is_ipv6 = match message[1] & 0x0f {
            4 => false,
            6 => true,
            _ => return Err(Accept::Unsupported),
        };
        // A TWAMP client is the sender itself: it asks for no sender or receiver, and for no
        // schedule (RFC 5357 3.5).
        if message[2] != 0
            || message[3] != 0
            || u32_at(message, 4) != 0
            || u32_at(message, 8) != 0
            || message[84] & 0xc0 != 0
        {
            return Err(Accept::Unsupported);
        }
        let mut timeout = [0; 8];
        timeout.copy_from_slice(&message[76..84]);
        Ok(Self {
            is_ipv6,
            sender_port: u16_at(message, 12),
            receiver_port: u16_at(message, 14),
            sender_address: address_at(message, 16, is_ipv6),
            receiver_address: address_at(message, 32, is_ipv6),
            padding_bytes: u32_at(message, 64),
            timeout,
            dscp: message[84] & 0x3f,
        })
    }

    /// How long the reflector runs after Stop-Sessions.
    #[must_use]
    pub fn timeout(&self) -> std::time::Duration {
        let [a, b, c, d, ..] = self.timeout;
        std::time::Duration::from_secs(u32::from_be_bytes([a, b, c, d]).into())
    }
}

/// Accept-Session.
#[must_use]
pub fn accept_session(accept: Accept, port: u16, session_id: [u8; 16]) -> [u8; ACCEPT_BYTES] {
    let mut message = [0; ACCEPT_BYTES];
    message[0] = accept as u8;
    put(&mut message, 2, &port.to_be_bytes());
    put(&mut message, 4, &session_id);
    message
}

/// The port to which test packets go.
///
/// # Errors
/// [`ControlError::Refused`].
pub fn accepted_port(message: &[u8; ACCEPT_BYTES]) -> Result<u16, ControlError> {
    accepted("the session", message[0])?;
    match u16_at(message, 2) {
        0 => Err(ControlError::Malformed("it accepted a session on port 0")),
        port => Ok(port),
    }
}

/// Start-Sessions.
#[must_use]
pub const fn start_sessions() -> [u8; SHORT_BYTES] {
    let mut message = [0; SHORT_BYTES];
    message[0] = START_SESSIONS;
    message
}

/// Start-Ack.
#[must_use]
pub const fn start_ack(accept: Accept) -> [u8; SHORT_BYTES] {
    let mut message = [0; SHORT_BYTES];
    message[0] = accept as u8;
    message
}

/// Stop-Sessions for a number of sessions.
#[must_use]
pub fn stop_sessions(sessions: u32) -> [u8; SHORT_BYTES] {
    let mut message = [0; SHORT_BYTES];
    message[0] = STOP_SESSIONS;
    put(&mut message, 4, &sessions.to_be_bytes());
    message
}

const fn why(accept: Accept) -> &'static str {
    match accept {
        Accept::Ok => "no reason",
        Accept::Rejected => "it gives no reason; it may not permit this host, or have no room for more clients",
        Accept::Internal => "it has an internal error",
        Accept::Unsupported => "part of the request is not supported there",
        Accept::PermanentLimit => "its limits do not permit it",
        Accept::TemporaryLimit => "it has too many sessions at present; try again later",
    }
}

/// Writes a field. Messages have fixed lengths, and all fields lie within them.
fn put(message: &mut [u8], at: usize, bytes: &[u8]) {
    message.get_mut(at..).unwrap_or_default().iter_mut().zip(bytes).for_each(|(place, &byte)| *place = byte);
}

/// A field's bytes; zeros beyond the message's end.
fn array_at<const N: usize>(message: &[u8], at: usize) -> [u8; N] {
    message.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or([0; N])
}

fn u32_at(message: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array_at(message, at))
}

fn u16_at(message: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(array_at(message, at))
}

fn accepted(what: &'static str, code: u8) -> Result<(), ControlError> {
    match Accept::of(code) {
        Accept::Ok => Ok(()),
        accept => Err(ControlError::Refused { what, accept }),
    }
}

fn address_bytes(address: IpAddr) -> [u8; 16] {
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => put(&mut bytes, 0, &address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    bytes
}

fn address_at(message: &[u8], at: usize, is_ipv6: bool) -> IpAddr {
    let bytes: [u8; 16] = array_at(message, at);
    let [a, b, c, d, ..] = bytes;
    if is_ipv6 { Ipv6Addr::from(bytes).into() } else { Ipv4Addr::new(a, b, c, d).into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request() -> SessionRequest {
        SessionRequest {
            is_ipv6: false,
            sender_port: 9_000,
            receiver_port: 19_000,
            sender_address: "192.0.2.1".parse().unwrap(),
            receiver_address: "0.0.0.0".parse().unwrap(),
            padding_bytes: 27,
            timeout: [0, 0, 0, 2, 0, 0, 0, 0],
            dscp: 46,
        }
    }

    #[test]
    fn requests_come_back() {
        assert_eq!(SessionRequest::read(&request().write()), Ok(request()));
        let six = SessionRequest {
            is_ipv6: true,
            sender_address: "2001:db8::1".parse().unwrap(),
            receiver_address: "::".parse().unwrap(),
            ..request()
        };
        assert_eq!(SessionRequest::read(&six.write()), Ok(six));
        assert_eq!(six.timeout().as_secs(), 2);
        let bytes = request().write();
        assert_eq!((&bytes[..4], &bytes[12..20]), (&[5, 4, 0, 0][..], &[0x23, 0x28, 0x4a, 0x38, 192, 0, 2, 1][..]));
    }

    #[test]
    fn requests_of_owamp_are_not_supported() {
        for (at, byte) in [(1, 5), (2, 1), (3, 1), (7, 1), (11, 1), (84, 0x80)] {
            let mut message = request().write();
            message[at] = byte;
            assert_eq!(SessionRequest::read(&message), Err(Accept::Unsupported), "byte {at}");
        }
    }

    #[test]
    fn refusals_are_sentences() {
        let mut greeting = greeting([1; 16], [2; 16]);
        assert_eq!(chosen_mode(&set_up_response(&greeting).unwrap()), 1);
        greeting[15] = 6;
        let error = set_up_response(&greeting).unwrap_err().to_string();
        assert!(error.contains("no unauthenticated mode"), "{error}");
        let error = accepted_port(&accept_session(Accept::TemporaryLimit, 0, [0; 16])).unwrap_err().to_string();
        assert!(error.contains("try again later"), "{error}");
        assert!(check_server_start(&server_start(Accept::Rejected, [0; 16], [0; 8])).is_err());
        assert!(check_start_ack(&start_ack(Accept::Ok)).is_ok());
    }

    proptest! {
        #[test]
        fn any_request_is_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), REQUEST_BYTES)) {
            let _ = SessionRequest::read(bytes.as_slice().try_into().unwrap());
        }
    }
}
