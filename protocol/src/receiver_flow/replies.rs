//! What a receiving flow sends itself: answers to probes, and openings.

use super::ReceiverFlow;
use crate::wire::{HEADER_BYTES, Header, OVERHEAD_BYTES, SegmentKind};

impl ReceiverFlow {
    /// Seals the answer to a probe of `datagram_bytes` into `out`; returns its length.
    pub fn seal_probe_reply(&mut self, probe: &Header, datagram_bytes: usize, out: &mut [u8]) -> usize {
        //= W-3
        //# Its reply repeats the probe's token (chunk), its timestamp (sent) and the number of
        //# bytes that arrived (segment index).
        let reply = Header {
            kind: SegmentKind::ProbeReply,
            stride: 0,
            flow_id: self.flow_id,
            packet_number: 0,
            chunk: probe.chunk,
            chunk_bytes: 0,
            index: u32::try_from(datagram_bytes).unwrap_or(u32::MAX),
            sent_us: probe.sent_us,
        };
        self.seal_reverse(reply, out)
    }

    /// Seals a datagram that opens the path from the sender through NATs and firewalls on this
    /// side.
    pub fn seal_opening(&mut self, now_us: u32, out: &mut [u8]) -> usize {
        //= W-3
        //# An opening is empty; it opens NATs and stateful firewalls on the receiver's side.
        let opening = Header {
            kind: SegmentKind::Opening,
            stride: 0,
            flow_id: self.flow_id,
            packet_number: 0,
            chunk: 0,
            chunk_bytes: 0,
            index: 0,
            sent_us: now_us,
        };
        self.seal_reverse(opening, out)
    }

    fn seal_reverse(&mut self, mut header: Header, out: &mut [u8]) -> usize {
        header.packet_number = self.next_reply;
        self.next_reply = self.next_reply.saturating_add(1);
        let out = out.get_mut(..OVERHEAD_BYTES).unwrap_or_default();
        let Some((clear, sealed)) = out.split_first_chunk_mut::<HEADER_BYTES>() else { return 0 };
        header.write(clear);
        // The two keys of this direction last for 2^23 datagrams, more than a flow ever sends.
        // Beyond them a datagram stays unsealed, and the sender drops it.
        //= W-6
        //# A packet number is never used twice under a direction's secret
        if let Some(key) = self.reply_keys.key(header.epoch()) {
            key.seal(header.packet_number, clear, &[], sealed);
        }
        OVERHEAD_BYTES
    }
}
