//! One flow, segment by segment: the real sender and receiver flows, sealing, pacer, reports and controller on a virtual network.
//!
//! What the batch simulator takes for granted is real here: packet numbers, lost ranges, decided packets, the repetition of
//! segments, the size of reports, the end of a transfer.

use std::collections::BTreeMap;

use culvert_protocol::feedback::{REPORT_BYTES_MAX, Report, Summary};
use culvert_protocol::heap_buffers::HeapBuffers;
use culvert_protocol::keys::{Direction, KeySchedule, Secret};
use culvert_protocol::pacer::Pacer;
use culvert_protocol::rate_control::{ControllerConfig, Observation, RateController, controller};
use culvert_protocol::receiver_flow::{ChunkMemory, LaneCondition, Received, ReceiverConfig, ReceiverFlow};
use culvert_protocol::seal::Cipher;
use culvert_protocol::sender_flow::{SenderConfig, SenderFlow};
use culvert_protocol::wire::{Header, OVERHEAD_BYTES};

use crate::feedback::FeedbackChannel;
use crate::flow::FlowOptions;
use crate::link::Path;
use crate::random::Random;

const CHUNK_BYTES: u32 = 1 << 20;
const FLOW: u32 = 7;
const IP_UDP_BYTES: usize = 28;
/// Bytes of IP, TCP and TLS around a report.
const REPORT_OVERHEAD_BYTES: usize = 20 + 20 + 12 + 22;

/// What came of a transfer.
#[derive(Clone, Copy, Debug)]
pub struct ExactOutcome {
    /// When the last chunk was whole at the receiver.
    pub whole_ns: u64,
    /// When the sender knew.
    pub known_ns: u64,
    /// When the last segment that had never been sent before was sent.
    pub last_fresh_ns: u64,
    /// Segments sent, and those among them sent again.
    pub segments: (u64, u64),
    /// Bytes of reports with their headers, and of data with its headers.
    pub traffic_bytes: (u64, u64),
    /// Segments that the receiver had already.
    pub duplicate_bytes: u64,
}

struct Transfer {
    path: Path,
    random: Random,
    now_ns: u64,
    chunks: u32,
    next_chunk: u32,
    sender: SenderFlow,
    sender_memory: HeapBuffers,
    receiver: ReceiverFlow,
    receiver_memory: HeapBuffers,
    pacer: Pacer,
    controller: Box<dyn RateController>,
    feedback: FeedbackChannel<Vec<u8>>,
    wire: BTreeMap<(u64, u64), Vec<u8>>,
    sequence: u64,
    link_free_ns: u64,
    reported_ns: u64,
    previous: Summary,
    observed_ns: u64,
    rtt_ns: u64,
    whole: u32,
    delivered: u32,
    packet: Vec<u8>,
    outcome: ExactOutcome,
}

/// Moves `chunks` chunks of a mebibyte over `path`.
///
/// # Panics
/// If it does not end within ten virtual minutes.
#[must_use]
pub fn transfer(path: Path, options: &FlowOptions, chunks: u32, seed: u64) -> ExactOutcome {
    let mut transfer = Transfer::new(path, options, chunks, seed);
    let step_ns = (path.rtt_ns / 400).clamp(10_000, 100_000);
    while transfer.delivered < chunks {
        transfer.now_ns += step_ns;
        transfer.step();
        assert!(transfer.now_ns < 600_000_000_000, "seed {seed}: no end in sight");
    }
    transfer.outcome.known_ns = transfer.now_ns;
    transfer.outcome
}

impl Transfer {
    fn new(path: Path, options: &FlowOptions, chunks: u32, seed: u64) -> Self {
        let schedule = |direction| KeySchedule::new(Cipher::Aes128Gcm, &Secret::new([1; 32]), FLOW, direction);
        // Room for two products of bandwidth and delay on either side.
        let product = path.rate_bits_per_second * path.rtt_ns as f64 / 8e9;
        let buffers = ((4.0 * product) as u32 / CHUNK_BYTES + 8).min(chunks + 1);
        let sender_config =
            SenderConfig { flow_id: FLOW, stride: options.stride, chunk_bytes_max: CHUNK_BYTES, chunks_max: buffers };
        let receiver_config = ReceiverConfig {
            flow_id: FLOW,
            chunk_count: chunks,
            chunk_bytes_max: CHUNK_BYTES,
            allowance: buffers,
            assemblies_max: buffers,
        };
        let controller = controller(&ControllerConfig {
            mode: options.mode,
            cap_bits_per_second: options.cap,
            start_bits_per_second: options.start,
            rtt_ns: path.rtt_ns,
            stride: options.stride,
        });
        let (mut forward, mut reverse) = (schedule(Direction::Forward), schedule(Direction::Reverse));
        let sender = SenderFlow::new(&sender_config, &mut forward, &mut reverse, 0);
        let (mut forward, mut reverse) = (schedule(Direction::Forward), schedule(Direction::Reverse));
        let receiver = ReceiverFlow::new(&receiver_config, &mut forward, &mut reverse, 0);
        Self {
            path,
            random: Random::new(seed),
            now_ns: 0,
            chunks,
            next_chunk: 0,
            sender,
            sender_memory: HeapBuffers::new(buffers, CHUNK_BYTES),
            receiver,
            receiver_memory: HeapBuffers::new(buffers, CHUNK_BYTES),
            pacer: Pacer::new(controller.rate_bits_per_second()),
            controller,
            feedback: FeedbackChannel::new(path.rtt_ns / 2, path.rtt_ns, options.feedback_loss, seed ^ 1),
            wire: BTreeMap::new(),
            sequence: 0,
            link_free_ns: 0,
            reported_ns: 0,
            previous: Summary::default(),
            observed_ns: 0,
            rtt_ns: path.rtt_ns,
            whole: 0,
            delivered: 0,
            packet: vec![0; 1 << 16],
            outcome: ExactOutcome {
                whole_ns: 0,
                known_ns: 0,
                last_fresh_ns: 0,
                segments: (0, 0),
                traffic_bytes: (0, 0),
                duplicate_bytes: 0,
            },
        }
    }

    fn step(&mut self) {
        while self.next_chunk < self.chunks && self.sender.room() > 0 {
            let Some(buffer) = self.sender_memory.take() else { break };
            self.sender.add_chunk(self.next_chunk, CHUNK_BYTES, buffer);
            self.sender.set_available(self.next_chunk, CHUNK_BYTES);
            self.next_chunk += 1;
        }
        self.send();
        self.receive();
        self.report();
        self.read_reports();
        // As `control` sets it: twice the round trip and 10 ms.
        self.sender.on_silence(self.now_ns, 2 * self.rtt_ns + 10_000_000);
    }

    fn send(&mut self) {
        self.pacer.set_rate(self.controller.rate_bits_per_second());
        while self.pacer.wait_ns(self.now_ns) == 0 {
            let now_us = (self.now_ns / 1_000) as u32;
            let before = self.sender.counts();
            let Some(sealed) = self.sender.seal_next(&self.sender_memory, usize::MAX, now_us, &mut self.packet) else {
                break;
            };
            let after = self.sender.counts();
            if after.1 == before.1 {
                self.outcome.last_fresh_ns = self.now_ns;
            }
            self.outcome.segments = (after.0, after.1);
            let packet_bytes = sealed.datagram_bytes + IP_UDP_BYTES;
            self.outcome.traffic_bytes.1 += packet_bytes as u64;
            self.pacer.note_sent(packet_bytes, self.now_ns);
            self.sender.note_sent(self.now_ns);
            self.launch(sealed.datagram_bytes, packet_bytes);
        }
    }

    fn launch(&mut self, datagram_bytes: usize, packet_bytes: usize) {
        let path = self.path;
        let waiting_ns = self.link_free_ns.saturating_sub(self.now_ns) as f64;
        if waiting_ns * path.rate_bits_per_second / 8e9 > path.buffer_bytes {
            return;
        }
        let time_ns = (packet_bytes as f64 * 8e9 / path.rate_bits_per_second) as u64;
        self.link_free_ns = self.link_free_ns.max(self.now_ns) + time_ns;
        let copies = if self.random.chance(path.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            if self.random.chance(path.loss) {
                continue;
            }
            let mut datagram = self.packet[..datagram_bytes].to_vec();
            if self.random.chance(path.corruption) {
                let bit = self.random.below(datagram_bytes as u64 * 8) as usize;
                datagram[bit / 8] ^= 1 << (bit % 8);
            }
            let late = self.random.chance(path.reordering);
            let late_ns = if late { self.random.below(path.reordering_ns.max(1)) } else { 0 };
            self.sequence += 1;
            self.wire.insert((self.link_free_ns + path.rtt_ns / 2 + late_ns, self.sequence), datagram);
        }
    }

    fn receive(&mut self) {
        let now_us = (self.now_ns / 1_000) as u32;
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now_ns) {
            let datagram = entry.remove();
            let Ok(header) = Header::parse_datagram(&datagram) else { continue };
            if header.flow_id != FLOW {
                continue;
            }
            if let Received::Completed(done) =
                self.receiver.receive(&datagram, &header, &mut self.receiver_memory, now_us)
            {
                self.receiver_memory.give_back(done.buffer);
                self.receiver.release();
                self.whole += 1;
                if self.whole == self.chunks {
                    self.outcome.whole_ns = self.now_ns;
                }
            }
        }
    }

    fn report(&mut self) {
        let since_ns = self.now_ns - self.reported_ns;
        let interval_ns = (self.rtt_ns / 4).clamp(2_000_000, 100_000_000);
        let is_urgent = since_ns >= 200_000 && self.receiver.is_credit_urgent();
        if !((since_ns >= interval_ns && self.receiver.has_news()) || is_urgent || since_ns >= 100_000_000) {
            return;
        }
        let mut out = [0; REPORT_BYTES_MAX];
        let now_us = (self.now_ns / 1_000) as u32;
        let len = self.receiver.write_report(&LaneCondition::default(), now_us, &mut out);
        self.outcome.traffic_bytes.0 += (len + REPORT_OVERHEAD_BYTES) as u64;
        self.feedback.send(out[..len].to_vec(), self.now_ns);
        self.reported_ns = self.now_ns;
    }

    fn read_reports(&mut self) {
        while let Some(bytes) = self.feedback.receive(self.now_ns) {
            let report = Report::parse(&bytes).expect("the receiver writes reports that parse");
            let (memory, delivered) = (&mut self.sender_memory, &mut self.delivered);
            self.sender.on_report(&report, self.now_ns, |_, buffer| {
                memory.give_back(buffer);
                *delivered += 1;
            });
            let lost = report.lost().map(|range| range.count).sum();
            self.observe(&report.summary, lost);
        }
    }

    fn observe(&mut self, now: &Summary, lost: u64) {
        let packets = now.packets - self.previous.packets;
        let headers = packets * (OVERHEAD_BYTES + IP_UDP_BYTES) as u64;
        let rtt_us = ((self.now_ns / 1_000) as u32).wrapping_sub(now.echo_us).wrapping_sub(now.hold_us);
        let observation = Observation {
            now_ns: self.now_ns,
            rtt_ns: if packets > 0 { u64::from(rtt_us) * 1_000 } else { 0 },
            delay_min_us: now.delay_min_us,
            interval_us: now.interval_us,
            delivered_bytes: now.bytes - self.previous.bytes + headers,
            delivered_packets: packets,
            lost_packets: lost,
            busy_permille: 0,
            paced_permille: if self.sender.is_waiting() { 900 } else { 0 },
        };
        if packets > 0 {
            self.rtt_ns = observation.rtt_ns;
        }
        self.observed_ns = self.now_ns;
        self.outcome.duplicate_bytes = now.duplicate_bytes;
        self.previous = *now;
        self.controller.observe(&observation);
    }
}
