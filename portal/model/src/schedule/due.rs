//! What is to be started now.
//!
//! Dates are considered in the order of time and each at most once: [`Progress::considered`] says
//! up to when. It never goes back, so a clock that is set back starts nothing a second time, and
//! one that is set forward makes the dates between missed ones, of which there is one start at
//! most.

use jiff::{SignedDuration, Timestamp};

use super::plan::{Missed, Overlap, Progress, Repeated, Schedule};

/// A date that is considered later than this counts as missed. Portals look for what is due every
/// few seconds; a restart or a failover takes less than a minute.
pub const MISSED_AFTER: SignedDuration = SignedDuration::from_mins(5);

/// What is to be done now, and how far the schedule has come with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// The date whose start is due.
    pub start: Option<Timestamp>,
    /// Dates that are left out for good: missed ones, and those while a start still runs.
    pub left_out: u32,
    /// To be kept in place of the progress before, in the transaction that starts.
    pub progress: Progress,
    /// When to ask again, if nothing else happens; `None` if there is no further date.
    pub next: Option<Timestamp>,
}

impl Schedule {
    /// What is to be started at `now`, if the last start `is_running` or not.
    #[must_use]
    pub fn due(&self, progress: &Progress, now: Timestamp, is_running: bool) -> Due {
        match self {
            Self::Once(at) => once(*at, progress, now),
            Self::Repeated(repeated) => repeated.due(progress, now, is_running),
        }
    }
}

fn once(at: Timestamp, progress: &Progress, now: Timestamp) -> Due {
    let nothing = Due { start: None, left_out: 0, progress: *progress, next: None };
    if progress.starts > 0 {
        nothing
    } else if at > now {
        Due { next: Some(at), ..nothing }
    } else {
        let progress = Progress { considered: now.max(progress.considered), starts: 1, waiting: false };
        Due { start: Some(at), progress, ..nothing }
    }
}

/// Dates that have passed since the last look.
struct Passed {
    /// The last of them.
    last: Option<Timestamp>,
    /// How many, up to a bound beyond which nobody counts.
    count: u32,
}

impl Repeated {
    fn due(&self, progress: &Progress, now: Timestamp, is_running: bool) -> Due {
        let passed = self.passed(progress.considered, now);
        let mut after = Progress { considered: progress.considered.max(now), ..*progress };
        let mut start = None;
        if self.starts_left(progress) > 0 {
            let taken = passed.last.filter(|date| !self.is_missed(*date, now));
            // One start does for the one that waits and for those that have come since.
            let wanted = taken.or_else(|| progress.waiting.then_some(progress.considered));
            match (wanted, is_running, self.overlap) {
                (Some(date), false, _) => {
                    start = Some(date);
                    after.starts = progress.starts.saturating_add(1);
                    after.waiting = false;
                }
                (Some(_), true, Overlap::Queue) => after.waiting = true,
                _ => {}
            }
        } else {
            after.waiting = false;
        }
        let all = passed.count + u32::from(progress.waiting);
        let left_out = all - u32::from(start.is_some()) - u32::from(after.waiting);
        let next = if self.starts_left(&after) > 0 { self.next_after(after.considered) } else { None };
        Due { start, left_out, progress: after, next }
    }

    fn is_missed(&self, date: Timestamp, now: Timestamp) -> bool {
        self.missed == Missed::Skip && now.duration_since(date) > MISSED_AFTER
    }

    /// Counts dates after `since` up to `now`.
    fn passed(&self, since: Timestamp, now: Timestamp) -> Passed {
        // A day of dates each minute; beyond that only the last one matters.
        const COUNTED_MAX: u32 = 1_440;
        let mut passed = Passed { last: None, count: 0 };
        let mut after = since;
        while let Some(date) = self.next_after(after).filter(|date| *date <= now) {
            passed = Passed { last: Some(date), count: passed.count + 1 };
            after = date;
            if passed.count == COUNTED_MAX {
                passed.last = self.last_up_to(now).or(passed.last);
                break;
            }
        }
        passed
    }

    fn last_up_to(&self, now: Timestamp) -> Option<Timestamp> {
        let end = self.until.map_or(now, |until| until.min(now));
        self.cron.last_up_to(end, &self.zone)
    }
}

#[cfg(test)]
mod tests;
