//! Schedules: what they consist of, and their dates.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cron::Cron;

/// What becomes of dates that passed while nothing could be started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Missed {
    /// One start makes up for all of them.
    #[default]
    Run,
    /// They are left out.
    Skip,
}

/// What becomes of a date while the start before still runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Overlap {
    /// It is left out.
    #[default]
    Skip,
    /// It is started when the one before has ended. At most one waits.
    Queue,
}

/// How far a schedule has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Dates up to here have been decided on.
    pub considered: Timestamp,
    /// Starts so far.
    pub starts: u32,
    /// Whether a start waits for the end of the one before.
    pub waiting: bool,
}

impl Progress {
    /// That of a schedule that begins at `now`.
    #[must_use]
    pub const fn beginning(now: Timestamp) -> Self {
        Self { considered: now, starts: 0, waiting: false }
    }
}

/// When a request is started.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// At one time.
    Once(Timestamp),
    /// Again and again.
    Repeated(Box<Repeated>),
}

/// Dates that come again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct Repeated {
    /// The dates.
    pub cron: Cron,
    /// The zone whose wall clock they are read on.
    pub zone: TimeZone,
    /// What becomes of dates that were missed.
    pub missed: Missed,
    /// What becomes of a date while the start before still runs.
    pub overlap: Overlap,
    /// No date after this one.
    pub until: Option<Timestamp>,
    /// So many starts in all.
    pub count: Option<u32>,
}

impl Schedule {
    /// The first date after `after`; `None` if there is none.
    #[must_use]
    pub fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Once(at) => (*at > after).then_some(*at),
            Self::Repeated(repeated) => repeated.next_after(after),
        }
    }

    /// The next dates after `after`, at most `dates` of them, with `progress` made so far.
    #[must_use]
    pub fn upcoming(&self, after: Timestamp, progress: &Progress, dates: usize) -> Vec<Timestamp> {
        let left = match self {
            Self::Once(_) => 1_u32.saturating_sub(progress.starts),
            Self::Repeated(repeated) => repeated.starts_left(progress),
        };
        let first = self.next_after(after);
        let all = std::iter::successors(first, |date| self.next_after(*date));
        all.take(dates.min(usize::try_from(left).unwrap_or(usize::MAX))).collect()
    }
}

impl Repeated {
    /// The first date after `after`; `None` if there is none.
    pub(super) fn next_after(&self, after: Timestamp) -> Option<Timestamp> {
        let next = self.cron.next_after(after, &self.zone)?;
        self.until.is_none_or(|until| next <= until).then_some(next)
    }

    /// How many starts are left.
    pub(super) const fn starts_left(&self, progress: &Progress) -> u32 {
        match self.count {
            Some(count) => count.saturating_sub(progress.starts),
            None => u32::MAX,
        }
    }
}
