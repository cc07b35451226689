//! Invariants of a lane: a debug build ends at the first broken one, a release build counts it and
//! goes on.
//!
//! A lane is a thread, and its invariants are checked deep inside it: in the buffer pool, the
//! packet memory, the rings. The count is therefore kept per thread; the lane copies it into
//! [`LaneCounter::BrokenInvariants`](crate::counters::LaneCounter::BrokenInvariants) every
//! millisecond. An invariant that holds costs a comparison and a branch.
//!
//! Some of the checked code, such as the rings, also runs on the coordinator's thread and in the
//! control process. What breaks there ends a debug build too, but a release build counts it in a
//! thread-local that nobody reads.
//!
//! What comes from outside (network, disk, kernel, the other process) is not checked with this
//! macro: that gets an error.

use std::cell::Cell;

thread_local! {
    static BROKEN: Cell<u64> = const { Cell::new(0) };
}

/// Checks that `condition` holds. If not, a debug build panics with the sentence; a release build
/// adds to the thread's [`count`].
#[macro_export]
macro_rules! invariant {
    ($condition:expr, $sentence:literal) => {
        if !$condition {
            $crate::invariant::broken($sentence);
        }
    };
}

/// How many broken invariants this thread has met.
#[inline]
#[must_use]
pub fn count() -> u64 {
    BROKEN.get()
}

/// Counts a broken invariant; see [`invariant!`](crate::invariant!).
///
/// # Panics
/// In debug builds, after counting.
#[cold]
#[inline(never)]
pub fn broken(sentence: &str) {
    BROKEN.set(BROKEN.get().wrapping_add(1));
    debug_assert!(false, "broken invariant: {sentence}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_invariant_is_counted_in_every_build_and_panics_in_a_debug_build() {
        let before = count();
        invariant!(1 + 1 == 2, "sums are right");
        assert_eq!(count(), before);
        let ended = std::panic::catch_unwind(|| invariant!(1 + 1 == 3, "sums are wrong"));
        assert_eq!(ended.is_err(), cfg!(debug_assertions));
        assert_eq!(count(), before + 1);
    }
}
