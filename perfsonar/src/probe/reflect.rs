//! The answering end of echoes and MTU probes.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use culvert_protocol::path::{PathReport, ReplySize};

use super::{PROBE_BYTES_MIN, Stop};
use crate::clock::{ClockQuality, now_ns};
use crate::socket::{ProbeSocket, header_bytes};
use crate::stamp::packet::{Reflected, Request};
use crate::stamp::{Authentication, tlv};
use crate::statistics::SequenceTracker;
use crate::timestamp::{ErrorEstimate, encode};

/// How often a reflector looks whether it is over.
const LOOK: Duration = Duration::from_millis(20);

/// What a reflector does in a step.
#[derive(Clone, Copy, Debug)]
pub struct ReflectPlan {
    /// The step.
    pub number: u16,
    /// How long answers are.
    pub reply: ReplySize,
    /// Only this host is answered: the control connection's other end.
    pub partner: IpAddr,
    /// Packets in a second that are answered at most.
    pub packets_per_second_max: u32,
    /// When it ends, whatever happens.
    pub until: Instant,
}

/// Reflects until it is stopped. Returns what it saw, and where the requests came from.
///
/// # Errors
/// The operating system's.
pub fn run(
    socket: &ProbeSocket,
    authentication: &Authentication,
    plan: &ReflectPlan,
    stop: &Stop,
) -> io::Result<(PathReport, Option<SocketAddr>)> {
    socket.set_timeout(Some(LOOK))?;
    let quality = ClockQuality::here();
    let mut budgets = crate::sources::Budgets::new(plan.packets_per_second_max);
    let mut requests = SequenceTracker::default();
    let (mut sequence, mut too_big, mut mtu, mut source) = (0u32, 0, 0, None);
    let (mut buffer, mut answer) = (vec![0; 1 << 16], Vec::new());
    let mut errors = [0; 256];
    while !stop.is_stopped() && Instant::now() < plan.until {
        while let Some(error) = socket.receive_error(&mut errors)? {
            if error.errno == libc::EMSGSIZE {
                mtu = error.mtu;
                too_big += u64::from(error.icmp.is_some());
            }
        }
        let received = match socket.receive(&mut buffer) {
            Ok(received) => received,
            Err(error) if super::echo::is_passing(&error) => continue,
            Err(error) => return Err(error),
        };
        let Ok(request) = Request::read(authentication, &buffer[..received.bytes]) else { continue };
        let from = received.from;
        if request.ssid != plan.number
            || from.ip().to_canonical() != plan.partner
            || !budgets.take(from.ip(), received.at_ns)
        {
            continue;
        }
        requests.note(request.sequence);
        source = Some(from);
        let bytes = match plan.reply {
            ReplySize::Same => received.bytes,
            ReplySize::Short => usize::from(PROBE_BYTES_MIN),
            ReplySize::Bytes(bytes) => usize::from(bytes.max(PROBE_BYTES_MIN)),
        };
        answer.clear();
        answer.resize(usize::from(PROBE_BYTES_MIN), 0);
        tlv::pad_to(&mut answer, bytes);
        let format = request.error.format();
        let reflected = Reflected {
            sequence,
            sent: encode(now_ns(), format),
            error: ErrorEstimate::new(quality, format),
            ssid: request.ssid,
            received: encode(received.at_ns, format),
            request,
            request_ttl: received.ttl.unwrap_or(0),
        };
        reflected.write(authentication, &mut answer);
        match socket.send_to(&answer, from) {
            Ok(_) => sequence = sequence.wrapping_add(1),
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => too_big += 1,
            Err(error) if super::echo::is_passing(&error) => {}
            Err(error) => return Err(error),
        }
    }
    let seen = requests.delivery(0);
    let mtu = if mtu > 0 { mtu.max(u32::from(header_bytes(socket.is_ipv6()))) } else { 0 };
    let report = PathReport::Reflected {
        received: seen.received,
        duplicates: seen.duplicates,
        reordered: seen.reordered,
        too_big,
        mtu,
    };
    Ok((report, source))
}
