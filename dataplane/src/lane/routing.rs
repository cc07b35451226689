//! Which flow a datagram that has arrived is for.

use std::net::SocketAddr;

use culvert_link::commands::ReceiveSlot;
use culvert_link::counters::LaneCounter;
use culvert_protocol::wire::{Header, SegmentKind};

use super::flow_table::FlowTable;
use crate::datapath::Arrival;

/// Probes answered in one turn; the rest are dropped, and probed again.
pub(super) const PROBE_REPLIES_PER_TURN: usize = 16;

/// A probe to be answered once the datapath is free.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    pub(super) to: SocketAddr,
    pub(super) slot: ReceiveSlot,
    pub(super) probe: Header,
    pub(super) datagram_bytes: usize,
}

impl FlowTable {
    /// Routes a datagram to its flow.
    #[inline]
    pub(super) fn datagram(&mut self, datagram: &[u8], by: Arrival, replies: &mut Vec<Reply>) {
        let Ok(header) = Header::parse_datagram(datagram) else {
            self.resources.link.counters.add(LaneCounter::RejectedMalformed, 1);
            return;
        };
        match header.kind {
            SegmentKind::Data | SegmentKind::Probe => {
                let slot = ReceiveSlot((header.flow_id & 0xff) as u16);
                let known = self.receives[usize::from(slot.0)]
                    .as_ref()
                    .is_some_and(|flow| flow.protocol.flow_id() == header.flow_id);
                if !known {
                    self.resources.link.counters.add(LaneCounter::RejectedUnknownFlow, 1);
                    return;
                }
                let reply = self.segment(slot, datagram, &header, by);
                if reply && replies.len() < PROBE_REPLIES_PER_TURN {
                    replies.push(Reply { to: by.from, slot, probe: header, datagram_bytes: datagram.len() });
                }
            }
            SegmentKind::ProbeReply | SegmentKind::Opening => self.reply_from_receiver(datagram, &header, by),
        }
    }

    /// A datagram of the reverse direction. The partner chose the id, so several flows may have the
    /// same one; the key shows which is meant.
    pub(super) fn reply_from_receiver(&mut self, datagram: &[u8], header: &Header, by: Arrival) {
        let mut is_known = false;
        for &slot in &self.active_sends {
            let Some(flow) = self.sends[usize::from(slot.0)].as_mut() else { continue };
            if flow.protocol.flow_id() == header.flow_id {
                is_known = true;
                if flow.reply(datagram, header, by, &mut self.resources.link) {
                    return;
                }
            }
        }
        let reason = if is_known { LaneCounter::RejectedNotAuthentic } else { LaneCounter::RejectedUnknownFlow };
        self.resources.link.counters.add(reason, 1);
    }
}
