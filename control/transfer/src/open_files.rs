//! How many files with chunks of their own are open at the same time: as many as this process's
//! descriptors permit in addition to everything else.

use culvert_system::descriptors::descriptors_to_share;

/// Of a file that is received: its directory's, and its own twice, for access with and without the
/// page cache.
const DESCRIPTORS_PER_FILE: u64 = 3;
/// A quarter of the rest is for these files; half of it is for staged small ones.
const SHARE: u64 = 4;
/// Fewer would wait for each other, more fill no disk's queue better.
const FILES: std::ops::RangeInclusive<u64> = 4..=1_024;

/// Large files that may be open at the same time, of all transfers together. A transfer that has
/// none open, or whose open files all wait for chunks, opens one all the same: otherwise two could
/// wait for each other.
#[must_use]
pub fn at_once_max() -> usize {
    files_of(descriptors_to_share())
}

fn files_of(descriptors: u64) -> usize {
    (descriptors / SHARE / DESCRIPTORS_PER_FILE).clamp(*FILES.start(), *FILES.end()) as usize
}

#[cfg(test)]
mod tests {
    use culvert_system::descriptors::DESCRIPTORS_RESERVED;

    use super::*;

    #[test]
    fn few_descriptors_open_few_files() {
        let at_limit = |limit: u64| files_of(limit.saturating_sub(DESCRIPTORS_RESERVED));
        assert_eq!([64, 128, 1_024, 4_096, 1 << 20].map(at_limit), [4, 5, 80, 336, 1_024]);
    }
}
