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
/// … if all rounds of that time were due and attempted. A lane that was kept from its core has
/// attempted fewer: its silence says nothing about the path …
const PROBE_ROUNDS_PATIENCE: u32 = (PROBE_PATIENCE_NS / PROBE_ROUND_NS) as u32;
/// … but a lane that gets its core so rarely cannot send either, and its user waits no longer.
const PROBE_PATIENCE_NS_MAX: u64 = 30_000_000_000;

/// The search for the largest of the common sizes that the path delivers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Probing {
    /// When the current patience began, and the rounds attempted since.
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

    /// Whether the path counts as closed: there has been no answer for the time of patience and to
    /// the rounds that belong to it, or for [`PROBE_PATIENCE_NS_MAX`]. True once in that time, for
    /// the search goes on.
    pub(super) const fn is_given_up(&mut self, now_ns: u64) -> bool {
        let elapsed_ns = now_ns.saturating_sub(self.begun_ns);
        let has_tried = elapsed_ns > PROBE_PATIENCE_NS && self.rounds_unanswered >= PROBE_ROUNDS_PATIENCE;
        if !has_tried && elapsed_ns <= PROBE_PATIENCE_NS_MAX {
            return false;
        }
        self.begun_ns = now_ns;
        self.rounds_unanswered = 0;
        true
    }

    /// Whether a round of probes is due, which counts as attempted then, whatever becomes of its
    /// datagrams.
    pub(super) fn begin_round(&mut self, was_open: bool, now_ns: u64) -> bool {
        if now_ns < self.next_round_ns {
            return false;
        }
        self.rounds_unanswered = self.rounds_unanswered.saturating_add(1);
        let interval_ns = PROBE_ROUND_NS << self.doublings;
        // From when this round was due: the turns of a lane are late by a little, and that must not
        // add up. Rounds that were missed altogether are not made up for.
        let due_ns = self.next_round_ns + interval_ns;
        self.next_round_ns = if due_ns > now_ns { due_ns } else { now_ns + interval_ns };
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

    /// The lane gets its core every `each_ns`. When and after how many rounds it gives up.
    fn gives_up(each_ns: u64) -> (u64, u32) {
        let mut probing = Probing::beginning(0);
        let (mut now_ns, mut rounds) = (0, 0);
        while !probing.is_given_up(now_ns) {
            rounds += u32::from(probing.begin_round(false, now_ns));
            now_ns += each_ns;
        }
        (now_ns, rounds)
    }

    #[test]
    fn a_path_is_not_given_up_while_rounds_are_missing() {
        let each_ns = 90_000_000;
        let last_round_ns = u64::from(PROBE_ROUNDS_PATIENCE - 1) * each_ns;
        assert_eq!(gives_up(each_ns), (last_round_ns + each_ns, PROBE_ROUNDS_PATIENCE));
    }

    #[test]
    fn a_path_is_given_up_at_last_though_rounds_are_missing() {
        for each_ns in [110_000_000, 6_000_000_000] {
            let (now_ns, rounds) = gives_up(each_ns);
            assert!(rounds < PROBE_ROUNDS_PATIENCE, "{rounds} rounds");
            let late_ns = now_ns - PROBE_PATIENCE_NS_MAX;
            assert!(late_ns > 0 && late_ns <= each_ns, "{late_ns} ns after the most");
        }
    }

    #[test]
    fn rounds_that_are_a_little_late_do_not_put_the_end_off() {
        for each_ns in [1_000_000, 7_000_000, 19_000_000] {
            let (now_ns, rounds) = gives_up(each_ns);
            assert!((PROBE_ROUNDS_PATIENCE..=PROBE_ROUNDS_PATIENCE + 1).contains(&rounds), "{rounds} rounds");
            assert!(now_ns <= PROBE_PATIENCE_NS + each_ns, "{now_ns} ns with turns each {each_ns} ns");
        }
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
