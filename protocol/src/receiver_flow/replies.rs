//! What a receiving flow sends itself: answers to probes, and openings.

use super::ReceiverFlow;
use crate::wire::{HEADER_BYTES, Header, OVERHEAD_BYTES, SegmentKind};

impl ReceiverFlow {
    /// Seals the answer to a probe of `datagram_bytes` into `out`; returns its length, or 0 if the
    /// flow has no key left for this direction.
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
    /// side; returns its length, or 0 as [`ReceiverFlow::seal_probe_reply`] does.
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
        // The two keys of this direction last for 2^23 datagrams. No honest sender probes so much;
        // one that does gets no more answers.
        let Some(key) = self.reply_keys.key(header.epoch()) else { return 0 };
        let out = out.get_mut(..OVERHEAD_BYTES).unwrap_or_default();
        let Some((clear, sealed)) = out.split_first_chunk_mut::<HEADER_BYTES>() else { return 0 };
        //= W-6
        //# A packet number is never used twice under a direction's secret
        self.next_reply = self.next_reply.saturating_add(1);
        header.write(clear);
        key.seal(header.packet_number, clear, &[], sealed);
        OVERHEAD_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::{Direction, KeySchedule, Secret};
    use crate::receiver_flow::ReceiverConfig;
    use crate::seal::Cipher;
    use crate::wire::EPOCH_BITS;

    #[test]
    fn nothing_is_sealed_or_written_when_the_keys_of_the_direction_are_used_up() {
        let schedule = |direction| KeySchedule::new(Cipher::Aes256Gcm, &Secret::new(&[1; 32]), 7, direction);
        let config =
            ReceiverConfig { flow_id: 7, chunk_count: 1, chunk_bytes_max: 1_024, allowance: 1, assemblies_max: 1 };
        let (mut forward, mut reverse) = (schedule(Direction::Forward), schedule(Direction::Reverse));
        let mut flow = ReceiverFlow::new(&config, &mut forward, &mut reverse, 0);
        flow.next_reply = (2 << EPOCH_BITS) - 1;
        let mut out = [0; OVERHEAD_BYTES];
        assert_eq!(flow.seal_opening(0, &mut out), OVERHEAD_BYTES, "the last packet number of the second key");
        let probe = Header::parse(&out).unwrap();
        let mut out = [0; OVERHEAD_BYTES];
        assert_eq!((flow.seal_opening(0, &mut out), flow.seal_probe_reply(&probe, 48, &mut out)), (0, 0));
        assert_eq!(out, [0; OVERHEAD_BYTES]);
    }
}
