//! Credit: what each flow of a lane gets of the buffers, by the rules of [`shares`](super::shares).

use culvert_link::commands::Event;

use super::flow_table::FlowTable;

/// Credit that was not used for so long is not kept free any more.
const ASLEEP_AFTER_NS: u64 = 1_000_000_000;
/// Flows that hold more than their partner's part are told this often that others wait.
const TELL_INTERVAL_NS: u64 = 1_000_000_000;

impl FlowTable {
    /// Gives every flow as much credit as there are buffers for.
    pub(super) fn share_out(&mut self) {
        self.resources.shares.begin_round();
        for slot in &self.active_sends {
            let Some(flow) = self.sends[usize::from(slot.0)].as_mut() else { continue };
            flow.allowance = self.resources.shares.part_of_flow(flow.account);
            self.resources.shares.note(flow.account, flow.held, 0);
        }
        for slot in &self.active_receives {
            let Some(flow) = self.receives[usize::from(slot.0)].as_mut() else { continue };
            let (held, unused) = (flow.protocol.held(), flow.protocol.unused_credit());
            let claim = &mut flow.claim;
            if std::mem::replace(&mut claim.begun, flow.protocol.begun()) != flow.protocol.begun() {
                claim.awake_until_ns = self.resources.now_ns + ASLEEP_AFTER_NS;
            }
            let promised = if claim.is_awake(self.resources.now_ns) && !flow.is_closing() { unused } else { 0 };
            self.resources.shares.note(flow.claim.account, held, promised);
            flow.protocol.set_allowance(held + unused);
        }
        let mut room = (self.resources.buffers.free_count() as u32).saturating_sub(self.resources.shares.promised);
        let flows = self.active_receives.len();
        self.resources.shares.first =
            if self.resources.shares.first + 1 < flows { self.resources.shares.first + 1 } else { 0 };
        // Those that have nothing come first.
        for is_first_round in [true, false] {
            let first = self.resources.shares.first;
            for at in (first..flows).chain(0..first) {
                self.give_credit(at, is_first_round, &mut room);
            }
        }
        for slot in &self.active_sends {
            let Some(flow) = self.sends[usize::from(slot.0)].as_ref() else { continue };
            self.resources.shares.has_waiting |=
                flow.wants_buffer() && self.resources.shares.is_below_part(flow.account);
        }
    }

    fn give_credit(&mut self, at: usize, is_first_round: bool, room: &mut u32) {
        let slot = self.active_receives[at];
        let Some(flow) = self.receives[usize::from(slot.0)].as_mut() else { return };
        if flow.is_closing() {
            return;
        }
        let (account, has) = (flow.claim.account, flow.protocol.allowance());
        let wanted = if is_first_round {
            u32::from(has == 0)
        } else {
            self.resources.shares.part_of_flow(account).saturating_sub(has)
        };
        let left = self.resources.shares.part().saturating_sub(self.resources.shares.taken(account));
        let given = wanted.min(left).min(*room);
        if given > 0 {
            *room -= given;
            self.resources.shares.note(account, 0, given);
            flow.protocol.set_allowance(has + given);
            flow.claim.awake_until_ns = self.resources.now_ns + ASLEEP_AFTER_NS;
        } else if wanted > 0 && has == 0 && left > 0 {
            self.resources.shares.has_waiting = true;
        }
    }

    /// Notifies the flows of partners that hold more than their share that others are waiting.
    /// Their transfers know whether they make progress with what they hold.
    pub(super) fn tell_who_holds_too_much(&mut self) {
        if !self.resources.shares.has_waiting || self.resources.now_ns < self.resources.shares.next_telling_ns {
            return;
        }
        self.resources.shares.next_telling_ns = self.resources.now_ns + TELL_INTERVAL_NS;
        let part = self.resources.shares.part();
        for &slot in &self.active_sends {
            let Some(flow) = self.sends[usize::from(slot.0)].as_ref() else { continue };
            if flow.held > 0 && self.resources.shares.taken(flow.account) > part {
                self.resources.link.emit(&Event::OthersWaitForSend { flow: slot, held: flow.held });
            }
        }
        for &slot in &self.active_receives {
            let Some(flow) = self.receives[usize::from(slot.0)].as_ref() else { continue };
            if flow.protocol.held() > 0 && self.resources.shares.taken(flow.claim.account) > part {
                let whole = flow.whole();
                let incomplete = flow.protocol.held().saturating_sub(whole);
                self.resources.link.emit(&Event::OthersWaitForReceive { flow: slot, incomplete, whole });
            }
        }
    }
}
