//! One flow, segment by segment: the real sender and receiver flows, sealing, pacer, reports and
//! controller on a virtual network.
//!
//! What the batch simulator takes for granted is real here: packet numbers, lost ranges, decided
//! packets, the repetition of segments, the size of reports, the end of a transfer.

pub mod addresses;
pub(crate) mod moving;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use culvert_protocol::chunk_memory::{BufferId, ChunkMemory};
use culvert_protocol::feedback::{REPORT_BYTES_MAX, Report, Summary};
use culvert_protocol::heap_buffers::HeapBuffers;
use culvert_protocol::keys::{Direction, KeySchedule, Secret};
use culvert_protocol::pacer::Pacer;
use culvert_protocol::rate_control::{ControllerConfig, Observation, RateController, controller};
use culvert_protocol::receiver_flow::{Beginning, LaneCondition, Received, ReceiverConfig, ReceiverFlow};
use culvert_protocol::seal::Cipher;
use culvert_protocol::sender_flow::{SenderConfig, SenderFlow};
use culvert_protocol::tree_hash::ChunkHasher;
use culvert_protocol::wire::{Header, OVERHEAD_BYTES};

use crate::feedback::FeedbackChannel;
use crate::flow::FlowOptions;
use crate::link::Path;
use crate::random::Random;
use addresses::Addresses;

const CHUNK_BYTES: u32 = 1 << 20;
const FLOW: u32 = 7;
const IP_UDP_BYTES: usize = 28;
/// Bytes of IP, TCP and TLS around a report.
const REPORT_OVERHEAD_BYTES: usize = 20 + 20 + 12 + 22;

/// The result of a transfer.
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
    /// Datagrams on their way, and where to.
    wire: BTreeMap<(u64, u64), (SocketAddr, Vec<u8>)>,
    sequence: u64,
    link_free_ns: u64,
    reported_ns: u64,
    previous: Summary,
    observed_ns: u64,
    rtt_ns: u64,
    whole: u32,
    delivered: u32,
    packet: Vec<u8>,
    restarts: Option<Restarts>,
    addresses: Addresses,
    outcome: ExactOutcome,
}

/// A path whose MTU changes all the time, and a sender that sends other bytes after each change:
/// chunks that start over start with the new bytes.
#[derive(Debug)]
struct Restarts {
    strides: Vec<u16>,
    next_ns: u64,
    version: u8,
    /// What a lane would have hashed of the chunks that are incomplete.
    hashed: HashMap<u32, (ChunkHasher, usize)>,
    begun_anew: u64,
}

/// Time between two changes of the MTU, in round trips.
const CHANGE_ROUNDS: u64 = 2;

impl Restarts {
    fn begin(&mut self, chunk: u32) {
        self.hashed.insert(chunk, (hasher(), 0));
    }

    fn hash_until(&mut self, chunk: u32, buffer: BufferId, until: usize, memory: &HeapBuffers) {
        let (hasher, hashed) = self.hashed.entry(chunk).or_insert_with(|| (hasher(), 0));
        if *hashed < until {
            hasher.update(memory.bytes(buffer, *hashed..until));
            *hashed = until;
        }
    }
}

fn hasher() -> ChunkHasher {
    ChunkHasher::new(CHUNK_BYTES.into(), 0, CHUNK_BYTES)
}

/// Moves chunks like [`transfer`], while the segment size changes to one of `strides` repeatedly.
/// Returns how often a chunk started over.
///
/// # Panics
/// If it does not end, or if the hash that a lane computes while a chunk arrives is not that of the
/// bytes in its buffer.
#[must_use]
pub fn transfer_over_changing_mtu(
    path: Path,
    options: &FlowOptions,
    chunks: u32,
    seed: u64,
    strides: &[u16],
) -> (ExactOutcome, u64) {
    let mut transfer = Transfer::new(path, options, chunks, seed);
    let (strides, hashed) = (strides.to_vec(), HashMap::new());
    transfer.restarts = Some(Restarts { strides, next_ns: 0, version: 0, hashed, begun_anew: 0 });
    let outcome = transfer.run(seed);
    (outcome, transfer.restarts.map_or(0, |restarts| restarts.begun_anew))
}

/// Moves `chunks` chunks of a mebibyte over `path`.
///
/// # Panics
/// If it does not end within ten virtual minutes.
#[must_use]
pub fn transfer(path: Path, options: &FlowOptions, chunks: u32, seed: u64) -> ExactOutcome {
    Transfer::new(path, options, chunks, seed).run(seed)
}

impl Transfer {
    fn run(&mut self, seed: u64) -> ExactOutcome {
        while self.delivered < self.chunks {
            self.advance();
            assert!(self.now_ns < 600_000_000_000, "seed {seed}: no end in sight");
        }
        self.outcome.known_ns = self.now_ns;
        self.outcome
    }

    fn new(path: Path, options: &FlowOptions, chunks: u32, seed: u64) -> Self {
        let schedule = |direction| KeySchedule::new(Cipher::Aes128Gcm, &Secret::new(&[1; 32]), FLOW, direction);
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
            restarts: None,
            addresses: Addresses::fixed(seed),
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

    /// Advances time a little, and does what is due.
    fn advance(&mut self) {
        self.now_ns += (self.path.rtt_ns / 400).clamp(10_000, 100_000);
        while self.next_chunk < self.chunks && self.sender.room() > 0 {
            let Some(buffer) = self.sender_memory.take() else { break };
            self.sender.add_chunk(self.next_chunk, CHUNK_BYTES, buffer);
            self.sender.set_available(self.next_chunk, CHUNK_BYTES);
            self.next_chunk += 1;
        }
        self.change_mtu();
        self.look_after_addresses();
        if self.addresses.is_open() {
            self.send();
        }
        self.receive();
        self.report();
        self.read_reports();
        if self.addresses.is_open() {
            self.sender.on_silence(self.now_ns, self.patience_ns());
        }
    }

    /// Changes the segments' size, and the bytes of all chunks that the sender has.
    fn change_mtu(&mut self) {
        let Some(restarts) = self.restarts.as_mut().filter(|restarts| self.now_ns >= restarts.next_ns) else { return };
        restarts.next_ns = self.now_ns + CHANGE_ROUNDS * self.path.rtt_ns;
        let stride = restarts.strides[self.random.below(restarts.strides.len() as u64) as usize];
        self.sender.set_stride(stride).expect("the sizes are permitted");
        restarts.version = restarts.version.wrapping_add(1);
        for buffer in 0..self.sender_memory.count() as u32 {
            self.sender_memory.bytes_mut(BufferId(buffer), 0..CHUNK_BYTES as usize).fill(restarts.version);
        }
    }

    fn send(&mut self) {
        self.pacer.set_rate(self.controller.rate_bits_per_second(), self.now_ns);
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
            self.launch(self.addresses.destination.address(), sealed.datagram_bytes);
        }
    }

    /// Sends what lies in `packet` over the bottleneck.
    fn launch(&mut self, to: SocketAddr, datagram_bytes: usize) {
        let path = self.path;
        let packet_bytes = datagram_bytes + IP_UDP_BYTES;
        self.addresses.ledger.note_sent(to, &self.packet[..datagram_bytes]);
        let waiting_ns = self.link_free_ns.saturating_sub(self.now_ns) as f64;
        if waiting_ns * path.rate_bits_per_second / 8e9 > path.buffer_bytes {
            return;
        }
        let time_ns = (packet_bytes as f64 * 8e9 / path.rate_bits_per_second) as u64;
        self.link_free_ns = self.link_free_ns.max(self.now_ns) + time_ns;
        let copies = if self.random.chance(path.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            if path.is_dark || self.random.chance(path.loss) {
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
            self.wire.insert((self.link_free_ns + path.rtt_ns / 2 + late_ns, self.sequence), (to, datagram));
        }
    }

    fn receive(&mut self) {
        let now_us = (self.now_ns / 1_000) as u32;
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now_ns) {
            let (to, datagram) = entry.remove();
            let Ok(header) = Header::parse_datagram(&datagram) else { continue };
            if header.flow_id != FLOW || to != self.addresses.receiver {
                continue;
            }
            let received = self.receiver.receive(&datagram, &header, &mut self.receiver_memory, now_us);
            self.hash(&received);
            if !matches!(received, Received::Rejected(_)) {
                self.addresses.openings.on_heard(self.now_ns);
            }
            if let Received::Probe(probe) = received {
                self.answer(&probe, datagram.len());
            }
            if let Received::Completed(done) = received {
                self.receiver_memory.give_back(done.buffer);
                self.receiver.release();
                self.whole += 1;
                if self.whole == self.chunks {
                    self.outcome.whole_ns = self.now_ns;
                }
            }
        }
    }

    /// Hashes as a lane does: what is there without a gap, while it arrives.
    fn hash(&mut self, received: &Received) {
        let Some(restarts) = self.restarts.as_mut() else { return };
        match *received {
            Received::Began { chunk, .. } => restarts.begin(chunk),
            Received::BeganAnew { chunk, .. } => {
                restarts.begun_anew += 1;
                restarts.begin(chunk);
            }
            Received::Placed { chunk: Some(chunk) } => {
                if let Some((buffer, bytes)) = self.receiver.contiguous(chunk) {
                    restarts.hash_until(chunk, buffer, bytes, &self.receiver_memory);
                }
            }
            Received::Completed(done) => {
                if done.beginning != Beginning::Earlier {
                    restarts.begin(done.chunk);
                }
                let bytes = done.chunk_bytes as usize;
                restarts.hash_until(done.chunk, done.buffer, bytes, &self.receiver_memory);
                let mut stored = hasher();
                stored.update(self.receiver_memory.bytes(done.buffer, 0..bytes));
                let hashed = restarts.hashed.remove(&done.chunk).map(|(hasher, _)| hasher.finish());
                assert_eq!(hashed, Some(stored.finish()), "chunk {}: another hash than that of its bytes", done.chunk);
            }
            Received::Placed { chunk: None } | Received::Probe(_) | Received::Rejected(_) => {}
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
