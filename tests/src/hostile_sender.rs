//! A malicious sender: it says whatever it wants on the control connection and seals whatever
//! segments it likes.

pub mod siege;

use std::collections::HashSet;
use std::net::UdpSocket;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

use culvert_protocol::control::{FlowOffer, Message, Options, Request, RequestedAction, TransferId, encode_entry};
use culvert_protocol::feedback::Report;
use culvert_protocol::keys::{Direction, KeySchedule};
use culvert_protocol::manifest::{Entry, Manifest};
use culvert_protocol::seal::Cipher;
use culvert_protocol::tree_hash::{ChunkHash, ChunkHasher};
use culvert_protocol::wire::{EPOCH_BITS, HEADER_BYTES, Header, SegmentKind, TAG_BYTES};

use crate::random::Random;
use crate::stranger::{Stranger, request};

/// The size of a chunk: the minimum, so that a small file has several.
pub const CHUNK_BYTES: u32 = 64 << 10;
/// Payload bytes of a segment.
pub const STRIDE: u16 = 1_024;

/// A transfer that has been accepted and planned.
#[derive(Debug)]
pub struct HostileSender {
    /// The control connection.
    pub stranger: Stranger,
    /// The flows that the receiver opened.
    pub flows: Vec<FlowOffer>,
    socket: UdpSocket,
    receiver_ports: Vec<u16>,
    next_packet: Vec<u64>,
}

/// A push of small chunks over two flows.
#[must_use]
pub fn push_request(destination: &Path, transfer: TransferId) -> Request {
    let Message::Request(ordinary) =
        request(RequestedAction::Push { destination: destination.as_os_str().as_bytes().to_vec() })
    else {
        unreachable!("request() makes a request")
    };
    let options = Options { chunk_bytes: CHUNK_BYTES, flows: 2, ..ordinary.options };
    Request { transfer, options, ..ordinary }
}

/// An ID that nobody else has.
#[must_use]
pub fn new_id() -> TransferId {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_nanos());
    TransferId::new(1, Random::new(now as u64).next_u64().into())
}

impl HostileSender {
    /// Connects with the key of `state`, requests a push of `entries`, and receives the plan.
    ///
    /// # Panics
    /// If the node refuses.
    #[must_use]
    pub fn begin(state: &Path, port: u16, destination: &Path, entries: &[Entry<'_>]) -> Self {
        Self::begin_request(state, port, push_request(destination, new_id()), entries)
    }

    /// As [`HostileSender::begin`], with a request from the test.
    ///
    /// # Panics
    /// If the node refuses.
    #[must_use]
    pub fn begin_request(state: &Path, port: u16, mut asked: Request, entries: &[Entry<'_>]) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket can be bound");
        let mut stranger = Stranger::introduced(state, port);
        asked.lane_ports = vec![socket.local_addr().expect("a socket has an address").port()];
        let is_push = matches!(asked.wish, RequestedAction::Push { .. });
        stranger.say(&Message::Request(asked));
        let receiver_ports = match stranger.hear() {
            Some(Message::Accepted(accepted)) => accepted.lane_ports,
            answer => panic!("the node does not accept: {answer:?}"),
        };
        if is_push {
            say_manifest(&mut stranger, entries);
        }
        // A flow that reports has been taken over by its lane; before that, its segments would
        // belong to nobody. Reports may overtake the plan.
        let (mut flows, mut reporting) = (None, HashSet::new());
        let flows = loop {
            match stranger.hear() {
                Some(Message::PlanEnd { flows: planned, .. }) => flows = Some(planned),
                Some(Message::Feedback(bytes)) => {
                    reporting.extend(Report::parse(&bytes).ok().map(|report| report.summary.flow_id));
                }
                Some(Message::Refused(refusal)) => panic!("the node refuses: {refusal}"),
                Some(_) => {}
                None => panic!("the node closed the connection"),
            }
            let report = |flow: &FlowOffer| reporting.contains(&flow.flow_id);
            if let Some(flows) = flows.take_if(|flows: &mut Vec<FlowOffer>| flows.iter().all(report)) {
                break flows;
            }
        };
        let next_packet = vec![0; flows.len()];
        Self { stranger, flows, socket, receiver_ports, next_packet }
    }

    /// Continues with another packet number on a flow.
    pub fn skip_to(&mut self, flow: usize, packet_number: u64) {
        self.next_packet[flow] = packet_number;
    }

    /// A sealed segment of a chunk, on a flow.
    #[must_use]
    pub fn segment(&mut self, flow: usize, chunk: u32, bytes: &[u8], index: u32) -> Vec<u8> {
        self.segment_of(flow, chunk, bytes, STRIDE, index)
    }

    /// A sealed segment of a chunk that is cut at `stride`, on a flow.
    #[must_use]
    pub fn segment_of(&mut self, flow: usize, chunk: u32, bytes: &[u8], stride: u16, index: u32) -> Vec<u8> {
        let packet_number = self.next_packet[flow];
        self.next_packet[flow] += 1;
        let header = Header {
            kind: SegmentKind::Data,
            stride,
            flow_id: self.flows[flow].flow_id,
            packet_number,
            chunk,
            chunk_bytes: bytes.len() as u32,
            index,
            sent_us: 0,
        };
        let begin = header.offset().min(bytes.len());
        let payload = &bytes[begin..begin + header.payload_bytes()];
        self.seal(&header, payload)
    }

    /// Seals what no honest sender would.
    #[must_use]
    pub fn seal(&self, header: &Header, payload: &[u8]) -> Vec<u8> {
        let secret = self.stranger.secret();
        let mut schedule = KeySchedule::new(Cipher::Aes256Gcm, &secret, header.flow_id, Direction::Forward);
        let key = loop {
            let (epoch, key) = schedule.next_key();
            if epoch == header.packet_number >> EPOCH_BITS {
                break key;
            }
        };
        let mut clear = [0; HEADER_BYTES];
        header.write(&mut clear);
        let mut datagram = clear.to_vec();
        datagram.resize(HEADER_BYTES + payload.len() + TAG_BYTES, 0);
        key.seal(header.packet_number, &clear, payload, &mut datagram[HEADER_BYTES..]);
        datagram
    }

    /// Sends a datagram to the lane of a flow.
    pub fn send(&self, flow: usize, datagram: &[u8]) {
        let port = self.receiver_ports[usize::from(self.flows[flow].receiver_lane)];
        // A full socket drops datagrams; everything is sent several times.
        let _ = self.socket.send_to(datagram, ("127.0.0.1", port));
    }

    /// Sends a whole chunk, a few times.
    pub fn send_chunk(&mut self, flow: usize, chunk: u32, bytes: &[u8]) {
        for _ in 0..3 {
            self.send_chunk_once(flow, chunk, bytes);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a whole chunk once, so that none of it arrives after it is requested again.
    pub fn send_chunk_once(&mut self, flow: usize, chunk: u32, bytes: &[u8]) {
        for index in 0..(bytes.len() as u32).div_ceil(STRIDE.into()) {
            let datagram = self.segment(flow, chunk, bytes, index);
            self.send(flow, &datagram);
        }
    }

    /// Announces the hash of a chunk of a file, and sends the chunk.
    pub fn send_part(&mut self, flow: usize, chunk: u32, file: &[u8], part: usize) {
        self.stranger.say(&Message::ChunkHashes(vec![(chunk, hash_of_part(file, part))]));
        self.send_chunk(flow, chunk, part_of(file, part));
    }

    /// Listens until the node asks for chunks again.
    ///
    /// # Panics
    /// If it says that something is stored, or that the transfer is over.
    pub fn hear_send_again(&mut self) -> Vec<u32> {
        loop {
            match self.stranger.hear() {
                Some(Message::SendAgain(chunks)) => return chunks,
                Some(Message::Stored(stored)) => panic!("the node says that it has stored {stored:?}"),
                Some(Message::Refused(refusal)) => panic!("the node refuses: {refusal}"),
                Some(_) => {}
                None => panic!("the node closed the connection"),
            }
        }
    }

    /// Listens until the node reports that something is stored.
    ///
    /// # Panics
    /// If it says that the transfer is over.
    pub fn hear_stored(&mut self) {
        loop {
            match self.stranger.hear() {
                Some(Message::Stored(_)) => return,
                Some(Message::Refused(refusal)) => panic!("the node refuses: {refusal}"),
                Some(_) => {}
                None => panic!("the node closed the connection"),
            }
        }
    }
}

/// Sends a whole manifest.
///
/// # Panics
/// If an entry is invalid.
pub fn say_manifest(stranger: &mut Stranger, entries: &[Entry<'_>]) {
    let (mut part, mut manifest) = (Vec::new(), Manifest::default());
    for entry in entries {
        encode_entry(entry, &mut part);
        manifest.push(entry).expect("the entry is valid");
    }
    stranger.say(&Message::ManifestPart(part));
    stranger.say(&Message::ManifestEnd {
        entries: entries.len() as u32,
        digest: manifest.digest(),
        allocated_bytes: 0,
        is_single_file: false,
    });
}

/// A chunk of a file.
#[must_use]
pub fn part_of(file: &[u8], part: usize) -> &[u8] {
    let begin = part * CHUNK_BYTES as usize;
    &file[begin..(begin + CHUNK_BYTES as usize).min(file.len())]
}

/// Its hash.
#[must_use]
pub fn hash_of_part(file: &[u8], part: usize) -> ChunkHash {
    let mut hasher = ChunkHasher::new(file.len() as u64, (part * CHUNK_BYTES as usize) as u64, CHUNK_BYTES);
    hasher.update(part_of(file, part));
    hasher.finish()
}
