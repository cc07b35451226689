//! Echoes at an even pace: round trips, one-way delays, loss, order, duplication.

use std::io;
use std::time::{Duration, Instant};

use super::Stop;
use crate::clock::{ClockQuality, now_ns};
use crate::socket::{ProbeSocket, is_of_icmp};
use crate::stamp::packet::{Request, SEALED_BYTES};
use crate::stamp::sender::SenderConfig;
use crate::stamp::{Authentication, SenderSession, SessionResult};
use crate::timestamp::{ErrorEstimate, TimestampFormat, encode};

/// How echoes are sent.
#[derive(Clone, Copy, Debug)]
pub struct EchoPlan {
    /// The step.
    pub number: u16,
    /// How many.
    pub packets: u32,
    /// From one to the next.
    pub interval: Duration,
    /// UDP payload.
    pub packet_bytes: u16,
    /// How long the last answer is waited for.
    pub wait: Duration,
}

/// Sends echoes on a connected socket and takes the answers. What was measured when it was stopped
/// is the result.
///
/// # Errors
/// The operating system's, if nothing was answered before.
pub fn run(
    socket: &ProbeSocket,
    authentication: &Authentication,
    plan: &EchoPlan,
    stop: &Stop,
) -> io::Result<SessionResult> {
    let config = SenderConfig {
        authentication: authentication.clone(),
        packet_bytes: plan.packet_bytes.into(),
        ..SenderConfig::stamp(plan.number)
    };
    let mut session = SenderSession::new(config, ClockQuality::here());
    let (mut packet, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    let begin = Instant::now();
    let mut received = 0u64;
    socket.take_refusal();
    for number in 0..plan.packets {
        let due = begin + plan.interval * number;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            received += u64::from(receive(socket, &mut session, &mut buffer, left)?);
        }
        if stop.is_stopped() {
            break;
        }
        session.next_request(now_ns(), &mut packet);
        match socket.send(&packet) {
            Err(error) if is_passing(&error) => {}
            sent => drop(sent?),
        }
    }
    let last = Instant::now() + plan.wait;
    while session.result().round_trip.lost() > 0
        && !stop.is_stopped()
        && let Some(left) = last.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    {
        // In pieces, so that a stop is seen.
        received += u64::from(receive(socket, &mut session, &mut buffer, left.min(Duration::from_millis(50)))?);
    }
    // A refusal counts if nothing is answered in the end: one ICMP message, from whomever, ends
    // nothing.
    if received == 0 && socket.take_refusal() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(session.result())
}

/// Sends one request without waiting for an answer. It tells the reflecting end that this one is
/// still alive.
///
/// # Errors
/// The operating system's.
pub fn sign_of_life(socket: &ProbeSocket, authentication: &Authentication, number: u16) -> io::Result<()> {
    let mut packet = [0; SEALED_BYTES];
    let error = ErrorEstimate::new(ClockQuality::UNKNOWN, TimestampFormat::Ntp);
    // A number that no other request of a step has, so that neither answers nor errors are mistaken
    // for another's.
    let request = Request { sequence: u32::MAX, sent: encode(now_ns(), TimestampFormat::Ntp), error, ssid: number };
    request.write(authentication, &mut packet);
    match socket.send(&packet) {
        Err(error) if is_passing(&error) => Ok(()),
        sent => sent.map(drop),
    }
}

/// Errors of single packets, which then count as lost.
pub(super) fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
        || error.raw_os_error().is_some_and(|errno| errno == libc::ENOBUFS || is_of_icmp(errno))
}

fn receive(socket: &ProbeSocket, session: &mut SenderSession, buffer: &mut [u8], wait: Duration) -> io::Result<bool> {
    socket.set_timeout(Some(wait))?;
    match socket.receive(buffer) {
        Ok(received) => Ok(session.receive(buffer.get(..received.bytes).unwrap_or_default(), received.at_ns).is_ok()),
        Err(error) if is_passing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
