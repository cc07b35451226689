//! Classifies sequence numbers as they arrive: in order, late, duplicate, or implausible.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use super::delivery::Delivery;

/// The number of sequence numbers that are remembered, to distinguish copies from late packets.
const WINDOW: u32 = 1 << 16;
/// The largest plausible gap; a packet beyond it belongs to something else.
const JUMP_MAX: u32 = 1 << 24;

/// The class of an arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The expected number, or one after a gap.
    InOrder,
    /// A new number below the highest.
    Late,
    /// A copy, or a number too old to tell.
    Duplicate,
    /// A number beyond the largest plausible gap.
    Jump,
}

/// Tracks the sequence numbers of one direction, beginning with 0.
#[derive(Clone, Debug)]
pub struct SequenceTracker {
    next: u32,
    seen: Vec<u64>,
    received: u64,
    duplicates: u64,
    reordered: u64,
    jumps: u64,
}

impl Default for SequenceTracker {
    fn default() -> Self {
        let seen = vec![0; WINDOW as usize / 64];
        Self { next: 0, seen, received: 0, duplicates: 0, reordered: 0, jumps: 0 }
    }
}

impl SequenceTracker {
    /// Adds an arrival.
    pub fn note(&mut self, sequence: u32) -> Arrival {
        if sequence >= self.next {
            let skipped = sequence.wrapping_sub(self.next);
            if skipped > JUMP_MAX {
                self.jumps = self.jumps.saturating_add(1);
                return Arrival::Jump;
            }
            if skipped >= WINDOW {
                self.seen.fill(0);
            } else {
                (self.next..=sequence).for_each(|number| self.forget(number));
            }
            self.mark(sequence);
            self.next = sequence.saturating_add(1);
            self.received = self.received.saturating_add(1);
            return Arrival::InOrder;
        }
        if self.next.wrapping_sub(sequence) > WINDOW || self.is_marked(sequence) {
            self.duplicates = self.duplicates.saturating_add(1);
            return Arrival::Duplicate;
        }
        self.mark(sequence);
        self.received = self.received.saturating_add(1);
        self.reordered = self.reordered.saturating_add(1);
        Arrival::Late
    }

    /// One more than the highest number seen.
    #[must_use]
    pub const fn expected_next(&self) -> u32 {
        self.next
    }

    /// Arrivals beyond the largest plausible gap.
    #[must_use]
    pub const fn jumps(&self) -> u64 {
        self.jumps
    }

    /// The counts, for `sent` packets.
    #[must_use]
    pub fn delivery(&self, sent: u64) -> Delivery {
        Delivery { sent, received: self.received, duplicates: self.duplicates, reordered: self.reordered }
    }

    fn slot(sequence: u32) -> (usize, u64) {
        let at = sequence % WINDOW;
        ((at / 64) as usize, 1 << (at % 64))
    }

    fn mark(&mut self, sequence: u32) {
        let (word, bit) = Self::slot(sequence);
        if let Some(word) = self.seen.get_mut(word) {
            *word |= bit;
        }
    }

    fn forget(&mut self, sequence: u32) {
        let (word, bit) = Self::slot(sequence);
        if let Some(word) = self.seen.get_mut(word) {
            *word &= !bit;
        }
    }

    fn is_marked(&self, sequence: u32) -> bool {
        let (word, bit) = Self::slot(sequence);
        self.seen.get(word).is_some_and(|word| word & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn late_packets_copies_and_jumps_are_distinguished() {
        let mut tracker = SequenceTracker::default();
        let arrivals: Vec<_> = [0, 1, 3, 2, 2, 3, 4, 4_000_000_000].map(|number| tracker.note(number)).into();
        use Arrival::{Duplicate, InOrder, Jump, Late};
        assert_eq!(arrivals, [InOrder, InOrder, InOrder, Late, Duplicate, Duplicate, InOrder, Jump]);
        assert_eq!(tracker.delivery(6), Delivery { sent: 6, received: 5, duplicates: 2, reordered: 1 });
        assert_eq!((tracker.jumps(), tracker.expected_next()), (1, 5));
    }

    proptest! {
        #[test]
        fn counts_are_those_of_a_set(numbers in proptest::collection::vec(0..2_000u32, 0..500)) {
            let mut tracker = SequenceTracker::default();
            let mut set = HashSet::new();
            let (mut late, mut highest) = (0, None);
            for &number in &numbers {
                tracker.note(number);
                if set.insert(number) && highest.is_some_and(|highest| number < highest) {
                    late += 1;
                }
                highest = highest.max(Some(number));
            }
            let counted = tracker.delivery(2_000);
            prop_assert_eq!(counted.received, set.len() as u64);
            prop_assert_eq!(counted.duplicates, (numbers.len() - set.len()) as u64);
            prop_assert_eq!(counted.reordered, late);
        }

        #[test]
        fn any_numbers_are_taken(numbers: Vec<u32>) {
            let mut tracker = SequenceTracker::default();
            numbers.iter().for_each(|&number| { tracker.note(number); });
        }
    }
}
