//! Trains of packets at an even rate: sends them, and measures delays and rate on arrival.
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
use std::time::{Duration, Instant};

use culvert_protocol::path::{Train, TrainReceived, TrainSent};

use super::{PROBE_BYTES_MIN, Stop};
use crate::clock::{ClockQuality, now_ns};
use crate::socket::{ProbeSocket, header_bytes};
use crate::stamp::packet::Request;
use crate::stamp::{Authentication, tlv};
use crate::statistics::{Arrival, SequenceTracker};
use crate::timestamp::{ErrorEstimate, TimestampFormat, decode, encode};

/// The most packets of a train: 100 ms at 100 Gb/s in jumbo frames.
pub const PACKETS_MAX: u32 = 200_000;
/// The fewest packets of a train from which anything follows.
const PACKETS_MIN: u32 = 20;
/// The slowest meaningful train, in bits per second. A slower path needs no train to be bad.
pub const RATE_MIN: u64 = 100_000;
/// The longest time of a train, however few of its packets have left: twenty of 1,500 bytes at the
/// slowest rate take half of it.
//= P-4
//# No train takes longer than 5 s, and a check has at most 64 trains.
pub const TIME_MAX: Duration = Duration::from_secs(5);
/// How often a train that waits for its next packet checks whether it is stopped.
const STOP_CHECK: Duration = Duration::from_millis(20);
/// Segments passed to the kernel in one call cover at most this much time, so that bursts stay
/// small.
const BURST: Duration = Duration::from_micros(500);
/// The most bytes passed to the kernel in one call (a UDP GSO super-buffer).
const BURST_BYTES_MAX: u32 = 60_000;
const BURST_SEGMENTS_MAX: u32 = 60;
/// How long packets waiting in the socket are still received when the time is up.
const LATE_MAX: Duration = Duration::from_secs(1);

/// Sends a train on a connected socket.
///
/// # Errors
/// The operating system's.
pub fn send(
    socket: &ProbeSocket,
    authentication: &Authentication,
    number: u16,
    train: &Train,
    stop: &Stop,
) -> io::Result<TrainSent> {
    let packet_bytes = train.packet_bytes.max(PROBE_BYTES_MIN);
    let (packets, interval_ns) = shape(train, socket.is_ipv6());
    let at_once = at_once(packet_bytes, interval_ns);
    let error = ErrorEstimate::new(ClockQuality::here(), TimestampFormat::Ptp);
    let mut template = vec![0; usize::from(PROBE_BYTES_MIN)];
    tlv::pad_to(&mut template, packet_bytes.into());
    let template_bytes = u16::try_from(template.len()).unwrap_or(packet_bytes);
    let ip_bytes = u64::from(template_bytes).saturating_add(header_bytes(socket.is_ipv6()).into());
    let mut burst = template.repeat(at_once as usize);
    let begin = Instant::now();
    let mut sent = TrainSent::default();
    let mut last = Duration::ZERO;
    let mut sequence = 0u32;
    while sequence < packets {
        let due = nanoseconds(f64::from(sequence) * interval_ns);
        if due > TIME_MAX || !wait_until(begin, due, stop) || begin.elapsed() > TIME_MAX {
            break;
        }
        let count = at_once.min(packets.saturating_sub(sequence));
        for packet in burst.chunks_mut(template_bytes.into()).take(count as usize) {
            let request = Request { sequence, sent: encode(now_ns(), TimestampFormat::Ptp), error, ssid: number };
            request.write(authentication, packet);
            sequence = sequence.saturating_add(1);
        }
        last = begin.elapsed();
        let burst_bytes = (count as usize).saturating_mul(template_bytes.into());
        match socket.send_segments(burst.get(..burst_bytes).unwrap_or(&burst), template_bytes) {
            Ok(_) => {
                sent.packets = sent.packets.saturating_add(count);
                sent.bytes = sent.bytes.saturating_add(ip_bytes.saturating_mul(count.into()));
            }
            Err(error) if super::echo::is_passing(&error) => sent.failed = sent.failed.saturating_add(count),
            Err(error) => return Err(error),
        }
    }
    // The last burst's own time counts too.
    let duration = last.saturating_add(nanoseconds(f64::from(at_once) * interval_ns));
    sent.duration_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    Ok(sent)
}

/// One packet of a train as it arrived.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    sequence: u32,
    delay_ns: i64,
    at_ns: i64,
    bytes: u32,
}

/// Receives a train until it is stopped, or `until`.
///
/// # Errors
/// The operating system's.
pub fn receive(
    socket: &ProbeSocket,
    authentication: &Authentication,
    number: u16,
    until: Instant,
    stop: &Stop,
) -> io::Result<TrainReceived> {
    socket.set_timeout(Some(Duration::from_millis(10)))?;
    let mut buffer = vec![0; 1 << 16];
    let mut arrived: Vec<Arrived> = Vec::new();
    let (mut duplicates, mut reordered) = (0, 0);
    let mut order = SequenceTracker::default();
    let headers = u32::from(header_bytes(socket.is_ipv6()));
    loop {
        let over = stop.is_stopped() || Instant::now() >= until;
        if Instant::now().saturating_duration_since(until) >= LATE_MAX {
            break;
        }
        let received = match socket.receive(&mut buffer) {
            Ok(received) => received,
            // Packets waiting in the socket when the train is over belong to it, even behind an
            // error caused by ICMP.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && over => break,
            Err(error) if super::echo::is_passing(&error) => continue,
            Err(error) => return Err(error),
        };
        let Ok(request) = Request::read(authentication, buffer.get(..received.bytes).unwrap_or_default()) else {
            continue;
        };
        if request.ssid != number || arrived.len() >= PACKETS_MAX as usize {
            continue;
        }
        let Ok(sent_ns) = decode(request.sent, request.error.format(), received.at_ns) else { continue };
        match order.note(request.sequence) {
            Arrival::Duplicate | Arrival::Jump => {
                duplicates = u32::saturating_add(duplicates, 1);
                continue;
            }
            Arrival::Late => reordered = u32::saturating_add(reordered, 1),
            Arrival::InOrder => {}
        }
        let bytes = u32::try_from(received.bytes).unwrap_or(u32::MAX).saturating_add(headers);
        arrived.push(Arrived {
            sequence: request.sequence,
            delay_ns: received.at_ns.saturating_sub(sent_ns),
            at_ns: received.at_ns,
            bytes,
        });
    }
    Ok(TrainReceived { duplicates, reordered, ..digest(&arrived) })
}

/// The number of a train's packets, and the nanoseconds from one to the next.
#[expect(clippy::cast_possible_truncation, reason = "a float that becomes an integer saturates, and is clamped")]
fn shape(train: &Train, is_ipv6: bool) -> (u32, f64) {
    let bits = (f64::from(train.packet_bytes) + f64::from(header_bytes(is_ipv6))) * 8.0;
    let interval_ns = bits * 1e9 / train.rate_bits_per_second.max(1) as f64;
    let packets = (f64::from(train.duration_us) * 1e3 / interval_ns).ceil();
    ((packets as u32).clamp(PACKETS_MIN, PACKETS_MAX), interval_ns)
}

/// The number of packets passed to the kernel in one call.
#[expect(clippy::cast_possible_truncation, reason = "a float that becomes an integer saturates, and is clamped")]
fn at_once(packet_bytes: u16, interval_ns: f64) -> u32 {
    let in_burst = (BURST.as_nanos() as f64 / interval_ns) as u32;
    let in_buffer = BURST_BYTES_MAX.checked_div(packet_bytes.into()).unwrap_or(0);
    in_burst.min(in_buffer).clamp(1, BURST_SEGMENTS_MAX)
}

#[expect(clippy::cast_possible_truncation, reason = "a float that becomes an integer saturates")]
const fn nanoseconds(count: f64) -> Duration {
    Duration::from_nanos(count as u64)
}

/// Sleeps, and spins for the last microseconds. Returns false if the train is stopped first.
fn wait_until(begin: Instant, due: Duration, stop: &Stop) -> bool {
    const SPIN: Duration = Duration::from_micros(80);
    while !stop.is_stopped() {
        let Some(left) = due.checked_sub(begin.elapsed()).filter(|left| !left.is_zero()) else { return true };
        match left.checked_sub(SPIN).filter(|left| !left.is_zero()) {
            Some(most) => std::thread::sleep(most.min(STOP_CHECK)),
            None => std::hint::spin_loop(),
        }
    }
    false
}

/// Summarizes a train's packets.
fn digest(arrived: &[Arrived]) -> TrainReceived {
    let Some(least_ns) = arrived.iter().map(|packet| packet.delay_ns).min() else { return TrainReceived::default() };
    let relative_us = |ns: i64| u32::try_from(ns.saturating_sub(least_ns) / 1_000).unwrap_or(u32::MAX);
    let median = |packets: &[Arrived]| {
        let mut delays: Vec<i64> = packets.iter().map(|packet| packet.delay_ns).collect();
        delays.sort_unstable();
        delays.get(delays.len() / 2).map_or(0, |&delay| relative_us(delay))
    };
    let quarter = arrived.len().div_ceil(4);
    let first = arrived.iter().map(|packet| packet.at_ns).min().unwrap_or(0);
    let last = arrived.iter().map(|packet| packet.at_ns).max().unwrap_or(0);
    // The first gap that no late packet fills is the first loss.
    let mut sequences: Vec<u32> = arrived.iter().map(|packet| packet.sequence).collect();
    sequences.sort_unstable();
    let gap = (0u32..).zip(&sequences).find(|&(at, &sequence)| sequence != at).map(|(at, _)| at);
    let delay_at_loss_us = gap.map_or(0, |gap| {
        let before = arrived.iter().filter(|packet| packet.sequence < gap && gap.abs_diff(packet.sequence) <= 16);
        before.map(|packet| relative_us(packet.delay_ns)).max().unwrap_or(0)
    });
    TrainReceived {
        packets: u32::try_from(arrived.len()).unwrap_or(u32::MAX),
        duplicates: 0,
        reordered: 0,
        bytes: arrived.iter().fold(0, |sum, packet| u64::saturating_add(sum, packet.bytes.into())),
        duration_us: u64::try_from(last.saturating_sub(first) / 1_000).unwrap_or(0),
        early_delay_us: median(arrived.get(..quarter).unwrap_or_default()),
        late_delay_us: median(arrived.get(arrived.len().saturating_sub(quarter)..).unwrap_or_default()),
        delay_at_loss_us,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u32, at_us: i64, delay_us: i64) -> Arrived {
        Arrived { sequence, delay_ns: delay_us * 1_000, at_ns: at_us * 1_000, bytes: 1_000 }
    }

    #[test]
    fn a_filling_queue_and_its_end_show() {
        // A queue that grows by 10 us a packet and overflows after 60 packets.
        let arrived: Vec<_> = (0..100)
            .filter(|&n| n < 60 || n % 2 == 0)
            .map(|n| packet(n, i64::from(n) * 20, 5_000 + i64::from(n.min(60)) * 10))
            .collect();
        let digest = digest(&arrived);
        assert_eq!((digest.packets, digest.delay_at_loss_us), (80, 600));
        assert!(digest.late_delay_us - digest.early_delay_us > 400, "{digest:?}");
    }

    #[test]
    fn nothing_and_a_single_packet_say_little() {
        assert_eq!(digest(&[]), TrainReceived::default());
        let one = digest(&[packet(0, 5, 7)]);
        assert_eq!((one.packets, one.duration_us, one.early_delay_us), (1, 0, 0));
    }

    /// Regression: at one bit per second a train of twenty packets took 66 hours and ignored a
    /// stop.
    #[test]
    fn no_train_is_longer_than_its_time_and_each_heeds_a_stop() {
        //= P-4
        //# No train takes longer than 5 s, and a check has at most 64 trains.
        let sender = ProbeSocket::towards("127.0.0.1:9".parse().unwrap()).unwrap();
        let key = super::super::authentication(b"secret");
        let train = Train { rate_bits_per_second: 1, duration_us: u32::MAX, packet_bytes: 1_400 };
        let sent = send(&sender, &key, 1, &train, &Stop::default()).unwrap();
        assert_eq!(sent.packets, 1, "only the first is due in time");
        // The second packet is due after a second and a half: longer than the stop takes.
        let train = Train { rate_bits_per_second: 8_000, ..train };
        let stop = Stop::default();
        let stopping = stop.clone();
        let sending = std::thread::spawn(move || send(&sender, &key, 1, &train, &stop).unwrap());
        std::thread::sleep(Duration::from_millis(100));
        stopping.stop();
        assert_eq!(sending.join().unwrap().packets, 1);
    }

    #[test]
    fn a_train_crosses_loopback() {
        let receiver = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        receiver.ask_buffers(super::super::SOCKET_BUFFER_BYTES).unwrap();
        let sender = ProbeSocket::towards(receiver.local_address().unwrap()).unwrap();
        let key = super::super::authentication(b"secret");
        let train = Train { rate_bits_per_second: 50_000_000, duration_us: 50_000, packet_bytes: 1_400 };
        let stop = Stop::default();
        let (theirs, stopped) = (key.clone(), stop.clone());
        let taking = std::thread::spawn(move || {
            receive(&receiver, &theirs, 3, Instant::now() + Duration::from_secs(20), &stopped)
        });
        // Of another step: not counted.
        send(&sender, &key, 2, &Train { duration_us: 1, ..train }, &stop).unwrap();
        let sent = send(&sender, &key, 3, &train, &stop).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        stop.stop();
        let received = taking.join().unwrap().unwrap();
        assert_eq!((received.packets, received.bytes), (sent.packets, sent.bytes));
        assert_eq!(sent.packets, 219);
        assert_eq!((received.duplicates, received.reordered, received.delay_at_loss_us), (0, 0, 0));
    }

    /// A partner may ask for a train of any shape.
    #[test]
    fn whatever_train_is_asked_for_it_has_few_enough_packets_and_bursts_fit_the_kernel() {
        for rate_bits_per_second in [0, 1, 1_000, 1_000_000_000, u64::MAX] {
            for (duration_us, packet_bytes) in [0, 1, 1_000_000, u32::MAX]
                .into_iter()
                .flat_map(|duration_us| [0, 1, PROBE_BYTES_MIN, 1_472, u16::MAX].map(|bytes| (duration_us, bytes)))
            {
                let train = Train { rate_bits_per_second, duration_us, packet_bytes };
                for is_ipv6 in [false, true] {
                    let (packets, interval_ns) = shape(&train, is_ipv6);
                    assert!((PACKETS_MIN..=PACKETS_MAX).contains(&packets), "{train:?}: {packets}");
                    let burst = at_once(packet_bytes, interval_ns);
                    assert!((1..=BURST_SEGMENTS_MAX).contains(&burst), "{train:?}: {burst}");
                    let bytes = burst * u32::from(packet_bytes);
                    assert!(burst == 1 || bytes <= BURST_BYTES_MAX, "{train:?}: {bytes} bytes at once");
                }
            }
        }
    }

    #[test]
    fn times_and_sizes_of_any_packets_are_summed_up_without_overflow() {
        let far = |sequence, delay_ns, at_ns| Arrived { sequence, delay_ns, at_ns, bytes: u32::MAX };
        let extremes = [
            far(u32::MAX, i64::MAX, i64::MIN),
            far(0, i64::MIN, i64::MAX),
            far(u32::MAX, 0, i64::MAX),
            far(7, -1, i64::MIN),
        ];
        let digest = digest(&extremes);
        assert_eq!((digest.packets, digest.bytes), (4, 4 * u64::from(u32::MAX)));
        assert_eq!(digest.duration_us, i64::MAX as u64 / 1_000, "the longest that can be represented");
        assert_eq!(digest.early_delay_us, u32::MAX);
    }
}
