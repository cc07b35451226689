//! A sending flow's probes, and its receiver's replies.

use super::SenderFlow;
use super::packet_record::PacketRecord;
use crate::wire::{HEADER_BYTES, Header, SegmentKind, TAG_BYTES};

impl SenderFlow {
    /// Encrypts a probe that makes a datagram of `datagram_bytes` (at least
    /// [`OVERHEAD_BYTES`](crate::wire::OVERHEAD_BYTES)) into `out`. `None` if it does not fit
    /// there, or if so many packets are in flight that a record of one of them would be
    /// overwritten.
    pub fn seal_probe(&mut self, token: u32, datagram_bytes: usize, now_us: u32, out: &mut [u8]) -> Option<usize> {
        static PADDING: [u8; u16::MAX as usize] = [0; u16::MAX as usize];
        if self.under_way() >= self.records.len() as u64 && self.is_record_in_use(self.next_packet) {
            return None;
        }
        let epoch = self.next_packet >> crate::wire::EPOCH_BITS;
        let key = self.keys.key(epoch)?;
        let header = Header {
            kind: SegmentKind::Probe,
            stride: 0,
            flow_id: self.flow_id,
            packet_number: self.next_packet,
            chunk: token,
            chunk_bytes: 0,
            index: 0,
            sent_us: now_us,
        };
        let datagram = out.get_mut(..datagram_bytes)?;
        let (clear, sealed) = datagram.split_first_chunk_mut::<HEADER_BYTES>()?;
        let payload = PADDING.get(..sealed.len().checked_sub(TAG_BYTES)?)?;
        header.write(clear);
        key.seal(header.packet_number, clear, payload, sealed);
        *self.record_mut(self.next_packet)? = PacketRecord::NONE;
        self.next_packet = self.next_packet.wrapping_add(1);
        self.keys.advance_to(epoch);
        Some(datagram_bytes)
    }

    /// Opens a datagram from the receiver ([`SegmentKind::ProbeReply`] or
    /// [`SegmentKind::Opening`]); true if it is authentic and newer than those before, so that a
    /// replayed one cannot lead the flow elsewhere.
    #[must_use]
    pub fn open_reply(&mut self, datagram: &[u8], header: &Header) -> bool {
        let Some((clear, sealed)) = datagram.split_first_chunk::<HEADER_BYTES>() else { return false };
        let Some(key) = self.reply_keys.key(header.epoch()) else { return false };
        let is_new = matches!(header.kind, SegmentKind::ProbeReply | SegmentKind::Opening)
            && header.packet_number >= self.next_reply
            && sealed.len() == TAG_BYTES
            && key.open(header.packet_number, clear, sealed, &mut []).is_ok();
        if is_new {
            self.next_reply = header.packet_number.saturating_add(1);
        }
        is_new
    }
}
