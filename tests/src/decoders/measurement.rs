//! Measurement packets from strangers: STAMP, TWAMP-Test and TWAMP-Control.

use std::net::{IpAddr, SocketAddr};

use culvert_perfsonar::clock::ClockQuality;
use culvert_perfsonar::socket::Received;
use culvert_perfsonar::sources::Permitted;
use culvert_perfsonar::stamp::limits::{Rates, ReflectorLimits, ReflectorPorts};
use culvert_perfsonar::stamp::reflector::Reflector;
use culvert_perfsonar::stamp::sender::{SenderConfig, SenderSession};
use culvert_perfsonar::stamp::{Authentication, Reflected, Request, tlv};
use culvert_perfsonar::timestamp::{ErrorEstimate, TimestampFormat, decode};
use culvert_perfsonar::twamp::messages::{
    self, ACCEPT_BYTES, GREETING_BYTES, SERVER_START_BYTES, SHORT_BYTES, SessionRequest,
};
use culvert_perfsonar::twamp::server::{ServerConnection, Step};

const NOW_NS: i64 = 1_700_000_000_000_000_000;
const QUALITY: ClockQuality = ClockQuality { synchronized: true, error_us: 50 };

pub(super) fn stamp_samples() -> Vec<Vec<u8>> {
    let request = Request { sequence: 7, sent: [1, 2, 3, 4, 5, 6, 7, 8], error: ErrorEstimate(0x8f84), ssid: 0xabcd };
    let reflected = Reflected {
        sequence: 9,
        sent: [9; 8],
        error: ErrorEstimate(0x0f84),
        ssid: 0xabcd,
        received: [8; 8],
        request,
        request_ttl: 61,
    };
    let mut with_tlvs = vec![0; 44];
    request.write(&Authentication::Open, &mut with_tlvs);
    tlv::append(&mut with_tlvs, tlv::Type::Location, &[0; 16]);
    tlv::append(&mut with_tlvs, tlv::Type::ClassOfService, &[0; 4]);
    tlv::append(&mut with_tlvs, tlv::Type::FollowUpTelemetry, &[0; 16]);
    tlv::pad_to(&mut with_tlvs, 200);
    let mut answer = vec![0; 44];
    reflected.write(&Authentication::Open, &mut answer);
    let sealed = Authentication::with_secret(b"secret");
    let mut sealed_request = vec![0; sealed.base_bytes()];
    request.write(&sealed, &mut sealed_request);
    vec![with_tlvs, answer, sealed_request]
}

/// A packet as a reflector receives it, and as a sender receives an answer, open and authenticated.
pub(super) fn stamp(bytes: &[u8]) {
    let (from, local): (SocketAddr, SocketAddr) = (([192, 0, 2, 1], 9_000).into(), ([192, 0, 2, 2], 862).into());
    for authentication in [Authentication::Open, Authentication::with_secret(b"secret")] {
        if let Ok(request) = Request::read(&authentication, bytes) {
            let _ = decode(request.sent, request.error.format(), NOW_NS);
        }
        if let Ok(reflected) = Reflected::read(&authentication, bytes) {
            for format in [TimestampFormat::Ntp, TimestampFormat::Ptp] {
                let _ = decode(reflected.received, format, NOW_NS);
            }
        }
        for is_twamp in [false, true] {
            let permitted = Permitted::default();
            permitted.set_addresses([from.ip()]);
            let limits =
                ReflectorLimits { permitted, is_twamp, answers_short_requests: is_twamp, ..ReflectorLimits::default() };
            let reflector = || Reflector::new(authentication.clone(), None, limits.clone(), Rates::shared(100));
            let received =
                Received { bytes: bytes.len(), from, at_ns: NOW_NS, ttl: Some(64), traffic_class: Some(0x2e) };
            let mut packet = bytes.to_vec();
            if reflector().reflect(&mut packet, &received, local, QUALITY, NOW_NS + 1_000).is_err() {
                continue;
            }
            assert!(is_twamp || packet.len() == bytes.len(), "an answer is as long as its request");
            let again = reflector().reflect(&mut packet, &received, local, QUALITY, NOW_NS + 2_000);
            assert!(again.is_err(), "a reflector's answer is answered by another");
        }
    }
    let mut sender = SenderSession::new(SenderConfig::stamp(0xabcd), QUALITY);
    let mut packet = Vec::new();
    for _ in 0..8 {
        sender.next_request(NOW_NS, &mut packet);
    }
    let _ = sender.receive(bytes, NOW_NS + 1_000_000);
    let _ = sender.result();
}

pub(super) fn twamp_samples() -> Vec<Vec<u8>> {
    let greeting = messages::greeting([1; 16], [2; 16]);
    let set_up = messages::set_up_response(&greeting).expect("an unauthenticated mode");
    let request = SessionRequest {
        is_ipv6: false,
        sender_port: 9_000,
        receiver_port: 19_000,
        sender_address: IpAddr::from([192, 0, 2, 1]),
        receiver_address: IpAddr::from([0, 0, 0, 0]),
        padding_bytes: 27,
        timeout: [0, 0, 0, 2, 0, 0, 0, 0],
        dscp: 46,
    };
    let stop = messages::stop_sessions(1);
    let conversation = [&set_up[..], &request.write(), &messages::start_sessions(), &stop, &request.write()].concat();
    vec![greeting.to_vec(), conversation]
}

/// A client's side of a control connection as the server reads it, and a server's messages as the
/// client reads them.
pub(super) fn twamp(bytes: &[u8]) {
    const SESSIONS_MAX: u32 = 2;
    let ports = ReflectorPorts::new(vec![8_620], None);
    let mut connection = ServerConnection::new([192, 0, 2, 1].into(), ports, SESSIONS_MAX, 9_000);
    let (mut rest, mut open) = (bytes, 0);
    while let Some(&first) = rest.first() {
        let Some(message_bytes) = connection.message_bytes(first) else { break };
        let Some((message, after)) = rest.split_at_checked(message_bytes) else { break };
        match connection.on_message(message) {
            Step::Open(request) => {
                open += 1;
                assert!(open <= SESSIONS_MAX && request.sender_port >= 1_024);
                assert_eq!(SessionRequest::read(&request.write()), Ok(request));
            }
            Step::Stop => open = 0,
            Step::Close(_) | Step::TurnAway(_) => break,
            Step::Welcome | Step::Refuse(_) | Step::Start => {}
        }
        rest = after;
    }
    if let Some(greeting) = bytes.first_chunk::<GREETING_BYTES>() {
        let _ = messages::set_up_response(greeting);
    }
    if let Some(message) = bytes.first_chunk::<SERVER_START_BYTES>() {
        let _ = messages::check_server_start(message);
    }
    if let Some(message) = bytes.first_chunk::<ACCEPT_BYTES>() {
        let _ = messages::accepted_port(message);
    }
    if let Some(message) = bytes.first_chunk::<SHORT_BYTES>() {
        let _ = messages::check_start_ack(message);
    }
}
