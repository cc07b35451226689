//! The answering end of echoes and MTU probes.
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
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use culvert_protocol::path::{PathReport, ReplySize};

use super::{PROBE_BYTES_MIN, Stop};
use crate::clock::{ClockQuality, now_ns};
use crate::socket::{ProbeSocket, header_bytes};
use crate::sources::{Bucket, Budgets};
use crate::stamp::limits::ReflectorPorts;
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
    /// Bits in a second that answers have at most, with their headers.
    pub bits_per_second_max: u64,
    /// The port of a socket that is not connected: what comes from the same port, or a service's,
    /// is another reflector's.
    pub own_port: Option<u16>,
    /// When it ends, whatever happens.
    pub until: Instant,
}

/// What a step of reflecting came to.
#[derive(Debug)]
pub struct Seen {
    /// For the partner.
    pub report: PathReport,
    /// Where its requests came from.
    pub source: Option<SocketAddr>,
    /// Authentic packets that were not answered: beyond the rate, from a reflector's port, or
    /// reflections.
    pub suppressed: u64,
}

/// Decides whether a packet is answered.
struct Gate<'a> {
    authentication: &'a Authentication,
    plan: &'a ReflectPlan,
    ports: ReflectorPorts,
    packets: Budgets,
    bytes: Bucket,
    suppressed: u64,
}

impl<'a> Gate<'a> {
    fn new(authentication: &'a Authentication, plan: &'a ReflectPlan) -> Self {
        Self {
            authentication,
            plan,
            ports: ReflectorPorts::new(plan.own_port.into_iter().collect(), None),
            packets: Budgets::new(plan.packets_per_second_max),
            bytes: Bucket::full(plan.bits_per_second_max / 8, 0),
            suppressed: 0,
        }
    }

    /// The request in a packet of the partner, if it is one of this step.
    fn read(&mut self, packet: &[u8], from: SocketAddr) -> Option<Request> {
        let request = Request::read(self.authentication, packet).ok()?;
        if request.ssid != self.plan.number || from.ip().to_canonical() != self.plan.partner {
            return None;
        }
        let is_reflectors = self.plan.own_port.is_some() && self.ports.contains(from.port());
        if is_reflectors || Reflected::is_one(self.authentication, packet) {
            self.suppressed = self.suppressed.saturating_add(1);
            return None;
        }
        Some(request)
    }

    /// Whether an answer of so many bytes may leave.
    fn admits(&mut self, from: SocketAddr, bytes: usize, at_ns: i64) -> bool {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let may = self.packets.take(from.ip(), at_ns) && self.bytes.take(bytes, at_ns);
        if !may {
            self.suppressed = self.suppressed.saturating_add(1);
        }
        may
    }
}

/// Reflects until it is stopped. `on_request` is called for each authentic request before it is
/// answered.
///
/// # Errors
/// The operating system's.
pub fn run(
    socket: &ProbeSocket,
    authentication: &Authentication,
    plan: &ReflectPlan,
    stop: &Stop,
    mut on_request: impl FnMut(SocketAddr),
) -> io::Result<Seen> {
    socket.set_timeout(Some(LOOK))?;
    let quality = ClockQuality::here();
    let mut gate = Gate::new(authentication, plan);
    let mut requests = SequenceTracker::default();
    let (mut sequence, mut too_big, mut mtu, mut source) = (0u32, 0, 0, None);
    let (mut buffer, mut answer) = (vec![0; 1 << 16], Vec::new());
    let mut errors = [0; 256];
    while !stop.is_stopped() && Instant::now() < plan.until {
        while let Some(error) = socket.receive_error(&mut errors)? {
            if error.errno == libc::EMSGSIZE {
                mtu = error.mtu;
                too_big = u64::saturating_add(too_big, error.icmp.is_some().into());
            }
        }
        let received = match socket.receive(&mut buffer) {
            Ok(received) => received,
            Err(error) if super::echo::is_passing(&error) => continue,
            Err(error) => return Err(error),
        };
        let from = received.from;
        let packet = buffer.get(..received.bytes).unwrap_or_default();
        let Some(request) = gate.read(packet, from) else { continue };
        on_request(from);
        let bytes = match plan.reply {
            ReplySize::Same => received.bytes,
            ReplySize::Short => usize::from(PROBE_BYTES_MIN),
            ReplySize::Bytes(bytes) => usize::from(bytes.max(PROBE_BYTES_MIN)),
        };
        if !gate.admits(from, bytes.saturating_add(header_bytes(socket.is_ipv6()).into()), received.at_ns) {
            continue;
        }
        requests.note(request.sequence);
        source = Some(from);
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
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => too_big = too_big.saturating_add(1),
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
    Ok(Seen { report, source, suppressed: gate.suppressed })
}
