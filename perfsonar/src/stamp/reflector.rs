//! Session reflector: answers requests within limits, with its own sequence numbers for each
//! session (RFC 8762 4.3).
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

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};

use aws_lc_rs::hmac;

use super::limits::{ReflectorLimits, Refused, SharedRates};
use super::packet::{Authentication, OPEN_BYTES, PacketError, REFLECTED_BYTES_MIN, Reflected, Request};
use super::tlv;
use crate::clock::ClockQuality;
use crate::socket::Received;
use crate::sources::{Bucket, host_of};
use crate::timestamp::{ErrorEstimate, encode};

/// Bytes of the longest request that is answered.
pub const REQUEST_BYTES_MAX: usize = 65_535;
/// A session that was silent for this long may be evicted for another. If it was, its numbers begin
/// at 0 again.
const SESSION_IDLE_NS: i64 = 60_000_000_000;
/// One host has at most one in this many of all sessions.
const HOST_PART: usize = 4;
/// One session has one in this many of its host's packets per second. Measurements send ten or a
/// hundred packets a second; more on one pair of ports may be a loop.
const SESSION_PART: u32 = 10;

#[derive(Debug)]
struct Session {
    next: u32,
    received: u32,
    previous: Option<(u32, [u8; 8])>,
    at_ns: i64,
    rate: Bucket,
}

/// The protocol of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// STAMP, possibly with TLVs.
    Stamp,
    /// TWAMP-Test or TWAMP-Light: padding after the 14 bytes, which is returned unchanged, and no
    /// SSID.
    Padded,
}

/// Answers the requests of any number of senders.
#[derive(Debug)]
pub struct Reflector {
    authentication: Authentication,
    tlv_key: Option<hmac::Key>,
    limits: ReflectorLimits,
    rates: Arc<SharedRates>,
    sessions: HashMap<(SocketAddr, u16), Session>,
}

impl Reflector {
    /// A reflector without sessions. It may share `rates` with others. `tlv_key` is the key of the
    /// HMAC TLV.
    #[must_use]
    pub fn new(
        authentication: Authentication,
        tlv_key: Option<hmac::Key>,
        limits: ReflectorLimits,
        rates: Arc<SharedRates>,
    ) -> Self {
        Self { authentication, tlv_key, limits, rates, sessions: HashMap::new() }
    }

    /// The number of sessions with state.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Turns the request in `packet` into its answer, in place. The answer is not longer than the
    /// request, unless short requests are answered. `now_ns` becomes T3, so the answer must be sent
    /// at once. Returns the traffic class of the answer.
    ///
    /// # Errors
    /// [`Refused`]: no answer is to be sent.
    pub fn reflect(
        &mut self,
        packet: &mut Vec<u8>,
        received: &Received,
        local: SocketAddr,
        quality: ClockQuality,
        now_ns: i64,
    ) -> Result<u8, Refused> {
        let base_bytes = self.authentication.base_bytes();
        let request_bytes = packet.len();
        let answer_bytes = request_bytes.max(self.answer_bytes_min());
        self.admit(packet, received, answer_bytes)?;
        let (request, kind) = self.read(packet)?;
        let padding: [u8; OPEN_BYTES - REFLECTED_BYTES_MIN] = copy_at(packet, REFLECTED_BYTES_MIN);
        let format = request.error.format();
        let session = self.session((received.from, request.ssid), packet, now_ns)?;
        // If no session can be kept, the sender gets its own numbers back, as RFC 8762 4.3 permits
        // for stateless reflectors.
        let sequence = if session.is_kept { session.next } else { request.sequence };
        let reflected = Reflected {
            sequence,
            sent: encode(now_ns, format),
            error: ErrorEstimate::new(quality, format),
            ssid: request.ssid,
            received: encode(received.at_ns, format),
            request,
            request_ttl: received.ttl.unwrap_or(0),
        };
        self.note_answer((received.from, request.ssid), &reflected);
        packet.resize(packet.len().max(base_bytes), 0);
        let traffic_class = received.traffic_class.unwrap_or(0);
        let mut wanted = traffic_class & 0xfc;
        let tlvs = packet.get_mut(base_bytes..).filter(|tlvs| kind == Kind::Stamp && !tlvs.is_empty());
        if let Some(tlvs) = tlvs {
            let facts = tlv::Facts {
                traffic_class,
                source: received.from,
                destination: local,
                received_count: session.received,
                sent_count: sequence,
                previous: session.previous,
                is_synchronized: quality.synchronized,
                key: self.tlv_key.as_ref(),
            };
            wanted = tlv::wanted_traffic_class(tlvs).unwrap_or(wanted);
            tlv::reflect(request.sequence.to_be_bytes(), sequence.to_be_bytes(), tlvs, &facts);
        }
        reflected.write(&self.authentication, packet);
        if kind == Kind::Padded {
            packet.iter_mut().skip(REFLECTED_BYTES_MIN).zip(padding).for_each(|(place, byte)| *place = byte);
        }
        packet.truncate(answer_bytes);
        // Invariant I-stamp-amplification: An answer is never longer than its request, unless the
        // client has proved its address over TCP.
        assert!(
            packet.len() <= request_bytes || self.limits.answers_short_requests,
            "an answer of {} bytes to a request of {request_bytes}",
            packet.len()
        );
        Ok(wanted)
    }

    /// Reads a request and its kind. Reflections are refused.
    fn read(&self, packet: &[u8]) -> Result<(Request, Kind), Refused> {
        let mut request = Request::read(&self.authentication, packet).map_err(|error| match error {
            PacketError::TooShort(_) => Refused::Malformed,
            PacketError::NotAuthentic => Refused::NotAuthentic,
        })?;
        if Reflected::is_one(&self.authentication, packet) {
            return Err(Refused::Reflection);
        }
        let kind = self.kind(packet);
        if kind == Kind::Padded {
            request.ssid = 0;
        }
        Ok((request, kind))
    }

    /// Bytes of the shortest answer: TWAMP's 41, or an authenticated packet's.
    const fn answer_bytes_min(&self) -> usize {
        match &self.authentication {
            Authentication::Open => REFLECTED_BYTES_MIN,
            Authentication::Hmac(_) => self.authentication.base_bytes(),
        }
    }

    /// Distinguishes STAMP from TWAMP: STAMP requests have zeros where TWAMP may have random
    /// padding, which must not be taken for an SSID and TLVs. Padding of zeros contains no TLVs
    /// either: no TLV has the type 0.
    fn kind(&self, packet: &[u8]) -> Kind {
        if matches!(self.authentication, Authentication::Hmac(_)) {
            return Kind::Stamp;
        }
        let is_zero = |bytes: &[u8]| bytes.iter().all(|&byte| byte == 0);
        let fields = packet.get(16..OPEN_BYTES).filter(|mbz| is_zero(mbz));
        let tail = packet.get(OPEN_BYTES..).filter(|tail| tail.is_empty() || !is_zero(tail));
        if self.limits.is_twamp || fields.is_none() || tail.is_none() { Kind::Padded } else { Kind::Stamp }
    }

    fn admit(&self, packet: &[u8], received: &Received, answer_bytes: usize) -> Result<(), Refused> {
        let source = received.from.ip();
        if !self.limits.permitted.contains(source) {
            return Err(Refused::Source);
        }
        if self.limits.ports.contains(received.from.port()) {
            return Err(Refused::SourcePort);
        }
        if answer_bytes > packet.len() && !self.limits.answers_short_requests {
            return Err(Refused::Short);
        }
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        rates.take(source, answer_bytes, received.at_ns)
    }

    /// Counts a request in its session, which is created if there is room.
    fn session(&mut self, key: (SocketAddr, u16), packet: &[u8], now_ns: i64) -> Result<Counted, Refused> {
        if !self.sessions.contains_key(&key) && !self.make_room(key.0.ip(), now_ns) {
            return Ok(Counted { is_kept: false, next: 0, received: 0, previous: None });
        }
        // Invariant I-stamp-sessions: A reflector keeps no more sessions than its limit.
        assert!(
            self.sessions.len() < self.limits.sessions.max(1) || self.sessions.contains_key(&key),
            "{} sessions are kept",
            self.sessions.len()
        );
        let per_second = (self.limits.packets_per_second / SESSION_PART).max(1);
        let session = self.sessions.entry(key).or_insert_with(|| Session {
            next: 0,
            received: 0,
            previous: None,
            at_ns: now_ns,
            rate: Bucket::full(per_second.into(), now_ns),
        });
        if let Some((_, sent)) = session.previous
            && Reflected::answers_us(&self.authentication, packet, session.next, sent)
        {
            return Err(Refused::Reflection);
        }
        if !session.rate.take(1, now_ns) {
            return Err(Refused::SessionRate);
        }
        session.at_ns = now_ns;
        session.received = session.received.wrapping_add(1);
        let Session { next, received, previous, .. } = *session;
        Ok(Counted { is_kept: true, next, received, previous })
    }

    fn note_answer(&mut self, key: (SocketAddr, u16), reflected: &Reflected) {
        if let Some(session) = self.sessions.get_mut(&key) {
            session.next = reflected.sequence.wrapping_add(1);
            session.previous = Some((reflected.sequence, reflected.sent));
        }
    }

    /// Makes room for a session. A host at its limit loses its own oldest session; otherwise only a
    /// silent session is evicted. Returns false if there is none.
    fn make_room(&mut self, source: IpAddr, now_ns: i64) -> bool {
        let host = host_of(source);
        let all = self.limits.sessions.max(1);
        let of_host = || self.sessions.iter().filter(|((from, _), _)| host_of(from.ip()) == host);
        let oldest_of_host = || of_host().min_by_key(|(_, session)| session.at_ns);
        let gone = if of_host().count() >= (all / HOST_PART).max(1) {
            oldest_of_host()
        } else if self.sessions.len() >= all {
            let is_silent = |session: &Session| now_ns.saturating_sub(session.at_ns) > SESSION_IDLE_NS;
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.at_ns);
            match oldest.filter(|(_, session)| is_silent(session)) {
                None => return false,
                oldest => oldest,
            }
        } else {
            return true;
        };
        if let Some(key) = gone.map(|(&key, _)| key) {
            self.sessions.remove(&key);
        }
        true
    }
}

/// A session's state after a request has been counted.
#[derive(Clone, Copy, Debug)]
struct Counted {
    /// Whether the session is kept.
    is_kept: bool,
    next: u32,
    received: u32,
    previous: Option<(u32, [u8; 8])>,
}

fn copy_at<const N: usize>(packet: &[u8], at: usize) -> [u8; N] {
    let mut copy = [0; N];
    copy.iter_mut().zip(packet.get(at..).unwrap_or_default()).for_each(|(place, &byte)| *place = byte);
    copy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::Permitted;
    use crate::stamp::limits::{Rates, ReflectorPorts};
    use proptest::prelude::*;

    fn received(from: &str) -> Received {
        Received {
            bytes: 0,
            from: from.parse().unwrap(),
            at_ns: 1_800_000_000_000_000_000,
            ttl: Some(61),
            traffic_class: Some(0xb8),
        }
    }

    fn request(sequence: u32, bytes: usize) -> Vec<u8> {
        let mut packet = vec![0; OPEN_BYTES];
        let request = Request { sequence, sent: [1; 8], error: ErrorEstimate(1), ssid: 5 };
        request.write(&Authentication::Open, &mut packet);
        packet.resize(bytes, 0);
        packet
    }

    fn reflect(reflector: &mut Reflector, packet: &mut Vec<u8>, from: &str) -> Result<u8, Refused> {
        let local = "192.0.2.2:862".parse().unwrap();
        reflector.reflect(packet, &received(from), local, ClockQuality::UNKNOWN, 1_800_000_000_000_001_000)
    }

    #[test]
    fn each_session_has_its_own_numbers() {
        let mut reflector = reflector(anybody());
        for (from, sequence, expected) in
            [("192.0.2.1:5000", 10, 0), ("192.0.2.1:5000", 12, 1), ("192.0.2.1:5001", 3, 0)]
        {
            let mut packet = request(sequence, 44);
            reflect(&mut reflector, &mut packet, from).unwrap();
            let answer = Reflected::read(&Authentication::Open, &packet).unwrap();
            assert_eq!((answer.sequence, answer.request.sequence, answer.request_ttl), (expected, sequence, 61));
            assert_eq!((answer.ssid, answer.request.sent), (5, [1; 8]));
        }
    }

    fn reflector(limits: ReflectorLimits) -> Reflector {
        let rates = Rates::shared(limits.packets_per_second);
        Reflector::new(Authentication::Open, None, limits, rates)
    }

    fn anybody() -> ReflectorLimits {
        let networks = ["0.0.0.0/0", "::/0"].map(|network| network.parse().unwrap());
        ReflectorLimits { permitted: Permitted::networks(networks.into()), ..ReflectorLimits::default() }
    }

    #[test]
    fn requests_beyond_the_limits_are_not_answered() {
        let limits = ReflectorLimits {
            permitted: Permitted::networks(vec!["192.0.2.0/24".parse().unwrap()]),
            ports: ReflectorPorts::new(vec![8_620], Some((18_760, 19_960))),
            packets_per_second: 3,
            ..ReflectorLimits::default()
        };
        let mut reflector = reflector(limits);
        let mut ask = |bytes: usize, from: &str| reflect(&mut reflector, &mut request(0, bytes), from);
        assert_eq!(ask(44, "198.51.100.1:5000"), Err(Refused::Source));
        for port in [862, 1_023, 8_620, 18_760, 19_960] {
            assert_eq!(ask(44, &format!("192.0.2.1:{port}")), Err(Refused::SourcePort), "port {port}");
        }
        assert_eq!(ask(40, "192.0.2.1:5000"), Err(Refused::Short));
        let answered = (0..10).filter(|&port| ask(44, &format!("192.0.2.1:{}", 5000 + port)).is_ok());
        assert_eq!(answered.count(), 3);
        // By default nobody is permitted.
        let mut closed = self::reflector(ReflectorLimits::default());
        assert_eq!(reflect(&mut closed, &mut request(0, 44), "192.0.2.1:5000"), Err(Refused::Source));
        let key = Authentication::with_secret(b"key");
        let mut reflector = Reflector::new(key, None, anybody(), Rates::shared(10));
        assert_eq!(reflect(&mut reflector, &mut request(0, 112), "192.0.2.1:5000"), Err(Refused::NotAuthentic));
    }

    #[test]
    fn one_session_is_slower_than_its_host() {
        let mut reflector = reflector(anybody());
        let per_second = (anybody().packets_per_second / SESSION_PART) as usize;
        let answered = (0..2 * per_second as u32)
            .filter(|&number| reflect(&mut reflector, &mut request(number, 44), "192.0.2.1:5000").is_ok());
        assert_eq!(answered.count(), per_second);
        assert_eq!(reflect(&mut reflector, &mut request(0, 44), "192.0.2.1:5000"), Err(Refused::SessionRate));
        assert!(reflect(&mut reflector, &mut request(0, 44), "192.0.2.1:5001").is_ok());
    }

    /// Regression: 150 packets of one stranger made a running session begin at 0 again.
    #[test]
    fn strangers_evict_no_session() {
        let mut reflector = reflector(ReflectorLimits { sessions: 8, ..anybody() });
        let sequence = |reflector: &mut Reflector, number: u32, from: &str| {
            let mut packet = request(number, 44);
            reflect(reflector, &mut packet, from).unwrap();
            Reflected::read(&Authentication::Open, &packet).unwrap().sequence
        };
        assert_eq!(sequence(&mut reflector, 70, "192.0.2.1:5000"), 0);
        // One stranger with many ports, and then many strangers.
        for number in 0..300u32 {
            sequence(&mut reflector, 0, &format!("198.51.100.1:{}", 5_000 + number));
        }
        assert_eq!(reflector.session_count(), 3);
        for number in 0..200u32 {
            sequence(&mut reflector, 0, &format!("198.51.{}.{number}:5000", number % 7));
        }
        assert_eq!(reflector.session_count(), 8);
        assert_eq!(sequence(&mut reflector, 71, "192.0.2.1:5000"), 1);
        // A sender without room is answered all the same, with its own numbers.
        assert_eq!(sequence(&mut reflector, 77, "203.0.113.1:5000"), 77);
        // Silent ones make room.
        reflector.sessions.values_mut().for_each(|session| session.at_ns -= 2 * SESSION_IDLE_NS);
        assert_eq!(sequence(&mut reflector, 78, "203.0.113.1:5000"), 0);
        assert_eq!(reflector.session_count(), 8);
    }

    #[test]
    fn random_padding_is_neither_an_ssid_nor_tlvs() {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for is_twamp in [true, false] {
            let mut reflector = reflector(ReflectorLimits { is_twamp, answers_short_requests: is_twamp, ..anybody() });
            let least = if is_twamp { 14 } else { 41 };
            for (number, bytes) in (least..700).enumerate() {
                let mut packet = request(number as u32, OPEN_BYTES);
                packet.truncate(14);
                packet.resize_with(bytes, || {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (random >> 56) as u8
                });
                let sent = packet.clone();
                reflect(&mut reflector, &mut packet, "192.0.2.1:5000").unwrap();
                let answer = Reflected::read(&Authentication::Open, &packet).unwrap();
                assert_eq!((answer.sequence, answer.request.sequence), (number as u32, number as u32), "{bytes} bytes");
                assert_eq!((packet.len(), answer.ssid), (bytes.max(41), 0));
                assert_eq!(packet.get(41..), sent.get(41..).or(Some(&[])), "{bytes} bytes: the padding is altered");
            }
            assert_eq!(reflector.session_count(), 1);
        }
    }

    #[test]
    fn padding_of_zeros_is_returned_as_zeros() {
        let mut reflector = reflector(anybody());
        for bytes in 44..100 {
            let mut packet = request(0, bytes);
            packet[14..16].fill(0);
            reflect(&mut reflector, &mut packet, "192.0.2.1:5000").unwrap();
            assert!(packet[44..].iter().all(|&byte| byte == 0), "{packet:?}");
        }
        assert_eq!(reflector.session_count(), 1);
    }

    #[test]
    fn two_reflectors_do_not_answer_each_other() {
        let addresses = ["192.0.2.1:5000", "192.0.2.2:6000"];
        for (authentication, is_twamp, format) in [
            (Authentication::Open, false, 0x8001),
            (Authentication::Open, false, 0xc001),
            (Authentication::Open, true, 0x8001),
            (Authentication::with_secret(b"key"), false, 0x8001),
        ] {
            for bytes in [44, 60, 112, 1_400] {
                let limits = || ReflectorLimits { is_twamp, ..anybody() };
                let rates = Rates::shared(10_000);
                let mut pair = [0, 1].map(|_| Reflector::new(authentication.clone(), None, limits(), rates.clone()));
                let mut packet = vec![0; bytes.max(authentication.base_bytes())];
                Request { sequence: 0, sent: [9; 8], error: ErrorEstimate(format), ssid: 7 }
                    .write(&authentication, &mut packet);
                reflect(&mut pair[0], &mut packet, addresses[1]).expect("the forged one is answered");
                assert_eq!(
                    reflect(&mut pair[1], &mut packet, addresses[0]),
                    Err(Refused::Reflection),
                    "{format:x} {bytes}"
                );
            }
        }
    }

    /// A reflector without a clock is recognized by the fields that it copies.
    #[test]
    fn a_loop_with_a_reflector_without_a_clock_ends() {
        let mut ours = reflector(anybody());
        let mut packet = request(0, 44);
        reflect(&mut ours, &mut packet, "192.0.2.1:5000").unwrap();
        let ours_read = Reflected::read(&Authentication::Open, &packet).unwrap();
        let request = Request { sequence: 0, sent: ours_read.sent, error: ours_read.error, ssid: 5 };
        let theirs = Reflected { sequence: 9, sent: [0; 8], received: [0; 8], request, ..ours_read };
        theirs.write(&Authentication::Open, &mut packet);
        // With or without an SSID in its answers, the loop must end.
        let ended = (0..4).position(|_| {
            let mut answer = packet.clone();
            if reflect(&mut ours, &mut answer, "192.0.2.1:5000").is_err() {
                return true;
            }
            let ours_read = Reflected::read(&Authentication::Open, &answer).unwrap();
            let request = Request { sequence: ours_read.sequence, sent: ours_read.sent, ..theirs.request };
            Reflected { request, ..theirs }.write(&Authentication::Open, &mut packet);
            false
        });
        assert!(ended.is_some(), "the loop goes on");
    }

    proptest! {
        #[test]
        fn no_answer_is_longer_than_its_request(bytes in proptest::collection::vec(any::<u8>(), 0..300), sealed: bool) {
            let authentication = if sealed { Authentication::with_secret(b"k") } else { Authentication::Open };
            let mut reflector = Reflector::new(authentication, None, anybody(), Rates::shared(10));
            let mut packet = bytes.clone();
            if reflect(&mut reflector, &mut packet, "192.0.2.1:5000").is_ok() {
                prop_assert_eq!(packet.len(), bytes.len());
            }
        }
    }
}
