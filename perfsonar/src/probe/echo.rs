//! Echoes at an even pace: measure round-trip time, one-way delay, loss, reordering, duplication.

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
    /// The step's number.
    pub number: u16,
    /// The number of echoes.
    pub packets: u32,
    /// The time from one echo to the next.
    pub interval: Duration,
    /// UDP payload of each, in bytes.
    pub packet_bytes: u16,
    /// How long to wait for the last answer.
    pub wait: Duration,
}

/// Sends echoes on a connected socket and receives the answers. If it is stopped, the result is
/// what was measured until then.
///
/// # Errors
/// The operating system's; that the port is closed, if there was no answer.
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
        // In short waits, to notice a stop.
        received += u64::from(receive(socket, &mut session, &mut buffer, left.min(Duration::from_millis(50)))?);
    }
    // A refusal counts only if nothing was answered: anybody can send an ICMP message, so one must
    // not end the measurement.
    if received == 0 && socket.take_refusal() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(session.result())
}

/// Sends one request without waiting for an answer, to show the reflecting end that this one is
/// alive.
///
/// # Errors
/// The operating system's.
//= P-9
//# While the initiator is busy with something the responder does not see (a trace, sizes that do
//# not pass), it sends an authentic probe every 2 s, numbered 4294967295.
pub fn sign_of_life(socket: &ProbeSocket, authentication: &Authentication, number: u16) -> io::Result<()> {
    let mut packet = [0; SEALED_BYTES];
    let error = ErrorEstimate::new(ClockQuality::UNKNOWN, TimestampFormat::Ntp);
    // No other request of a step has this number, so answers and errors are not mistaken for
    // another's.
    let request = Request { sequence: u32::MAX, sent: encode(now_ns(), TimestampFormat::Ntp), error, ssid: number };
    request.write(authentication, &mut packet);
    match socket.send(&packet) {
        Err(error) if is_passing(&error) => Ok(()),
        sent => sent.map(drop),
    }
}

/// Whether an error concerns a single packet, which then counts as lost.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sign_of_life_is_an_authentic_probe_with_the_largest_number() {
        //= P-9
        //# While the initiator is busy with something the responder does not see (a trace, sizes
        //# that do not pass), it sends an authentic probe every 2 s, numbered 4294967295.
        let receiver = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        receiver.set_timeout(Some(Duration::from_secs(10))).unwrap();
        let sender = ProbeSocket::towards(receiver.local_address().unwrap()).unwrap();
        let key = super::super::authentication(b"secret");
        sign_of_life(&sender, &key, 7).unwrap();
        let mut buffer = [0; 200];
        let received = receiver.receive(&mut buffer).unwrap();
        let request = Request::read(&key, &buffer[..received.bytes]).expect("it is authentic");
        assert_eq!((request.sequence, request.ssid), (4_294_967_295, 7));
    }
}
