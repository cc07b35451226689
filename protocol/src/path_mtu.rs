//! The largest datagram that the path delivers: the search that continues while data moves.
//!
//! A flow opens with the largest of a few common sizes that the path answers, because data waits
//! for it. Between that size and the next unanswered one, more may be possible: a tunnel takes 20
//! to 100 bytes off a common size, and a probe may have been lost by chance. From there on, this
//! module is packetization-layer path MTU discovery (RFC 8899 section 5.2; W-12): one probe at a
//! time, each size tried three times before it counts as too large, first the common sizes upwards,
//! then the midpoint between the largest delivered and the smallest undelivered size. Sizes are UDP
//! payload bytes.
//!
//! | RFC 8899 | here |
//! |---|---|
//! | Base | the flow's opening; no data go before it is answered |
//! | Searching | [`PathMtuSearch::due`] offers sizes |
//! | Search complete | nothing is due until [`RAISE_NS`] have passed |
//! | Error, black hole | the flow opens anew, then [`PathMtuSearch::opened`] |
//!
//! The lane encrypts the probes, keeps the time, and reports which were answered.

use crate::wire::{OVERHEAD_BYTES, STRIDE_MIN};

/// The smallest datagram that carries a full segment (W-4): a path, or an interface, that carries
/// less carries no data.
pub const DATAGRAM_BYTES_MIN: u16 = OVERHEAD + STRIDE_MIN;
/// [`OVERHEAD_BYTES`], as datagrams' sizes are counted here.
#[expect(clippy::cast_possible_truncation, reason = "48 of 65,536")]
const OVERHEAD: u16 = OVERHEAD_BYTES as u16;
/// Tries of one size before it counts as too large (MAX_PROBES of RFC 8899 section 5.1.2).
const TRIES_MAX: u32 = 3;
/// A search ends when at most this many bytes are in doubt. Each further probe would gain little,
/// and three of them have to be lost to rule a size out.
const DOUBT_BYTES: u16 = 8;
/// After this time, a finished search looks again whether the path carries more (PMTU_RAISE_TIMER
/// of RFC 8899 section 5.1.1).
pub const RAISE_NS: u64 = 600_000_000_000;
/// A probe counts as lost no sooner than this; RFC 8899 section 5.1.1 wants patience well beyond a
/// round trip.
const PATIENCE_MIN_NS: u64 = 100_000_000;

/// The search for the largest datagram of one path in one direction.
#[derive(Clone, Debug)]
pub struct PathMtuSearch {
    /// Common sizes, descending; the first is what the interface carries.
    common: Box<[u16]>,
    /// The largest size that was delivered; 0 before the flow has opened.
    delivered: u16,
    /// The smallest size whose probes were not answered.
    refused: u16,
    candidate: u16,
    tries: u32,
    due_ns: u64,
}

impl PathMtuSearch {
    /// A search for datagrams of up to the first of `common`, which descend.
    ///
    /// # Panics
    /// If `common` is empty or does not descend.
    #[must_use]
    pub fn new(common: Box<[u16]>) -> Self {
        // Invariant I-mtu-sizes: The common sizes of a search for the path MTU descend.
        assert!(!common.is_empty() && common.is_sorted_by(|a, b| a > b), "sizes descend: {common:?}");
        Self { common, delivered: 0, refused: u16::MAX, candidate: 0, tries: 0, due_ns: u64::MAX }
    }

    /// The payload of a full segment in datagrams of `bytes`; `None` if they are too small to carry
    /// one.
    #[must_use]
    pub fn stride_of(bytes: u16) -> Option<u16> {
        bytes.checked_sub(OVERHEAD).filter(|&stride| stride >= STRIDE_MIN)
    }

    /// The common sizes, descending.
    #[must_use]
    pub fn common(&self) -> &[u16] {
        &self.common
    }

    /// What the interface carries.
    fn largest(&self) -> u16 {
        self.common.first().copied().unwrap_or(0)
    }

    /// The flow has opened, or opened again, with datagrams of `bytes`: the search starts above
    /// that.
    pub fn opened(&mut self, bytes: u16, now_ns: u64) {
        self.delivered = bytes;
        self.begin(now_ns);
    }

    /// No search runs while the flow is being opened again.
    pub const fn closed(&mut self) {
        self.candidate = 0;
        self.due_ns = u64::MAX;
    }

    fn begin(&mut self, now_ns: u64) {
        self.refused = u16::MAX;
        self.choose(now_ns);
    }

    /// Chooses the next size, or ends the search.
    fn choose(&mut self, now_ns: u64) {
        self.tries = 0;
        //= W-12
        //# While data moves, the sender keeps searching between that size and the next (RFC 8899,
        //# section 5.2): one probe at a time, three tries per size, to within eight bytes.
        let above = self.common.iter().rev().copied().find(|&size| size > self.delivered && size < self.refused);
        let middle = || self.delivered.midpoint(self.refused);
        self.candidate = match above {
            Some(common) => common,
            None if self.refused == u16::MAX || self.refused.saturating_sub(self.delivered) <= DOUBT_BYTES => 0,
            None => middle(),
        };
        // Invariant I-mtu-candidate: A search tries only sizes between the largest delivered and
        // the smallest refused one.
        assert!(
            self.candidate == 0 || (self.candidate > self.delivered && self.candidate < self.refused),
            "{} bytes are tried between {} and {}",
            self.candidate,
            self.delivered,
            self.refused
        );
        self.due_ns = match self.candidate {
            // The interface itself does not carry more.
            0 if self.largest() == self.delivered => u64::MAX,
            //= W-12
            //# A completed search is repeated after ten minutes.
            0 => now_ns.saturating_add(RAISE_NS),
            _ => now_ns,
        };
    }

    /// When something is due next; `u64::MAX` for never.
    #[inline]
    #[must_use]
    pub const fn due_ns(&self) -> u64 {
        self.due_ns
    }

    /// The datagram that is to be probed with now, if any. `round_trip_ns` is how long an answer
    /// takes, with some margin.
    pub fn due(&mut self, now_ns: u64, round_trip_ns: u64) -> Option<u16> {
        if now_ns < self.due_ns {
            return None;
        }
        if self.candidate == 0 {
            self.begin(now_ns);
        } else if self.tries == TRIES_MAX {
            self.refused = self.candidate;
            self.choose(now_ns);
        }
        if self.candidate == 0 {
            return None;
        }
        self.tries = self.tries.saturating_add(1);
        self.due_ns = now_ns.saturating_add(round_trip_ns.max(PATIENCE_MIN_NS));
        Some(self.candidate)
    }

    /// A probe of `bytes` was answered. True if the path carries more than was known.
    pub fn on_answer(&mut self, bytes: u16, now_ns: u64) -> bool {
        if self.delivered == 0 || bytes <= self.delivered || bytes > self.largest() {
            return false;
        }
        self.delivered = bytes;
        // An answer to a size that was given up shows that the path was slow, not narrow.
        if self.refused <= bytes {
            self.refused = u16::MAX;
        }
        if self.candidate <= bytes {
            self.choose(now_ns);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COMMON: [u16; 4] = [8_972, 4_052, 1_472, 1_232];
    const ROUND_TRIP_NS: u64 = 200_000_000;

    /// Runs a search on a path that delivers up to `path_bytes` and loses what `is_lost` says;
    /// returns the size it ends with, the probes that were sent, and when it ended.
    fn run(opened: u16, path_bytes: u16, mut is_lost: impl FnMut() -> bool) -> (u16, u32, u64) {
        let mut search = PathMtuSearch::new(COMMON.into());
        let (mut now_ns, mut probes, mut known) = (1_000, 0, opened);
        search.opened(opened, now_ns);
        while search.due_ns() < RAISE_NS {
            now_ns = now_ns.max(search.due_ns());
            let Some(bytes) = search.due(now_ns, ROUND_TRIP_NS) else { continue };
            probes += 1;
            assert!(bytes > known && bytes <= COMMON[0], "{bytes} is of no use above {known}");
            if bytes <= path_bytes && !is_lost() {
                now_ns += ROUND_TRIP_NS / 2;
                assert!(search.on_answer(bytes, now_ns), "{bytes}");
                known = bytes;
            }
        }
        (known, probes, now_ns)
    }

    #[test]
    fn a_path_that_carries_what_the_interface_does_is_not_probed() {
        let mut search = PathMtuSearch::new(COMMON.into());
        assert_eq!(search.due_ns(), u64::MAX, "nothing before the flow has opened");
        search.opened(8_972, 5);
        assert_eq!(search.due_ns(), u64::MAX);
        assert_eq!(search.due(u64::MAX - 1, 1), None);
    }

    #[test]
    fn no_datagram_is_too_small_to_be_asked_about() {
        assert_eq!(PathMtuSearch::stride_of(DATAGRAM_BYTES_MIN), Some(STRIDE_MIN));
        for bytes in 0..DATAGRAM_BYTES_MIN {
            assert_eq!(PathMtuSearch::stride_of(bytes), None, "{bytes}");
        }
        assert_eq!(PathMtuSearch::stride_of(u16::MAX), Some(u16::MAX - OVERHEAD_BYTES as u16));
    }

    #[test]
    fn a_tunnel_is_used_to_within_eight_bytes() {
        //= W-12
        //# While data moves, the sender keeps searching between that size and the next (RFC 8899,
        //# section 5.2): one probe at a time, three tries per size, to within eight bytes.
        // IPsec in tunnel mode leaves 1,438 bytes or so of 1,500: 1,410 of UDP payload.
        let (found, probes, _) = run(1_232, 1_410, || false);
        assert!((1_402..=1_410).contains(&found), "{found}");
        assert!(probes <= 3 * 6, "{probes} probes");
    }

    #[test]
    fn a_size_whose_probe_was_lost_at_the_opening_is_found_again() {
        let (found, probes, _) = run(1_472, 8_972, || false);
        assert_eq!((found, probes), (8_972, 2));
    }

    #[test]
    fn a_finished_search_looks_again_after_ten_minutes() {
        //= W-12
        //# A completed search is repeated after ten minutes.
        let mut search = PathMtuSearch::new([1_472, 1_232].into());
        search.opened(1_232, 0);
        let mut now_ns = 0;
        while search.due_ns() < RAISE_NS {
            now_ns = search.due_ns();
            search.due(now_ns, ROUND_TRIP_NS);
        }
        assert_eq!(search.due(now_ns + 1, ROUND_TRIP_NS), None, "the search is over");
        assert_eq!(search.due(search.due_ns(), ROUND_TRIP_NS), Some(1_472));
    }

    #[test]
    fn a_path_that_is_opened_anew_is_searched_from_there() {
        let mut search = PathMtuSearch::new(COMMON.into());
        search.opened(8_972, 0);
        search.closed();
        assert!(!search.on_answer(1_232, 1), "an answer to the opening's probes is not the search's");
        search.opened(1_232, 9);
        assert_eq!(search.due(9, ROUND_TRIP_NS), Some(1_472));
    }

    #[test]
    fn a_late_answer_to_a_size_given_up_counts() {
        let mut search = PathMtuSearch::new([1_472, 1_232].into());
        search.opened(1_232, 0);
        for _ in 0..TRIES_MAX {
            assert_eq!(search.due(search.due_ns(), ROUND_TRIP_NS), Some(1_472));
        }
        let now_ns = search.due_ns();
        assert_eq!(search.due(now_ns, ROUND_TRIP_NS), Some(1_352));
        assert!(search.on_answer(1_472, now_ns + 1));
        assert_eq!(search.due_ns(), u64::MAX);
    }

    proptest! {
        #[test]
        fn every_path_is_found_in_few_probes(path_bytes in 1_232..=8_972u16, seed: u64, loss_percent in 0..6u64) {
            let mut state = seed | 1;
            let mut is_lost = || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % 100 < loss_percent
            };
            let opened = COMMON.into_iter().find(|&size| size <= path_bytes).unwrap_or(1_232);
            let (found, probes, ended_ns) = run(opened, path_bytes, &mut is_lost);
            prop_assert!(found <= path_bytes);
            prop_assert!(probes <= 3 * 13, "{} probes", probes);
            prop_assert!(ended_ns < 60_000_000_000);
            if loss_percent == 0 {
                prop_assert!(path_bytes - found <= DOUBT_BYTES, "{found} of {path_bytes}");
            }
        }
    }
}
