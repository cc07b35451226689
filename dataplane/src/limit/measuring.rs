//! The two loops that measure, over any datapath.

use std::io;
use std::net::SocketAddr;

use culvert_link::clock::monotonic_ns;
use culvert_protocol::keys::{Direction, KeySchedule, Secret};
use culvert_protocol::seal::{Cipher, PacketKey};
use culvert_protocol::wire::{HEADER_BYTES, Header, OVERHEAD_BYTES, STRIDE_MIN, SegmentKind, TAG_BYTES};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::hops::Hops;
use crate::datapath::Datapath;
use crate::datapath::udp::{OpenError, SUPER_BUFFER_BYTES};

/// Source and sink: they fit a second-level cache together with a super-buffer.
const MEMORY_BYTES: usize = 512 << 10;
/// What a UDP receiver's socket holds: several windows.
pub(super) const RECEIVE_BUFFER_BYTES: usize = 16 << 20;
/// Bytes in flight, unless the receiver's socket holds less. Measured on veth: 1 MiB keeps both
/// cores busy, more only lengthens the queue.
const WINDOW_BYTES: u64 = 1 << 20;
/// The receiver acknowledges after so many bytes: an eighth of the window.
const ACKNOWLEDGE_BYTES: u64 = WINDOW_BYTES / 8;
/// A side that receives no datagram for so long gives up.
const PATIENCE_NS: u64 = 3_000_000_000;
/// How often a side sends again while it receives nothing.
const REPEAT_NS: u64 = 20_000_000;
/// The packet number that ends the run.
const END: u64 = u64::MAX;

/// What one side measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LimitResult {
    /// Payload bytes that arrived (receiver) or were acknowledged (sender).
    pub bytes: u64,
    /// Datagrams.
    pub datagrams: u64,
    /// From the first datagram to the last.
    pub seconds: f64,
    /// Processor time of this side's thread.
    pub cpu_seconds: f64,
    /// Frames of AF_XDP's packet memory that did not come back, of either direction.
    pub frames_missing: usize,
}

impl LimitResult {
    /// Payload per second, in bits.
    #[must_use]
    pub fn bits_per_second(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes as f64 * 8.0 / self.seconds } else { 0.0 }
    }
}

/// What a sender does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// Bytes of each datagram's payload.
    pub datagram_bytes: usize,
    /// For how long.
    pub seconds: f64,
    /// Sealed, or bare: with a header and whatever else the memory held.
    pub sealed: bool,
    /// With a window of bytes in flight. Without it packets are sent as fast as the datapath takes
    /// them, and lost beyond what the receiver takes.
    pub windowed: bool,
}

/// Why a limit could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    /// The socket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// AF_XDP was requested and is not available.
    #[error("there is no AF_XDP to measure: {}", .0.join("; "))]
    NoAfXdp(Vec<String>),
    /// Nobody answers.
    #[error("{0} does not answer: is 'culvert bench limit --receive' running there, and its UDP port open?")]
    NoAnswer(SocketAddr),
    /// An impossible datagram size.
    #[error("datagrams of {0} bytes cannot be measured: choose between {min} and {SUPER_BUFFER_BYTES}", min = STRIDE_MIN as usize + OVERHEAD_BYTES)]
    Size(usize),
    /// The network refuses.
    #[error("the network refuses to send ({error}): do {datagram_bytes} bytes exceed the MTU?")]
    Refused {
        /// The operating system's error.
        error: io::Error,
        /// What was sent.
        datagram_bytes: usize,
    },
}

/// Receives one run over `datapath`.
pub(super) fn receive_over<D: Datapath>(datapath: &mut D, hops: &mut Hops) -> LimitResult {
    let key = key(Direction::Forward);
    let mut sink = vec![0; MEMORY_BYTES];
    let mut run = Run::default();
    let mut at = 0;
    while !run.is_over() {
        let mut acknowledge_to = None;
        let received = datapath.receive(|datagram, arrival| {
            let Some((clear, sealed)) = datagram.split_first_chunk::<HEADER_BYTES>() else { return };
            let Ok(header) = Header::parse_datagram(datagram) else { return };
            acknowledge_to = Some(arrival.from);
            if header.packet_number == END {
                run.ended = true;
                return;
            }
            let payload = sealed.len() - TAG_BYTES;
            // An odd kind marks a run without the cipher.
            if header.kind == SegmentKind::Data {
                if at + payload > sink.len() {
                    at = 0;
                }
                if key.open(header.packet_number, clear, sealed, &mut sink[at..at + payload]).is_err() {
                    return;
                }
                at += payload;
            }
            run.note(payload as u64);
        });
        if let Some(to) = acknowledge_to {
            hops.look(datapath, to.ip());
            run.acknowledge(datapath, to);
        }
        if received == 0 {
            wait(datapath, REPEAT_NS);
        }
    }
    run.result()
}

/// What a receiver knows of the run.
#[derive(Debug)]
struct Run {
    bytes: u64,
    datagrams: u64,
    acknowledged: u64,
    began_ns: Option<u64>,
    last_ns: u64,
    began_cpu: f64,
    ended: bool,
}

impl Default for Run {
    fn default() -> Self {
        Self { bytes: 0, datagrams: 0, acknowledged: 0, began_ns: None, last_ns: 0, began_cpu: 0.0, ended: false }
    }
}

impl Run {
    fn note(&mut self, payload: u64) {
        if self.began_ns.is_none() {
            self.began_ns = Some(monotonic_ns());
            self.began_cpu = thread_cpu_seconds();
        }
        self.bytes += payload;
        self.datagrams += 1;
    }

    fn acknowledge(&mut self, datapath: &mut impl Datapath, to: SocketAddr) {
        self.last_ns = monotonic_ns();
        // A sender that sends again has not received the last acknowledgement.
        let is_due = self.bytes - self.acknowledged >= ACKNOWLEDGE_BYTES || self.bytes == self.acknowledged;
        if is_due || self.ended {
            self.acknowledged = self.bytes;
            let bytes = self.bytes;
            datapath.send_run(to.into(), 1, |room, _| {
                let (clear, _) = room.get_mut(..OVERHEAD_BYTES)?.split_first_chunk_mut::<HEADER_BYTES>()?;
                acknowledgement(bytes).write(clear);
                Some(OVERHEAD_BYTES)
            });
        }
    }

    fn is_over(&self) -> bool {
        let silent = self.began_ns.is_some() && monotonic_ns().saturating_sub(self.last_ns) > PATIENCE_NS;
        self.ended || silent
    }

    fn result(&self) -> LimitResult {
        let began_ns = self.began_ns.unwrap_or(self.last_ns);
        LimitResult {
            bytes: self.bytes,
            datagrams: self.datagrams,
            seconds: self.last_ns.saturating_sub(began_ns) as f64 / 1e9,
            cpu_seconds: thread_cpu_seconds() - self.began_cpu,
            frames_missing: 0,
        }
    }
}

/// Sends for `seconds` over `datapath`.
pub(super) fn send_over<D: Datapath>(
    datapath: &mut D,
    hops: &mut Hops,
    to: SocketAddr,
    work: Work,
) -> Result<LimitResult, LimitError> {
    let Work { datagram_bytes, seconds, sealed, windowed } = work;
    if !(STRIDE_MIN as usize + OVERHEAD_BYTES..=SUPER_BUFFER_BYTES).contains(&datagram_bytes) {
        return Err(LimitError::Size(datagram_bytes));
    }
    let key = key(Direction::Forward);
    let source = vec![7; MEMORY_BYTES];
    let payload = datagram_bytes - OVERHEAD_BYTES;
    let run_datagrams = datapath.run_datagrams_max(datagram_bytes);
    let (mut packet_number, mut sent, mut arrived, mut at) = (0u64, 0u64, 0u64, 0);
    let (began_ns, began_cpu) = (monotonic_ns(), thread_cpu_seconds());
    let (mut heard_ns, mut sent_ns) = (began_ns, 0);
    let end_ns = began_ns + (seconds * 1e9) as u64;
    loop {
        datapath.receive(|datagram, _| {
            if let Ok(header) = Header::parse_datagram(datagram) {
                arrived = arrived.max(header.packet_number);
                heard_ns = monotonic_ns();
            }
        });
        let now_ns = monotonic_ns();
        hops.look(datapath, to.ip());
        if now_ns >= end_ns {
            break;
        }
        if now_ns - heard_ns > PATIENCE_NS {
            return Err(LimitError::NoAnswer(to));
        }
        let acknowledged = if windowed { arrived } else { sent };
        // Datagrams that were counted as lost may still be acknowledged.
        sent = sent.max(acknowledged);
        let is_full = sent - acknowledged >= WINDOW_BYTES;
        if is_full && now_ns - sent_ns < REPEAT_NS {
            // The next acknowledgement is microseconds away.
            std::hint::spin_loop();
            continue;
        }
        if is_full {
            // Something was lost after all: what is in flight counts as sent, and the window begins
            // anew.
            sent = acknowledged;
        }
        let outcome = datapath.send_run(to.into(), run_datagrams, |room, _| {
            let datagram = room.get_mut(..datagram_bytes)?;
            let (clear, out) = datagram.split_first_chunk_mut::<HEADER_BYTES>()?;
            measuring_header(packet_number, payload, sealed).write(clear);
            if at + payload > source.len() {
                at = 0;
            }
            if sealed {
                key.seal(packet_number, clear, &source[at..at + payload], out);
            }
            at += payload;
            packet_number += 1;
            Some(datagram_bytes)
        });
        if let Some(errno) = outcome.error {
            return Err(LimitError::Refused { error: io::Error::from_raw_os_error(errno), datagram_bytes });
        }
        sent += (outcome.datagrams * payload) as u64;
        sent_ns = now_ns;
    }
    let elapsed = (monotonic_ns() - began_ns) as f64 / 1e9;
    let cpu_seconds = thread_cpu_seconds() - began_cpu;
    for _ in 0..3 {
        datapath.send_run(to.into(), 1, |room, _| {
            let datagram = room.get_mut(..datagram_bytes)?;
            let (clear, _) = datagram.split_first_chunk_mut::<HEADER_BYTES>()?;
            measuring_header(END, payload, sealed).write(clear);
            Some(datagram_bytes)
        });
    }
    Ok(LimitResult { bytes: arrived, datagrams: packet_number, seconds: elapsed, cpu_seconds, frames_missing: 0 })
}

/// A key for measuring: nothing is secret here.
fn key(direction: Direction) -> PacketKey {
    KeySchedule::new(Cipher::Aes256Gcm, &Secret::new(&[0; 32]), 0, direction).next_key().1
}

fn thread_cpu_seconds() -> f64 {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    now.tv_sec as f64 + now.tv_nsec as f64 / 1e9
}

fn wait(datapath: &impl Datapath, ns: u64) {
    if let Some(fd) = datapath.poll_fd() {
        let timeout = Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as i64 };
        let _ = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&timeout));
    }
}

/// How many bytes have arrived, as a segment: the steering program lets nothing else through.
fn acknowledgement(bytes: u64) -> Header {
    let header = measuring_header(bytes, 0, true);
    Header { kind: SegmentKind::ProbeReply, ..header }
}

fn measuring_header(packet_number: u64, payload: usize, sealed: bool) -> Header {
    Header {
        kind: if sealed { SegmentKind::Data } else { SegmentKind::Probe },
        stride: payload as u16,
        flow_id: 0,
        packet_number,
        chunk: 0,
        chunk_bytes: payload as u32,
        index: 0,
        sent_us: 0,
    }
}
