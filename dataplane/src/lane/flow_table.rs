//! All of a lane but its datapath, so that the datapath can hand it datagrams while it is borrowed
//! itself.

use std::net::SocketAddr;
use std::sync::Arc;

use culvert_link::commands::{Event, ReceiveSlot, SendSlot};
use culvert_link::counters::LaneCounter;
use culvert_link::invariant;
use culvert_protocol::wire::{Header, SegmentKind};

use super::handoff::{FromLane, Handoff};
use super::jobs::Role;
use super::receiving::ReceiveFlow;
use super::resources::Resources;
use super::sending::SendFlow;
use super::slots::Slots;
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

/// The flows of a lane, and what they share.
#[derive(Debug)]
pub(super) struct FlowTable {
    pub(super) resources: Resources,
    pub(super) handoff: Arc<Handoff>,
    pub(super) sends: Slots<SendFlow>,
    pub(super) receives: Slots<ReceiveFlow>,
    /// Nanoseconds in turns that moved something, since the lane began.
    pub(super) busy_ns: u64,
}

impl FlowTable {
    pub(super) fn new(resources: Resources, handoff: Arc<Handoff>) -> Self {
        Self { resources, handoff, sends: Slots::new(), receives: Slots::new(), busy_ns: 0 }
    }

    pub(super) const fn has_flows(&self) -> bool {
        !(self.sends.is_empty() && self.receives.is_empty())
    }

    pub(super) fn with_send(&mut self, slot: SendSlot, act: impl FnOnce(&mut SendFlow, &mut Resources)) {
        if let Some(flow) = self.sends.get_mut(slot.0) {
            act(flow, &mut self.resources);
        }
    }

    pub(super) fn with_receive(&mut self, slot: ReceiveSlot, act: impl FnOnce(&mut ReceiveFlow, &mut Resources)) {
        if let Some(flow) = self.receives.get_mut(slot.0) {
            act(flow, &mut self.resources);
        }
    }

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
                //= W-9
                //# Datagrams of unknown flows are counted and dropped.
                let flow = self.receives.get_mut(slot.0).filter(|flow| flow.protocol.flow_id() == header.flow_id);
                let Some(flow) = flow else {
                    self.resources.link.counters.add(LaneCounter::RejectedUnknownFlow, 1);
                    return;
                };
                let is_probe = flow.segment(datagram, &header, by, &mut self.resources);
                if is_probe && replies.len() < PROBE_REPLIES_PER_TURN {
                    replies.push(Reply { to: by.from, slot, probe: header, datagram_bytes: datagram.len() });
                }
            }
            SegmentKind::ProbeReply | SegmentKind::Opening => self.reply_from_receiver(datagram, &header, by),
        }
    }

    /// Routes a datagram of the reverse direction. The partner chose the flow id, so several flows
    /// may have the same one; the key shows which is meant.
    fn reply_from_receiver(&mut self, datagram: &[u8], header: &Header, by: Arrival) {
        let mut is_known = false;
        for flow in self.sends.iter_mut() {
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

    /// Gives back flows that were closed and hold nothing any more.
    pub(super) fn close_what_is_done(&mut self) {
        let mut at = 0;
        while let Some(flow) = self.sends.at_mut(at) {
            let slot = flow.slot;
            if flow.is_done() {
                self.close_send(slot);
            } else {
                at += 1;
            }
        }
        let mut at = 0;
        while let Some(flow) = self.receives.at_mut(at) {
            let slot = flow.slot;
            if flow.is_closing() && !self.resources.has_buffers(Role::Receive(slot)) {
                self.close_receive(slot);
            } else {
                at += 1;
            }
        }
    }

    fn close_send(&mut self, slot: SendSlot) {
        let Some(flow) = self.sends.remove(slot.0) else { return };
        // Invariant I-lane-closed-send: a sending flow is closed only when no buffer is in use for
        // it.
        invariant!(!self.resources.has_buffers(Role::Send(slot)), "a closed sending flow has no buffers");
        self.resources.shares.leave(flow.account());
        // Before the event: the control process may use the slot again when it has read that.
        self.handoff.depart(FromLane::Send(flow));
        self.resources.link.emit(&Event::SendClosed { flow: slot });
    }

    fn close_receive(&mut self, slot: ReceiveSlot) {
        let Some(flow) = self.receives.remove(slot.0) else { return };
        // Invariant I-lane-closed-receive: a receiving flow is closed only when it holds no buffer.
        invariant!(flow.protocol.held() == 0, "a closed receiving flow holds no buffers");
        self.resources.shares.leave(flow.account());
        self.handoff.depart(FromLane::Receive(flow));
        self.resources.link.emit(&Event::ReceiveClosed { flow: slot });
    }

    /// Checks between turns that the lane's books agree. The buffers are counted only while no flow
    /// is open, because that looks at all of them.
    pub(super) fn check(&self) {
        self.sends.check();
        self.receives.check();
        if cfg!(debug_assertions) || !self.has_flows() {
            self.resources.check_buffers(self.has_flows());
        }
    }
}
