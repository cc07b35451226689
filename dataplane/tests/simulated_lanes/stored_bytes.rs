//! What a lane says a chunk's hash is, against what is in the file: the hash is signed, so both
//! must be of the same bytes however the sender behaves.
//!
//! A partner with malice sends over two flows: segments in any order, twice, with other bytes, at
//! another stride from the middle of a chunk on. A small model of the control process answers as
//! `control/transfer/src/receiving/chunks.rs` does: it places each chunk once at a time,
//! sometimes late, gives chunks and whole files up, and asks for chunks again.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::os::unix::fs::FileExt as _;

use culvert_dataplane::datapath::Datapath as _;
use culvert_dataplane::datapath::sim::SimDatapath;
use culvert_link::commands::{DiskError, FileRange, FileSlot};
use culvert_protocol::seal::PacketKey;
use culvert_protocol::tree_hash::ChunkHasher;
use culvert_protocol::wire::{OVERHEAD_BYTES, segment_count};

use super::*;

const FLOWS: [u32; 2] = [0xABCD_0007, 0xABCD_0008];
const FILE_BYTES: u64 = 3 * CHUNK_BYTES as u64 + 70_001;
const CHUNKS: u32 = 4;
const STRIDES: [u16; 6] = [512, 1_000, 1_424, 4_096, 8_924, 60_000];
const BUFFERS: usize = 6;
const VERSIONS: u64 = 3;

/// What the partner is doing to a chunk on a flow.
#[derive(Clone, Copy, Debug)]
struct Sending {
    stride: u16,
    next: u32,
    version: u64,
}

/// A chunk whose destination is not known yet, and the command that will set it.
type Unplaced = (u32, u32);

struct Partner {
    datapath: SimDatapath,
    keys: [PacketKey; 2],
    packets: [u64; 2],
    sending: HashMap<(usize, u32), Sending>,
    /// What it says each chunk has, chunk by chunk and version by version.
    contents: Vec<Vec<Vec<u8>>>,
}

struct Receiver {
    side: Side,
    network: Rc<SimNetwork>,
    files: Arc<FileTable>,
    file: File,
    slot: FileSlot,
    came_by: HashMap<u32, usize>,
    verified: HashMap<u32, ChunkHash>,
    unplaced: Vec<Unplaced>,
    written: u32,
}

const fn chunk_len(chunk: u32) -> u32 {
    if chunk + 1 == CHUNKS { (FILE_BYTES % CHUNK_BYTES as u64) as u32 } else { CHUNK_BYTES }
}

/// One of the contents that the partner says a chunk has.
fn content(chunk: u32, version: u64) -> Vec<u8> {
    let mut random = SimRandom::new(u64::from(chunk) << 32 | version);
    let words = chunk_len(chunk).div_ceil(8);
    let mut bytes: Vec<u8> = (0..words).flat_map(|_| random.next_u64().to_le_bytes()).collect();
    bytes.truncate(chunk_len(chunk) as usize);
    bytes
}

fn hash_of(chunk: u32, bytes: &[u8]) -> ChunkHash {
    let mut hasher = ChunkHasher::new(FILE_BYTES, u64::from(chunk) * u64::from(CHUNK_BYTES), CHUNK_BYTES);
    hasher.update(bytes);
    hasher.finish()
}

impl Partner {
    fn new(network: &Rc<SimNetwork>) -> Self {
        let key = |flow_id| {
            KeySchedule::new(Cipher::Aes256Gcm, &Secret::new(&[1; 32]), flow_id, Direction::Forward).next_key().1
        };
        Self {
            datapath: network.datapath(partner_address()),
            keys: FLOWS.map(key),
            packets: [0; 2],
            sending: HashMap::new(),
            contents: (0..CHUNKS).map(|chunk| (0..VERSIONS).map(|version| content(chunk, version)).collect()).collect(),
        }
    }

    /// Sends one segment of a chunk with the bytes that this version of it has there.
    fn send(&mut self, flow: usize, chunk: u32, stride: u16, index: u32, version: u64) {
        let header = Header {
            kind: SegmentKind::Data,
            stride,
            flow_id: FLOWS[flow],
            packet_number: self.packets[flow],
            chunk,
            chunk_bytes: chunk_len(chunk),
            index,
            sent_us: 0,
        };
        self.packets[flow] += 1;
        let bytes = &self.contents[chunk as usize][version as usize];
        let payload = &bytes[header.offset()..header.offset() + header.payload_bytes()];
        let key = &self.keys[flow];
        self.datapath.send_run(receiver_address().into(), 1, &mut |room: &mut [u8], _| {
            let room = &mut room[..OVERHEAD_BYTES + payload.len()];
            let (clear, sealed) = room.split_first_chunk_mut::<HEADER_BYTES>().unwrap();
            header.write(clear);
            key.seal(header.packet_number, clear, payload, sealed);
            Some(OVERHEAD_BYTES + payload.len())
        });
    }

    /// Goes on with some chunk in some way.
    fn act(&mut self, random: &mut SimRandom) {
        let flow = random.below(2) as usize;
        let chunk = random.below(CHUNKS.into()) as u32;
        let fresh = |random: &mut SimRandom| Sending {
            stride: STRIDES[random.below(STRIDES.len() as u64) as usize],
            next: 0,
            version: random.below(VERSIONS),
        };
        let mut sending = *self.sending.entry((flow, chunk)).or_insert_with(|| fresh(random));
        match random.below(24) {
            // Anew, at another stride perhaps, with other bytes perhaps.
            0 | 1 => sending = fresh(random),
            2 => sending.version = random.below(VERSIONS),
            // A segment that came before or comes out of turn, with other bytes perhaps.
            3 | 4 => {
                let index = random.below(segment_count(chunk_len(chunk), sending.stride).into()) as u32;
                let version = random.below(VERSIONS);
                self.send(flow, chunk, sending.stride, index, version);
            }
            _ => {}
        }
        let segments = segment_count(chunk_len(chunk), sending.stride);
        // Long runs, so that chunks become whole and their beginnings are hashed on the way.
        let run = 1 + random.below(u64::from(segments)) as u32;
        for _ in 0..run.min(segments - sending.next) {
            self.send(flow, chunk, sending.stride, sending.next, sending.version);
            sending.next += 1;
        }
        if sending.next == segments {
            sending.next = 0;
        }
        self.sending.insert((flow, chunk), sending);
    }
}

fn partner_address() -> SocketAddr {
    "10.0.0.1:1".parse().unwrap()
}

fn receiver_address() -> SocketAddr {
    "10.0.0.2:2".parse().unwrap()
}

/// A file of the transfer's size, and its descriptors for the data plane.
fn new_file(is_direct: bool) -> (File, OwnedFd, Option<OwnedFd>) {
    let file = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    file.set_len(FILE_BYTES).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let direct = || {
        use std::os::unix::fs::OpenOptionsExt as _;
        File::options().read(true).write(true).custom_flags(libc::O_DIRECT).open(path).ok()
    };
    let direct = if is_direct { direct().map(OwnedFd::from) } else { None };
    let buffered = file.try_clone().unwrap().into();
    (file, buffered, direct)
}

impl Receiver {
    fn new(network: &Rc<SimNetwork>, is_direct: bool) -> Self {
        let side = Side::new(network, receiver_address(), BUFFERS);
        for flow_id in FLOWS {
            let schedule = |direction| KeySchedule::new(Cipher::Aes256Gcm, &Secret::new(&[1; 32]), flow_id, direction);
            let config = ReceiverConfig {
                flow_id,
                chunk_count: CHUNKS,
                chunk_bytes_max: CHUNK_BYTES,
                allowance: BUFFERS as u32,
                assemblies_max: BUFFERS as u32,
            };
            let now_us = wire_us(network.now_ns());
            let (mut forward, mut reverse) = (schedule(Direction::Forward), schedule(Direction::Reverse));
            let protocol = ReceiverFlow::new(&config, &mut forward, &mut reverse, now_us);
            let slot = ReceiveSlot((flow_id & 0xff) as u16);
            let flow = ReceiveFlow::new(slot, protocol, partner_address(), 500, true, CHUNK_BYTES);
            assert!(side.handoff.deliver(ToLane::Receive(Box::new(flow))));
        }
        let files = side.files.clone();
        let (file, buffered, direct) = new_file(is_direct);
        assert!(files.install(FileSlot(0), buffered, direct));
        Self {
            side,
            network: network.clone(),
            files,
            file,
            slot: FileSlot(0),
            came_by: HashMap::new(),
            verified: HashMap::new(),
            unplaced: Vec::new(),
            written: 0,
        }
    }

    fn slot_of(flow: usize) -> ReceiveSlot {
        ReceiveSlot((FLOWS[flow] & 0xff) as u16)
    }

    fn hash_on_disk(&self, chunk: u32) -> ChunkHash {
        let mut bytes = vec![0; chunk_len(chunk) as usize];
        self.file.read_exact_at(&mut bytes, u64::from(chunk) * u64::from(CHUNK_BYTES)).unwrap();
        hash_of(chunk, &bytes)
    }

    fn place(&mut self, flow: usize, chunk: u32) {
        let offset = u64::from(chunk) * u64::from(CHUNK_BYTES);
        let sink = Sink::File(FileRange { file: self.slot, offset, file_bytes: FILE_BYTES });
        self.side.command(&Command::Place { flow: Self::slot_of(flow), chunk, sink });
    }

    fn reopen(&mut self, chunk: u32) {
        for flow in 0..2 {
            self.side.command(&Command::Reopen { flow: Self::slot_of(flow), chunk });
        }
    }

    /// The file is given up: its chunks are abandoned, and another takes its place in the table at
    /// once.
    fn give_up_file(&mut self, is_direct: bool) {
        for (chunk, flow) in std::mem::take(&mut self.came_by) {
            self.side.command(&Command::Abandon { flow: Self::slot_of(flow), chunk });
        }
        self.unplaced.clear();
        self.verified.clear();
        self.files.remove(self.slot);
        self.slot = self.slot.next();
        let (file, buffered, direct) = new_file(is_direct);
        assert!(self.files.install(self.slot, buffered, direct));
        self.file = file;
        (0..CHUNKS).for_each(|chunk| self.reopen(chunk));
    }

    fn turn(&mut self, random: &mut SimRandom) {
        self.side.lane.turn();
        for bytes in self.side.take_events() {
            match postcard::from_bytes::<Event<'_>>(&bytes).unwrap() {
                Event::PlacementNeeded { flow, chunk, chunk_bytes } => {
                    assert_eq!(chunk_bytes, chunk_len(chunk));
                    let by = FLOWS.iter().position(|id| id & 0xff == u32::from(flow.0)).unwrap();
                    if self.verified.contains_key(&chunk) || self.came_by.contains_key(&chunk) {
                        self.side.command(&Command::Abandon { flow, chunk });
                        continue;
                    }
                    self.came_by.insert(chunk, by);
                    self.unplaced.push((by as u32, chunk));
                }
                Event::Written { flow, chunk, hash, .. } => {
                    if self.came_by.get(&chunk).map(|&by| Self::slot_of(by)) != Some(flow) {
                        continue;
                    }
                    let hash = hash.expect("the flow hashes");
                    assert_eq!(
                        hash,
                        self.hash_on_disk(chunk),
                        "chunk {chunk}: another hash than that of what is stored"
                    );
                    self.written += 1;
                    self.came_by.remove(&chunk);
                    if random.chance(0.4) {
                        self.verified.insert(chunk, hash);
                    } else {
                        self.reopen(chunk);
                    }
                }
                Event::Report { .. } => {}
                // Its file was given up when it was placed there.
                Event::WriteFailed { error: DiskError::Os(libc::EBADF), .. } if self.slot != FileSlot(0) => {}
                other => panic!("an event that nobody expected: {other:?}"),
            }
        }
        while !self.unplaced.is_empty() && random.chance(0.7) {
            let (flow, chunk) = self.unplaced.swap_remove(random.below(self.unplaced.len() as u64) as usize);
            self.place(flow as usize, chunk);
        }
        self.network.advance(200_000);
    }

    /// Accepted data still exists.
    fn check_verified(&self) {
        for (&chunk, &hash) in &self.verified {
            assert_eq!(self.hash_on_disk(chunk), hash, "chunk {chunk}: what was verified was written over");
        }
    }

    fn close(&mut self) {
        for flow in 0..2 {
            self.side.command(&Command::CloseReceive { flow: Self::slot_of(flow) });
        }
        let mut closed = HashSet::new();
        for _ in 0..1_000_000 {
            self.side.lane.turn();
            self.network.advance(200_000);
            for bytes in self.side.take_events() {
                if let Event::ReceiveClosed { flow } = postcard::from_bytes::<Event<'_>>(&bytes).unwrap() {
                    closed.insert(flow);
                }
            }
            if closed.len() == 2 {
                break;
            }
            std::thread::yield_now();
        }
        assert_eq!(closed.len(), 2, "a flow does not close");
        let (free, all) = self.side.lane.buffer_counts();
        assert_eq!(free, all, "buffers leaked");
        assert!(!self.files.close_retired(), "a file that was removed stays open");
    }
}

fn run(seed: u64) -> u32 {
    let mut random = SimRandom::new(seed);
    let is_harsh = random.chance(0.5);
    let harm = |part| if is_harsh { part } else { 0.0 };
    let path = SimPath {
        delay_ns: 50_000,
        rate_bits_per_second: 100_000_000_000,
        buffer_bytes: 1 << 30,
        datagram_bytes_max: 65_507,
        loss: harm(0.002),
        duplication: harm(0.05),
        reordering: harm(0.05),
        corruption: harm(0.002),
    };
    let network = SimNetwork::new(seed, path);
    let is_direct = random.chance(0.5);
    let (mut partner, mut receiver) = (Partner::new(&network), Receiver::new(&network, is_direct));
    for _ in 0..250 {
        partner.act(&mut random);
        for _ in 0..1 + random.below(6) {
            receiver.turn(&mut random);
        }
        if random.chance(0.01) {
            receiver.give_up_file(is_direct);
        }
        receiver.check_verified();
        // A lane that has verified all has nothing more to be tried with.
        if receiver.verified.len() == CHUNKS as usize {
            receiver.give_up_file(is_direct);
        }
    }
    receiver.close();
    receiver.check_verified();
    receiver.written
}

#[test]
fn the_hash_that_is_reported_is_that_of_what_is_stored() {
    let (mut written, seeds) = (0, seeds(60));
    for &seed in &seeds {
        eprintln!("CULVERT_SEED={seed}");
        written += run(seed);
    }
    eprintln!("{written} chunks were written");
    assert!(seeds.len() == 1 || written > 300, "{written} chunks are too few to mean something");
}

/// The attack of a partner that wants a receipt of other bytes than those stored: a beginning that
/// is hashed while it arrives, then the whole chunk at another stride with other bytes.
#[test]
fn a_chunk_that_begins_anew_with_other_bytes_is_hashed_anew() {
    for (first, second) in [(1_424_u16, 1_000_u16), (1_000, 1_424), (512, 60_000)] {
        let network = SimNetwork::new(1, SimPath { datagram_bytes_max: 65_507, ..SimPath::default() });
        let (mut partner, mut receiver) = (Partner::new(&network), Receiver::new(&network, false));
        let mut random = SimRandom::new(1);
        let hashed_first = 160 * 1024 / u32::from(first);
        for index in 0..hashed_first {
            partner.send(0, 0, first, index, 1);
            receiver.turn(&mut random);
        }
        for _ in 0..20 {
            receiver.turn(&mut random);
        }
        for index in 0..segment_count(CHUNK_BYTES, second) {
            partner.send(0, 0, second, index, 2);
            receiver.turn(&mut random);
        }
        // The disk is a real one, and may have other work.
        let began = std::time::Instant::now();
        while receiver.written == 0 && began.elapsed() < std::time::Duration::from_secs(60) {
            receiver.turn(&mut random);
            std::thread::yield_now();
        }
        assert!(receiver.written > 0, "{first} then {second}: it was never written");
        assert_eq!(receiver.hash_on_disk(0), hash_of(0, &content(0, 2)), "{first} then {second}");
        receiver.close();
    }
}
