//! The course of a transfer: what both ends do as time passes.

use culvert_protocol::chunk_memory::{BufferId, ChunkMemory};
use culvert_protocol::feedback::{REPORT_BYTES_MAX, Report, Summary};
use culvert_protocol::rate_control::Observation;
use culvert_protocol::receiver_flow::{ChunkStart, LaneCondition, Received};
use culvert_protocol::wire::{Header, OVERHEAD_BYTES};

use super::ends::{CHUNK_BYTES, ExactOutcome, FLOW, IP_UDP_BYTES, Transfer, hasher};

/// Bytes of IP, TCP and TLS around a report.
const REPORT_OVERHEAD_BYTES: usize = 20 + 20 + 12 + 22;
/// Time between two changes of the MTU, in round trips.
const CHANGE_ROUNDS: u64 = 2;

impl Transfer {
    pub(super) fn run(&mut self, seed: u64) -> ExactOutcome {
        while self.delivered < self.chunks {
            self.advance();
            assert!(self.now_ns < 600_000_000_000, "seed {seed}: no end in sight");
        }
        self.outcome.known_ns = self.now_ns;
        self.outcome
    }

    /// Advances time a little, and does what is due.
    pub(super) fn advance(&mut self) {
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

    /// Hashes contiguous data while it arrives, as a lane does.
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
                if done.beginning != ChunkStart::Earlier {
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
