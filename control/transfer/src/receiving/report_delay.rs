//! How long reports wait in this process before they go to the partner: shows whether anything
//! delays its thread.

use std::time::{Duration, Instant};

/// Intervals that a report may wait. With its own that makes three from one report to the next.
const WAIT_INTERVALS_MAX: u32 = 2;

/// The reports of a flow.
///
/// A report says how long after the one before it was written, by the lane's clock. The least
/// difference between when a report was written and when it came through here is the way between
/// the two; what goes beyond it is waiting.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportDelay {
    /// When the first came through here, and the lane's time then.
    first: Option<Instant>,
    /// The lane's time since the first was written.
    written: Duration,
    /// The least waiting so far, counted from the first, in microseconds.
    least_us: i64,
}

impl ReportDelay {
    /// A report that was written `interval_us` after the one before goes out `now`; whether it
    /// waited too long for reports that were asked for each `asked`.
    pub fn is_late(&mut self, interval_us: u32, asked: Duration, now: Instant) -> bool {
        let Some(first) = self.first else {
            self.first = Some(now);
            return false;
        };
        self.written = self.written.saturating_add(Duration::from_micros(interval_us.into()));
        let in_us = |duration: Duration| i64::try_from(duration.as_micros()).unwrap_or(i64::MAX);
        // The intervals are the lanes' claim.
        let waited_us = in_us(now.saturating_duration_since(first)).saturating_sub(in_us(self.written));
        self.least_us = self.least_us.min(waited_us);
        waited_us.saturating_sub(self.least_us) > in_us(asked.saturating_mul(WAIT_INTERVALS_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_that_waited_are_late_and_those_that_were_written_late_are_not() {
        let asked = Duration::from_millis(10);
        let began = Instant::now();
        let mut delay = ReportDelay::default();
        // When each is written and when it comes through, in milliseconds.
        let reports = [
            (0, 5, false),
            (10, 14, false),
            (20, 25, false),
            // Nothing came, so nothing was to be told.
            (120, 125, false),
            // Held up, and those behind it as well.
            (130, 355, true),
            (140, 355, true),
            (330, 355, true),
            (335, 355, false),
            (350, 356, false),
        ];
        let mut before = 0;
        for (written, through, is_late) in reports {
            let interval_us = (written - before) * 1_000;
            before = written;
            let now = began + Duration::from_millis(through);
            assert_eq!(delay.is_late(interval_us, asked, now), is_late, "the one of {written} ms");
        }
    }

    /// They are the lanes' claim.
    #[test]
    fn intervals_of_any_size_are_summed_up() {
        let began = Instant::now();
        let mut delay = ReportDelay { first: Some(began), written: Duration::MAX, least_us: i64::MAX };
        for interval_us in [u32::MAX, 0, u32::MAX] {
            assert!(!delay.is_late(interval_us, Duration::MAX, began + Duration::from_secs(1)));
        }
    }
}
