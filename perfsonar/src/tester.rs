//! Measures to other hosts: to a STAMP or TWAMP-Light reflector, or to a TWAMP server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use crate::clock::{ClockQuality, now_ns};
use crate::socket::{AsyncProbeSocket, ProbeSocket, is_of_icmp};
use crate::stamp::sender::SenderConfig;
use crate::stamp::{SenderSession, SessionResult};
use crate::twamp::messages::{
    ControlError, SessionRequest, accepted_port, check_server_start, check_start_ack, set_up_response, start_sessions,
    stop_sessions,
};

/// The time limit of each step on the control connection.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// The most packets of a measurement.
pub const PACKETS_MAX: u32 = 100_000_000;
/// The shortest interval between packets.
pub const INTERVAL_MIN: Duration = Duration::from_micros(20);

/// The parameters of a measurement.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// The number of packets.
    pub packets: u32,
    /// The time from one packet to the next.
    pub interval: Duration,
    /// How long to wait for the last answer.
    pub wait: Duration,
    /// DSCP of the packets.
    pub dscp: u8,
}

impl Default for Measurement {
    fn default() -> Self {
        Self { packets: 100, interval: Duration::from_millis(100), wait: Duration::from_secs(2), dscp: 0 }
    }
}

/// Why a measurement has no result.
#[derive(Debug, thiserror::Error)]
pub enum MeasurementError {
    /// The operating system, or the network.
    #[error("cannot measure to {to}: {error}{}", hint(.error))]
    Os {
        /// The host measured to.
        to: SocketAddr,
        /// The error.
        error: io::Error,
    },
    /// No answer on the control connection.
    #[error("{0} does not answer: is a TWAMP server running there, and is its TCP port open?")]
    NoAnswer(SocketAddr),
    /// The server refuses, or does not speak TWAMP-Control.
    #[error("{to}: {error}")]
    Control {
        /// The server.
        to: SocketAddr,
        /// The reason.
        error: ControlError,
    },
}

/// Measures to a STAMP or TWAMP-Light reflector.
///
/// # Errors
/// [`MeasurementError`]. Lost packets are a result, not an error; a closed port is an error.
pub async fn measure(
    to: SocketAddr,
    config: SenderConfig,
    how: &Measurement,
) -> Result<SessionResult, MeasurementError> {
    let os = |error| MeasurementError::Os { to, error };
    let socket = ProbeSocket::towards(to).map_err(os)?;
    run(socket, config, how).await.map_err(os)
}

/// Measures to a TWAMP server, with `padding_bytes` after the 14 of a sender's packet.
///
/// # Errors
/// [`MeasurementError`].
pub async fn measure_twamp(
    to: SocketAddr,
    padding_bytes: u32,
    how: &Measurement,
) -> Result<SessionResult, MeasurementError> {
    let os = |error| MeasurementError::Os { to, error };
    let connecting = timeout(STEP_TIMEOUT, TcpStream::connect(to)).await;
    let mut control = connecting.map_err(|_| MeasurementError::NoAnswer(to))?.map_err(os)?;
    let answer =
        set_up_response(&read(&mut control, to).await?).map_err(|error| MeasurementError::Control { to, error })?;
    let refused = |error| MeasurementError::Control { to, error };
    control.write_all(&answer).await.map_err(os)?;
    check_server_start(&read(&mut control, to).await?).map_err(refused)?;
    // Test packets must leave from the control connection's address, by which the server knows
    // them.
    let local = control.local_addr().map_err(os)?;
    let socket = ProbeSocket::bind(SocketAddr::new(local.ip(), 0)).map_err(os)?;
    let request = SessionRequest {
        is_ipv6: to.is_ipv6(),
        sender_port: socket.local_address().map_err(os)?.port(),
        receiver_port: 0,
        // Zero stands for the control connection's addresses, also behind address translation.
        sender_address: crate::socket::any_address(to.is_ipv6(), 0).ip(),
        receiver_address: crate::socket::any_address(to.is_ipv6(), 0).ip(),
        padding_bytes,
        timeout: [0, 0, 0, how.wait.as_secs().clamp(1, 10) as u8, 0, 0, 0, 0],
        dscp: how.dscp,
    };
    control.write_all(&request.write()).await.map_err(os)?;
    let port = accepted_port(&read(&mut control, to).await?).map_err(refused)?;
    control.write_all(&start_sessions()).await.map_err(os)?;
    check_start_ack(&read(&mut control, to).await?).map_err(refused)?;
    socket.connect(SocketAddr::new(to.ip(), port)).map_err(os)?;
    let result = run(socket, SenderConfig::twamp(padding_bytes as usize), how).await.map_err(os);
    let _ = control.write_all(&stop_sessions(1)).await;
    result
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "; the port is closed: nothing listens there, or a firewall rejects it",
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => "; there is no route to it",
        _ => "",
    }
}

async fn read<const N: usize>(control: &mut TcpStream, to: SocketAddr) -> Result<[u8; N], MeasurementError> {
    let mut message = [0; N];
    match timeout(STEP_TIMEOUT, control.read_exact(&mut message)).await {
        Ok(Ok(_)) => Ok(message),
        Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
            let error = ControlError::Malformed("it closed the connection without a usable answer");
            Err(MeasurementError::Control { to, error })
        }
        Ok(Err(error)) => Err(MeasurementError::Os { to, error }),
        Err(_) => Err(MeasurementError::NoAnswer(to)),
    }
}

async fn run(socket: ProbeSocket, config: SenderConfig, how: &Measurement) -> io::Result<SessionResult> {
    socket.set_traffic_class(how.dscp << 2)?;
    let socket = socket.with_runtime()?;
    let mut session = SenderSession::new(config, ClockQuality::here());
    let (mut packet, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    let interval = how.interval.max(INTERVAL_MIN);
    let begin = Instant::now();
    for number in 0..how.packets.min(PACKETS_MAX) {
        let due = begin + interval * number;
        while receive(&socket, &mut session, &mut buffer, due).await? {}
        sleep_until(due).await;
        session.next_request(now_ns(), &mut packet);
        match socket.get().send(&packet) {
            // The socket has no room: the packet counts as lost.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // An ICMP error about an earlier packet; the packet counts as lost unless it is
            // answered.
            Err(error) if error.raw_os_error().is_some_and(is_of_icmp) => {}
            sent => drop(sent?),
        }
    }
    let last = Instant::now() + how.wait;
    while session.result().round_trip.lost() > 0 && receive(&socket, &mut session, &mut buffer, last).await? {}
    // Anybody can send an ICMP refusal, so one counts only if nothing was answered.
    if session.result().round_trip.received == 0 && socket.get().take_refusal() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(session.result())
}

/// Receives one answer. Returns false if none came in time.
async fn receive(
    socket: &AsyncProbeSocket,
    session: &mut SenderSession,
    buffer: &mut [u8],
    until: Instant,
) -> io::Result<bool> {
    let Ok(received) = timeout_at(until, socket.receive(buffer)).await else { return Ok(false) };
    match received {
        Ok(received) => {
            // The session counts rejected answers.
            let _ = session.receive(buffer.get(..received.bytes).unwrap_or_default(), received.at_ns);
            Ok(true)
        }
        Err(_) => Ok(true),
    }
}
