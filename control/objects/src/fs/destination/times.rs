//! The resolution of a file system's timestamps. Some store whole seconds, FAT units of two: a file
//! stored there never has exactly the time that it was given, and would count as changed forever.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;

use culvert_protocol::manifest::FileTime;
use rustix::fs::{Mode, OFlags, Stat, Timespec, Timestamps, fstat, fstatfs, futimens, openat};

use crate::fs::destination::attributes::is_refusal;

/// A time that every known granularity truncates differently: an odd second, and nanoseconds of
/// nine different digits.
const PROBE: Timespec = Timespec { tv_sec: 1_000_000_001, tv_nsec: 123_456_789 };
const SECOND_NS: i128 = 1_000_000_000;
/// `MSDOS_SUPER_MAGIC` (linux/magic.h): FAT stores units of two seconds.
const FAT: i64 = 0x4d44;

/// The granularities of a destination's file systems.
#[derive(Debug, Default)]
pub struct Granularities {
    /// By device, in nanoseconds.
    known: HashMap<u64, i128>,
}

impl Granularities {
    /// Whether `there`, in `directory`, has the time `wanted`, at the resolution of its file
    /// system.
    pub fn has_time(&mut self, directory: BorrowedFd<'_>, there: &Stat, wanted: FileTime) -> bool {
        let wanted = i128::from(wanted.seconds) * SECOND_NS + i128::from(wanted.nanoseconds);
        let stored = i128::from(there.st_mtime) * SECOND_NS + i128::from(there.st_mtime_nsec);
        // Known granularities are multiples of 100 ns, and at most 2 s.
        let may_be_cut = there.st_mtime_nsec.is_multiple_of(100) && (wanted - stored).abs() < 2 * SECOND_NS;
        if stored == wanted || !may_be_cut {
            return stored == wanted;
        }
        let granularity = *self.known.entry(there.st_dev).or_insert_with(|| measure(directory));
        wanted.div_euclid(granularity) == stored.div_euclid(granularity)
    }
}

/// The granularity of a directory's file system, in nanoseconds, measured with a nameless file.
fn measure(directory: BorrowedFd<'_>) -> i128 {
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let stored = openat(directory, ".", flags, Mode::from_raw_mode(0o600)).and_then(|file| {
        let set = futimens(&file, &Timestamps { last_access: PROBE, last_modification: PROBE });
        set.and_then(|()| fstat(&file)).map(Some).or_else(|error| if is_refusal(error) { Ok(None) } else { Err(error) })
    });
    match stored {
        // If times cannot be set, they are not truncated either: files have the time of their
        // storing.
        Ok(None) => 1,
        Ok(Some(stat)) => granularity_of(stat.st_mtime, i64::from(stat.st_mtime_nsec as i32)),
        // Without nameless files, a timestamp of whole seconds suggests an old file system; by
        // chance it occurs once in a billion.
        Err(_) if fstatfs(directory).is_ok_and(|fs| fs.f_type == FAT) => 2 * SECOND_NS,
        Err(_) => SECOND_NS,
    }
}

/// The granularity that truncates [`PROBE`] to this time.
fn granularity_of(seconds: i64, nanoseconds: i64) -> i128 {
    let finest = [1, 100, 1_000, 1_000_000, 10_000_000];
    let keeps = |unit: &&i64| seconds == PROBE.tv_sec && nanoseconds == PROBE.tv_nsec / **unit * **unit;
    match finest.iter().find(keeps) {
        Some(&unit) => unit.into(),
        None if nanoseconds == 0 && seconds == PROBE.tv_sec => SECOND_NS,
        None if nanoseconds == 0 && (seconds - PROBE.tv_sec).abs() == 1 => 2 * SECOND_NS,
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn each_granularity_is_recognized_by_the_time_it_stores() {
        let odd = PROBE.tv_sec;
        for (seconds, nanoseconds, granularity) in [
            (odd, 123_456_789, 1),
            (odd, 123_456_700, 100),
            (odd, 123_456_000, 1_000),
            (odd, 120_000_000, 10_000_000),
            (odd, 0, SECOND_NS),
            (odd - 1, 0, 2 * SECOND_NS),
            (odd + 1, 0, 2 * SECOND_NS),
            (odd, 5, 1),
        ] {
            assert_eq!(granularity_of(seconds, nanoseconds), granularity, "{seconds}.{nanoseconds}");
        }
    }

    #[test]
    fn a_file_system_with_nanoseconds_is_not_thought_to_have_none() {
        let directory = tempfile::tempdir().unwrap();
        let opened = File::open(directory.path()).unwrap();
        if measure(opened.as_fd()) != 1 {
            eprintln!("skipped: {} does not keep nanoseconds", directory.path().display());
            return;
        }
        let file = directory.path().join("f");
        let whole = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        File::create(&file).unwrap().set_modified(whole).unwrap();
        let there = rustix::fs::stat(&file).unwrap();
        let mut granularities = Granularities::default();
        let mut has = |nanoseconds| {
            granularities.has_time(opened.as_fd(), &there, FileTime { seconds: 1_700_000_000, nanoseconds })
        };
        assert!(has(0) && !has(1) && !has(123_000_000));
        granularities.known.insert(there.st_dev, SECOND_NS);
        let mut has =
            |seconds, nanoseconds| granularities.has_time(opened.as_fd(), &there, FileTime { seconds, nanoseconds });
        assert!(has(1_700_000_000, 999_999_999));
        assert!(!has(1_700_000_001, 0) && !has(1_699_999_999, 999_999_999));
    }
}
