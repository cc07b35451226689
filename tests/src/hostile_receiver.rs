//! A malicious receiver: it opens the way for a sender's segments, and then reports whatever it
//! wants.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, UdpSocket};
use std::time::Instant;

use culvert_protocol::arrivals::PacketRange;
use culvert_protocol::control::{FlowOffer, Message, Refusal};
use culvert_protocol::feedback::{REPORT_BYTES_MAX, Summary, write_report};
use culvert_protocol::keys::{Direction, KeySchedule};
use culvert_protocol::seal::{Cipher, PacketKey};
use culvert_protocol::wire::{HEADER_BYTES, Header, OVERHEAD_BYTES, SegmentKind};

use crate::node::PATIENCE;
use crate::stranger::Stranger;

const FLOW_ID: u32 = 0x0102_0300;

/// The receiving end of one flow. It does not even decrypt the segments; it counts them.
#[derive(Debug)]
pub struct HostileReceiver {
    stranger: Stranger,
    socket: UdpSocket,
    reply_key: PacketKey,
    next_reply: u64,
    /// What an honest receiver would have seen so far.
    pub seen: Summary,
    /// The segments of each chunk that have arrived since it was last complete.
    segments: HashMap<u32, HashSet<u32>>,
    /// Chunks in the order in which they were completed, once for each time.
    whole: Vec<u32>,
    /// Packets that had not arrived when a later one did.
    lost: Vec<PacketRange>,
}

impl HostileReceiver {
    /// Ends the plan of a transfer whose manifest `stranger` has received, with one flow to
    /// `socket`.
    ///
    /// # Panics
    /// If the socket cannot be used.
    #[must_use]
    pub fn begin(mut stranger: Stranger, socket: UdpSocket) -> Self {
        socket.set_nonblocking(true).expect("the socket can be used");
        let flow = FlowOffer { flow_id: FLOW_ID, receiver_lane: 0, sender_lane: 0 };
        stranger.say(&Message::PlanEnd { flows: vec![flow], stored_bytes: 0 });
        let secret = stranger.secret();
        let (_, reply_key) = KeySchedule::new(Cipher::Aes256Gcm, &secret, FLOW_ID, Direction::Reverse).next_key();
        let seen = Summary { flow_id: FLOW_ID, ..Summary::default() };
        Self {
            stranger,
            socket,
            reply_key,
            next_reply: 0,
            seen,
            segments: HashMap::new(),
            whole: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// Takes in what has arrived, and answers probes as an honest receiver does: otherwise nothing
    /// would follow them.
    pub fn take_in(&mut self) {
        let mut datagram = vec![0; usize::from(u16::MAX)];
        // Not so many at once that no time is left for reports.
        for _ in 0..2_000 {
            let Ok((bytes, from)) = self.socket.recv_from(&mut datagram) else { return };
            let Ok(header) = Header::parse_datagram(&datagram[..bytes]) else { continue };
            let first = self.seen.next_packet;
            if let Some(count @ 1..) = header.packet_number.checked_sub(first) {
                self.lost.push(PacketRange { first, count });
            }
            self.seen.next_packet = first.max(header.packet_number + 1);
            self.seen.echo_us = header.sent_us;
            self.seen.packets += 1;
            match header.kind {
                SegmentKind::Probe => self.answer(&header, bytes, from),
                SegmentKind::Data => self.note_segment(&header),
                SegmentKind::ProbeReply | SegmentKind::Opening => {}
            }
        }
    }

    fn note_segment(&mut self, header: &Header) {
        let segments = self.segments.entry(header.chunk).or_default();
        segments.insert(header.index);
        if segments.len() as u32 == header.chunk_bytes.div_ceil(header.stride.into()) {
            self.segments.remove(&header.chunk);
            self.whole.push(header.chunk);
        }
    }

    /// The chunks that have been completed since the last call.
    pub fn take_whole(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.whole)
    }

    fn answer(&mut self, probe: &Header, datagram_bytes: usize, to: SocketAddr) {
        let header = Header {
            kind: SegmentKind::ProbeReply,
            stride: 0,
            packet_number: self.next_reply,
            chunk_bytes: 0,
            index: datagram_bytes as u32,
            ..*probe
        };
        self.next_reply += 1;
        let mut reply = [0; OVERHEAD_BYTES];
        let (clear, sealed) = reply.split_first_chunk_mut::<HEADER_BYTES>().expect("a header fits");
        header.write(clear);
        self.reply_key.seal(header.packet_number, clear, &[], sealed);
        // The sender probes again if this is lost.
        let _ = self.socket.send_to(&reply, to);
    }

    /// The packets lost since the last call.
    pub fn take_lost(&mut self) -> Vec<PacketRange> {
        std::mem::take(&mut self.lost)
    }

    /// Reports what `lie` makes of what was seen, and returns what the node has sent; an error if
    /// it has closed the connection. Takes a few milliseconds.
    ///
    /// # Errors
    /// The operating system's.
    pub fn report(
        &mut self,
        lie: impl FnOnce(&Summary) -> (Summary, Vec<PacketRange>),
        completed: &[u32],
    ) -> std::io::Result<Vec<Message>> {
        let mut bytes = [0; REPORT_BYTES_MAX];
        let (summary, lost) = lie(&self.seen);
        let (length, ..) = write_report(&mut bytes, &summary, &lost, completed.iter().copied());
        self.seen.sequence += 1;
        let mut frame = Vec::new();
        Message::Feedback(bytes[..length].to_vec()).write_frame(&mut frame);
        Message::Ping(self.seen.sequence).write_frame(&mut frame);
        self.stranger.say_bytes(&frame)?;
        // This waits a little, too.
        Ok(std::iter::from_fn(|| self.stranger.hear_if_there_is()).collect())
    }

    /// Sends another message.
    pub fn say(&mut self, message: &Message) {
        self.stranger.say(message);
    }

    /// Every few milliseconds, reports what `lie` makes of what was seen, until the node refuses;
    /// returns its refusal.
    ///
    /// # Panics
    /// If it never refuses.
    pub fn report_until_refused(mut self, mut lie: impl FnMut(&Summary) -> (Summary, Vec<PacketRange>)) -> Refusal {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < PATIENCE, "the node goes on forever: {:?}", self.seen);
            self.take_in();
            let Ok(heard) = self.report(&mut lie, &[]) else { return self.stranger.hear_refusal() };
            for message in heard {
                if let Message::Refused(refusal) = message {
                    return refusal;
                }
            }
        }
    }
}
