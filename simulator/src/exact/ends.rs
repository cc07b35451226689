//! Both ends of a transfer and the path between them: their state, and datagrams in flight.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use culvert_protocol::chunk_memory::{BufferId, ChunkMemory};
use culvert_protocol::feedback::Summary;
use culvert_protocol::heap_buffers::HeapBuffers;
use culvert_protocol::keys::{Direction, KeySchedule, Secret};
use culvert_protocol::pacer::Pacer;
use culvert_protocol::rate_control::{ControllerConfig, RateController, controller};
use culvert_protocol::receiver_flow::{ReceiverConfig, ReceiverFlow};
use culvert_protocol::seal::Cipher;
use culvert_protocol::sender_flow::{SenderConfig, SenderFlow};
use culvert_protocol::tree_hash::ChunkHasher;

use super::addresses::Addresses;
use crate::feedback::FeedbackChannel;
use crate::flow::FlowOptions;
use crate::link::Path;
use crate::random::Random;

/// Bytes of every chunk.
pub(super) const CHUNK_BYTES: u32 = 1 << 20;
/// The only flow.
pub(super) const FLOW: u32 = 7;
/// Headers around a datagram.
pub(super) const IP_UDP_BYTES: usize = 28;

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
    /// Segments that the receiver already had.
    pub duplicate_bytes: u64,
}

/// Both ends of a transfer, and the path between them.
pub(super) struct Transfer {
    pub(super) path: Path,
    pub(super) random: Random,
    pub(super) now_ns: u64,
    pub(super) chunks: u32,
    pub(super) next_chunk: u32,
    pub(super) sender: SenderFlow,
    pub(super) sender_memory: HeapBuffers,
    pub(super) receiver: ReceiverFlow,
    pub(super) receiver_memory: HeapBuffers,
    pub(super) pacer: Pacer,
    pub(super) controller: Box<dyn RateController>,
    pub(super) feedback: FeedbackChannel<Vec<u8>>,
    /// Datagrams on their way, and where to.
    pub(super) wire: BTreeMap<(u64, u64), (SocketAddr, Vec<u8>)>,
    pub(super) sequence: u64,
    pub(super) link_free_ns: u64,
    pub(super) reported_ns: u64,
    pub(super) previous: Summary,
    pub(super) observed_ns: u64,
    pub(super) rtt_ns: u64,
    pub(super) whole: u32,
    pub(super) delivered: u32,
    pub(super) packet: Vec<u8>,
    pub(super) restarts: Option<Restarts>,
    pub(super) addresses: Addresses,
    pub(super) outcome: ExactOutcome,
}

/// A path whose MTU keeps changing, and a sender that sends other bytes after each change: chunks
/// that start over start with the new bytes.
#[derive(Debug)]
pub(super) struct Restarts {
    pub(super) strides: Vec<u16>,
    pub(super) next_ns: u64,
    pub(super) version: u8,
    /// What a lane would have hashed of the chunks that are incomplete.
    pub(super) hashed: HashMap<u32, (ChunkHasher, usize)>,
    pub(super) begun_anew: u64,
}

impl Restarts {
    pub(super) fn begin(&mut self, chunk: u32) {
        self.hashed.insert(chunk, (hasher(), 0));
    }

    pub(super) fn hash_until(&mut self, chunk: u32, buffer: BufferId, until: usize, memory: &HeapBuffers) {
        let (hasher, hashed) = self.hashed.entry(chunk).or_insert_with(|| (hasher(), 0));
        if *hashed < until {
            hasher.update(memory.bytes(buffer, *hashed..until));
            *hashed = until;
        }
    }
}

/// A hasher of a chunk.
pub(super) fn hasher() -> ChunkHasher {
    ChunkHasher::new(CHUNK_BYTES.into(), 0, CHUNK_BYTES)
}

impl Transfer {
    pub(super) fn new(path: Path, options: &FlowOptions, chunks: u32, seed: u64) -> Self {
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

    /// Sends what lies in `packet` over the bottleneck.
    pub(super) fn launch(&mut self, to: SocketAddr, datagram_bytes: usize) {
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
}
