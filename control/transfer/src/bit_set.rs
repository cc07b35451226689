//! A set of small numbers, a bit for each: files and chunks come in millions.

/// A set of numbers below a limit.
#[derive(Debug)]
pub struct BitSet {
    words: Box<[u64]>,
}

impl BitSet {
    /// An empty set of numbers below `limit`.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { words: vec![0; limit.div_ceil(64)].into_boxed_slice() }
    }

    /// Whether `number` is in the set.
    #[must_use]
    pub fn contains(&self, number: u32) -> bool {
        self.words.get(number as usize / 64).is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Puts `number` into the set; whether it was not there. A number beyond the limit is never
    /// there.
    pub fn insert(&mut self, number: u32) -> bool {
        let Some(word) = self.words.get_mut(number as usize / 64) else { return false };
        let bit = 1 << (number % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Takes `number` out of the set.
    pub fn remove(&mut self, number: u32) {
        if let Some(word) = self.words.get_mut(number as usize / 64) {
            *word &= !(1 << (number % 64));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_there_once_they_were_put_in() {
        let mut set = BitSet::new(130);
        assert!(set.insert(0) && set.insert(64) && set.insert(129) && !set.insert(64));
        assert!(set.contains(129) && !set.contains(128) && !set.contains(1 << 30));
        assert!(!set.insert(1 << 30));
        set.remove(64);
        assert!(!set.contains(64) && set.insert(64));
    }
}
