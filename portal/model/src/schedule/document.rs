//! A schedule as people write it.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::cron::Cron;
use super::plan::{Missed, Overlap, Repeated, Schedule};
use crate::field_fault::FieldFault;
use crate::whole_number;

/// When a request is started: `at` alone, or `cron` with what belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScheduleDocument {
    /// Once, at this time.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Again and again: minute, hour, day of the month, month, day of the week.
    #[schema(max_length = 256)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    /// The zone whose wall clock the five fields are read on, for example `Europe/Zurich`; UTC if
    /// absent.
    #[schema(max_length = 64)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What becomes of dates that passed while nothing could be started; `run` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<Missed>,
    /// What becomes of a date while the start before still runs; `skip` if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overlap: Option<Overlap>,
    /// No date after this time.
    #[schema(value_type = Option<String>, format = DateTime)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// So many starts in all.
    #[schema(minimum = 1, maximum = 1_000_000)]
    #[serde(default, deserialize_with = "whole_number::of_json_or_null", skip_serializing_if = "Option::is_none")]
    pub count: Option<u32>,
}

impl ScheduleDocument {
    /// The schedule that it means.
    ///
    /// # Errors
    /// [`FieldFault`] of the first field that is wrong.
    pub fn checked(&self) -> Result<Schedule, FieldFault> {
        match (self.at, &self.cron) {
            (Some(at), None) => self.once(at),
            (None, Some(cron)) => self.repeated(cron).map(|repeated| Schedule::Repeated(Box::new(repeated))),
            (Some(_), Some(_)) => Err(FieldFault::new(
                "schedule.cron",
                "'schedule.at' and 'schedule.cron' exclude each other: once at a time, or again and again",
            )),
            (None, None) => Err(FieldFault::new(
                "schedule.at",
                "give a time ('schedule.at'), or dates that come again and again ('schedule.cron')",
            )),
        }
    }

    fn once(&self, at: Timestamp) -> Result<Schedule, FieldFault> {
        let others = [
            ("schedule.zone", self.zone.is_some()),
            ("schedule.missed", self.missed.is_some()),
            ("schedule.overlap", self.overlap.is_some()),
            ("schedule.until", self.until.is_some()),
            ("schedule.count", self.count.is_some()),
        ];
        match others.into_iter().find(|(_, is_given)| *is_given) {
            Some((field, _)) => {
                Err(FieldFault::new(field, format!("'{field}' belongs to 'schedule.cron'; 'schedule.at' is one time")))
            }
            None => Ok(Schedule::Once(at)),
        }
    }

    fn repeated(&self, cron: &str) -> Result<Repeated, FieldFault> {
        let cron = Cron::parse(cron).map_err(|error| FieldFault::new("schedule.cron", error.to_string()))?;
        if self.count.is_some_and(|count| !(1..=1_000_000).contains(&count)) {
            return Err(FieldFault::new("schedule.count", "the number of starts must be 1 to 1000000"));
        }
        Ok(Repeated {
            cron,
            zone: zone(self.zone.as_deref().unwrap_or("UTC"))?,
            missed: self.missed.unwrap_or_default(),
            overlap: self.overlap.unwrap_or_default(),
            until: self.until,
            count: self.count,
        })
    }
}

fn zone(name: &str) -> Result<TimeZone, FieldFault> {
    // Looked up by name only: 'local' and offsets would mean another zone on another portal.
    let known = name.len() <= 64 && !name.eq_ignore_ascii_case("local");
    let found = known.then(|| TimeZone::get(name).ok()).flatten();
    found.ok_or_else(|| {
        let shown: String = name.chars().filter(|character| !character.is_control()).take(64).collect();
        FieldFault::new(
            "schedule.zone",
            format!("there is no zone '{shown}'; zones are written like Europe/Zurich, or UTC"),
        )
    })
}
