//! The reflecting end: answers requests within limits, with its own sequence numbers for each session (RFC 8762 4.3).

use std::collections::HashMap;
use std::net::SocketAddr;

use aws_lc_rs::hmac;

use super::packet::{Authentication, PacketError, REFLECTED_BYTES_MIN, Reflected, Request};
use super::tlv;
use crate::clock::ClockQuality;
use crate::socket::Received;
use crate::sources::{Budgets, Network};
use crate::timestamp::{ErrorEstimate, encode};

/// Bytes of the longest request that is answered.
pub const REQUEST_BYTES_MAX: usize = 65_535;
/// Requests from ports below are not answered: they are services, and two that answer each other never stop.
const SOURCE_PORT_MIN: u16 = 1_024;

/// What a reflector bears.
#[derive(Clone, Debug)]
pub struct ReflectorLimits {
    /// Who may ask; empty for everybody.
    pub allow: Vec<Network>,
    /// Sessions that are remembered; the one that has been silent longest makes room.
    pub sessions: usize,
    /// Packets of one source in a second.
    pub packets_per_second: u32,
    /// Whether requests that are shorter than their answers are answered. Only where the source is known not to be forged.
    pub answers_short_requests: bool,
    /// Whether what follows a request's 14 bytes is TWAMP's padding: no TLVs, and answers may have 41 bytes (RFC 5357 4.2.1).
    pub is_twamp: bool,
}

impl Default for ReflectorLimits {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            sessions: 1_000,
            packets_per_second: 10_000,
            answers_short_requests: false,
            is_twamp: false,
        }
    }
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Refused {
    /// The source is not among those that may ask.
    #[error("source_not_allowed")]
    Source,
    /// The source's port is a service's.
    #[error("source_port")]
    SourcePort,
    /// The source has used up its budget.
    #[error("rate")]
    Rate,
    /// The answer would be longer than the request.
    #[error("short")]
    Short,
    /// Not a packet of the protocol.
    #[error("malformed")]
    Malformed,
    /// The HMAC is wrong.
    #[error("not_authentic")]
    NotAuthentic,
}

impl Refused {
    /// A word for metrics.
    #[must_use]
    pub fn word(self) -> String {
        self.to_string()
    }
}

#[derive(Debug, Default)]
struct Session {
    next: u32,
    received: u32,
    previous: Option<(u32, [u8; 8])>,
    at_ns: i64,
}

/// Answers the requests of any number of senders.
#[derive(Debug)]
pub struct Reflector {
    authentication: Authentication,
    tlv_key: Option<hmac::Key>,
    limits: ReflectorLimits,
    budgets: Budgets,
    sessions: HashMap<(SocketAddr, u16), Session>,
}

impl Reflector {
    /// A reflector without sessions. `tlv_key` is the HMAC TLV's.
    #[must_use]
    pub fn new(authentication: Authentication, tlv_key: Option<hmac::Key>, limits: ReflectorLimits) -> Self {
        let budgets = Budgets::new(limits.packets_per_second);
        Self { authentication, tlv_key, limits, budgets, sessions: HashMap::new() }
    }

    /// Sessions that are remembered.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.sessions.len()
    }

    /// Turns a request into its answer, in place. `packet` holds the request; it is never made longer, unless short requests are
    /// answered. `now_ns` becomes T3, so the answer must be sent at once. Returns the traffic class that the answer should have.
    ///
    /// # Errors
    /// [`Refused`]: nothing is to be sent.
    pub fn reflect(
        &mut self,
        packet: &mut Vec<u8>,
        received: &Received,
        local: SocketAddr,
        quality: ClockQuality,
        now_ns: i64,
    ) -> Result<u8, Refused> {
        let base_bytes = self.authentication.base_bytes();
        self.admit(packet.len(), base_bytes, received)?;
        let request = Request::read(&self.authentication, packet).map_err(|error| match error {
            PacketError::TooShort(_) => Refused::Malformed,
            PacketError::NotAuthentic => Refused::NotAuthentic,
        })?;
        let mbz_is_zero = packet.get(16..base_bytes).is_some_and(|mbz| mbz.iter().all(|&byte| byte == 0));
        let least_bytes = if self.limits.is_twamp { REFLECTED_BYTES_MIN } else { base_bytes };
        let answer_bytes = packet.len().max(least_bytes);
        packet.resize(packet.len().max(base_bytes), 0);
        let format = request.error.format();
        let session = self.session((received.from, request.ssid), now_ns);
        session.received = session.received.wrapping_add(1);
        let sequence = session.next;
        let (received_count, previous) = (session.received, session.previous);
        let reflected = Reflected {
            sequence,
            sent: encode(now_ns, format),
            error: ErrorEstimate::new(quality, format),
            ssid: request.ssid,
            received: encode(received.at_ns, format),
            request,
            request_ttl: received.ttl.unwrap_or(0),
        };
        session.next = sequence.wrapping_add(1);
        session.previous = Some((sequence, reflected.sent));
        let traffic_class = received.traffic_class.unwrap_or(0);
        // What follows a TWAMP-Light packet is its padding, not TLVs; it shows by the bytes that STAMP has as zero.
        let is_stamp = matches!(self.authentication, Authentication::Hmac(_)) || request.ssid != 0 || mbz_is_zero;
        let has_tlvs = is_stamp && !self.limits.is_twamp;
        let mut wanted = traffic_class & 0xfc;
        if packet.len() > base_bytes && has_tlvs {
            let facts = tlv::Facts {
                traffic_class,
                source: received.from,
                destination: local,
                received_count,
                sent_count: sequence,
                previous,
                is_synchronized: quality.synchronized,
                key: self.tlv_key.as_ref(),
            };
            wanted = tlv::wanted_traffic_class(&packet[base_bytes..]).unwrap_or(wanted);
            tlv::reflect(request.sequence.to_be_bytes(), sequence.to_be_bytes(), &mut packet[base_bytes..], &facts);
        }
        reflected.write(&self.authentication, packet);
        packet.truncate(answer_bytes);
        Ok(wanted)
    }

    fn admit(&mut self, bytes: usize, base_bytes: usize, received: &Received) -> Result<(), Refused> {
        let source = received.from.ip();
        if !self.limits.allow.is_empty() && !self.limits.allow.iter().any(|network| network.contains(source)) {
            return Err(Refused::Source);
        }
        if received.from.port() < SOURCE_PORT_MIN {
            return Err(Refused::SourcePort);
        }
        let least_bytes = if self.limits.is_twamp { REFLECTED_BYTES_MIN } else { base_bytes };
        if bytes < least_bytes && !self.limits.answers_short_requests {
            return Err(Refused::Short);
        }
        if self.budgets.take(source, received.at_ns) { Ok(()) } else { Err(Refused::Rate) }
    }

    fn session(&mut self, key: (SocketAddr, u16), now_ns: i64) -> &mut Session {
        if self.sessions.len() >= self.limits.sessions.max(1) && !self.sessions.contains_key(&key) {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.at_ns).map(|(&key, _)| key);
            oldest.map(|oldest| self.sessions.remove(&oldest));
        }
        let session = self.sessions.entry(key).or_default();
        session.at_ns = now_ns;
        session
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::packet::OPEN_BYTES;
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
        let mut reflector = Reflector::new(Authentication::Open, None, ReflectorLimits::default());
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

    #[test]
    fn what_is_outside_of_the_limits_is_not_answered() {
        let limits = ReflectorLimits {
            allow: vec!["192.0.2.0/24".parse().unwrap()],
            packets_per_second: 3,
            sessions: 2,
            ..ReflectorLimits::default()
        };
        let mut reflector = Reflector::new(Authentication::Open, None, limits);
        assert_eq!(reflect(&mut reflector, &mut request(0, 44), "198.51.100.1:5000"), Err(Refused::Source));
        assert_eq!(reflect(&mut reflector, &mut request(0, 44), "192.0.2.1:862"), Err(Refused::SourcePort));
        assert_eq!(reflect(&mut reflector, &mut request(0, 43), "192.0.2.1:5000"), Err(Refused::Short));
        let answered = (0..10).filter(|&port| {
            reflect(&mut reflector, &mut request(0, 44), &format!("192.0.2.1:{}", 5000 + port)).is_ok()
        });
        assert_eq!(answered.count(), 3);
        assert_eq!(reflector.session_count(), 2);
        let key = Authentication::with_secret(b"key");
        let mut reflector = Reflector::new(key, None, ReflectorLimits::default());
        assert_eq!(reflect(&mut reflector, &mut request(0, 112), "192.0.2.1:5000"), Err(Refused::NotAuthentic));
    }

    #[test]
    fn padding_of_twamp_light_is_not_taken_for_tlvs() {
        let mut reflector = Reflector::new(Authentication::Open, None, ReflectorLimits::default());
        let mut packet = vec![0xa5; 100];
        Request { sequence: 0, sent: [1; 8], error: ErrorEstimate(1), ssid: 0 }
            .write(&Authentication::Open, &mut packet);
        packet[16..44].fill(0xa5);
        reflect(&mut reflector, &mut packet, "192.0.2.1:5000").unwrap();
        assert_eq!(packet[44..], [0xa5; 56]);
    }

    proptest! {
        #[test]
        fn no_answer_is_longer_than_its_request(bytes in proptest::collection::vec(any::<u8>(), 0..300), sealed: bool) {
            let authentication = if sealed { Authentication::with_secret(b"k") } else { Authentication::Open };
            let mut reflector = Reflector::new(authentication, None, ReflectorLimits::default());
            let mut packet = bytes.clone();
            if reflect(&mut reflector, &mut packet, "192.0.2.1:5000").is_ok() {
                prop_assert_eq!(packet.len(), bytes.len());
            }
        }
    }
}
