//! Which segments of one chunk are there: the receiver's bitmap, and the sender's of what to send
//! again.

use crate::wire::{CHUNK_BYTES_MAX, STRIDE_MIN, segment_count};

/// Segments that a chunk of the largest size has at the smallest stride.
pub const SEGMENTS_MAX: u32 = segment_count(CHUNK_BYTES_MAX, STRIDE_MIN);

/// A set of segment indices of one chunk. Its memory is allocated once, for the largest chunk of
/// the transfer, and reused for chunk after chunk.
#[derive(Clone, Debug)]
pub struct SegmentSet {
    words: Box<[u64]>,
    segments: u32,
    members: u32,
    /// Every index below this is a member. A hint that only moves forward, kept so that the prefix
    /// costs nothing to know.
    prefix: u32,
}

impl SegmentSet {
    /// An empty set with memory for chunks of up to `chunk_bytes` at any permitted stride.
    #[must_use]
    pub fn with_room_for(chunk_bytes: u32) -> Self {
        let words = segment_count(chunk_bytes, STRIDE_MIN).div_ceil(64) as usize;
        Self { words: vec![0; words].into_boxed_slice(), segments: 0, members: 0, prefix: 0 }
    }

    /// Empties the set and prepares it for a chunk of `segments` segments.
    ///
    /// # Panics
    /// If the set has no memory for so many.
    pub fn reset(&mut self, segments: u32) {
        let words = self.words.get_mut(..segments.div_ceil(64) as usize);
        // Invariant I-segments-room: A set of segments has memory for every segment of its chunk.
        assert!(words.is_some(), "{segments} segments exceed the set's memory");
        words.unwrap_or_default().fill(0);
        (self.segments, self.members, self.prefix) = (segments, 0, 0);
    }

    /// Whether `index` is a member.
    #[inline]
    #[must_use]
    pub fn contains(&self, index: u32) -> bool {
        index < self.segments && self.words.get(index as usize / 64).is_some_and(|word| word & (1 << (index % 64)) != 0)
    }

    /// Adds `index`; false if it was a member already, or no segment of the chunk has it.
    #[inline]
    pub fn insert(&mut self, index: u32) -> bool {
        debug_assert!(index < self.segments, "segment {index} of {}", self.segments);
        let Some(word) = self.words.get_mut(index as usize / 64).filter(|_| index < self.segments) else {
            return false;
        };
        let bit = 1 << (index % 64);
        let new = *word & bit == 0;
        *word |= bit;
        self.members = self.members.wrapping_add(u32::from(new));
        self.prefix = self.prefix.wrapping_add(u32::from(index == self.prefix));
        new
    }

    /// Removes the lowest member and returns it.
    #[inline]
    pub fn pop_first(&mut self) -> Option<u32> {
        if self.members == 0 {
            return None;
        }
        let (word, first) = self.words.iter_mut().zip((0u32..).step_by(64)).find(|(word, _)| **word != 0)?;
        let bit = word.trailing_zeros();
        *word &= word.wrapping_sub(1);
        self.members = self.members.saturating_sub(1);
        self.prefix = 0;
        Some(first | bit)
    }

    /// The lowest member.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        let (word, first) = self.words.iter().zip((0u32..).step_by(64)).find(|(word, _)| **word != 0)?;
        Some(first | word.trailing_zeros())
    }

    /// Whether all segments are members.
    #[inline]
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.members == self.segments
    }

    /// Whether no segment is a member.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.members == 0
    }

    /// How many segments are members.
    #[must_use]
    pub const fn len(&self) -> u32 {
        self.members
    }

    /// The length of the run of members that begins at index 0.
    #[inline]
    pub fn contiguous(&mut self) -> u32 {
        while let Some(&word) = self.words.get(self.prefix as usize / 64).filter(|_| self.prefix < self.segments) {
            // Zeros are shifted in from above, so there are at most as many ones as bits left in
            // the word, unless it is full.
            let ones = (word >> (self.prefix % 64)).trailing_ones();
            if ones == 0 {
                break;
            }
            self.prefix = self.prefix.wrapping_add(ones);
        }
        self.prefix = self.prefix.min(self.segments);
        self.prefix
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set(segments in 1..3000u32, indices in proptest::collection::vec(any::<u32>(), 0..400)) {
            let mut set = SegmentSet::with_room_for(4 << 20);
            set.reset(segments);
            let mut model = BTreeSet::new();
            for index in indices.into_iter().map(|index| index % segments) {
                prop_assert_eq!(set.insert(index), model.insert(index));
                let run = (0..).take_while(|at| model.contains(at)).count() as u32;
                prop_assert_eq!(set.contiguous(), run);
                prop_assert_eq!(set.len() as usize, model.len());
                prop_assert_eq!(set.first(), model.first().copied());
            }
            while let Some(index) = set.pop_first() {
                prop_assert_eq!(Some(index), model.pop_first());
            }
            prop_assert!(model.is_empty() && set.is_empty());
        }

        #[test]
        fn is_whole_when_every_segment_came_in_any_order(segments in 1..500u32, seed: u64) {
            let mut order: Vec<u32> = (0..segments).collect();
            order.sort_by_key(|&index| (u64::from(index) ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let mut set = SegmentSet::with_room_for(4 << 20);
            set.reset(segments);
            for (at, index) in order.into_iter().enumerate() {
                prop_assert!(!set.is_whole());
                set.insert(index);
                prop_assert_eq!(set.len() as usize, at + 1);
            }
            prop_assert!(set.is_whole());
            prop_assert_eq!(set.contiguous(), segments);
        }
    }
}
