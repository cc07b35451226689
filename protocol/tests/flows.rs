//! A sending and a receiving flow with a bad network between them, on virtual time.
//!
//! Every case is made from a seed that a failing run prints;
//! `CULVERT_SEED=n cargo test -p culvert-protocol --test flows` repeats it alone.

use std::collections::{BTreeMap, HashMap};

use culvert_protocol::chunk_memory::ChunkMemory;
use culvert_protocol::feedback::{REPORT_BYTES_MAX, Report};
use culvert_protocol::heap_buffers::HeapBuffers;
use culvert_protocol::keys::{Direction, KeySchedule, Secret};
use culvert_protocol::receiver_flow::{LaneCondition, Received, ReceiverConfig, ReceiverFlow, Rejected};
use culvert_protocol::seal::Cipher;
use culvert_protocol::sender_flow::{SenderConfig, SenderFlow};
use culvert_protocol::wire::{Header, SegmentKind};

#[path = "shared/random.rs"]
mod random;

use random::Random;

const CHUNK_BYTES: u32 = 64 << 10;
const FLOW: u32 = 77;

/// What the network does to datagrams.
#[derive(Clone, Copy, Debug, Default)]
struct Harm {
    loss: f64,
    duplication: f64,
    reordering: f64,
    corruption: f64,
}

fn schedules() -> (KeySchedule, KeySchedule) {
    let schedule = |direction| KeySchedule::new(Cipher::Aes256Gcm, &Secret::new(&[5; 32]), FLOW, direction);
    (schedule(Direction::Forward), schedule(Direction::Reverse))
}

fn sender(stride: u16, chunks_max: u32) -> SenderFlow {
    let (mut forward, mut reverse) = schedules();
    let config = SenderConfig { flow_id: FLOW, stride, chunk_bytes_max: CHUNK_BYTES, chunks_max };
    SenderFlow::new(&config, &mut forward, &mut reverse, 0)
}

fn receiver(chunk_count: u32, allowance: u32) -> ReceiverFlow {
    let (mut forward, mut reverse) = schedules();
    let config = ReceiverConfig {
        flow_id: FLOW,
        chunk_count,
        chunk_bytes_max: CHUNK_BYTES,
        allowance,
        assemblies_max: allowance,
    };
    ReceiverFlow::new(&config, &mut forward, &mut reverse, 0)
}

/// One transfer of `chunk_count` chunks over one flow.
struct World {
    random: Random,
    harm: Harm,
    now_us: u64,
    sender: SenderFlow,
    sender_memory: HeapBuffers,
    receiver: ReceiverFlow,
    receiver_memory: HeapBuffers,
    /// Datagrams on their way, by arrival time and a number that keeps keys apart.
    wire: BTreeMap<(u64, u64), Vec<u8>>,
    reports: BTreeMap<u64, Vec<u8>>,
    sent: u64,
    plain: HashMap<u32, Vec<u8>>,
    arrived: HashMap<u32, Vec<u8>>,
    delivered: Vec<u32>,
    rejected: HashMap<String, u32>,
}

const DELAY_US: u64 = 5_000;
const INTERVAL_US: u64 = 2_000;

impl World {
    fn new(seed: u64, harm: Harm, chunk_count: u32, buffers: u32) -> Self {
        Self {
            random: Random::new(seed),
            harm,
            now_us: 0,
            sender: sender(1424, buffers),
            sender_memory: HeapBuffers::new(buffers, CHUNK_BYTES),
            receiver: receiver(chunk_count, buffers),
            receiver_memory: HeapBuffers::new(buffers, CHUNK_BYTES),
            wire: BTreeMap::new(),
            reports: BTreeMap::new(),
            sent: 0,
            plain: HashMap::new(),
            arrived: HashMap::new(),
            delivered: Vec::new(),
            rejected: HashMap::new(),
        }
    }

    /// Puts a datagram on the wire, with harm.
    fn launch(&mut self, datagram: &[u8]) {
        let copies = if self.random.chance(self.harm.duplication) { 2 } else { 1 };
        for _ in 0..copies {
            if self.random.chance(self.harm.loss) {
                continue;
            }
            let mut datagram = datagram.to_vec();
            if self.random.chance(self.harm.corruption) {
                let at = self.random.below(datagram.len() as u64) as usize;
                datagram[at] ^= 1 << self.random.below(8);
            }
            let late = if self.random.chance(self.harm.reordering) { self.random.below(4_000) } else { 0 };
            self.sent += 1;
            self.wire.insert((self.now_us + DELAY_US + late, self.sent), datagram);
        }
    }

    fn send_burst(&mut self, limit: usize) {
        let mut packet = vec![0; 9000];
        for _ in 0..limit {
            let now_us = self.now_us as u32;
            let Some(sealed) = self.sender.seal_next(&self.sender_memory, usize::MAX, now_us, &mut packet) else {
                break;
            };
            let datagram = packet[..sealed.datagram_bytes].to_vec();
            self.sender.note_sent(self.now_us * 1_000);
            self.launch(&datagram);
        }
    }

    fn receive_due(&mut self) {
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now_us) {
            let datagram = entry.remove();
            let Ok(header) = Header::parse_datagram(&datagram) else { continue };
            if header.flow_id != FLOW {
                continue;
            }
            match self.receiver.receive(&datagram, &header, &mut self.receiver_memory, self.now_us as u32) {
                Received::Completed(done) => {
                    let bytes = self.receiver_memory.bytes(done.buffer, 0..done.chunk_bytes as usize).to_vec();
                    assert!(self.arrived.insert(done.chunk, bytes).is_none(), "chunk {} completed twice", done.chunk);
                    self.receiver_memory.give_back(done.buffer);
                    self.receiver.release();
                }
                Received::Rejected(reason) => *self.rejected.entry(format!("{reason:?}")).or_default() += 1,
                Received::Began { .. } | Received::BeganAnew { .. } | Received::Placed { .. } | Received::Probe(_) => {}
            }
        }
    }

    fn report(&mut self) {
        let mut out = [0; REPORT_BYTES_MAX];
        let len = self.receiver.write_report(&LaneCondition::default(), self.now_us as u32, &mut out);
        self.reports.insert(self.now_us + DELAY_US, out[..len].to_vec());
    }

    fn read_reports(&mut self) {
        while let Some(entry) = self.reports.first_entry().filter(|entry| *entry.key() <= self.now_us) {
            let bytes = entry.remove();
            let report = Report::parse(&bytes).expect("the receiver writes reports that parse");
            let (memory, delivered) = (&mut self.sender_memory, &mut self.delivered);
            self.sender.on_report(&report, self.now_us * 1_000, |chunk, buffer| {
                delivered.push(chunk);
                memory.give_back(buffer);
            });
        }
    }

    fn add_chunk(&mut self, chunk: u32) -> bool {
        if self.sender.room() == 0 {
            return false;
        }
        let Some(buffer) = self.sender_memory.take() else { return false };
        let bytes = 1 + self.random.below(u64::from(CHUNK_BYTES)) as u32;
        let fill = self.random.next();
        let content: Vec<u8> = (0..bytes).map(|at| (u64::from(at) ^ fill).wrapping_mul(31) as u8).collect();
        self.sender_memory.bytes_mut(buffer, 0..bytes as usize).copy_from_slice(&content);
        self.sender.add_chunk(chunk, bytes, buffer);
        assert!(self.sender.set_available(chunk, bytes));
        self.plain.insert(chunk, content);
        true
    }

    /// Runs until all chunks are delivered; returns the virtual time that it took.
    fn run(&mut self, chunk_count: u32) -> u64 {
        let mut next_chunk = 0;
        while self.delivered.len() < chunk_count as usize {
            assert!(self.now_us < 120_000_000, "no end in sight: {} of {chunk_count} delivered", self.delivered.len());
            while next_chunk < chunk_count && self.add_chunk(next_chunk) {
                next_chunk += 1;
            }
            self.send_burst(40);
            self.receive_due();
            if self.now_us.is_multiple_of(INTERVAL_US) && self.receiver.has_news() {
                self.report();
            }
            self.read_reports();
            self.sender.on_silence(self.now_us * 1_000, 30_000_000);
            self.now_us += 500;
        }
        self.now_us
    }

    fn check(&self, chunk_count: u32) {
        assert_eq!(self.arrived.len(), chunk_count as usize);
        for (chunk, content) in &self.plain {
            assert_eq!(&self.arrived[chunk], content, "chunk {chunk} differs");
        }
        assert_eq!(self.sender_memory.free_count(), self.sender_memory.count(), "the sender leaks buffers");
        assert_eq!(self.receiver_memory.free_count(), self.receiver_memory.count(), "the receiver leaks buffers");
        assert!(!self.sender.has_chunks());
        assert_eq!(self.receiver.held(), 0);
    }
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("CULVERT_SEED") {
        Ok(seed) => vec![seed.parse().expect("CULVERT_SEED is a number")],
        Err(_) => (1..=count).collect(),
    }
}

fn transfer(seed: u64, harm: Harm, chunk_count: u32, buffers: u32) -> World {
    eprintln!("seed {seed}: {harm:?}, {chunk_count} chunks, {buffers} buffers");
    let mut world = World::new(seed, harm, chunk_count, buffers);
    world.run(chunk_count);
    world.check(chunk_count);
    world
}

#[test]
fn a_clean_path_sends_each_segment_once() {
    let world = transfer(1, Harm::default(), 50, 8);
    let (sent, again, _) = world.sender.counts();
    assert!(sent > 0);
    assert_eq!(again, 0, "segments went twice although nothing was lost");
    assert!(world.rejected.is_empty(), "{:?}", world.rejected);
}

#[test]
fn every_chunk_arrives_through_any_harm() {
    for seed in seeds(40) {
        let mut random = Random::new(seed ^ 0xABCD);
        let mut part = |most: f64| if random.chance(0.5) { most * random.below(1000) as f64 / 1000.0 } else { 0.0 };
        let harm = Harm { loss: part(0.3), duplication: part(0.2), reordering: part(0.3), corruption: part(0.1) };
        let (chunks, buffers) = (1 + random.below(60) as u32, 1 + random.below(12) as u32);
        transfer(seed, harm, chunks, buffers);
    }
}

#[test]
fn at_one_percent_loss_little_more_than_what_was_lost_goes_again() {
    let world = transfer(3, Harm { loss: 0.01, ..Harm::default() }, 200, 16);
    let (sent, again, _) = world.sender.counts();
    let part = again as f64 / sent as f64;
    assert!((0.003..0.03).contains(&part), "{again} of {sent} segments went again");
}

#[test]
fn corruption_is_rejected_and_never_placed() {
    let world = transfer(9, Harm { corruption: 0.2, ..Harm::default() }, 30, 8);
    assert!(world.rejected.get("NotAuthentic").is_some_and(|&count| count > 0), "{:?}", world.rejected);
}

#[test]
fn the_segment_size_may_change_at_any_time() {
    //= W-11
    //# A chunk that starts over starts completely over: segments that arrived before do not count,
    //# and their bytes are not part of any hash.
    for seed in seeds(20) {
        let harm = Harm { loss: 0.02, reordering: 0.1, ..Harm::default() };
        let mut world = World::new(seed, harm, 20, 6);
        let mut next_chunk = 0;
        let strides = [1424, 512, 8932, 1200];
        while world.delivered.len() < 20 {
            assert!(world.now_us < 60_000_000, "seed {seed}: no end in sight");
            while next_chunk < 20 && world.add_chunk(next_chunk) {
                next_chunk += 1;
            }
            if world.now_us < 300_000 && world.random.chance(0.02) {
                let stride = strides[world.random.below(4) as usize];
                world.sender.set_stride(stride).unwrap();
            }
            world.send_burst(10);
            world.receive_due();
            if world.now_us.is_multiple_of(INTERVAL_US) && world.receiver.has_news() {
                world.report();
            }
            world.read_reports();
            world.sender.on_silence(world.now_us * 1_000, 30_000_000);
            world.now_us += 500;
        }
        world.check(20);
    }
}

#[test]
fn a_replayed_datagram_is_stale_and_a_forged_one_destroys_nothing() {
    //= W-8
    //# A number that was already accepted, or that lies below the window, is never accepted again.
    //= W-9
    //# Before the tag is verified, the header is used only to find the flow; nothing else in it is
    //# trusted.
    //= W-10
    //# If the place is taken, the segment is decrypted elsewhere or not at all. Verified bytes are
    //# never overwritten.
    let mut world = World::new(1, Harm::default(), 1, 2);
    world.add_chunk(0);
    world.report();
    world.now_us += DELAY_US;
    world.read_reports();
    let mut packet = vec![0; 9000];
    let sealed = world.sender.seal_next(&world.sender_memory, usize::MAX, 0, &mut packet).unwrap();
    let datagram = packet[..sealed.datagram_bytes].to_vec();
    let header = Header::parse_datagram(&datagram).unwrap();
    let mut receive = |datagram: &[u8], header: &Header| {
        let received = world.receiver.receive(datagram, header, &mut world.receiver_memory, 0);
        (received, world.receiver_memory.free_count())
    };

    let mut forged = datagram.clone();
    forged[40] ^= 1;
    assert_eq!(receive(&forged, &header), (Received::Rejected(Rejected::NotAuthentic), 2), "the buffer went back");
    assert_eq!(receive(&datagram, &header).1, 1);
    assert_eq!(receive(&datagram, &header).0, Received::Rejected(Rejected::Stale));

    // The same segment under a packet number that was never used: forged, aimed at bytes that are
    // there.
    let mut aimed = datagram.clone();
    aimed[8..16].copy_from_slice(&500u64.to_be_bytes());
    let aimed_header = Header::parse_datagram(&aimed).unwrap();
    assert_eq!(receive(&aimed, &aimed_header).0, Received::Rejected(Rejected::NotAuthentic));
    let payload = header.payload_bytes();
    let buffer = world.receiver.contiguous(0).unwrap().0;
    assert_eq!(world.receiver_memory.bytes(buffer, 0..payload), &world.plain[&0][..payload]);
}

#[test]
fn chunks_beyond_credit_are_refused() {
    //= W-25
    //# Credit is the total number of chunks that the sender may have started on this flow.
    let mut receiver = receiver(10, 2);
    let mut receiver_memory = HeapBuffers::new(10, CHUNK_BYTES);
    let mut sender = sender(1424, 10);
    let mut sender_memory = HeapBuffers::new(10, CHUNK_BYTES);
    // A report that grants far more than the receiver did.
    let generous = culvert_protocol::feedback::Summary { flow_id: FLOW, credit: 100, ..Default::default() };
    let mut bytes = [0; 512];
    let (len, ..) = culvert_protocol::feedback::write_report(&mut bytes, &generous, &[], std::iter::empty::<u32>());
    sender.on_report(&Report::parse(&bytes[..len]).unwrap(), 0, |_, _| {});
    let mut outcomes = Vec::new();
    for chunk in 0..4 {
        let buffer = sender_memory.take().unwrap();
        // Two segments each, so that no chunk completes with its first.
        sender.add_chunk(chunk, 2_000, buffer);
        sender.set_available(chunk, 1_424);
        let mut packet = vec![0; 2_000];
        let Some(sealed) = sender.seal_next(&sender_memory, usize::MAX, 0, &mut packet) else { break };
        let header = Header::parse_datagram(&packet[..sealed.datagram_bytes]).unwrap();
        outcomes.push(receiver.receive(&packet[..sealed.datagram_bytes], &header, &mut receiver_memory, 0));
        sender.set_available(chunk, 2_000);
        // The chunk's second segment is lost: it stays incomplete and keeps its buffer.
        sender.seal_next(&sender_memory, usize::MAX, 0, &mut packet).unwrap();
    }
    assert!(matches!(outcomes[..2], [Received::Began { chunk: 0, .. }, Received::Began { chunk: 1, .. }]));
    assert_eq!(outcomes[2], Received::Rejected(Rejected::OverCredit));
    assert_eq!(receiver_memory.free_count(), 8);
    receiver.abandon(|buffer| receiver_memory.give_back(buffer));
    assert_eq!(receiver_memory.free_count(), 10);
}

#[test]
fn a_report_that_loses_everything_forever_makes_each_packet_go_again_once() {
    let mut world = World::new(4, Harm { loss: 1.0, ..Harm::default() }, 1, 2);
    world.sender = sender(1424, 2);
    world.add_chunk(0);
    world.report();
    world.now_us += DELAY_US;
    world.read_reports();
    world.send_burst(1_000);
    let (first, ..) = world.sender.counts();
    assert!(first > 0);
    let all = culvert_protocol::arrivals::PacketRange { first: 0, count: first };
    let lie =
        culvert_protocol::feedback::Summary { flow_id: FLOW, credit: 10, next_packet: first, ..Default::default() };
    let mut bytes = [0; 512];
    let (len, ..) = culvert_protocol::feedback::write_report(&mut bytes, &lie, &[all], std::iter::empty::<u32>());
    for _ in 0..10 {
        world.sender.on_report(&Report::parse(&bytes[..len]).unwrap(), 0, |_, _| {});
        world.send_burst(1_000);
    }
    // At the end of a transfer a repetition is of two.
    assert_eq!(world.sender.counts().0, 3 * first, "the same lie told ten times costs one repetition");
}

/// Whatever a report contains, over a flow's life no more packets are looked up than were sent.
#[test]
fn reports_that_lie_cost_no_more_than_what_was_sent() {
    //= W-24
    //# a sender ignores losses below the end of those already reported.
    for seed in seeds(20) {
        let mut random = Random::new(seed);
        let mut sender = sender(1424, 64);
        let memory = HeapBuffers::new(1, CHUNK_BYTES);
        let mut probe = [0; 64];
        let mut packet = vec![0; 9000];
        let (mut sent, mut looked_up) = (0u64, 0);
        for _ in 0..400 {
            for _ in 0..random.below(60) {
                sent += u64::from(sender.seal_probe(0, 48, 0, &mut probe).is_some());
            }
            // Everything is lost, again and again; or any part of it.
            let first = if random.chance(0.5) { 0 } else { random.below(sent + 1) };
            let lost = [culvert_protocol::arrivals::PacketRange { first, count: 1 + random.below(1 << 40) }];
            let next_packet = lost[0].end();
            let decided_below = if random.chance(0.05) { random.below(next_packet) } else { 0 };
            let lie = culvert_protocol::feedback::Summary {
                flow_id: FLOW,
                next_packet,
                decided_below,
                credit: random.next(),
                ..Default::default()
            };
            let mut bytes = [0; REPORT_BYTES_MAX];
            let chunks: Vec<u32> = (0..random.below(2_000)).map(|_| random.next() as u32 % 100).collect();
            let (len, ..) = culvert_protocol::feedback::write_report(&mut bytes, &lie, &lost, chunks.into_iter());
            looked_up +=
                sender.on_report(&Report::parse(&bytes[..len]).unwrap(), 0, |_, _| panic!("no chunk is whole"));
            sender.seal_next(&memory, usize::MAX, 0, &mut packet);
            assert!(looked_up <= sent, "seed {seed}: {looked_up} packets were looked up, {sent} were sent");
        }
        assert!(sent > 1_000 && looked_up > sent / 2, "seed {seed}: {looked_up} of {sent}");
    }
}

#[test]
fn a_probe_is_answered_with_what_arrived_and_a_reply_is_no_probe() {
    //= W-3
    //# Data and probes travel from the data's sender to its receiver; probe replies and openings
    //# travel the other way. A probe is padded to the size it tests. Its reply repeats the probe's
    //# token (chunk), its timestamp (sent) and the number of bytes that arrived (segment index).
    let (mut sender, mut receiver) = (sender(1424, 2), receiver(1, 2));
    let mut memory = HeapBuffers::new(2, CHUNK_BYTES);
    let (mut probe, mut reply) = ([0; 1_472], [0; 48]);
    assert_eq!(sender.seal_probe(7, 1_472, 99, &mut probe), Some(1_472));
    let header = Header::parse_datagram(&probe).unwrap();
    let Received::Probe(seen) = receiver.receive(&probe, &header, &mut memory, 100) else { panic!("not a probe") };
    assert_eq!(receiver.seal_probe_reply(&seen, probe.len(), &mut reply), 48);
    let answer = Header::parse_datagram(&reply).unwrap();
    assert_eq!((answer.kind, answer.chunk, answer.sent_us, answer.index), (SegmentKind::ProbeReply, 7, 99, 1_472));
    assert!(sender.open_reply(&reply, &answer));
    let header = Header { packet_number: header.packet_number + 1, ..answer };
    assert_eq!(receiver.receive(&reply, &header, &mut memory, 101), Received::Rejected(Rejected::Direction));
    let header = Header::parse_datagram(&probe).unwrap();
    assert!(!sender.open_reply(&probe, &header), "a probe is no reply");
}

#[test]
fn a_path_too_narrow_for_segments_is_an_error_and_changes_nothing() {
    let mut sender = sender(1424, 2);
    for stride in [0, 1, 52, 511] {
        let error = sender.set_stride(stride).unwrap_err();
        assert!(error.to_string().contains(&format!("{stride} bytes, but the minimum is 512")), "{error}");
        assert_eq!(sender.stride(), 1424);
    }
    sender.set_stride(512).unwrap();
    assert_eq!(sender.stride(), 512);
}
