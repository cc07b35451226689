//! The server's end of a control connection as a state machine: which message to read next, and
//! what follows from it. No socket, no clock.
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

use std::net::IpAddr;

use super::messages::{
    Accept, REQUEST_BYTES, REQUEST_TW_SESSION, SET_UP_BYTES, SHORT_BYTES, START_SESSIONS, STOP_SESSIONS,
    SessionRequest, chosen_mode,
};
use crate::stamp::limits::ReflectorPorts;

/// The server's next action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Accept the client: send Server-Start.
    Welcome,
    /// Send Server-Start with a refusal and close.
    TurnAway(Accept),
    /// Open a reflector and send Accept-Session with its port.
    Open(SessionRequest),
    /// Send Accept-Session with a refusal.
    Refuse(Accept),
    /// Send Start-Ack; the reflectors answer from now on.
    Start,
    /// The reflectors stop answering after their time-out. The client may ask for new sessions.
    Stop,
    /// The client breaks the protocol: close.
    Close(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    ClientHelloReceived,
    Setup { sessions: u32 },
    Running,
}

/// A control connection.
#[derive(Debug)]
pub struct ServerConnection {
    state: State,
    client: IpAddr,
    reflector_ports: ReflectorPorts,
    sessions_max: u32,
    packet_bytes_max: u32,
}

impl ServerConnection {
    /// The connection of a client that has been greeted. Its test packets must not come from
    /// `reflector_ports`.
    #[must_use]
    pub fn new(client: IpAddr, reflector_ports: ReflectorPorts, sessions_max: u32, packet_bytes_max: u32) -> Self {
        Self {
            state: State::ClientHelloReceived,
            client: client.to_canonical(),
            reflector_ports,
            sessions_max,
            packet_bytes_max,
        }
    }

    /// Bytes of the message that begins with `first`; none if no such message is permitted now.
    #[must_use]
    pub const fn message_bytes(&self, first: u8) -> Option<usize> {
        match (self.state, first) {
            (State::ClientHelloReceived, _) => Some(SET_UP_BYTES),
            (State::Setup { .. }, REQUEST_TW_SESSION) => Some(REQUEST_BYTES),
            (State::Setup { .. }, START_SESSIONS) | (State::Running, STOP_SESSIONS) => Some(SHORT_BYTES),
            _ => None,
        }
    }

    /// Whether reflectors answer.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == State::Running
    }

    /// Takes a message of [`Self::message_bytes`].
    pub fn on_message(&mut self, message: &[u8]) -> Step {
        match (self.state, message.first()) {
            (State::ClientHelloReceived, _) => {
                let Ok(message) = message.try_into() else { return Step::Close("a short Set-Up-Response") };
                match chosen_mode(message) {
                    1 => {
                        self.state = State::Setup { sessions: 0 };
                        Step::Welcome
                    }
                    // Mode 0 is the client's way to leave.
                    0 => Step::Close("the client wants no mode"),
                    _ => Step::TurnAway(Accept::Unsupported),
                }
            }
            (State::Setup { sessions }, Some(&REQUEST_TW_SESSION)) => {
                let Ok(message) = message.try_into() else { return Step::Close("a short Request-TW-Session") };
                let step = self.consider(message, sessions);
                if matches!(step, Step::Open(_)) {
                    self.state = State::Setup { sessions: sessions.saturating_add(1) };
                }
                step
            }
            (State::Setup { .. }, Some(&START_SESSIONS)) => {
                self.state = State::Running;
                Step::Start
            }
            (State::Running, Some(&STOP_SESSIONS)) => {
                self.state = State::Setup { sessions: 0 };
                Step::Stop
            }
            _ => Step::Close("a command that is not permitted now"),
        }
    }

    fn consider(&self, message: &[u8; REQUEST_BYTES], sessions: u32) -> Step {
        let request = match SessionRequest::read(message) {
            Ok(request) => request,
            Err(accept) => return Step::Refuse(accept),
        };
        // Test packets go only to the client itself: nobody can have a third host flooded.
        let is_client = request.sender_address.is_unspecified() || request.sender_address.to_canonical() == self.client;
        if !is_client || self.reflector_ports.contains(request.sender_port) {
            return Step::Refuse(Accept::Rejected);
        }
        if request.padding_bytes.saturating_add(14) > self.packet_bytes_max {
            return Step::Refuse(Accept::PermanentLimit);
        }
        if sessions >= self.sessions_max {
            return Step::Refuse(Accept::TemporaryLimit);
        }
        Step::Open(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twamp::messages::{start_sessions, stop_sessions};
    use proptest::prelude::*;

    fn connection() -> ServerConnection {
        ServerConnection::new("192.0.2.1".parse().unwrap(), ReflectorPorts::new(vec![8_620], None), 2, 9_000)
    }

    fn request() -> SessionRequest {
        SessionRequest {
            is_ipv6: false,
            sender_port: 9_000,
            receiver_port: 0,
            sender_address: "0.0.0.0".parse().unwrap(),
            receiver_address: "0.0.0.0".parse().unwrap(),
            padding_bytes: 0,
            timeout: [0; 8],
            dscp: 0,
        }
    }

    fn set_up(mode: u8) -> [u8; SET_UP_BYTES] {
        let mut message = [0; SET_UP_BYTES];
        message[3] = mode;
        message
    }

    #[test]
    fn a_session_is_set_up_started_and_stopped() {
        let mut server = connection();
        assert_eq!(server.message_bytes(9), Some(SET_UP_BYTES));
        assert_eq!(server.on_message(&set_up(1)), Step::Welcome);
        assert_eq!(server.on_message(&request().write()), Step::Open(request()));
        assert_eq!(server.on_message(&request().write()), Step::Open(request()));
        assert_eq!(server.on_message(&request().write()), Step::Refuse(Accept::TemporaryLimit));
        assert_eq!(server.on_message(&start_sessions()), Step::Start);
        assert!(server.is_running());
        assert_eq!(server.message_bytes(REQUEST_TW_SESSION), None);
        assert_eq!(server.on_message(&stop_sessions(2)), Step::Stop);
        assert_eq!(server.on_message(&request().write()), Step::Open(request()));
    }

    #[test]
    fn nobody_can_have_a_third_host_flooded() {
        let mut server = connection();
        server.on_message(&set_up(1));
        let third = SessionRequest { sender_address: "198.51.100.1".parse().unwrap(), ..request() };
        assert_eq!(server.on_message(&third.write()), Step::Refuse(Accept::Rejected));
        for port in [53, 862, 8_620] {
            let service = SessionRequest { sender_port: port, ..request() };
            assert_eq!(server.on_message(&service.write()), Step::Refuse(Accept::Rejected), "port {port}");
        }
        let huge = SessionRequest { padding_bytes: 60_000, ..request() };
        assert_eq!(server.on_message(&huge.write()), Step::Refuse(Accept::PermanentLimit));
    }

    #[test]
    fn other_modes_are_turned_away() {
        assert_eq!(connection().on_message(&set_up(4)), Step::TurnAway(Accept::Unsupported));
        assert!(matches!(connection().on_message(&set_up(0)), Step::Close(_)));
    }

    proptest! {
        #[test]
        fn any_messages_are_taken(messages: Vec<Vec<u8>>) {
            let mut server = connection();
            for message in messages {
                server.on_message(&message);
            }
        }
    }
}
