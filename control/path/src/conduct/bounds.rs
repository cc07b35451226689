//! Bounds for the numbers that the partner sends in a check: whatever they are, probes and results
//! stay within limits.

use std::time::Duration;

use culvert_perfsonar::probe::echo::EchoPlan;
use culvert_perfsonar::stamp::SessionResult;
use culvert_perfsonar::statistics::Delivery;
use culvert_protocol::path::{PathReport, TrainReceived};

use crate::answer::ECHOES_PER_SECOND_MAX;
use crate::plan::Plan;

/// The largest packet of a train: a jumbo frame.
const TRAIN_IP_BYTES_MAX: u32 = 9_000;
/// The largest packet of a train if the MTU was not measured.
const TRAIN_IP_BYTES: u32 = 1_500;
/// Headers of IPv6 and UDP.
const HEADER_BYTES_MAX: f64 = 48.0;

/// The largest IP packets of both directions, from the largest UDP payloads that the interfaces of
/// both ends carry.
pub(super) fn ceilings(datagram_bytes: [u16; 2], headers: u32) -> [u32; 2] {
    datagram_bytes.map(|bytes| u32::from(bytes).saturating_add(headers))
}

/// The UDP payload of an IP packet, at most the largest possible.
pub(super) fn datagram_bytes(ip_bytes: u32, headers: u32) -> u16 {
    u16::try_from(ip_bytes.saturating_sub(headers)).unwrap_or(u16::MAX)
}

/// The UDP payload of a train's packets.
pub(super) fn train_packet_bytes(ceiling: u32, mtu_bytes: Option<u32>, headers: u32) -> u16 {
    let ip_bytes = mtu_bytes.unwrap_or(ceiling.min(TRAIN_IP_BYTES)).min(TRAIN_IP_BYTES_MAX);
    datagram_bytes(ip_bytes, headers)
}

/// The rate and number of echoes, within the permitted rate and the time that is left.
#[expect(clippy::cast_possible_truncation, reason = "a float that becomes an integer saturates")]
pub(super) fn echo_plan(plan: &Plan, rate_bits_per_second_max: u64, left: Duration, number: u16) -> EchoPlan {
    let bits = (f64::from(plan.echo_bytes) + HEADER_BYTES_MAX) * 8.0;
    let permitted = (rate_bits_per_second_max as f64 / bits) as u32;
    let per_second = plan.echoes_per_second.clamp(1, ECHOES_PER_SECOND_MAX / 10 * 9).min(permitted).max(1);
    let seconds = plan.echo_seconds.min(left.as_secs_f64() * 0.8);
    EchoPlan {
        number,
        packets: ((seconds * f64::from(per_second)) as u32).max(10),
        interval: Duration::from_secs(1).checked_div(per_second).unwrap_or(Duration::from_secs(1)),
        packet_bytes: plan.echo_bytes,
        wait: Duration::from_secs(2),
    }
}

/// Delivery of the echoes to the partner and of the answers back. The partner's count of arrivals
/// separates the two directions, but no more is believed than was sent.
pub(super) fn deliveries(result: &SessionResult, report: &PathReport) -> [Option<Delivery>; 2] {
    let &PathReport::Reflected { received, duplicates, reordered, .. } = report else {
        return [result.forward, result.reverse];
    };
    let sent = result.round_trip.sent;
    let there = Delivery { sent, received: received.min(sent), duplicates, reordered };
    let reflected = received.saturating_add(duplicates);
    let copies = result.forward.map_or(0, |forward| forward.duplicates);
    let arrived = result.round_trip.received.saturating_add(copies);
    let back = Delivery { sent: reflected, received: arrived.min(reflected), ..result.reverse.unwrap_or_default() };
    // Invariant I-path-delivery: No direction of a check has more packets received than sent.
    assert!(there.received <= there.sent && back.received <= back.sent, "{there:?}, {back:?}");
    [Some(there), Some(back)]
}

/// The bottleneck's buffer, from the queueing delay of the last packets before the first loss; none
/// if nothing was lost.
pub(super) fn buffer_bytes(bottleneck_bits_per_second: u64, received: &TrainReceived) -> Option<u64> {
    let delay_us = u64::from(received.delay_at_loss_us);
    (delay_us > 0).then(|| (bottleneck_bits_per_second / 8).saturating_mul(delay_us) / 1_000_000)
}

/// A number's integer part, saturating.
#[expect(clippy::cast_possible_truncation, reason = "a float that becomes an integer saturates")]
pub(super) const fn whole(value: f64) -> u64 {
    value as u64
}

#[cfg(test)]
mod tests {
    use culvert_perfsonar::clock::ClockQuality;
    use culvert_perfsonar::probe::mtu::MtuSearch;
    use culvert_perfsonar::stamp::SenderSession;
    use culvert_perfsonar::stamp::sender::SenderConfig;
    use proptest::prelude::*;

    use super::*;

    const HEADERS: [u32; 2] = [28, 48];

    fn plan(echoes_per_second: u32, echo_bytes: u16, echo_seconds: f64) -> Plan {
        Plan {
            echo_seconds,
            echoes_per_second,
            echo_bytes,
            seconds_max: 30,
            rate_bits_per_second_max: 1_000_000_000,
            rate: true,
            buffer: true,
            trace: true,
            mtu: true,
        }
    }

    #[test]
    fn whatever_largest_datagram_a_partner_names_the_search_ends_and_probes_fit_a_datagram() {
        for headers in HEADERS {
            for named in [0, 1, 27, 48, 111, 548, 1_232, 1_472, 9_216, u16::MAX - 1, u16::MAX] {
                let [ours, theirs] = ceilings([1_472, named], headers);
                assert_eq!((ours, theirs), (1_472 + headers, u32::from(named) + headers));
                for passes in [|_: u32| true, |_: u32| false, |size: u32| size <= 1_500] {
                    let mut search = MtuSearch::new(theirs, headers == 48);
                    let mut tries = 0;
                    while let Some(size) = search.next_size() {
                        tries += 1;
                        assert!(tries < 40, "{named}: {size} is tried after {tries} others");
                        assert!(u32::from(datagram_bytes(size, headers)) + headers == size, "{named}: {size} is cut");
                        search.note(size, passes(size));
                    }
                    let found = search.result().map(|mtu| mtu.bytes);
                    assert!(u32::from(train_packet_bytes(theirs, found, headers)) + headers <= 9_000.max(headers));
                }
                assert!(u32::from(train_packet_bytes(theirs, None, headers)) <= 1_500 - headers);
            }
            // Impossible sizes become the largest possible.
            assert_eq!(datagram_bytes(u32::MAX, headers), u16::MAX);
            assert_eq!(datagram_bytes(0, headers), 0);
        }
    }

    #[test]
    fn a_partners_count_is_believed_only_up_to_what_was_sent() {
        let session = SenderSession::new(SenderConfig::stamp(1), ClockQuality::here());
        let mut result = session.result();
        (result.round_trip.sent, result.round_trip.received) = (100, 90);
        let most = PathReport::Reflected {
            received: u64::MAX,
            duplicates: u64::MAX,
            reordered: u64::MAX,
            too_big: u64::MAX,
            mtu: u32::MAX,
        };
        let [there, back] = deliveries(&result, &most).map(Option::unwrap);
        assert_eq!((there.sent, there.received, there.lost()), (100, 100, 0));
        assert_eq!((back.sent, back.received), (u64::MAX, 90));
        let none = PathReport::Reflected { received: 0, duplicates: 0, reordered: 0, too_big: 0, mtu: 0 };
        let [there, back] = deliveries(&result, &none).map(Option::unwrap);
        assert_eq!((there.received, back.sent, back.received), (0, 0, 0), "what it did not answer did not come back");
        let longest = TrainReceived { delay_at_loss_us: u32::MAX, ..TrainReceived::default() };
        assert_eq!(buffer_bytes(u64::MAX, &longest), Some(u64::MAX / 1_000_000));
        assert_eq!(buffer_bytes(u64::MAX, &TrainReceived::default()), None);
    }

    proptest! {
        #[test]
        fn echoes_keep_to_what_was_permitted(
            per_second in prop_oneof![any::<u32>(), 0..100_000u32],
            bytes: u16,
            seconds in 0.0..1e12f64,
            permitted in prop_oneof![any::<u64>(), 0..50_000_000u64],
            left_s: u32,
        ) {
            let left = Duration::from_secs(left_s.into());
            let echoes = echo_plan(&plan(per_second, bytes, seconds), permitted, left, 1);
            prop_assert!(echoes.interval >= Duration::from_secs(1) / ECHOES_PER_SECOND_MAX);
            let bits = (f64::from(bytes) + HEADER_BYTES_MAX) * 8.0;
            let rate = bits / echoes.interval.as_secs_f64();
            // One echo a second is always sent; intervals are rounded down to a nanosecond.
            prop_assert!(rate <= (permitted as f64).max(bits) * 1.001, "{rate} of {permitted}");
            let lasts = echoes.interval.as_secs_f64() * f64::from(echoes.packets);
            prop_assert!(lasts <= (left.as_secs_f64() * 0.8).max(10.0 * echoes.interval.as_secs_f64()) + 1.0);
        }
    }
}
