//! Five fields that say on which dates something happens, in one dialect.
//!
//! Dialects differ in what they do with both day fields, with steps, with six fields, and with
//! nicknames, and people find out months later. Here each of these means one thing or is refused
//! with a sentence. What is left is the common part of all of them, whose dates the `croner`
//! library finds, on the wall clock of a zone:
//!
//! - If both the day of the month and the day of the week are restricted, either will do (POSIX).
//! - A schedule of one minute and one hour that falls into an hour that a change of the clock
//!   leaves out is carried out at the end of it, and in one that comes twice the first time only.
//! - Any other schedule follows the wall clock: not in what is left out, twice in what comes twice.

mod fault;
mod field;

use std::fmt;

use croner::parser::CronParser;
use jiff::Timestamp;
use jiff::tz::TimeZone;

pub use fault::CronFault;
use fault::shown;
use field::{DAY, Field, HOUR, MINUTE, MONTH, WEEKDAY};

/// Characters of the five fields. The longest that anybody needs names sixty minutes.
const CHARACTERS_MAX: usize = 256;
/// The most days that each month can have.
const DAYS_OF_MONTH: [u32; 12] = [31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

/// Dates that come again and again, without a zone.
#[derive(Debug, Clone, PartialEq)]
pub struct Cron {
    text: String,
    dates: croner::Cron,
}

impl Cron {
    /// Reads five fields.
    ///
    /// # Errors
    /// [`CronFault`].
    pub fn parse(text: &str) -> Result<Self, CronFault> {
        let length = text.chars().count();
        if length > CHARACTERS_MAX {
            return Err(CronFault::Long(length));
        }
        if text.trim_start().starts_with('@') {
            return Err(CronFault::Nickname(shown(text.trim())));
        }
        let parts: Vec<&str> = text.split_ascii_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(CronFault::Fields(parts.len()));
        };
        MINUTE.read(minute)?;
        HOUR.read(hour)?;
        check_days(&DAY.read(day)?, &MONTH.read(month)?, &WEEKDAY.read(weekday)?)?;
        let text = parts.join(" ").to_ascii_uppercase();
        let dates = CronParser::new().parse(&text).map_err(|error| CronFault::Field {
            field: "the fields",
            text: shown(&text),
            reason: error.to_string(),
        })?;
        Ok(Self { text, dates })
    }

    /// The five fields.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The dates in words.
    #[must_use]
    pub fn words(&self) -> String {
        self.dates.describe()
    }

    /// The first date after `after` on the wall clock of `zone`; `None` beyond the calendar's end.
    #[must_use]
    pub fn next_after(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let found = self.dates.find_next_occurrence(&after.to_zoned(zone.clone()), false);
        found.ok().map(|date| date.timestamp()).filter(|date| *date > after)
    }

    /// The last date up to and including `end`.
    #[must_use]
    pub fn last_up_to(&self, end: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let found = self.dates.find_previous_occurrence(&end.to_zoned(zone.clone()), true);
        found.ok().map(|date| date.timestamp()).filter(|date| *date <= end)
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

fn check_days(day: &Field, month: &Field, weekday: &Field) -> Result<(), CronFault> {
    if day.is_step_over_all && !weekday.is_all {
        return Err(CronFault::Ambiguous(day.text.clone()));
    }
    if weekday.is_step_over_all && !day.is_all {
        return Err(CronFault::Ambiguous(weekday.text.clone()));
    }
    // With both restricted, the days of the week come anyway.
    let exists = month.values().any(|month| {
        let last = DAYS_OF_MONTH.get(month as usize - 1).copied().unwrap_or_default();
        day.values().any(|day| day <= last)
    });
    if !exists && weekday.is_all {
        return Err(CronFault::NoSuchDay { days: day.text.clone(), months: month.text.clone() });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
