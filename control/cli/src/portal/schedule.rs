//! When a device that waits to be let in asks again (RFC 8628, section 3.5): not faster than the
//! portal says, ever slower while the portal cannot be reached, and never after the code's end.

use std::time::Duration;

/// The longest time between two questions.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// The longest time for which anybody waits, whatever the portal says.
const TIME_MAX: Duration = Duration::from_secs(3_600);
/// How much slower a device becomes that asks too often, if the portal does not say.
const SLOWER: Duration = Duration::from_secs(5);

/// When to ask again.
#[derive(Clone, Debug)]
pub struct PollSchedule {
    interval: Duration,
    end: Duration,
    failures: u32,
}

impl PollSchedule {
    /// As the portal has said it with the codes.
    #[must_use]
    pub fn new(interval_seconds: u64, expires_in_seconds: u64) -> Self {
        let end = Duration::from_secs(expires_in_seconds).min(TIME_MAX);
        Self { interval: bounded(Duration::from_secs(interval_seconds)), end, failures: 0 }
    }

    /// How long to wait before the next question, `elapsed` after the codes came; `None` if the
    /// code ends before it.
    #[must_use]
    pub fn wait(&self, elapsed: Duration) -> Option<Duration> {
        let wait = self.interval.saturating_mul(1 << self.failures.min(6));
        let wait = wait.min(WAIT_MAX.max(self.interval));
        (elapsed.saturating_add(wait) < self.end).then_some(wait)
    }

    /// The portal has answered that nobody has decided yet.
    pub fn waits(&mut self) {
        self.failures = 0;
    }

    /// The portal has answered that this asks too often; it may have said how long to wait.
    pub fn slow_down(&mut self, seconds: Option<u64>) {
        self.failures = 0;
        let slower = seconds.map_or(self.interval.saturating_add(SLOWER), Duration::from_secs);
        self.interval = bounded(slower.max(self.interval));
    }

    /// The portal has not answered, or cannot now.
    pub fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Whether the portal did not answer the last question.
    #[must_use]
    pub const fn has_failed(&self) -> bool {
        self.failures > 0
    }
}

fn bounded(wait: Duration) -> Duration {
    wait.clamp(Duration::from_secs(1), WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn it_becomes_slower_when_told_and_while_nobody_answers() {
        let mut schedule = PollSchedule::new(5, 600);
        assert_eq!(schedule.wait(seconds(0)), Some(seconds(5)));
        schedule.slow_down(None);
        assert_eq!(schedule.wait(seconds(5)), Some(seconds(10)));
        schedule.slow_down(Some(20));
        assert_eq!(schedule.wait(seconds(15)), Some(seconds(20)));
        schedule.slow_down(Some(1));
        assert_eq!(schedule.wait(seconds(15)), Some(seconds(20)), "it never becomes faster");
        schedule.failed();
        assert_eq!(schedule.wait(seconds(15)), Some(seconds(40)));
        schedule.failed();
        assert_eq!(schedule.wait(seconds(15)), Some(WAIT_MAX));
        schedule.waits();
        assert_eq!(schedule.wait(seconds(15)), Some(seconds(20)));
        assert_eq!(schedule.wait(seconds(580)), None, "the code ends before");
    }

    proptest! {
        #[test]
        fn it_ends_whatever_the_portal_says(
            interval: u64,
            end: u64,
            told in proptest::collection::vec(0..3u8, 0..400),
        ) {
            let mut schedule = PollSchedule::new(interval, end);
            let mut elapsed = Duration::ZERO;
            let mut asked = 0;
            let mut told = told.into_iter().cycle().take(5_000);
            while let Some(wait) = schedule.wait(elapsed) {
                prop_assert!(wait >= seconds(1) && wait <= WAIT_MAX);
                elapsed += wait;
                asked += 1;
                prop_assert!(elapsed < TIME_MAX && asked <= 3_600);
                match told.next() {
                    Some(0) => schedule.slow_down(Some(interval)),
                    Some(1) => schedule.failed(),
                    _ => schedule.waits(),
                }
            }
        }
    }
}
