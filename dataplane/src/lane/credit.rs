//! Credit: how many of the lane's buffers each flow gets, by the rules of
//! [`shares`](super::shares).

use culvert_link::commands::Event;
use culvert_link::invariant;

use super::lane_link::LaneLink;
use super::receiving::ReceiveFlow;
use super::sending::SendFlow;
use super::shares::Shares;
use super::slots::Slots;

/// Credit that was not used for so long no longer keeps buffers free.
const ASLEEP_AFTER_NS: u64 = 1_000_000_000;
/// Flows that hold more than their partner's part are told this often that others wait.
const TELL_INTERVAL_NS: u64 = 1_000_000_000;

impl Shares {
    /// Gives every flow as much credit as there are buffers for, `free` of which are free.
    pub(super) fn share_out(
        &mut self,
        sends: &mut Slots<SendFlow>,
        receives: &mut Slots<ReceiveFlow>,
        free: usize,
        now_ns: u64,
    ) {
        self.begin_round();
        for flow in sends.iter_mut() {
            let part = self.part_of_flow(flow.account());
            flow.set_allowance(part);
            self.note(flow.account(), flow.held(), 0);
        }
        for flow in receives.iter_mut() {
            self.renew_promise(flow, now_ns);
        }
        let mut room = (free as u32).saturating_sub(self.promised);
        let flows = receives.len();
        self.first = if self.first + 1 < flows { self.first + 1 } else { 0 };
        // Those that have nothing come first.
        for is_first_round in [true, false] {
            for at in (self.first..flows).chain(0..self.first) {
                if let Some(flow) = receives.at_mut(at).filter(|flow| !flow.is_closing()) {
                    self.give_credit(flow, is_first_round, &mut room, now_ns);
                }
            }
        }
        for flow in sends.iter() {
            self.has_waiting |= flow.wants_buffer() && self.is_below_part(flow.account());
        }
    }

    /// Notes what a flow holds and what is promised to it. It keeps all credit that it was given.
    fn renew_promise(&mut self, flow: &mut ReceiveFlow, now_ns: u64) {
        let (held, unused) = (flow.protocol.held(), flow.protocol.unused_credit());
        // Invariant I-credit-held: a receiving flow never holds more buffers than it was allowed.
        invariant!(held <= flow.protocol.allowance(), "a flow holds no more buffers than it was allowed");
        if std::mem::replace(&mut flow.claim.begun, flow.protocol.begun()) != flow.protocol.begun() {
            flow.claim.awake_until_ns = now_ns + ASLEEP_AFTER_NS;
        }
        let promised = if flow.claim.is_awake(now_ns) && !flow.is_closing() { unused } else { 0 };
        self.note(flow.claim.account, held, promised);
        flow.protocol.set_allowance(held + unused);
    }

    fn give_credit(&mut self, flow: &mut ReceiveFlow, is_first_round: bool, room: &mut u32, now_ns: u64) {
        let (account, has) = (flow.claim.account, flow.protocol.allowance());
        let wanted = if is_first_round { u32::from(has == 0) } else { self.part_of_flow(account).saturating_sub(has) };
        let left = self.part().saturating_sub(self.taken(account));
        //= W-25
        //# It grows only when the receiver has a free buffer, which it reserves for the chunk
        //# started on that credit.
        let given = wanted.min(left).min(*room);
        if given > 0 {
            *room -= given;
            self.note(account, 0, given);
            flow.protocol.set_allowance(has + given);
            flow.claim.awake_until_ns = now_ns + ASLEEP_AFTER_NS;
        } else if wanted > 0 && has == 0 && left > 0 {
            self.has_waiting = true;
        }
    }

    /// Notifies the flows of partners that hold more than their share that others are waiting.
    /// Their transfers know whether they make progress with what they hold.
    pub(super) fn tell_who_holds_too_much(
        &mut self,
        sends: &Slots<SendFlow>,
        receives: &Slots<ReceiveFlow>,
        link: &mut LaneLink,
        now_ns: u64,
    ) {
        if !self.has_waiting || now_ns < self.next_telling_ns {
            return;
        }
        self.next_telling_ns = now_ns + TELL_INTERVAL_NS;
        let part = self.part();
        for flow in sends.iter() {
            if flow.held() > 0 && self.taken(flow.account()) > part {
                link.emit(&Event::OthersWaitForSend { flow: flow.slot, held: flow.held() });
            }
        }
        for flow in receives.iter() {
            let held = flow.protocol.held();
            if held > 0 && self.taken(flow.account()) > part {
                let whole = flow.whole();
                let incomplete = held.saturating_sub(whole);
                link.emit(&Event::OthersWaitForReceive { flow: flow.slot, incomplete, whole });
            }
        }
    }
}
