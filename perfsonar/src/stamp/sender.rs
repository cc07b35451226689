//! Session sender: makes requests, verifies answers, and keeps the statistics. TWAMP-Test uses it
//! too.
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

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::packet::{Authentication, OPEN_BYTES, PacketError, REFLECTED_BYTES_MIN, Reflected, Request};
use super::tlv;
use crate::clock::ClockQuality;
use crate::statistics::{Arrival, DelaySummary, Delays, Delivery, SequenceTracker};
use crate::timestamp::{ErrorEstimate, TimestampError, TimestampFormat, decode, encode};

/// The number of requests whose times are remembered; answers to older ones are rejected.
const REMEMBERED: usize = 1 << 16;

/// The form of a session's packets.
#[derive(Clone, Debug)]
pub struct SenderConfig {
    /// The mode, and the key if packets are authenticated.
    pub authentication: Authentication,
    /// The session's id; 0 for TWAMP.
    pub ssid: u16,
    /// The format of timestamps.
    pub format: TimestampFormat,
    /// UDP payload of each packet, at least the base packet, or 41 bytes for TWAMP.
    pub packet_bytes: usize,
    /// TLVs after the base packet, as [`tlv::append`] makes them.
    pub tlvs: Vec<u8>,
    /// Whether this is TWAMP, whose padding has no TLV header and whose packets may be shorter.
    pub is_twamp: bool,
}

impl SenderConfig {
    /// STAMP without authentication.
    #[must_use]
    pub const fn stamp(ssid: u16) -> Self {
        Self {
            authentication: Authentication::Open,
            ssid,
            format: TimestampFormat::Ntp,
            packet_bytes: OPEN_BYTES,
            tlvs: Vec::new(),
            is_twamp: false,
        }
    }

    /// TWAMP with `padding_bytes` after the 14 of a sender's packet.
    #[must_use]
    pub fn twamp(padding_bytes: usize) -> Self {
        Self { is_twamp: true, packet_bytes: padding_bytes.saturating_add(14), ..Self::stamp(0) }
    }
}

/// Why an answer is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// It is not a packet of the protocol.
    #[error("not packets of the protocol")]
    Malformed,
    /// Its HMAC is wrong.
    #[error("not authentic")]
    NotAuthentic,
    /// It answers a request that was never sent: another number, time or session.
    #[error("answers to packets that were never sent")]
    Foreign,
    /// The reflector's own sequence number jumps.
    #[error("sequence numbers of the reflector that jumped")]
    SequenceJump,
    /// The reflector's time is before 1970 or invalid.
    #[error("timestamps that are invalid or before 1970: the reflector's clock was never set")]
    Clock,
}

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoundTrip {
    /// The request's number.
    pub sequence: u32,
    /// T4 − T1 without the time from T2 to T3 that the reflector took.
    pub rtt_ns: i64,
    /// T2 − T1, which includes the difference of the clocks.
    pub forward_ns: i64,
    /// T4 − T3, which includes the difference of the clocks.
    pub reverse_ns: i64,
    /// New, late or a copy.
    pub arrival: Arrival,
}

/// The results of a session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SessionResult {
    /// Delivery of round trips.
    pub round_trip: Delivery,
    /// Delivery to the reflector; none if packets were lost and the reflector keeps no numbers of
    /// its own.
    pub forward: Option<Delivery>,
    /// Delivery from the reflector; see `forward`.
    pub reverse: Option<Delivery>,
    /// Round-trip times.
    pub rtt: Option<DelaySummary>,
    /// One-way delays to the reflector; relative to the minimum without synchronized clocks.
    pub forward_delay: Option<DelaySummary>,
    /// One-way delays from the reflector; relative to the minimum without synchronized clocks.
    pub reverse_delay: Option<DelaySummary>,
    /// The largest error of the one-way delays; none if the clocks are not synchronized and the
    /// delays are relative.
    pub one_way_error_us: Option<u64>,
    /// Rejected answers, by reason.
    pub rejected: BTreeMap<Rejection, u64>,
    /// TTLs with which requests arrived, and the number of requests with each.
    pub request_ttl: BTreeMap<u8, u64>,
    /// Round-trip times in milliseconds and the number of answers with each.
    pub histogram_ms: BTreeMap<String, u64>,
    /// One-way delays to and from the reflector in milliseconds; empty without synchronized clocks.
    pub one_way_histograms_ms: [BTreeMap<String, u64>; 2],
}

/// A session as its sender sees it.
#[derive(Debug)]
pub struct SenderSession {
    config: SenderConfig,
    quality: ClockQuality,
    next: u32,
    times: Vec<i64>,
    counts: DirectionCounts,
    rtt: Delays,
    forward_delays: Delays,
    reverse_delays: Delays,
    far_quality: Option<ClockQuality>,
    rejected: BTreeMap<Rejection, u64>,
    request_ttl: BTreeMap<u8, u64>,
}

/// Counts answers, and from the reflector's numbers each direction.
#[derive(Debug)]
struct DirectionCounts {
    /// Numbers of the requests that were answered.
    answers: SequenceTracker,
    /// The reflector's own numbers.
    reflections: SequenceTracker,
    /// Whether the reflector numbers its packets itself.
    is_stateful: bool,
    /// The highest number of the reflector, and the highest request number up to it.
    highest: Option<(u32, u32)>,
    forward_reordered: u64,
    forward_duplicates: u64,
    reverse_duplicates: u64,
}

impl SenderSession {
    /// A session that has sent nothing. `quality` is this host's clock's.
    #[must_use]
    pub fn new(config: SenderConfig, quality: ClockQuality) -> Self {
        Self {
            // TWAMP reflectors number their packets (RFC 5357 4.2.1). Whether a STAMP reflector
            // does shows as soon as its numbers differ from the requests'.
            counts: DirectionCounts::new(config.is_twamp),
            config,
            quality,
            next: 0,
            times: Vec::new(),
            rtt: Delays::default(),
            forward_delays: Delays::default(),
            reverse_delays: Delays::default(),
            far_quality: None,
            rejected: BTreeMap::new(),
            request_ttl: BTreeMap::new(),
        }
    }

    /// The next request; `now_ns` becomes T1, so it must be sent at once.
    pub fn next_request(&mut self, now_ns: i64, packet: &mut Vec<u8>) {
        let request = Request {
            sequence: self.next,
            sent: encode(now_ns, self.config.format),
            error: ErrorEstimate::new(self.quality, self.config.format),
            ssid: self.config.ssid,
        };
        packet.clear();
        packet.resize(self.config.authentication.base_bytes(), 0);
        request.write(&self.config.authentication, packet);
        if self.config.is_twamp {
            packet.resize(self.config.packet_bytes.max(REFLECTED_BYTES_MIN), 0);
        } else {
            packet.extend_from_slice(&self.config.tlvs);
            tlv::pad_to(packet, self.config.packet_bytes);
        }
        match self.times.get_mut(self.next as usize % REMEMBERED) {
            Some(time) => *time = now_ns,
            None => self.times.push(now_ns),
        }
        self.next = self.next.wrapping_add(1);
    }

    /// Requests made so far.
    #[must_use]
    pub const fn sent(&self) -> u32 {
        self.next
    }

    /// Takes an answer that arrived at `at_ns` (T4) into account.
    ///
    /// # Errors
    /// [`Rejection`]; it is counted.
    pub fn receive(&mut self, packet: &[u8], at_ns: i64) -> Result<RoundTrip, Rejection> {
        let taken = self.take(packet, at_ns);
        if let Err(rejection) = taken {
            count(self.rejected.entry(rejection).or_insert(0));
        }
        taken
    }

    fn take(&mut self, packet: &[u8], at_ns: i64) -> Result<RoundTrip, Rejection> {
        let reflected = Reflected::read(&self.config.authentication, packet).map_err(|error| match error {
            PacketError::TooShort(_) => Rejection::Malformed,
            PacketError::NotAuthentic => Rejection::NotAuthentic,
        })?;
        let sequence = reflected.request.sequence;
        let age = self.next.wrapping_sub(sequence);
        if age == 0 || age as usize > self.times.len() {
            return Err(Rejection::Foreign);
        }
        let sent_ns = *self.times.get(sequence as usize % REMEMBERED).ok_or(Rejection::Foreign)?;
        let is_ours = reflected.request.sent == encode(sent_ns, self.config.format);
        // Reflectors without RFC 8972 leave the SSID zero.
        if !is_ours || (reflected.ssid != self.config.ssid && reflected.ssid != 0) {
            return Err(Rejection::Foreign);
        }
        let clock = |_: TimestampError| Rejection::Clock;
        let format = reflected.error.format();
        let received_ns = decode(reflected.received, format, at_ns).map_err(clock)?;
        let reflected_ns = decode(reflected.sent, format, at_ns).map_err(clock)?;
        let arrival = self.counts.note(sequence, reflected.sequence)?;
        let round_trip = RoundTrip {
            sequence,
            rtt_ns: at_ns.saturating_sub(sent_ns).saturating_sub(reflected_ns.saturating_sub(received_ns)),
            forward_ns: received_ns.saturating_sub(sent_ns),
            reverse_ns: at_ns.saturating_sub(reflected_ns),
            arrival,
        };
        if arrival != Arrival::Duplicate {
            // A reflector's clock that steps between T2 and T3 can make the round trip negative.
            self.rtt.record(round_trip.rtt_ns.max(0));
            self.forward_delays.record(round_trip.forward_ns);
            self.reverse_delays.record(round_trip.reverse_ns);
            count(self.request_ttl.entry(reflected.request_ttl).or_insert(0));
            self.far_quality = Some(reflected.error.quality());
        }
        Ok(round_trip)
    }

    /// The results so far.
    #[must_use]
    pub fn result(&self) -> SessionResult {
        let round_trip = self.counts.answers.delivery(u64::from(self.next));
        let (forward, reverse) = self.counts.split(&round_trip);
        let one_way_error_us = self.far_quality.and_then(|far| self.quality.one_way_error_us(far));
        let one_way = |delays: &Delays| {
            let summary = delays.summary();
            if one_way_error_us.is_some() { summary } else { summary.map(DelaySummary::relative) }
        };
        SessionResult {
            round_trip,
            forward,
            reverse,
            rtt: self.rtt.summary(),
            forward_delay: one_way(&self.forward_delays),
            reverse_delay: one_way(&self.reverse_delays),
            one_way_error_us,
            rejected: self.rejected.clone(),
            request_ttl: self.request_ttl.clone(),
            histogram_ms: self.rtt.histogram_ms(),
            one_way_histograms_ms: [&self.forward_delays, &self.reverse_delays]
                .map(|delays| if one_way_error_us.is_some() { delays.histogram_ms() } else { BTreeMap::new() }),
        }
    }
}

impl DirectionCounts {
    fn new(is_stateful: bool) -> Self {
        Self {
            answers: SequenceTracker::default(),
            reflections: SequenceTracker::default(),
            is_stateful,
            highest: None,
            forward_reordered: 0,
            forward_duplicates: 0,
            reverse_duplicates: 0,
        }
    }

    /// Counts the answer with the reflector's number `reflected` to the request `sequence`.
    fn note(&mut self, sequence: u32, reflected: u32) -> Result<Arrival, Rejection> {
        let reflection = self.reflections.note(reflected);
        if reflection == Arrival::Jump {
            return Err(Rejection::SequenceJump);
        }
        self.is_stateful |= reflected != sequence;
        let arrival = self.answers.note(sequence);
        // A reflector numbers duplicates made on the way to it; duplicates made on the way back
        // have the same number.
        match (arrival, reflection) {
            (Arrival::Duplicate, Arrival::Duplicate) => count(&mut self.reverse_duplicates),
            (Arrival::Duplicate, _) => count(&mut self.forward_duplicates),
            _ => {}
        }
        if let Some((highest, request)) = self.highest
            && reflected > highest
            && sequence < request
            && arrival != Arrival::Duplicate
        {
            count(&mut self.forward_reordered);
        }
        if self.highest.is_none_or(|(highest, _)| reflected > highest) {
            let request = self.highest.map_or(sequence, |(_, request)| request.max(sequence));
            self.highest = Some((reflected, request));
        }
        Ok(arrival)
    }

    /// Delivery in each direction. The reflector's numbers show how many requests it received.
    /// Requests after the last answer count as lost on the way to it, since nothing is known about
    /// them.
    fn split(&self, round_trip: &Delivery) -> (Option<Delivery>, Option<Delivery>) {
        if !self.is_stateful && round_trip.lost() > 0 {
            return (None, None);
        }
        let reflected = u64::from(self.reflections.expected_next());
        let arrived =
            if self.is_stateful { reflected.saturating_sub(self.forward_duplicates) } else { round_trip.received };
        let forward = Delivery {
            sent: round_trip.sent,
            received: arrived.min(round_trip.sent),
            duplicates: self.forward_duplicates,
            reordered: self.forward_reordered,
        };
        let back = self.reflections.delivery(if self.is_stateful { reflected } else { round_trip.received });
        let reverse = Delivery { duplicates: self.reverse_duplicates, ..back };
        (Some(forward), Some(reverse))
    }
}

fn count(counter: &mut u64) {
    *counter = counter.saturating_add(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket::Received;
    use crate::sources::Permitted;
    use crate::stamp::limits::{Rates, ReflectorLimits};
    use crate::stamp::reflector::Reflector;

    const START: i64 = 1_800_000_000_000_000_000;
    const MS: i64 = 1_000_000;
    const GOOD: ClockQuality = ClockQuality { synchronized: true, error_us: 50 };

    struct Lab {
        sender: SenderSession,
        reflector: Reflector,
    }

    impl Lab {
        fn new(authentication: Authentication) -> Self {
            let config = SenderConfig { authentication: authentication.clone(), ..SenderConfig::stamp(77) };
            let permitted = Permitted::networks(vec!["192.0.2.0/24".parse().unwrap()]);
            let limits = ReflectorLimits { permitted, packets_per_second: 1_000_000, ..ReflectorLimits::default() };
            let reflector = Reflector::new(authentication, None, limits, Rates::shared(1_000_000));
            Self { sender: SenderSession::new(config, GOOD), reflector }
        }

        fn request(&mut self, now_ns: i64) -> Vec<u8> {
            let mut packet = Vec::new();
            self.sender.next_request(now_ns, &mut packet);
            packet
        }

        fn reflect(&mut self, mut packet: Vec<u8>, at_ns: i64) -> Vec<u8> {
            let received = Received {
                bytes: packet.len(),
                from: "192.0.2.1:5000".parse().unwrap(),
                at_ns,
                ttl: Some(250),
                traffic_class: Some(0),
            };
            self.reflector.reflect(&mut packet, &received, "192.0.2.2:862".parse().unwrap(), GOOD, at_ns + MS).unwrap();
            packet
        }
    }

    #[test]
    fn delays_of_both_directions_are_measured() {
        for authentication in [Authentication::Open, Authentication::with_secret(b"secret")] {
            let mut lab = Lab::new(authentication);
            for number in 0..100 {
                let now = START + number * 10 * MS;
                let request = lab.request(now);
                // 12 ms there with a clock that is 3 ms ahead, 1 ms at the reflector, 8 ms back.
                let answer = lab.reflect(request, now + 15 * MS);
                let trip = lab.sender.receive(&answer, now + 21 * MS).unwrap();
                assert!((trip.rtt_ns - 20 * MS).abs() <= 2 && (trip.forward_ns - 15 * MS).abs() <= 2, "{trip:?}");
            }
            let result = lab.sender.result();
            assert_eq!(result.round_trip, Delivery { sent: 100, received: 100, duplicates: 0, reordered: 0 });
            assert_eq!((result.forward.unwrap().lost(), result.reverse.unwrap().lost()), (0, 0));
            assert!((result.rtt.unwrap().p50_us - 20_000.0).abs() < 1.0);
            assert!((result.reverse_delay.unwrap().p50_us - 5_000.0).abs() < 1.0);
            assert!(result.one_way_error_us.unwrap() >= 100);
            assert_eq!(result.request_ttl, BTreeMap::from([(250, 100)]));
        }
    }

    #[test]
    fn loss_duplication_and_order_are_attributed_to_a_direction() {
        let mut lab = Lab::new(Authentication::Open);
        let requests: Vec<_> = (0..10).map(|number| lab.request(START + number)).collect();
        let at = START + 10 * MS;
        // There: 2 and 3 are lost, 5 is overtaken by 6, 8 comes twice.
        let order = [0, 1, 4, 6, 5, 7, 8, 8, 9];
        let answers: Vec<_> = order.map(|number: usize| lab.reflect(requests[number].clone(), at)).into();
        // Back: the answer to 1 is lost, that to 4 comes twice, that to 9 overtakes that to the
        // second 8.
        for index in [0, 2, 2, 3, 4, 5, 6, 8, 7] {
            lab.sender.receive(&answers[index], at + MS).unwrap();
        }
        let result = lab.sender.result();
        assert_eq!((result.round_trip.sent, result.round_trip.received), (10, 7));
        assert_eq!(result.forward, Some(Delivery { sent: 10, received: 8, duplicates: 1, reordered: 1 }));
        assert_eq!(result.reverse, Some(Delivery { sent: 9, received: 8, duplicates: 1, reordered: 1 }));
    }

    #[test]
    fn a_reflector_without_numbers_does_not_split_loss() {
        let mut lab = Lab::new(Authentication::Open);
        for number in 0..4 {
            let request = lab.request(START + number);
            if number == 2 {
                continue;
            }
            let mut answer = lab.reflect(request, START + MS);
            answer[..4].copy_from_slice(&(number as u32).to_be_bytes());
            lab.sender.receive(&answer, START + 2 * MS).unwrap();
        }
        let result = lab.sender.result();
        assert_eq!((result.round_trip.lost(), result.forward, result.reverse), (1, None, None));
    }

    /// Regression: with loss only on the way back, the reflector's numbers equal the requests'.
    #[test]
    fn a_twamp_reflector_is_stateful_even_if_its_numbers_equal_the_requests() {
        let mut lab = Lab::new(Authentication::Open);
        lab.sender = SenderSession::new(SenderConfig::twamp(27), GOOD);
        for number in 0..4 {
            let request = lab.request(START + number);
            let answer = lab.reflect(request, START + MS);
            if number != 2 {
                lab.sender.receive(&answer, START + 2 * MS).unwrap();
            }
        }
        let result = lab.sender.result();
        assert_eq!((result.forward.unwrap().lost(), result.reverse.unwrap().lost()), (0, 1));
    }

    #[test]
    fn impossible_answers_are_rejected_and_counted() {
        let mut lab = Lab::new(Authentication::Open);
        let request = lab.request(START);
        let answer = lab.reflect(request, START + MS);
        let at = START + 3 * MS;
        let mut change = |place: usize, bytes: &[u8]| {
            let mut changed = answer.clone();
            changed[place..place + bytes.len()].copy_from_slice(bytes);
            lab.sender.receive(&changed, at)
        };
        assert_eq!(change(24, &9u32.to_be_bytes()), Err(Rejection::Foreign));
        assert_eq!(change(28, &[1; 8]), Err(Rejection::Foreign));
        assert_eq!(change(14, &[1, 1]), Err(Rejection::Foreign));
        assert_eq!(change(0, &[0xff; 4]), Err(Rejection::SequenceJump));
        assert_eq!(change(4, &[0; 8]), Err(Rejection::Clock));
        assert_eq!(lab.sender.receive(&answer[..40], at), Err(Rejection::Malformed));
        assert_eq!(lab.sender.receive(b"", at), Err(Rejection::Malformed));
        let result = lab.sender.result();
        assert_eq!(result.rejected.values().sum::<u64>(), 7);
        assert_eq!(result.round_trip.received, 0);
    }
}
