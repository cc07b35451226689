//! Both ends of a flow, driven by whoever wrote the bytes: authentic segments of any shape and
//! order, reports that lie, and what a control process may do meanwhile. The bytes are a script;
//! each step consumes a letter and its arguments.
//!
//! The receiver's bytes are hashed as a lane hashes them, the part without a gap as it arrives: at
//! the end the hash must be that of the buffer's contents. Every buffer is given back once.

use std::collections::HashMap;

use culvert_protocol::chunk_memory::{BufferId, ChunkMemory as _};
use culvert_protocol::feedback::{REPORT_BYTES_MAX, Report, Summary, write_report};
use culvert_protocol::heap_buffers::HeapBuffers;
use culvert_protocol::keys::{Direction, KeySchedule, Secret};
use culvert_protocol::rate_control::{ControllerConfig, Observation, controller};
use culvert_protocol::receiver_flow::{ChunkStart, LaneCondition, Received, ReceiverConfig, ReceiverFlow};
use culvert_protocol::seal::{Cipher, PacketKey};
use culvert_protocol::sender_flow::{SenderConfig, SenderFlow};
use culvert_protocol::wire::{HEADER_BYTES, Header, OVERHEAD_BYTES, SegmentKind};

use crate::script::Script;

const FLOW: u32 = 7;
const CHUNK_BYTES: u32 = 8 << 10;
const CHUNKS: u32 = 6;
const BUFFERS: u32 = 4;
const STRIDES: [u16; 4] = [512, 600, 1_424, 9_000];

struct Ends {
    sender: SenderFlow,
    here: HeapBuffers,
    receiver: ReceiverFlow,
    there: HeapBuffers,
    key: PacketKey,
    /// What a lane has hashed of each incomplete chunk.
    hashed: HashMap<u32, (blake3::Hasher, usize)>,
    whole: u32,
    next_packet: u64,
    next_chunk: u32,
}

impl Ends {
    fn new() -> Self {
        let schedule = |direction| KeySchedule::new(Cipher::Aes128Gcm, &Secret::new(&[3; 32]), FLOW, direction);
        let sender = SenderConfig { flow_id: FLOW, stride: 1_424, chunk_bytes_max: CHUNK_BYTES, chunks_max: BUFFERS };
        let receiver = ReceiverConfig {
            flow_id: FLOW,
            chunk_count: CHUNKS,
            chunk_bytes_max: CHUNK_BYTES,
            allowance: BUFFERS,
            assemblies_max: BUFFERS,
        };
        let (forward, reverse) = (|| schedule(Direction::Forward), || schedule(Direction::Reverse));
        Self {
            sender: SenderFlow::new(&sender, &mut forward(), &mut reverse(), 0),
            here: HeapBuffers::new(BUFFERS, CHUNK_BYTES),
            receiver: ReceiverFlow::new(&receiver, &mut forward(), &mut reverse(), 0),
            there: HeapBuffers::new(BUFFERS, CHUNK_BYTES),
            key: forward().next_key().1,
            hashed: HashMap::new(),
            whole: 0,
            next_packet: 0,
            next_chunk: 0,
        }
    }

    /// A segment that the partner has sealed, with whatever contents it likes.
    fn segment(&mut self, script: &mut Script<'_>) {
        let [shape, index, fill, ahead] = [(); 4].map(|()| script.byte());
        self.next_packet = self.next_packet.wrapping_add(u64::from(ahead >> 5));
        let header = Header {
            kind: SegmentKind::Data,
            stride: STRIDES[usize::from(shape >> 3) % STRIDES.len()],
            flow_id: FLOW,
            packet_number: self.next_packet,
            chunk: u32::from(shape & 7),
            // Mostly the right size, because a segment of another size is refused.
            chunk_bytes: if ahead & 31 == 31 { u32::from(fill) * 64 } else { CHUNK_BYTES - 100 * u32::from(shape & 7) },
            index: index.into(),
            sent_us: fill.into(),
        };
        self.next_packet = self.next_packet.wrapping_add(1);
        self.seal(&header, &vec![fill; header.payload_bytes()]);
    }

    fn seal(&mut self, header: &Header, payload: &[u8]) {
        let mut datagram = vec![0; OVERHEAD_BYTES + payload.len()];
        let (clear, sealed) = datagram.split_first_chunk_mut::<HEADER_BYTES>().expect("a header fits");
        header.write(clear);
        self.key.seal(header.packet_number, clear, payload, sealed);
        self.receive(&datagram);
    }

    fn receive(&mut self, datagram: &[u8]) {
        let Ok(header) = Header::parse_datagram(datagram) else { return };
        if header.flow_id != FLOW {
            return;
        }
        match self.receiver.receive(datagram, &header, &mut self.there, 5) {
            Received::Began { chunk, .. } | Received::BeganAnew { chunk, .. } => {
                self.hashed.insert(chunk, (blake3::Hasher::new(), 0));
            }
            Received::Placed { chunk: Some(chunk) } => {
                if let Some((buffer, bytes)) = self.receiver.contiguous(chunk) {
                    self.hash_until(chunk, buffer, bytes);
                }
            }
            Received::Completed(done) => {
                if done.beginning != ChunkStart::Earlier {
                    self.hashed.insert(done.chunk, (blake3::Hasher::new(), 0));
                }
                self.hash_until(done.chunk, done.buffer, done.chunk_bytes as usize);
                let (hasher, _) = self.hashed.remove(&done.chunk).expect("it began");
                let stored = blake3::hash(self.there.bytes(done.buffer, 0..done.chunk_bytes as usize));
                assert_eq!(hasher.finalize(), stored, "chunk {}: the hash is not that of its bytes", done.chunk);
                self.there.give_back(done.buffer);
                self.receiver.release();
                self.whole += 1;
            }
            Received::Placed { chunk: None } | Received::Probe(_) | Received::Rejected(_) => {}
        }
    }

    fn hash_until(&mut self, chunk: u32, buffer: BufferId, until: usize) {
        let (hasher, hashed) = self.hashed.get_mut(&chunk).expect("it began");
        if *hashed < until {
            hasher.update(self.there.bytes(buffer, *hashed..until));
            *hashed = until;
        }
    }

    fn report(&mut self, bytes: &[u8]) {
        let Ok(report) = Report::parse(bytes) else { return };
        let here = &mut self.here;
        self.sender.on_report(&report, 9, |_, buffer| here.give_back(buffer));
    }

    /// Sends what the sender would send now, and loses part of it.
    fn send(&mut self, script: &mut Script<'_>) {
        let lost = script.byte();
        let mut packet = vec![0; 10_000];
        for number in 0..usize::from(lost & 7) {
            let Some(sealed) = self.sender.seal_next(&self.here, usize::MAX, 1, &mut packet) else { break };
            self.sender.note_sent(1);
            if lost >> 3 & (1 << (number % 5)) == 0 {
                let datagram = packet[..sealed.datagram_bytes].to_vec();
                self.receive(&datagram);
            }
        }
    }

    fn add_chunk(&mut self) {
        if self.sender.room() > 0
            && let Some(buffer) = self.here.take()
        {
            self.sender.add_chunk(self.next_chunk, CHUNK_BYTES, buffer);
            self.sender.set_available(self.next_chunk, CHUNK_BYTES);
            self.next_chunk = (self.next_chunk + 1) % CHUNKS;
        }
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.byte() {
            b's' => self.segment(script),
            b'd' => {
                let bytes = usize::from(script.byte());
                let datagram = script.take(bytes).to_vec();
                self.receive(&datagram);
            }
            b'r' => {
                let bytes = usize::from(script.byte()) * 4;
                self.report(script.take(bytes));
            }
            b'R' => {
                let mut out = [0; REPORT_BYTES_MAX];
                let bytes = self.receiver.write_report(&LaneCondition::default(), 7, &mut out);
                self.report(&out[..bytes]);
            }
            b'n' => self.send(script),
            b'c' => self.add_chunk(),
            b'a' => {
                let chunk = u32::from(script.byte());
                if let Some(buffer) = self.receiver.abandon_chunk(chunk) {
                    self.there.give_back(buffer);
                }
            }
            b'o' => self.receiver.reopen(script.byte().into()),
            b'w' => {
                if let Some(buffer) = self.sender.withdraw(script.byte().into()) {
                    self.here.give_back(buffer);
                }
            }
            b'm' => {
                let stride = u16::from_le_bytes([script.byte(), script.byte()]);
                assert_eq!(self.sender.set_stride(stride).is_ok(), stride >= 512);
            }
            b'p' => {
                let mut packet = [0; 2_000];
                let bytes = usize::from(script.byte()) * 8;
                if let Some(bytes) = self.sender.seal_probe(1, bytes, 2, &mut packet) {
                    let datagram = packet[..bytes].to_vec();
                    self.receive(&datagram);
                }
            }
            b't' => {
                self.sender.on_silence(script.number(), script.number());
            }
            b'v' => steer(script),
            _ => {}
        }
    }
}

pub(super) fn check(bytes: &[u8]) {
    let (mut ends, mut script) = (Ends::new(), Script(bytes));
    // Each step takes at least one byte; the shortest ones cost the most.
    for _ in 0..2_000 {
        if script.0.is_empty() {
            break;
        }
        ends.step(&mut script);
    }
    let Ends { mut sender, mut here, mut receiver, mut there, .. } = ends;
    sender.abandon(|_, buffer| here.give_back(buffer));
    receiver.abandon(|buffer| there.give_back(buffer));
    assert_eq!((here.free_count(), there.free_count()), (here.count(), there.count()), "a buffer is lost");
    assert_eq!(receiver.held(), 0);
}

pub(super) fn samples() -> Vec<Vec<u8>> {
    let segments = |shape: u8, fill: u8, count: u8| (0..count).flat_map(move |index| [b's', shape, index, fill, 0]);
    // A chunk as it should be; one that begins anew with other bytes when half of it has arrived;
    // one that arrives twice.
    let whole = segments(0x10, 1, 6).collect();
    let anew = segments(0x00, 1, 9).chain(segments(0x10, 2, 6)).collect();
    let twice = segments(0x08, 1, 7).chain(segments(0x08, 9, 14)).collect();
    let transfer = b"cccR".iter().copied().chain((0..60).flat_map(|at| [b'n', 7 | at << 3, b'R', b't'])).collect();
    let narrower = [b"ccR".as_slice(), b"n\x03", &[b'm', 0, 2], b"n\x07n\x07Rn\x07n\x07n\x07n\x07R"].concat();
    let lie = Summary { flow_id: FLOW, next_packet: 1 << 40, credit: u64::MAX, ..Summary::default() };
    let mut out = [0; REPORT_BYTES_MAX];
    let lost = [culvert_protocol::arrivals::PacketRange { first: 0, count: 1 << 40 }];
    let (length, ..) = write_report(&mut out, &lie, &lost, 0..6);
    let mut report = b"ccn\x07pAn\x07r".to_vec();
    // The corpus counts the report's length in words of four bytes: what is left over is cut off.
    report.push((length / 4) as u8);
    report.extend(&out[..length / 4 * 4]);
    let numbers = (0..400u32).flat_map(|at| (at.wrapping_mul(0x9E37_79B9) >> 24).to_le_bytes());
    let steer = std::iter::once(b'v').chain(numbers).collect();
    let control = b"s\x10\x00\x01\x00a\x00o\x00s\x10\x00\x01\x00w\x01p\xff".to_vec();
    vec![whole, anew, twice, transfer, narrower, report, steer, control]
}

/// Feeds a rate controller numbers that nobody measured.
fn steer(script: &mut Script<'_>) {
    let mut control = controller(&ControllerConfig {
        rtt_ns: script.number(),
        stride: u16::from_le_bytes([script.byte(), script.byte()]),
        start_bits_per_second: Some(script.number()),
        ..ControllerConfig::default()
    });
    let mut now_ns = 1;
    for _ in 0..script.byte() % 40 {
        now_ns += u64::from(script.byte()) * 10_000_000;
        control.observe(&Observation {
            now_ns,
            rtt_ns: script.number(),
            delay_min_us: script.number() as u32,
            interval_us: script.number() as u32,
            delivered_bytes: script.number(),
            delivered_packets: script.number(),
            lost_packets: script.number(),
            busy_permille: script.number() as u32,
            paced_permille: script.number() as u32,
        });
        assert!(control.rate_bits_per_second() > 0);
    }
}
