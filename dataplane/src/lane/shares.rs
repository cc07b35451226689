//! Allocation of a lane's buffers: they are shared by partner first, then by flow.
//!
//! Credit cannot be revoked (W-25), and an honest sender takes segments that find no buffer for
//! lost. Credit is therefore a promise: the buffers for it are kept free, and no more is promised
//! than exists. A partner gets its share of the buffers and no more, however many flows it has; a
//! few are reserved for the next partner.
//!
//! A flow that has had credit for a while and starts no chunk is asleep: what was promised to it is
//! given to others. When it starts a chunk after all, it gets a buffer if one is free and not
//! promised.

use culvert_link::invariant;
use culvert_protocol::chunk_memory::{BufferId, ChunkMemory};

use crate::buffers::Buffers;

/// One of so many buffers is kept for the next partner that comes, and at least one.
const BUFFERS_PER_RESERVED: u32 = 8;

/// The buffers of a partner's flows.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// The number that the control process gave the partner.
    holder: u32,
    /// Its flows; an account without flows is free for another partner.
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
    pub(super) promised: u32,
    /// Whether a flow has nothing although its partner has less than its part.
    pub(super) has_waiting: bool,
    /// Position of the receiving flow that gets credit first in this round.
    pub(super) first: usize,
    /// When flows may next be told that others wait.
    pub(super) next_telling_ns: u64,
}

impl Shares {
    /// The shares of `buffers` buffers, for at most `flows_max` flows.
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

    /// Adds a flow of `holder`; returns its account.
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

    /// Removes a flow of an account.
    pub fn leave(&mut self, account: usize) {
        let account = &mut self.accounts[account];
        // Invariant I-shares-flows: an account has as many flows as have joined and not left it.
        invariant!(account.flows > 0, "a flow leaves an account once");
        account.flows = account.flows.saturating_sub(1);
        if account.flows == 0 {
            self.partners = self.partners.saturating_sub(1);
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

    pub(super) fn begin_round(&mut self) {
        for account in &mut self.accounts {
            account.taken = 0;
        }
        (self.promised, self.has_waiting) = (0, false);
    }

    pub(super) fn note(&mut self, account: usize, held: u32, promised: u32) {
        self.accounts[account].taken += held + promised;
        self.promised += promised;
    }

    /// Buffers that the flows of an account hold or were promised.
    pub(super) fn taken(&self, account: usize) -> u32 {
        self.accounts[account].taken
    }

    pub(super) fn is_below_part(&self, account: usize) -> bool {
        self.accounts[account].taken < self.part()
    }

    /// Whether a flow of an account may take a free buffer that was not promised to it.
    pub(super) fn may_take(&mut self, account: usize, free: usize) -> bool {
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

/// A receiving flow's claim to buffers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Claim {
    /// The control process's number of the partner whose part it takes.
    pub(super) holder: u32,
    /// That partner's account in this lane.
    pub(super) account: usize,
    /// Chunks begun by the last round.
    pub(super) begun: u64,
    /// Until when its credit counts as a promise.
    pub(super) awake_until_ns: u64,
}

impl Claim {
    pub(super) const fn is_awake(&self, now_ns: u64) -> bool {
        now_ns < self.awake_until_ns
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
