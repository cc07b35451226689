//! Which packet numbers of a flow have arrived: the replay window and the gap detector in one
//! bitmap.
//!
//! Every packet number is *undecided* until it either arrives or is declared lost; then it is
//! *decided* and never accepted again. One bit per packet thus answers three questions: is this a
//! replay (W-8), what must the sender retransmit, and how far back must the sender remember. Loss
//! is declared by the caller, who knows time and reordering ([`Arrivals::declare_lost`]), or by
//! force when a packet arrives so far ahead that the window must move.

/// Packet numbers that the window spans. At 4 million packets per second this is 16 ms of
/// reordering, far more than any path shows within one flow; it costs 8 KiB per flow.
pub const WINDOW_PACKETS: u64 = 65_536;
const WORDS: usize = (WINDOW_PACKETS / 64) as usize;
/// Ranges of lost packets that wait for the next report. A range costs the report about four bytes.
const LOST_RANGES_MAX: usize = 2_048;

/// Why a packet number is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stale {
    /// Older than the window: decided long ago.
    TooOld,
    /// Arrived before, or was declared lost before it arrived.
    Decided,
}

/// A run of packet numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketRange {
    /// The first of them.
    pub first: u64,
    /// How many.
    pub count: u64,
}

impl PacketRange {
    /// One past the last.
    #[must_use]
    pub const fn end(self) -> u64 {
        self.first.saturating_add(self.count)
    }
}

/// The arrivals of one flow.
#[derive(Debug)]
pub struct Arrivals {
    /// One bit a packet number, 1 = decided; word `n` of the packet space is at `n % WORDS`.
    words: Box<[u64; WORDS]>,
    /// Every packet number below `base_word * 64` is decided.
    base_word: u64,
    /// One past the highest packet number that arrived.
    next: u64,
    /// How many times packet numbers were skipped since the last [`Arrivals::clear_lost`]: the list
    /// of lost ranges is no longer than this.
    gaps: usize,
    lost: Vec<PacketRange>,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self { words: Box::new([0; WORDS]), base_word: 0, next: 0, gaps: 0, lost: Vec::with_capacity(LOST_RANGES_MAX) }
    }
}

impl Arrivals {
    /// Whether `packet_number` may still be accepted. Changes nothing: the packet is not
    /// authenticated yet.
    ///
    /// # Errors
    /// [`Stale`] if it was decided before.
    #[inline]
    pub fn check(&self, packet_number: u64) -> Result<(), Stale> {
        //= W-8
        //# The receiver keeps a window of packet numbers. A number that was already accepted, or
        //# that lies below the window, is never accepted again.
        let word = packet_number / 64;
        if word < self.base_word {
            return Err(Stale::TooOld);
        }
        if word.wrapping_sub(self.base_word) < WORDS as u64 && self.word(word) & bit(packet_number) != 0 {
            return Err(Stale::Decided);
        }
        Ok(())
    }

    /// Notes that the authentic packet `packet_number` arrived.
    #[inline]
    pub fn record(&mut self, packet_number: u64) {
        let word = packet_number / 64;
        // Invariant I-arrivals-undecided: Only an undecided packet number is recorded.
        debug_assert!(self.check(packet_number).is_ok(), "packet {packet_number} was decided before");
        if word.wrapping_sub(self.base_word) >= WORDS as u64 {
            self.make_room_for(word);
        }
        *self.word_mut(word) |= bit(packet_number);
        self.gaps = self.gaps.wrapping_add(usize::from(packet_number > self.next));
        self.next = self.next.max(packet_number.wrapping_add(1));
        self.advance();
    }

    /// Decides every packet number below `horizon`: what has not arrived is lost, and listed for
    /// the next report.
    #[expect(clippy::arithmetic_side_effects, reason = "a word is a packet number's 64th part, a bit of it below 64")]
    pub fn declare_lost(&mut self, horizon: u64) {
        let horizon = horizon.min(self.next);
        let end_word = horizon.div_ceil(64).min(self.base_word + WORDS as u64);
        for word in self.base_word..end_word {
            let decided = self.word(word);
            let below = horizon - word * 64;
            let mask = if below >= 64 { u64::MAX } else { (1 << below) - 1 };
            let mut missing = !decided & mask;
            *self.word_mut(word) |= missing;
            while missing != 0 {
                let first = missing.trailing_zeros();
                let count = (missing >> first).trailing_ones();
                push_range(&mut self.lost, PacketRange { first: word * 64 + u64::from(first), count: count.into() });
                missing = missing.checked_shr(first + count).map_or(0, |rest| rest << (first + count));
            }
        }
        self.advance();
    }

    /// One past the highest packet number that arrived.
    #[inline]
    #[must_use]
    pub const fn next(&self) -> u64 {
        self.next
    }

    /// Every packet number below this one is decided: the sender may forget it.
    #[must_use]
    pub fn decided_below(&self) -> u64 {
        //= W-22
        //# `decided below`: the fate of every packet number below this one is known.
        let ones = u64::from(self.word(self.base_word).trailing_ones());
        self.base_word.saturating_mul(64).saturating_add(ones).min(self.next)
    }

    /// The packets declared lost since the last [`Arrivals::clear_lost`], in order.
    #[must_use]
    pub fn lost(&self) -> &[PacketRange] {
        &self.lost
    }

    /// Forgets the first `count` ranges, which are in a report.
    pub fn clear_lost(&mut self, count: usize) {
        //= W-24
        //# A lost packet and a completed chunk are reported exactly once, because TCP does not lose
        //# reports.
        self.lost.drain(..count.min(self.lost.len()));
        self.gaps = self.lost.len();
    }

    /// Whether the list of lost ranges may soon be so long that it overflows, or does not fit into
    /// a report.
    #[inline]
    #[must_use]
    pub const fn is_list_filling(&self) -> bool {
        self.gaps >= LOST_RANGES_MAX / 2
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a slot is below the number of words")]
    fn word(&self, word: u64) -> u64 {
        self.words[slot(word)]
    }

    #[inline]
    #[expect(clippy::indexing_slicing, reason = "a slot is below the number of words")]
    fn word_mut(&mut self, word: u64) -> &mut u64 {
        &mut self.words[slot(word)]
    }

    /// Moves the base past the words that are decided as a whole.
    #[inline]
    fn advance(&mut self) {
        while self.word(self.base_word) == u64::MAX {
            *self.word_mut(self.base_word) = 0;
            self.base_word = self.base_word.wrapping_add(1);
        }
    }

    /// Slides the window so that `word` is its last one; what falls out undecided is lost.
    #[cold]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a word is a packet number's 64th part, and this one beyond the window"
    )]
    fn make_room_for(&mut self, word: u64) {
        let new_base = word + 1 - WORDS as u64;
        // Everything before the new base is decided; only words within the old window can hold
        // arrivals.
        let old_end = self.base_word + WORDS as u64;
        let saved_next = self.next;
        self.next = u64::MAX;
        self.declare_lost(new_base.min(old_end) * 64);
        self.next = saved_next;
        if new_base > old_end {
            // Invariant I-arrivals-leap: Before the window leaps, every packet number in it is
            // decided.
            debug_assert_eq!(self.base_word, old_end, "the old window has undecided packet numbers");
            push_range(&mut self.lost, PacketRange { first: old_end * 64, count: (new_base - old_end) * 64 });
            self.base_word = new_base;
        }
        // Invariant I-arrivals-room: The window has room for a packet number before it is recorded.
        debug_assert!(self.base_word >= new_base, "the window ends below the new packet number");
    }
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the remainder takes the lowest bits only")]
const fn slot(word: u64) -> usize {
    word as usize % WORDS
}

#[inline]
const fn bit(packet_number: u64) -> u64 {
    1 << (packet_number % 64)
}

/// Appends a range that begins at or after the last one's end. When the list is full the last range
/// grows over the gap instead: the sender then sends some packets again that have arrived, which
/// costs a little and loses nothing.
fn push_range(lost: &mut Vec<PacketRange>, range: PacketRange) {
    let full = lost.len() == LOST_RANGES_MAX;
    match lost.last_mut() {
        Some(last) if full || last.end() == range.first => last.count = range.end().saturating_sub(last.first),
        _ => lost.push(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_list_of_lost_packets_that_fills_says_so_before_it_is_full() {
        let mut arrivals = Arrivals::default();
        let mut number = 0;
        while !arrivals.is_list_filling() {
            arrivals.record(number);
            number += 2;
        }
        arrivals.declare_lost(arrivals.next());
        assert_eq!(arrivals.lost().len(), LOST_RANGES_MAX / 2);
        assert!(arrivals.lost().iter().all(|range| range.count == 1), "nothing that arrived is called lost");
        arrivals.clear_lost(arrivals.lost().len());
        assert!(!arrivals.is_list_filling());
    }

    #[test]
    fn a_gap_is_reported_once_and_its_packets_are_stale_afterwards() {
        //= W-24
        //# A lost packet and a completed chunk are reported exactly once, because TCP does not lose
        //# reports.
        let mut arrivals = Arrivals::default();
        for number in [0, 1, 4, 5, 9] {
            arrivals.record(number);
        }
        assert_eq!(arrivals.decided_below(), 2);
        arrivals.declare_lost(6);
        assert_eq!(arrivals.lost(), [PacketRange { first: 2, count: 2 }]);
        assert_eq!(arrivals.decided_below(), 6);
        assert_eq!(arrivals.check(3), Err(Stale::Decided));
        assert_eq!(arrivals.check(7), Ok(()));
        arrivals.clear_lost(1);
        arrivals.declare_lost(100);
        assert_eq!(arrivals.lost(), [PacketRange { first: 6, count: 3 }], "nothing beyond the highest arrival is lost");
    }

    #[test]
    fn a_leap_beyond_the_window_loses_what_it_skips() {
        //= W-8
        //# A number that was already accepted, or that lies below the window, is never accepted
        //# again.
        let mut arrivals = Arrivals::default();
        arrivals.record(5);
        arrivals.record(5 * WINDOW_PACKETS);
        assert_eq!(arrivals.check(5), Err(Stale::TooOld));
        assert_eq!(arrivals.check(5 * WINDOW_PACKETS), Err(Stale::Decided));
        let lost: u64 = arrivals.lost().iter().map(|range| range.count).sum();
        assert_eq!(lost + 1, arrivals.base_word * 64, "all but packet 5 below the window");
        arrivals.declare_lost(u64::MAX);
        let lost: u64 = arrivals.lost().iter().map(|range| range.count).sum();
        assert_eq!(lost, 5 * WINDOW_PACKETS - 1);
        assert_eq!(arrivals.decided_below(), 5 * WINDOW_PACKETS + 1);
    }

    #[test]
    fn a_full_list_still_covers_every_lost_packet() {
        let mut arrivals = Arrivals::default();
        for number in (1..4 * LOST_RANGES_MAX as u64 * 2).step_by(2) {
            arrivals.record(number);
        }
        arrivals.declare_lost(u64::MAX);
        assert_eq!(arrivals.lost().len(), LOST_RANGES_MAX);
        for number in (0..4 * LOST_RANGES_MAX as u64 * 2 - 1).step_by(2) {
            assert!(
                arrivals.lost().iter().any(|range| (range.first..range.end()).contains(&number)),
                "{number} is lost"
            );
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        /// Against a model that keeps sets of numbers.
        #[test]
        fn behaves_like_the_set_of_decided_numbers(steps in proptest::collection::vec(
            prop_oneof![8 => (0..300u64).prop_map(Some), 1 => Just(None)], 1..300), stretch in 1..400u64) {
            //= W-8
            //# A number that was already accepted, or that lies below the window, is never accepted
            //# again.
            //= W-22
            //# `decided below`: the fate of every packet number below this one is known.
            let mut arrivals = Arrivals::default();
            let (mut arrived, mut lost) = (BTreeSet::new(), BTreeSet::new());
            for step in steps {
                if let Some(number) = step.map(|number| number * stretch) {
                    let decided = arrived.contains(&number) || lost.contains(&number);
                    let too_old = number / 64 < arrivals.base_word;
                    prop_assert_eq!(arrivals.check(number).is_err(), decided || too_old);
                    if arrivals.check(number).is_ok() {
                        arrivals.record(number);
                        arrived.insert(number);
                    }
                } else {
                    arrivals.declare_lost(arrivals.next());
                }
                for range in arrivals.lost() {
                    for number in range.first..range.end() {
                        prop_assert!(!arrived.contains(&number), "{} arrived and is called lost", number);
                        lost.insert(number);
                    }
                }
                arrivals.clear_lost(arrivals.lost().len());
            }
            for number in 0..arrivals.decided_below() {
                prop_assert!(arrived.contains(&number) || lost.contains(&number), "{} was forgotten", number);
            }
        }
    }
}
