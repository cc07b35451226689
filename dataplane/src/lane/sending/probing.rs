//! The search for the largest of the common sizes that a path delivers, by which it is opened
//! (W-12).

use culvert_protocol::path_mtu::PathMtuSearch;

/// On a path that was open before, the time between rounds of probes doubles so often: up to 2.6 s.
const PROBE_DOUBLINGS_MAX: u32 = 7;
/// Time between two rounds of probes.
const PROBE_ROUND_NS: u64 = 20_000_000;
/// How long the best size waits for an answer once a smaller one has been answered: more than a
/// probe's own queueing.
const PROBE_GRACE_NS: u64 = 60_000_000;
/// After so long without an answer the path counts as closed …
const PROBE_PATIENCE_NS: u64 = 6_000_000_000;
/// … if all rounds of that time were sent. A lane that was kept from its core has sent fewer: its
/// silence says nothing about the path.
const PROBE_ROUNDS_PATIENCE: u32 = (PROBE_PATIENCE_NS / PROBE_ROUND_NS) as u32;

/// The search for the largest of the common sizes that the path delivers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probing {
    /// When the current patience began, and the rounds sent since.
    begun_ns: u64,
    rounds_unanswered: u32,
    next_round_ns: u64,
    /// How often the time between rounds has doubled.
    doublings: u32,
    /// The best answer so far, and when the first answer came.
    best: Option<(u16, u64)>,
    rtt_us: u32,
    errno: i32,
}

impl Probing {
    pub(super) const fn beginning(now_ns: u64) -> Self {
        Self {
            begun_ns: now_ns,
            rounds_unanswered: 0,
            next_round_ns: now_ns,
            doublings: 0,
            best: None,
            rtt_us: 0,
            errno: 0,
        }
    }

    /// The probes go to another address from now on, at once.
    pub(super) const fn redirect(&mut self, now_ns: u64) {
        self.doublings = 0;
        self.next_round_ns = now_ns;
    }

    /// A probe of `delivered` bytes has been answered. False if that is too little for data:
    /// something passes, but if no more does, that is why the path is closed.
    pub(super) fn on_answer(&mut self, delivered: u16, rtt_us: u32, common: &[u16]) -> bool {
        if self.best.is_none() {
            self.rtt_us = rtt_us;
        }
        if PathMtuSearch::stride_of(delivered).is_none() {
            self.errno = libc::EMSGSIZE;
            return false;
        }
        if self.best.is_none_or(|(best, _)| delivered > best) && common.contains(&delivered) {
            let first_ns = self.best.map_or(0, |(_, first_ns)| first_ns);
            self.best = Some((delivered, first_ns));
        }
        true
    }

    /// The network of this host refused a probe.
    pub(super) const fn on_refused(&mut self, errno: i32) {
        self.errno = errno;
    }

    /// Whether any size was answered that carries data.
    pub(super) const fn is_answered(&self) -> bool {
        self.best.is_some()
    }

    /// The size to begin with, once waiting for a larger one is pointless.
    pub(super) fn found(&mut self, largest: u16, now_ns: u64) -> Option<u16> {
        let (best, first_ns) = self.best?;
        let first_ns = if first_ns == 0 { now_ns } else { first_ns };
        self.best = Some((best, first_ns));
        (best == largest || now_ns.saturating_sub(first_ns) > PROBE_GRACE_NS).then_some(best)
    }

    /// Whether the path counts as closed: neither for the time of patience nor to the rounds that
    /// belong to it has there been an answer. True once in that time, for the search goes on.
    pub(super) const fn is_given_up(&mut self, now_ns: u64) -> bool {
        let is_long = now_ns.saturating_sub(self.begun_ns) > PROBE_PATIENCE_NS;
        if !is_long || self.rounds_unanswered < PROBE_ROUNDS_PATIENCE {
            return false;
        }
        self.begun_ns = now_ns;
        self.rounds_unanswered = 0;
        true
    }

    /// Whether a round of probes is due, which counts as sent then.
    pub(super) fn begin_round(&mut self, was_open: bool, now_ns: u64) -> bool {
        if now_ns < self.next_round_ns {
            return false;
        }
        self.rounds_unanswered = self.rounds_unanswered.saturating_add(1);
        self.next_round_ns = now_ns + (PROBE_ROUND_NS << self.doublings);
        // A path that was open may be dark for long.
        if was_open {
            self.doublings = (self.doublings + 1).min(PROBE_DOUBLINGS_MAX);
        }
        true
    }

    /// When the next round is due.
    pub(super) const fn due_ns(&self) -> u64 {
        self.next_round_ns
    }

    /// The round trip of the first answer; at least 1.
    pub(super) fn rtt_us(&self) -> u32 {
        self.rtt_us.max(1)
    }

    /// Why nothing passes, as far as this host knows; 0 if it does not.
    pub(super) const fn errno(&self) -> i32 {
        self.errno
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMON: [u16; 3] = [9_000, 1_500, 560];

    #[test]
    fn the_largest_size_ends_the_search_at_once_and_a_smaller_one_after_a_while() {
        let mut probing = Probing::beginning(0);
        assert_eq!(probing.found(COMMON[0], 1), None);
        assert!(probing.on_answer(1_500, 7, &COMMON));
        assert_eq!(probing.found(COMMON[0], 10), None, "9,000 may be answered yet");
        assert_eq!(probing.found(COMMON[0], 10 + PROBE_GRACE_NS), None);
        assert_eq!(probing.found(COMMON[0], 11 + PROBE_GRACE_NS), Some(1_500));
        assert!(probing.on_answer(9_000, 8, &COMMON));
        assert_eq!((probing.found(COMMON[0], 11), probing.rtt_us()), (Some(9_000), 7));
    }

    #[test]
    fn a_size_that_carries_no_data_or_was_not_asked_for_opens_nothing() {
        let mut probing = Probing::beginning(0);
        assert!(!probing.on_answer(100, 7, &COMMON));
        assert_eq!(probing.errno(), libc::EMSGSIZE);
        assert!(probing.on_answer(8_000, 7, &COMMON));
        assert!(!probing.is_answered());
    }

    #[test]
    fn a_path_is_given_up_after_the_time_and_the_rounds_that_belong_to_it() {
        let mut probing = Probing::beginning(0);
        let mut now_ns = 0;
        while now_ns <= PROBE_PATIENCE_NS {
            assert!(!probing.is_given_up(now_ns), "{now_ns} ns");
            assert!(probing.begin_round(false, now_ns));
            now_ns += PROBE_ROUND_NS;
        }
        assert!(probing.is_given_up(now_ns));
        assert!(!probing.is_given_up(now_ns), "once in that time");
    }

    #[test]
    fn a_path_is_not_given_up_while_rounds_are_missing() {
        let mut probing = Probing::beginning(0);
        for round in 1..=u64::from(PROBE_ROUNDS_PATIENCE) {
            // The lane gets its core only now and then.
            assert!(!probing.is_given_up(round * PROBE_PATIENCE_NS), "after {round} rounds");
            assert!(probing.begin_round(false, round * PROBE_PATIENCE_NS));
        }
        assert!(probing.is_given_up(u64::from(PROBE_ROUNDS_PATIENCE) * PROBE_PATIENCE_NS + 1));
    }

    #[test]
    fn rounds_come_apart_on_a_path_that_was_open_only() {
        for (was_open, second_ns) in [(false, 2 * PROBE_ROUND_NS), (true, 3 * PROBE_ROUND_NS)] {
            let mut probing = Probing::beginning(0);
            assert!(probing.begin_round(was_open, 0));
            assert!(!probing.begin_round(was_open, PROBE_ROUND_NS - 1));
            assert!(probing.begin_round(was_open, PROBE_ROUND_NS));
            assert_eq!(probing.due_ns(), second_ns);
        }
    }
}
