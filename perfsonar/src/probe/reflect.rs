//! Reflects echoes and MTU probes.
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

/// How often the reflector checks whether it is stopped.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// The parameters of a step of reflecting.
#[derive(Clone, Copy, Debug)]
pub struct ReflectPlan {
    /// The step's number.
    pub number: u16,
    /// The size of answers.
    pub reply: ReplySize,
    /// The only host that is answered: the control connection's other end.
    pub partner: IpAddr,
    /// The most packets answered in a second.
    pub packets_per_second_max: u32,
    /// The most bits of answers in a second, headers included.
    pub bits_per_second_max: u64,
    /// The socket's port if it is not connected: packets from the same port, or from a service's
    /// port, come from another reflector.
    pub own_port: Option<u16>,
    /// The latest time at which reflecting ends.
    pub until: Instant,
}

/// The result of a step of reflecting.
#[derive(Debug)]
pub struct Seen {
    /// The report for the partner.
    pub report: PathReport,
    /// The address that the partner's requests came from.
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

    /// The partner's request in a packet; none if it must not be answered.
    fn read(&mut self, packet: &[u8], from: SocketAddr) -> Option<Request> {
        //= P-2
        //# Packets that fail authentication are ignored.
        let request = Request::read(self.authentication, packet).ok()?;
        //= P-3
        //# The responder answers only the peer address of the control connection, at no more than
        //# 50,000 packets a second and no more than the permitted rate. It does not answer requests
        //# from a port below 1024 or from its own port, and it does not answer reflections.
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

    /// Whether an answer of this many bytes may leave.
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
    socket.set_timeout(Some(STOP_CHECK))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timestamp::TimestampFormat;

    const NOW_NS: i64 = 1_800_000_000_000_000_000;

    fn plan(partner: IpAddr) -> ReflectPlan {
        ReflectPlan {
            number: 4,
            reply: ReplySize::Same,
            partner,
            packets_per_second_max: 3,
            bits_per_second_max: 1_000_000_000,
            own_port: Some(7_272),
            until: Instant::now(),
        }
    }

    fn request(number: u16) -> Request {
        let error = ErrorEstimate::new(ClockQuality::UNKNOWN, TimestampFormat::Ntp);
        Request { sequence: 0, sent: encode(NOW_NS, TimestampFormat::Ntp), error, ssid: number }
    }

    fn written(key: &Authentication, request: Request) -> Vec<u8> {
        let mut packet = vec![0; PROBE_BYTES_MIN.into()];
        request.write(key, &mut packet);
        packet
    }

    #[test]
    fn only_authentic_requests_of_the_partner_are_answered() {
        //= P-2
        //# Packets that fail authentication are ignored.
        //= P-3
        //# The responder answers only the peer address of the control connection, at no more than
        //# 50,000 packets a second and no more than the permitted rate. It does not answer requests
        //# from a port below 1024 or from its own port, and it does not answer reflections.
        let (key, other_key) = (super::super::authentication(b"secret"), super::super::authentication(b"other"));
        let partner: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let plan = plan(partner.ip());
        let mut gate = Gate::new(&key, &plan);
        let packet = written(&key, request(4));
        assert_eq!(gate.read(&packet, partner), Some(request(4)));
        assert_eq!(gate.read(&written(&other_key, request(4)), partner), None, "another check's key");
        assert_eq!(gate.read(&written(&key, request(5)), partner), None, "another step");
        assert_eq!(gate.read(&packet, "192.0.2.2:5000".parse().unwrap()), None, "another host");
        assert_eq!(gate.suppressed, 0);
        for port in [1, 862, 1_023, 7_272] {
            assert_eq!(gate.read(&packet, SocketAddr::new(partner.ip(), port)), None, "port {port}");
        }
        let mut reflection = packet;
        let received = encode(NOW_NS, TimestampFormat::Ntp);
        let request = request(4);
        Reflected { sequence: 0, sent: received, error: request.error, ssid: 4, received, request, request_ttl: 255 }
            .write(&key, &mut reflection);
        assert_eq!(gate.read(&reflection, partner), None, "a reflection");
        assert_eq!(gate.suppressed, 5);
    }

    #[test]
    fn answers_keep_to_the_permitted_rates() {
        //= P-3
        //# The responder answers only the peer address of the control connection, at no more than
        //# 50,000 packets a second and no more than the permitted rate.
        let key = super::super::authentication(b"secret");
        let partner: SocketAddr = "192.0.2.1:5000".parse().unwrap();
        let plan = plan(partner.ip());
        let mut gate = Gate::new(&key, &plan);
        assert_eq!((0..10).filter(|_| gate.admits(partner, 140, NOW_NS)).count(), 3);
        let slow = ReflectPlan { packets_per_second_max: 50_000, bits_per_second_max: 140 * 8 * 2, ..plan };
        let mut gate = Gate::new(&key, &slow);
        assert_eq!((0..10).filter(|_| gate.admits(partner, 140, NOW_NS)).count(), 2);
        assert_eq!(gate.suppressed, 8);
    }
}
