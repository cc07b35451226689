//! Traces routes: sends probes whose TTL expires on the way, and reads the routers' ICMP errors
//! from the socket (`IP_RECVERR`), which needs no privileges.
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
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use culvert_protocol::path::{HOPS_MAX, Hop, Route};
use socket2::{Domain, Protocol, Socket, Type};

use super::Stop;
use super::mtu::{MTU_MIN, MTU_SMALLEST};
use crate::clock::{ClockQuality, now_ns};
use crate::kernel_calls::set_option;
use crate::socket::{MEASUREMENT_TTL, PathError, ProbeSocket, receive_error};
use crate::stamp::sender::SenderConfig;
use crate::stamp::{Authentication, SenderSession};

/// Tries for each hop.
const TRIES: u32 = 2;
/// The most silent hops in a row. After these the far end is unlikely to answer.
const SILENT_MAX: u32 = 6;
/// How often the far end gets a sign of life while hops are silent.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// Bytes of an ICMP probe.
const ICMP_BYTES: usize = 40;

/// The answer to one probe.
enum ProbeAnswer {
    /// A router's error, or the far host's, after this many microseconds. Only an error that quotes
    /// enough of the probe to prove that its sender has seen it ends the trace.
    Error { error: PathError, rtt_us: f64, is_proved: bool },
    /// The far end's reflection, after this many microseconds.
    FarEnd(f64),
    /// No answer in time.
    None,
}

/// Traces with the probes' own ports, so that routers that balance load by ports choose the same
/// path (Paris traceroute). The far end reflects.
///
/// # Errors
/// The operating system's.
pub fn udp(
    socket: &ProbeSocket,
    authentication: &Authentication,
    number: u16,
    far_end: SocketAddr,
    timeout: Duration,
    stop: &Stop,
) -> io::Result<Route> {
    socket.keep_errors()?;
    let config = SenderConfig { authentication: authentication.clone(), ..SenderConfig::stamp(number) };
    let mut session = SenderSession::new(config, ClockQuality::here());
    let (mut packet, mut buffer) = (Vec::new(), vec![0; 4_096]);
    // Discards errors of earlier steps.
    while socket.receive_error(&mut buffer)?.is_some() {}
    let mut signed = Instant::now();
    let route = follow(far_end.ip(), stop, |ttl| {
        if signed.elapsed() > SIGN_OF_LIFE {
            // Packets that expire on the way do not show the far end that this one is alive.
            signed = Instant::now();
            socket.set_ttl(MEASUREMENT_TTL)?;
            super::echo::sign_of_life(socket, authentication, number)?;
        }
        socket.set_ttl(ttl.into())?;
        let sent_ns = now_ns();
        session.next_request(sent_ns, &mut packet);
        match socket.send(&packet) {
            Err(error) if super::echo::is_passing(&error) => {}
            sent => drop(sent?),
        }
        let began = Instant::now();
        while let Some(left) = timeout.checked_sub(began.elapsed()).filter(|left| !left.is_zero()) {
            if let Some(error) = socket.receive_error(&mut buffer)? {
                // An error that quotes an earlier probe is skipped.
                let is_other = error.bytes >= 4 && buffer.get(..4) != packet.get(..4);
                if !is_other {
                    let (is_proved, after_ns) = (error.bytes >= 4, error.at_ns.saturating_sub(sent_ns));
                    return Ok(ProbeAnswer::Error { error, rtt_us: after_ns as f64 / 1e3, is_proved });
                }
            }
            // In short waits: an error does not always wake the receiver.
            socket.set_timeout(Some(left.min(Duration::from_millis(5))))?;
            match socket.receive(&mut buffer) {
                Ok(received) => {
                    if let Ok(trip) = session.receive(buffer.get(..received.bytes).unwrap_or_default(), received.at_ns)
                        && trip.sequence.wrapping_add(1) == session.sent()
                    {
                        return Ok(ProbeAnswer::FarEnd(trip.rtt_ns as f64 / 1e3));
                    }
                }
                Err(error) if super::echo::is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ProbeAnswer::None)
    });
    socket.set_ttl(MEASUREMENT_TTL)?;
    route
}

/// Traces with ICMP echoes, where this user may send them (`net.ipv4.ping_group_range`), or as
/// root.
///
/// # Errors
/// The operating system's: `PermissionDenied` if this user may not.
pub fn icmp(far_end: IpAddr, timeout: Duration, stop: &Stop) -> io::Result<Route> {
    let (domain, protocol, request, reply) = match far_end {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8u8, 0u8),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let (socket, is_raw) = match Socket::new(domain, Type::DGRAM, Some(protocol)) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM)) => {
            (Socket::new(domain, Type::RAW, Some(protocol))?, true)
        }
        socket => (socket?, false),
    };
    let keep =
        if far_end.is_ipv4() { (libc::IPPROTO_IP, libc::IP_RECVERR) } else { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) };
    set_option(socket.as_fd(), keep.0, keep.1, 1)?;
    socket.connect(&SocketAddr::new(far_end, 0).into())?;
    let mut sequence = 0u16;
    let [.., high, low] = std::process::id().to_be_bytes();
    let identifier = [high, low];
    let mut buffer = vec![0; 4_096];
    follow(far_end, stop, |ttl| {
        if far_end.is_ipv4() {
            socket.set_ttl_v4(ttl.into())?;
        } else {
            socket.set_unicast_hops_v6(ttl.into())?;
        }
        sequence = sequence.wrapping_add(1);
        let mut packet = [0; ICMP_BYTES];
        packet[0] = request;
        packet[4..6].copy_from_slice(&identifier);
        packet[6..8].copy_from_slice(&sequence.to_be_bytes());
        let sum = checksum(&packet);
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
        let sent = Instant::now();
        match socket.send(&packet) {
            Err(error) if super::echo::is_passing(&error) => {}
            result => drop(result?),
        }
        while sent.elapsed() < timeout {
            if let Some(error) = receive_error(socket.as_fd(), &mut buffer)? {
                // The kernel has compared the identifier, which is in every quotation.
                return Ok(ProbeAnswer::Error { error, rtt_us: sent.elapsed().as_secs_f64() * 1e6, is_proved: true });
            }
            socket.set_read_timeout(Some(Duration::from_millis(5)))?;
            match io::Read::read(&mut &socket, &mut buffer) {
                Ok(bytes) => {
                    // A raw IPv4 socket gets the IP header too.
                    let begin = if is_raw && far_end.is_ipv4() {
                        buffer.first().map_or(0, |first| usize::from(first & 0x0f).saturating_mul(4))
                    } else {
                        0
                    };
                    let answer = buffer.get(begin..bytes).unwrap_or(&[]);
                    let is_ours = !is_raw || answer.get(4..6) == Some(&identifier);
                    if answer.first() == Some(&reply) && answer.get(6..8) == Some(&sequence.to_be_bytes()) && is_ours {
                        return Ok(ProbeAnswer::FarEnd(sent.elapsed().as_secs_f64() * 1e6));
                    }
                }
                Err(error) if super::echo::is_passing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(ProbeAnswer::None)
    })
}

/// The smallest MTU of an address family's paths.
const fn mtu_least(far_end: IpAddr) -> u32 {
    if far_end.is_ipv6() { MTU_MIN } else { MTU_SMALLEST }
}

fn follow(far_end: IpAddr, stop: &Stop, mut probe: impl FnMut(u8) -> io::Result<ProbeAnswer>) -> io::Result<Route> {
    let mut route = Route::default();
    let mut silent = 0;
    for ttl in 1..=HOPS_MAX {
        let mut hop = Hop { ttl, address: None, rtt_us: None, icmp: None, mtu: None };
        for _ in 0..TRIES {
            match probe(ttl)? {
                ProbeAnswer::FarEnd(rtt_us) => {
                    (hop.address, hop.rtt_us) = (Some(far_end), Some(rtt_us));
                    route.reached = true;
                }
                ProbeAnswer::Error { error, rtt_us, is_proved } => {
                    (hop.address, hop.rtt_us) = (error.from, Some(rtt_us));
                    // Types 11, and 3 in ICMPv6, report that the TTL expired, as intended.
                    let used_up =
                        matches!((far_end.is_ipv4(), error.icmp), (true, Some((11, _))) | (false, Some((3, _))));
                    hop.icmp = error.icmp.filter(|_| !used_up && is_proved);
                    // An MTU is reported as the router's claim, unless it is impossible.
                    hop.mtu = (error.errno == libc::EMSGSIZE && error.mtu >= mtu_least(far_end)).then_some(error.mtu);
                    // A far host without a listener reports a closed port: it is reached all the
                    // same.
                    route.reached = error.from == Some(far_end) && !used_up && is_proved;
                }
                ProbeAnswer::None => continue,
            }
            break;
        }
        silent = if hop.address.is_some() { 0 } else { u32::saturating_add(silent, 1) };
        let is_last = route.reached || hop.icmp.is_some();
        route.hops.push(hop);
        if is_last || silent >= SILENT_MAX || stop.is_stopped() {
            break;
        }
    }
    // Silent hops at the end carry no information.
    while !route.reached && route.hops.last().is_some_and(|hop| hop.address.is_none()) && route.hops.len() > 1 {
        route.hops.pop();
    }
    Ok(route)
}

/// The Internet checksum (RFC 1071). The kernel fills ICMPv6's in itself.
fn checksum(bytes: &[u8]) -> u16 {
    let byte = |pair: &[u8], at| pair.get(at).copied().unwrap_or(0);
    let words = bytes.chunks(2).map(|pair| u16::from_be_bytes([byte(pair, 0), byte(pair, 1)]));
    let sum = words.fold(0u16, |sum, word| {
        let (sum, carries) = sum.overflowing_add(word);
        // End-around carry.
        sum.wrapping_add(carries.into())
    });
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::reflect;
    use culvert_protocol::path::ReplySize;

    #[test]
    fn checksums_are_the_internets() {
        assert_eq!(checksum(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]), !0xddf2);
        assert_eq!(checksum(&[1]), !0x0100);
    }

    #[test]
    fn loopback_is_one_hop() {
        let far = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = far.local_address().unwrap();
        let (key, stop) = (super::super::authentication(b"secret"), Stop::default());
        let (theirs, stopped) = (key.clone(), stop.clone());
        let plan = reflect::ReflectPlan {
            number: 4,
            reply: ReplySize::Short,
            partner: address.ip(),
            packets_per_second_max: 1_000,
            bits_per_second_max: 10_000_000,
            own_port: None,
            until: Instant::now() + Duration::from_secs(20),
        };
        let reflecting = std::thread::spawn(move || reflect::run(&far, &theirs, &plan, &stopped, |_| {}));
        let socket = ProbeSocket::towards(address).unwrap();
        let route = udp(&socket, &key, 4, address, Duration::from_secs(2), &Stop::default()).unwrap();
        stop.stop();
        reflecting.join().unwrap().unwrap();
        assert!(route.reached && route.hops.len() == 1, "{route:?}");
        assert_eq!(route.hops[0].address, Some(address.ip()));
        // A closed port is reached too.
        let closed = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap().local_address().unwrap();
        let socket = ProbeSocket::towards(closed).unwrap();
        let route = udp(&socket, &key, 4, closed, Duration::from_secs(2), &Stop::default()).unwrap();
        assert!(route.reached && route.hops[0].icmp == Some((3, 3)), "{route:?}");
    }

    #[test]
    fn icmp_needs_no_listener() {
        for far_end in ["127.0.0.1", "::1"] {
            match icmp(far_end.parse().unwrap(), Duration::from_secs(2), &Stop::default()) {
                Ok(route) => assert!(route.reached && route.hops.len() == 1, "{far_end}: {route:?}"),
                Err(error) => eprintln!("skipped: ICMP to {far_end}: {error}"),
            }
        }
    }

    /// Anybody can send any ICMP message.
    #[test]
    fn whatever_icmp_says_a_trace_ends_and_tells_no_mtu_that_cannot_be() {
        for far_end in ["192.0.2.1", "2001:db8::1"].map(|address| address.parse::<IpAddr>().unwrap()) {
            let least = mtu_least(far_end);
            for (icmp, errno, mtu, is_proved) in [None, Some((0, 0)), Some((3, 4)), Some((11, 0)), Some((255, 255))]
                .into_iter()
                .flat_map(|icmp| [libc::EMSGSIZE, libc::EHOSTUNREACH, i32::MIN].map(|errno| (icmp, errno)))
                .flat_map(|(icmp, errno)| [0, 68, least - 1, least, u32::MAX].map(|mtu| (icmp, errno, mtu)))
                .flat_map(|(icmp, errno, mtu)| [true, false].map(|is_proved| (icmp, errno, mtu, is_proved)))
            {
                let error = PathError { bytes: usize::MAX, from: Some(far_end), icmp, errno, mtu, at_ns: i64::MIN };
                let mut probes = 0;
                let route = follow(far_end, &Stop::default(), |_| {
                    probes += 1;
                    Ok(ProbeAnswer::Error { error, rtt_us: f64::MAX, is_proved })
                });
                let route = route.unwrap();
                assert!(route.hops.len() <= usize::from(HOPS_MAX) && probes <= u32::from(HOPS_MAX) * TRIES);
                let told = errno == libc::EMSGSIZE && mtu >= least;
                assert!(route.hops.iter().all(|hop| hop.mtu == told.then_some(mtu)), "{error:?}: {route:?}");
                if !is_proved {
                    // Such an error used to end the trace, and could name anything as the last hop.
                    assert!(!route.reached && route.hops.len() == usize::from(HOPS_MAX), "{error:?}: {route:?}");
                    assert!(route.hops.iter().all(|hop| hop.icmp.is_none()), "{error:?}: {route:?}");
                }
            }
        }
    }

    #[test]
    fn a_path_on_which_nobody_answers_ends_after_a_few_hops() {
        let mut probes = 0;
        let nobody = |_| {
            probes += 1;
            Ok(ProbeAnswer::None)
        };
        let route = follow([192, 0, 2, 1].into(), &Stop::default(), nobody).unwrap();
        assert_eq!((route.reached, route.hops.len(), probes), (false, 1, SILENT_MAX * TRIES));
    }
}
