//! All of a lane but its datapath, so that the datapath can call back into it.

use std::sync::Arc;

use culvert_link::commands::{Event, ReceiveSlot, SendSlot};

use super::handoff::{FromLane, Handoff};
use super::jobs::Role;
use super::receiving::ReceiveFlow;
use super::resources::Resources;
use super::sending::SendFlow;

/// The flows of a lane, and what they have in common.
#[derive(Debug)]
pub(super) struct FlowTable {
    pub(super) resources: Resources,
    pub(super) handoff: Arc<Handoff>,
    pub(super) sends: Box<[Option<Box<SendFlow>>]>,
    pub(super) receives: Box<[Option<Box<ReceiveFlow>>]>,
    /// Slots in use, so that a turn looks at no empty one.
    pub(super) active_sends: Vec<SendSlot>,
    pub(super) active_receives: Vec<ReceiveSlot>,
    /// Nanoseconds in turns that moved something, since the lane began.
    pub(super) busy_ns: u64,
}

impl FlowTable {
    pub(super) const fn has_flows(&self) -> bool {
        !(self.active_sends.is_empty() && self.active_receives.is_empty())
    }

    pub(super) fn with_send(&mut self, slot: SendSlot, act: impl FnOnce(&mut SendFlow, &mut Resources)) {
        if let Some(flow) = self.sends.get_mut(usize::from(slot.0)).and_then(Option::as_mut) {
            act(flow, &mut self.resources);
        }
    }

    pub(super) fn with_receive(&mut self, slot: ReceiveSlot, act: impl FnOnce(&mut ReceiveFlow)) {
        if let Some(flow) = self.receives.get_mut(usize::from(slot.0)).and_then(Option::as_mut) {
            act(flow);
        }
    }

    /// Lets go of flows that were closed and of which nothing is left.
    pub(super) fn close_what_is_done(&mut self) {
        let (sends, receives) = (&mut self.sends, &mut self.receives);
        let Resources { link, jobs, shares, .. } = &mut self.resources;
        let handoff = &self.handoff;
        self.active_sends.retain(|&slot| {
            let place = &mut sends[usize::from(slot.0)];
            if !place.as_ref().is_some_and(|flow| flow.is_done()) {
                return true;
            }
            debug_assert!(!jobs.iter().any(|job| job.role == Role::Send(slot)), "a closed flow has buffers");
            if let Some(flow) = place.take() {
                shares.leave(flow.account);
                handoff.depart(FromLane::Send(flow));
            }
            link.emit(&Event::SendClosed { flow: slot });
            false
        });
        self.active_receives.retain(|&slot| {
            let place = &mut receives[usize::from(slot.0)];
            let is_closing = place.as_ref().is_some_and(|flow| flow.is_closing());
            if !is_closing || jobs.iter().any(|job| job.role == Role::Receive(slot)) {
                return true;
            }
            if let Some(flow) = place.take() {
                debug_assert_eq!(flow.protocol.held(), 0, "a closed flow holds buffers");
                shares.leave(flow.claim.account);
                handoff.depart(FromLane::Receive(flow));
            }
            link.emit(&Event::ReceiveClosed { flow: slot });
            false
        });
    }
}
