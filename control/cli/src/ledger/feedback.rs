//! The ledger's row for feedback: the cost of the receiver's reports per byte of data.
//!
//! A sending and a receiving flow exchange sealed segments in memory, and one in a hundred is lost.
//! Only the handling of the reports is timed: the receiver writes one, both control processes and
//! the sending lane validate it, the controller computes a rate, and the sending flow queues lost
//! segments.

use std::time::{Duration, Instant};

use culvert_engine::transfer::flows::observe;
use culvert_protocol::feedback::{REPORT_BYTES_MAX, Report, Summary};
use culvert_protocol::heap_buffers::HeapBuffers;
use culvert_protocol::keys::{Direction, KeySchedule, Secret};
use culvert_protocol::rate_control::{ControllerConfig, RateController, controller};
use culvert_protocol::receiver_flow::{ChunkMemory, LaneCondition, Received, ReceiverConfig, ReceiverFlow};
use culvert_protocol::seal::Cipher;
use culvert_protocol::sender_flow::{SenderConfig, SenderFlow};
use culvert_protocol::wire::{Header, OVERHEAD_BYTES};

/// Bytes between two reports: about a quarter of a round trip of 100 ms at 10 Gb/s.
const REPORT_EVERY_BYTES: u32 = 32 << 20;
const CHUNK_BYTES: u32 = 4 << 20;
const CHUNKS_UNDER_WAY: u32 = 2 * REPORT_EVERY_BYTES / CHUNK_BYTES;
const CHUNKS: u32 = 64;
const FLOW_ID: u32 = 1;
/// One packet in so many is lost.
const LOST_ONE_IN: u64 = 100;
const ROUND_TRIP_NS: u64 = 100_000_000;

/// One flow, both ends of it.
struct Flow {
    sender: SenderFlow,
    receiver: ReceiverFlow,
    here: HeapBuffers,
    there: HeapBuffers,
    controller: Box<dyn RateController>,
    previous: Summary,
    now_ns: u64,
    packets: u64,
    delivered: u32,
    spent: Duration,
    report_bytes: usize,
}

/// Seconds that the reports of a transfer cost on both sides, the size of the transfer, and the
/// size of its reports.
pub fn feedback(datagram: usize) -> (f64, usize, usize) {
    let schedule = |direction| KeySchedule::new(Cipher::Aes256Gcm, &Secret::new(&[3; 32]), FLOW_ID, direction);
    let (mut forward, mut reverse) = (schedule(Direction::Forward), schedule(Direction::Reverse));
    let stride = (datagram - OVERHEAD_BYTES) as u16;
    let sender = SenderConfig { flow_id: FLOW_ID, stride, chunk_bytes_max: CHUNK_BYTES, chunks_max: CHUNKS_UNDER_WAY };
    let sender = SenderFlow::new(&sender, &mut forward, &mut reverse, 0);
    let receiver = ReceiverConfig {
        flow_id: FLOW_ID,
        chunk_count: CHUNKS,
        chunk_bytes_max: CHUNK_BYTES,
        allowance: CHUNKS_UNDER_WAY,
        assemblies_max: CHUNKS_UNDER_WAY,
    };
    let (mut forward, mut reverse) = (schedule(Direction::Forward), schedule(Direction::Reverse));
    let receiver = ReceiverFlow::new(&receiver, &mut forward, &mut reverse, 0);
    let mut flow = Flow {
        sender,
        receiver,
        here: HeapBuffers::new(CHUNKS_UNDER_WAY, CHUNK_BYTES),
        there: HeapBuffers::new(CHUNKS_UNDER_WAY, CHUNK_BYTES),
        controller: controller(&ControllerConfig { rtt_ns: ROUND_TRIP_NS, stride, ..ControllerConfig::default() }),
        previous: Summary::default(),
        now_ns: 0,
        packets: 0,
        delivered: 0,
        spent: Duration::ZERO,
        report_bytes: 0,
    };
    flow.report();
    let mut next_chunk = 0;
    while flow.delivered < CHUNKS {
        while next_chunk < CHUNKS
            && let Some(buffer) = flow.here.take()
        {
            flow.sender.add_chunk(next_chunk, CHUNK_BYTES, buffer);
            flow.sender.set_available(next_chunk, CHUNK_BYTES);
            next_chunk += 1;
        }
        flow.move_data(datagram);
        flow.report();
    }
    (flow.spent.as_secs_f64(), CHUNKS as usize * CHUNK_BYTES as usize, flow.report_bytes)
}

impl Flow {
    /// Sends the data between two reports.
    fn move_data(&mut self, datagram: usize) {
        let mut packet = vec![0; datagram];
        let mut moved = 0;
        while moved < REPORT_EVERY_BYTES as usize
            && let Some(sealed) =
                self.sender.seal_next(&self.here, usize::MAX, (self.now_ns / 1_000) as u32, &mut packet)
        {
            moved += sealed.datagram_bytes;
            self.packets += 1;
            // The last segments are not lost: their retransmission would wait for a timer.
            if self.packets.is_multiple_of(LOST_ONE_IN) && self.sender.fresh_count() > 0 {
                continue;
            }
            let datagram = &packet[..sealed.datagram_bytes];
            let header = Header::parse_datagram(datagram).expect("the sender wrote it");
            let now_us = ((self.now_ns + ROUND_TRIP_NS / 2) / 1_000) as u32;
            if let Received::Completed(done) = self.receiver.receive(datagram, &header, &mut self.there, now_us) {
                self.there.give_back(done.buffer);
                self.receiver.release();
            }
        }
        self.sender.note_sent(self.now_ns);
        self.now_ns += ROUND_TRIP_NS / 4;
    }

    fn report(&mut self) {
        let mut bytes = [0; REPORT_BYTES_MAX];
        let began = Instant::now();
        let len = self.receiver.write_report(&LaneCondition::default(), (self.now_ns / 1_000) as u32, &mut bytes);
        // The partner's control process, this one and the lane each validate it.
        let validate = || Report::parse(std::hint::black_box(&bytes[..len])).expect("the receiver wrote it");
        let (_, report) = (validate(), validate());
        let lost = report.lost().map(|range| range.count).sum();
        self.controller.observe(&observe(&report.summary, &self.previous, lost, self.now_ns, 1_000));
        self.previous = report.summary;
        let report = validate();
        let (here, delivered) = (&mut self.here, &mut self.delivered);
        self.sender.on_report(&report, self.now_ns, |_, buffer| {
            here.give_back(buffer);
            *delivered += 1;
        });
        self.spent += began.elapsed();
        self.report_bytes += len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_chunk_is_delivered_and_reports_are_a_thousandth_of_the_data() {
        let (seconds, bytes, report_bytes) = feedback(8_900);
        assert!(seconds > 0.0);
        assert_eq!(bytes, 256 << 20);
        assert!(report_bytes * 1_000 < bytes, "{report_bytes} bytes of reports");
    }
}
