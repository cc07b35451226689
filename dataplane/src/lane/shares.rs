//! Allocation of a lane's buffers: they are shared by partner first, then by flow.
//!
//! Credit cannot be revoked (W-25), and an honest sender whose segments find no buffer takes them
//! for lost. Credit is therefore a promise: the buffers for it are kept free, and no more is
//! promised than exists. A partner gets its share of the buffers and no more, however many flows it
//! has; a few are reserved for the next partner.
//!
//! A flow that has had credit for a while and starts nothing is asleep. What was promised to it is
//! given to others; it wakes up if there is room.

use culvert_link::commands::Event;
use culvert_protocol::receiver_flow::{BufferId, ChunkMemory};

use super::Body;
use crate::buffers::Buffers;

/// Credit that was not used for so long is not kept free any more.
const ASLEEP_AFTER_NS: u64 = 1_000_000_000;
/// Flows that hold more than their partner's part are told this often that others wait.
const TELL_INTERVAL_NS: u64 = 1_000_000_000;
/// Of so many buffers one is kept for the next partner that comes; at least one is.
const BUFFERS_PER_RESERVED: u32 = 8;

/// What a partner's flows have.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// The number that the control process gave the partner.
    holder: u32,
    /// Its flows; an account without is free for another partner.
    flows: u32,
    /// Buffers that its flows hold or were promised.
    taken: u32,
}

/// The shares of a lane's buffers.
#[derive(Debug)]
pub struct Shares {
    accounts: Vec<Account>,
    buffers: u32,
    partners: u32,
    /// Free buffers that are promised to flows with credit.
    promised: u32,
    /// Whether a flow has nothing although its partner has not all of its part.
    has_waiting: bool,
    /// Which of the receiving flows is the first to get something.
    first: usize,
    next_telling_ns: u64,
}

impl Shares {
    /// Of `buffers` buffers, for `flows_max` flows.
    #[must_use]
    pub fn new(buffers: usize, flows_max: usize) -> Self {
        Self {
            accounts: Vec::with_capacity(flows_max),
            buffers: u32::try_from(buffers).unwrap_or(u32::MAX),
            partners: 0,
            promised: 0,
            has_waiting: false,
            first: 0,
            next_telling_ns: 0,
        }
    }

    /// A flow of `holder` has come; its account.
    pub fn join(&mut self, holder: u32) -> usize {
        let of_holder = self.accounts.iter().position(|account| account.flows > 0 && account.holder == holder);
        let at = of_holder.or_else(|| self.accounts.iter().position(|account| account.flows == 0));
        let at = at.unwrap_or_else(|| {
            self.accounts.push(Account::default());
            self.accounts.len() - 1
        });
        let account = &mut self.accounts[at];
        if account.flows == 0 {
            *account = Account { holder, ..Account::default() };
            self.partners += 1;
        }
        account.flows += 1;
        at
    }

    /// A flow of an account has gone.
    pub fn leave(&mut self, account: usize) {
        let account = &mut self.accounts[account];
        account.flows -= 1;
        if account.flows == 0 {
            self.partners -= 1;
        }
    }

    /// Buffers that a partner may have.
    #[must_use]
    pub fn part(&self) -> u32 {
        let reserved = (self.buffers / BUFFERS_PER_RESERVED).max(1);
        (self.buffers.saturating_sub(reserved) / self.partners.max(1)).max(1)
    }

    /// Buffers that a flow of an account may have.
    #[must_use]
    pub fn part_of_flow(&self, account: usize) -> u32 {
        self.part().div_ceil(self.accounts[account].flows.max(1))
    }

    fn begin_round(&mut self) {
        for account in &mut self.accounts {
            account.taken = 0;
        }
        (self.promised, self.has_waiting) = (0, false);
    }

    fn note(&mut self, account: usize, held: u32, promised: u32) {
        self.accounts[account].taken += held + promised;
        self.promised += promised;
    }

    fn is_below_part(&self, account: usize) -> bool {
        self.accounts[account].taken < self.part()
    }

    /// Whether a flow of an account may take a free buffer that was not promised to it.
    fn may_take(&mut self, account: usize, free: usize) -> bool {
        let may = free > self.promised as usize && self.is_below_part(account);
        self.accounts[account].taken += u32::from(may);
        may
    }
}

/// The buffers as a receiving flow sees them: those that it may have.
pub(super) struct FlowMemory<'a> {
    pub(super) buffers: &'a mut Buffers,
    pub(super) shares: &'a mut Shares,
    pub(super) account: usize,
    /// Whether its credit counts as a promise.
    pub(super) is_awake: bool,
}

impl ChunkMemory for FlowMemory<'_> {
    fn take(&mut self) -> Option<BufferId> {
        if self.is_awake {
            let buffer = self.buffers.take()?;
            self.shares.promised = self.shares.promised.saturating_sub(1);
            return Some(buffer);
        }
        if self.shares.may_take(self.account, self.buffers.free_count()) { self.buffers.take() } else { None }
    }

    fn give_back(&mut self, buffer: BufferId) {
        self.buffers.give_back(buffer);
        self.shares.promised += u32::from(self.is_awake);
    }

    #[inline]
    fn buffer_bytes(&self) -> usize {
        self.buffers.buffer_bytes()
    }

    #[inline]
    fn bytes(&self, buffer: BufferId, part: std::ops::Range<usize>) -> &[u8] {
        self.buffers.bytes(buffer, part)
    }

    #[inline]
    fn bytes_mut(&mut self, buffer: BufferId, part: std::ops::Range<usize>) -> &mut [u8] {
        self.buffers.bytes_mut(buffer, part)
    }
}

/// What a receiving flow has of the buffers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claim {
    /// Whose part it is of.
    pub(super) account: usize,
    /// Chunks begun when it was last looked at.
    begun: u64,
    /// Until when its credit counts as a promise.
    awake_until_ns: u64,
}

impl Claim {
    pub(super) const fn is_awake(&self, now_ns: u64) -> bool {
        now_ns < self.awake_until_ns
    }
}

impl Body {
    /// A buffer for something other than a receiving flow, if there is one that is not promised and
    /// `account` may have it.
    pub(super) fn may_take_buffer(&mut self, account: Option<usize>) -> bool {
        let free = self.buffers.free_count();
        match account {
            Some(account) => self.shares.may_take(account, free),
            None => free > self.shares.promised as usize,
        }
    }

    /// Gives every flow as much credit as there are buffers for.
    pub(super) fn share_out(&mut self) {
        self.shares.begin_round();
        for slot in &self.active_sends {
            let Some(flow) = self.sends[usize::from(slot.0)].as_mut() else { continue };
            flow.allowance = self.shares.part_of_flow(flow.account);
            self.shares.note(flow.account, flow.held, 0);
        }
        for slot in &self.active_receives {
            let Some(flow) = self.receives[usize::from(slot.0)].as_mut() else { continue };
            let (held, unused) = (flow.protocol.held(), flow.protocol.unused_credit());
            let claim = &mut flow.claim;
            if std::mem::replace(&mut claim.begun, flow.protocol.begun()) != flow.protocol.begun() {
                claim.awake_until_ns = self.now_ns + ASLEEP_AFTER_NS;
            }
            let promised = if claim.is_awake(self.now_ns) && !flow.is_closing() { unused } else { 0 };
            self.shares.note(flow.claim.account, held, promised);
            flow.protocol.set_allowance(held + unused);
        }
        let mut room = (self.buffers.free_count() as u32).saturating_sub(self.shares.promised);
        let flows = self.active_receives.len();
        self.shares.first = if self.shares.first + 1 < flows { self.shares.first + 1 } else { 0 };
        // Those that have nothing come first.
        for is_first_round in [true, false] {
            let first = self.shares.first;
            for at in (first..flows).chain(0..first) {
                self.give_credit(at, is_first_round, &mut room);
            }
        }
        for slot in &self.active_sends {
            let Some(flow) = self.sends[usize::from(slot.0)].as_ref() else { continue };
            self.shares.has_waiting |= flow.wants_buffer() && self.shares.is_below_part(flow.account);
        }
    }

    fn give_credit(&mut self, at: usize, is_first_round: bool, room: &mut u32) {
        let slot = self.active_receives[at];
        let Some(flow) = self.receives[usize::from(slot.0)].as_mut() else { return };
        if flow.is_closing() {
            return;
        }
        let (account, has) = (flow.claim.account, flow.protocol.allowance());
        let wanted =
            if is_first_round { u32::from(has == 0) } else { self.shares.part_of_flow(account).saturating_sub(has) };
        let left = self.shares.part().saturating_sub(self.shares.accounts[account].taken);
        let given = wanted.min(left).min(*room);
        if given > 0 {
            *room -= given;
            self.shares.note(account, 0, given);
            flow.protocol.set_allowance(has + given);
            flow.claim.awake_until_ns = self.now_ns + ASLEEP_AFTER_NS;
        } else if wanted > 0 && has == 0 && left > 0 {
            self.shares.has_waiting = true;
        }
    }

    /// Notifies the flows of partners that hold more than their share that others are waiting.
    /// Their transfers know whether they make progress with what they hold.
    pub(super) fn tell_who_holds_too_much(&mut self) {
        if !self.shares.has_waiting || self.now_ns < self.shares.next_telling_ns {
            return;
        }
        self.shares.next_telling_ns = self.now_ns + TELL_INTERVAL_NS;
        let part = self.shares.part();
        for &slot in &self.active_sends {
            let Some(flow) = self.sends[usize::from(slot.0)].as_ref() else { continue };
            if flow.held > 0 && self.shares.accounts[flow.account].taken > part {
                self.link.emit(&Event::OthersWaitForSend { flow: slot, held: flow.held });
            }
        }
        for &slot in &self.active_receives {
            let Some(flow) = self.receives[usize::from(slot.0)].as_ref() else { continue };
            if flow.protocol.held() > 0 && self.shares.accounts[flow.claim.account].taken > part {
                let whole = flow.whole();
                let incomplete = flow.protocol.held().saturating_sub(whole);
                self.link.emit(&Event::OthersWaitForReceive { flow: slot, incomplete, whole });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_shared_by_partner_first_and_some_are_kept_for_the_next() {
        let mut shares = Shares::new(16, 8);
        let greedy: Vec<usize> = (0..64).map(|_| shares.join(1)).collect();
        assert_eq!((shares.part(), shares.part_of_flow(greedy[0])), (14, 1));
        let other = shares.join(2);
        assert_eq!((shares.part(), shares.part_of_flow(other)), (7, 7));
        for account in greedy {
            shares.leave(account);
        }
        assert_eq!(shares.part(), 14);
        assert_ne!(shares.join(3), other, "an account that is in use is not another's");
        assert_eq!(shares.join(2), other);
        assert_eq!(Shares::new(4, 1).part(), 3);
    }

    #[test]
    fn a_partner_takes_neither_more_than_its_part_nor_what_was_promised() {
        let mut shares = Shares::new(16, 8);
        let account = shares.join(1);
        shares.note(account, 13, 0);
        assert!(shares.may_take(account, 3));
        assert!(!shares.may_take(account, 2), "it has its part");
        let other = shares.join(2);
        shares.note(other, 0, 2);
        let third = shares.join(3);
        assert!(!shares.may_take(third, 2), "both are promised");
        assert!(shares.may_take(third, 3));
    }
}
