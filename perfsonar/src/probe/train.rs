//! Trains of packets at an even rate, and what is left of the evenness when they arrive.

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

/// Packets of a train at most: 100 ms at 100 Gb/s in jumbo frames.
pub const PACKETS_MAX: u32 = 200_000;
/// Packets of a train at least: fewer say nothing.
const PACKETS_MIN: u32 = 20;
/// Segments handed to the kernel at once cover no more than this, so that bursts stay small.
const BURST: Duration = Duration::from_micros(500);
/// Bytes handed to the kernel at once at most (a UDP GSO super-buffer).
const BURST_BYTES_MAX: usize = 60_000;
const BURST_SEGMENTS_MAX: usize = 60;

/// How many packets a train has, and from one to the next.
fn shape(train: &Train, is_ipv6: bool) -> (u32, f64) {
    let bits = f64::from(u32::from(train.packet_bytes) + u32::from(header_bytes(is_ipv6))) * 8.0;
    let interval_ns = bits * 1e9 / train.rate_bits_per_second.max(1) as f64;
    let packets = (f64::from(train.duration_us) * 1e3 / interval_ns).ceil();
    ((packets as u32).clamp(PACKETS_MIN, PACKETS_MAX), interval_ns)
}

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
    let in_burst = (BURST.as_nanos() as f64 / interval_ns) as usize;
    let at_once = in_burst.min(BURST_BYTES_MAX / usize::from(packet_bytes)).clamp(1, BURST_SEGMENTS_MAX);
    let error = ErrorEstimate::new(ClockQuality::here(), TimestampFormat::Ptp);
    let mut template = vec![0; usize::from(PROBE_BYTES_MIN)];
    tlv::pad_to(&mut template, packet_bytes.into());
    let template_bytes = template.len();
    let mut burst = template.repeat(at_once);
    let begin = Instant::now();
    let mut sent = TrainSent::default();
    let mut last = Duration::ZERO;
    let mut sequence = 0;
    while sequence < packets && !stop.is_stopped() {
        let due = begin + Duration::from_nanos((f64::from(sequence) * interval_ns) as u64);
        wait_until(due);
        let count = at_once.min((packets - sequence) as usize);
        for packet in burst.chunks_mut(template_bytes).take(count) {
            let request = Request { sequence, sent: encode(now_ns(), TimestampFormat::Ptp), error, ssid: number };
            request.write(authentication, packet);
            sequence += 1;
        }
        last = begin.elapsed();
        match socket.send_segments(&burst[..count * template_bytes], template_bytes as u16) {
            Ok(_) => {
                sent.packets += count as u32;
                sent.bytes += count as u64 * (template_bytes as u64 + u64::from(header_bytes(socket.is_ipv6())));
            }
            Err(error) if super::echo::is_passing(&error) => sent.failed += count as u32,
            Err(error) => return Err(error),
        }
    }
    // The last burst takes its time too.
    sent.duration_us = (last + Duration::from_nanos((at_once as f64 * interval_ns) as u64)).as_micros() as u64;
    Ok(sent)
}

/// Sleeps while there is time, and spins for the rest.
fn wait_until(due: Instant) {
    const SPIN: Duration = Duration::from_micros(80);
    while let Some(left) = due.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        if left > SPIN {
            std::thread::sleep(left - SPIN);
        } else {
            std::hint::spin_loop();
        }
    }
}

/// One packet of a train as it arrived.
#[derive(Clone, Copy, Debug)]
struct Arrived {
    sequence: u32,
    delay_ns: i64,
    at_ns: i64,
    bytes: u32,
}

/// Takes a train until it is stopped, or `until`.
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
        let received = match socket.receive(&mut buffer) {
            Ok(received) => received,
            // What waits in the socket when the train is over belongs to it.
            Err(error) if super::echo::is_passing(&error) && over => break,
            Err(error) if super::echo::is_passing(&error) => continue,
            Err(error) => return Err(error),
        };
        if Instant::now() >= until + Duration::from_secs(1) {
            break;
        }
        let Ok(request) = Request::read(authentication, &buffer[..received.bytes]) else { continue };
        if request.ssid != number || arrived.len() >= PACKETS_MAX as usize {
            continue;
        }
        let Ok(sent_ns) = decode(request.sent, request.error.format(), received.at_ns) else { continue };
        match order.note(request.sequence) {
            Arrival::Duplicate | Arrival::Jump => {
                duplicates += 1;
                continue;
            }
            Arrival::Late => reordered += 1,
            Arrival::InOrder => {}
        }
        let bytes = received.bytes as u32 + headers;
        arrived.push(Arrived {
            sequence: request.sequence,
            delay_ns: received.at_ns - sent_ns,
            at_ns: received.at_ns,
            bytes,
        });
    }
    Ok(TrainReceived { duplicates, reordered, ..digest(&arrived) })
}

/// What a train's packets say.
fn digest(arrived: &[Arrived]) -> TrainReceived {
    let Some(least_ns) = arrived.iter().map(|packet| packet.delay_ns).min() else { return TrainReceived::default() };
    let relative_us = |ns: i64| u32::try_from((ns - least_ns) / 1_000).unwrap_or(u32::MAX);
    let median = |packets: &[Arrived]| {
        let mut delays: Vec<i64> = packets.iter().map(|packet| packet.delay_ns).collect();
        delays.sort_unstable();
        delays.get(delays.len() / 2).map_or(0, |&delay| relative_us(delay))
    };
    let quarter = arrived.len().div_ceil(4);
    let first = arrived.iter().map(|packet| packet.at_ns).min().unwrap_or(0);
    let last = arrived.iter().map(|packet| packet.at_ns).max().unwrap_or(0);
    // A gap that a late packet does not fill.
    let mut sequences: Vec<u32> = arrived.iter().map(|packet| packet.sequence).collect();
    sequences.sort_unstable();
    let gap = sequences.iter().enumerate().find(|&(at, &sequence)| sequence != at as u32).map(|(at, _)| at as u32);
    let delay_at_loss_us = gap.map_or(0, |gap| {
        let before = arrived.iter().filter(|packet| packet.sequence < gap && gap - packet.sequence <= 16);
        before.map(|packet| relative_us(packet.delay_ns)).max().unwrap_or(0)
    });
    TrainReceived {
        packets: arrived.len() as u32,
        duplicates: 0,
        reordered: 0,
        bytes: arrived.iter().map(|packet| u64::from(packet.bytes)).sum(),
        duration_us: u64::try_from((last - first) / 1_000).unwrap_or(0),
        early_delay_us: median(&arrived[..quarter]),
        late_delay_us: median(&arrived[arrived.len() - quarter..]),
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
}
