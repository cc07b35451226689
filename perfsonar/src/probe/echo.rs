//! Echoes at an even pace: round trips, one-way delays, loss, order, duplication.

use std::io;
use std::time::{Duration, Instant};

use super::Stop;
use crate::clock::{ClockQuality, now_ns};
use crate::socket::ProbeSocket;
use crate::stamp::sender::SenderConfig;
use crate::stamp::{Authentication, SenderSession, SessionResult};

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

/// Sends echoes on a connected socket and takes the answers. What was measured when it was stopped is the result.
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
    for number in 0..plan.packets {
        let due = begin + plan.interval * number;
        while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
            received += u64::from(receive(socket, &mut session, &mut buffer, left, received)?);
        }
        if stop.is_stopped() {
            break;
        }
        session.next_request(now_ns(), &mut packet);
        match socket.send(&packet) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && received == 0 && number > 3 => {
                return Err(error);
            }
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
        received +=
            u64::from(receive(socket, &mut session, &mut buffer, left.min(Duration::from_millis(50)), received)?);
    }
    Ok(session.result())
}

/// Errors of single packets, which then count as lost.
pub(super) fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, Interrupted, NetworkUnreachable, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionRefused | HostUnreachable | NetworkUnreachable)
        || error.raw_os_error() == Some(libc::ENOBUFS)
        || error.raw_os_error() == Some(libc::EMSGSIZE)
}

fn receive(
    socket: &ProbeSocket,
    session: &mut SenderSession,
    buffer: &mut [u8],
    wait: Duration,
    before: u64,
) -> io::Result<bool> {
    socket.set_timeout(Some(wait))?;
    match socket.receive(buffer) {
        Ok(received) => Ok(session.receive(&buffer[..received.bytes], received.at_ns).is_ok()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && before == 0 && session.sent() > 3 => {
            Err(error)
        }
        Err(error) if is_passing(&error) => Ok(false),
        Err(error) => Err(error),
    }
}
