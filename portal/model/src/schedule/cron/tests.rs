use jiff::civil::{DateTime, Weekday};
use jiff::tz::AmbiguousOffset;
use jiff::{Span, ToSpan as _};
use proptest::prelude::*;

use super::*;

/// Zones whose clocks change: both hemispheres, half an hour (Lord Howe), at midnight (Santiago,
/// Beirut), by a zone that is ahead in winter (Dublin).
const ZONES: [&str; 7] = [
    "Europe/Zurich",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Santiago",
    "Asia/Beirut",
    "Europe/Dublin",
    "Asia/Kolkata",
];

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn dates(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let (cron, zone) = (Cron::parse(cron).unwrap(), TimeZone::get(zone).unwrap());
    let first = cron.next_after(at(after), &zone);
    std::iter::successors(first, |date| cron.next_after(*date, &zone))
        .take(count)
        .map(|date| date.to_string())
        .collect()
}

#[test]
fn both_day_fields_are_joined_by_or() {
    let days = dates("0 4 13 * 5", "UTC", "2027-01-01T00:00:00Z", 5);
    let expected = ["01", "08", "13", "15", "22"].map(|day| format!("2027-01-{day}T04:00:00Z"));
    assert_eq!(days, expected);
}

#[test]
fn seven_is_sunday_and_names_are_days() {
    let expected = dates("0 0 * * 0", "UTC", "2027-01-01T00:00:00Z", 3);
    assert_eq!(expected[0], "2027-01-03T00:00:00Z");
    assert_eq!(dates("0 0 * * 7", "UTC", "2027-01-01T00:00:00Z", 3), expected);
    assert_eq!(dates("0 0 * * sun", "UTC", "2027-01-01T00:00:00Z", 3), expected);
    assert_eq!(dates("0 0 * * 5-7", "UTC", "2027-01-01T00:00:00Z", 2)[1], "2027-01-03T00:00:00Z");
    assert_eq!(dates("0 0 1 jan-feb *", "UTC", "2027-01-01T00:00:00Z", 1), ["2027-02-01T00:00:00Z"]);
}

#[test]
fn what_means_different_things_elsewhere_is_refused_with_a_sentence() {
    let refused = [
        ("0 0 */2 * 1", "write the days out"),
        ("0 0 1 * */2", "write the days out"),
        ("0 0 L * *", "'L' is none of 1 to 31"),
        ("0 0 15W * *", "'15W' is none of 1 to 31"),
        ("0 0 * * 5#2", "'5#2' is none of 0 to 7, or a name of three letters"),
        ("0 0 ? * *", "'?' is none of 1 to 31"),
        ("*/10 * * * * *", "five fields (minute, hour, day of the month, month, day of the week), not 6"),
        ("0 0 1 1 * 2030 0", "not 7"),
        ("", "not 0"),
        ("@reboot", "'@reboot' is not known here; write the five fields"),
        ("@daily", "write the five fields"),
        ("60 * * * *", "the minute '60': '60' is none of 0 to 59"),
        ("* 24 * * *", "the hour '24'"),
        ("* * 0 * *", "none of 1 to 31"),
        ("* * * 13 *", "none of 1 to 12, or a name of three letters"),
        ("* * * * 8", "none of 0 to 7"),
        ("-1 * * * *", "the minute '-1': '' is none of 0 to 59"),
        ("+1 * * * *", "'+1' is none of"),
        ("1.5 * * * *", "'1.5' is none of"),
        ("5/10 * * * *", "a step needs a range: */n, or 5-59/n"),
        ("*/0 * * * *", "a step is a whole number from 1 to 59"),
        ("*/60 * * * *", "a step is a whole number from 1 to 59"),
        ("30-10 * * * *", "a range goes upwards, not from 30 to 10"),
        ("*,5 * * * *", "'*' is everything already"),
        ("1,,2 * * * *", "'' is none of"),
        ("0 0 31 2 *", "no month of '2' has a day '31'"),
        ("0 0 30 feb *", "no month of 'feb' has a day '30'"),
        ("0 0 31 4,6,9,11 *", "no month of '4,6,9,11' has a day '31'"),
    ];
    for (text, sentence) in refused {
        let said = Cron::parse(text).unwrap_err().to_string();
        assert!(said.contains(sentence), "{text}: {said}");
    }
    let long = format!("{} * * * *", "1,".repeat(300));
    assert_eq!(Cron::parse(&long).unwrap_err(), CronFault::Long(608));
}

#[test]
fn a_day_that_only_the_day_of_the_week_can_bring_is_found() {
    assert_eq!(dates("0 0 31 2 1", "UTC", "2027-01-31T00:00:00Z", 1), ["2027-02-01T00:00:00Z"]);
}

#[test]
fn leap_days() {
    let days = dates("0 12 29 2 *", "UTC", "2096-01-01T00:00:00Z", 3);
    // 2100 is none.
    assert_eq!(days, ["2096-02-29T12:00:00Z", "2104-02-29T12:00:00Z", "2108-02-29T12:00:00Z"]);
}

#[test]
fn an_hour_that_is_left_out_and_one_that_comes_twice() {
    // The clock goes from 02:00 to 03:00 on 28 March 2027, and back on 31 October.
    let spring = dates("30 2 * * *", "Europe/Zurich", "2027-03-27T12:00:00Z", 2);
    assert_eq!(spring, ["2027-03-28T01:00:00Z", "2027-03-29T00:30:00Z"]);
    let autumn = dates("30 2 * * *", "Europe/Zurich", "2027-10-30T12:00:00Z", 2);
    assert_eq!(autumn, ["2027-10-31T00:30:00Z", "2027-11-01T01:30:00Z"]);
    let quarter_hours = dates("*/30 2 * * *", "Europe/Zurich", "2027-10-30T12:00:00Z", 4);
    let expected = ["00:00", "00:30", "01:00", "01:30"].map(|time| format!("2027-10-31T{time}:00Z"));
    assert_eq!(quarter_hours, expected);
    let left_out = dates("*/30 2 * * *", "Europe/Zurich", "2027-03-27T12:00:00Z", 1);
    assert_eq!(left_out, ["2027-03-29T00:00:00Z"]);
}

/// A field of the independent computation: which values are wanted.
#[derive(Debug, Clone)]
struct Wanted {
    text: String,
    values: Vec<i64>,
    is_all: bool,
}

fn wanted(least: i64, most: i64) -> impl Strategy<Value = Wanted> {
    let all = Just(Wanted { text: "*".to_owned(), values: (least..=most).collect(), is_all: true });
    let list = proptest::collection::btree_set(least..=most, 1..4).prop_map(|values| Wanted {
        text: values.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        values: values.into_iter().collect(),
        is_all: false,
    });
    let range = (least..=most, least..=most, 1..=(most - least)).prop_map(|(one, other, step)| {
        let (first, last) = (one.min(other), one.max(other));
        let text = if step == 1 { format!("{first}-{last}") } else { format!("{first}-{last}/{step}") };
        let values = (first..=last).step_by(usize::try_from(step).unwrap()).collect();
        Wanted { text, values, is_all: false }
    });
    prop_oneof![all, list, range]
}

#[derive(Debug, Clone)]
struct Fields {
    minute: Wanted,
    hour: Wanted,
    day: Wanted,
    month: Wanted,
    weekday: Wanted,
}

impl Fields {
    fn text(&self) -> String {
        [&self.minute, &self.hour, &self.day, &self.month, &self.weekday].map(|field| field.text.as_str()).join(" ")
    }

    fn has_day(&self, civil: DateTime) -> bool {
        let day = self.day.values.contains(&i64::from(civil.day()));
        let weekday = civil.weekday().to_sunday_zero_offset();
        let weekday = self.weekday.values.iter().any(|wanted| wanted % 7 == i64::from(weekday));
        let day_will_do = match (self.day.is_all, self.weekday.is_all) {
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        day_will_do && self.month.values.contains(&i64::from(civil.month()))
    }

    fn has(&self, civil: DateTime) -> bool {
        self.has_day(civil)
            && self.hour.values.contains(&i64::from(civil.hour()))
            && self.minute.values.contains(&i64::from(civil.minute()))
    }

    /// Whether it is one time of the day.
    fn is_one_time(&self) -> bool {
        let is_one = |field: &Wanted| !field.is_all && field.values.len() == 1 && !field.text.contains('/');
        is_one(&self.minute) && is_one(&self.hour)
    }

    /// Dates after `start` for so many days, found by looking at every minute that there is.
    fn every_minute(&self, start: Timestamp, zone: &TimeZone, days: i64) -> Vec<Timestamp> {
        let mut found = Vec::new();
        for minute in 1..=days * 1440 {
            let now = start + Span::new().minutes(minute);
            let civil = zone.to_datetime(now);
            // The wall clock a minute ago shows whether it has jumped.
            let before = zone.to_datetime(now - 1.minute());
            let jumped = civil.duration_since(before).as_secs() > 60;
            if jumped && self.is_one_time() {
                let mut skipped = before + 1.minute();
                let mut was_wanted = false;
                while skipped < civil {
                    was_wanted |= self.has(skipped);
                    skipped += 1.minute();
                }
                if (was_wanted && self.has_day(civil)) || self.has(civil) {
                    found.push(now);
                }
                continue;
            }
            let is_second = match zone.to_ambiguous_timestamp(civil).offset() {
                AmbiguousOffset::Fold { after, .. } => zone.to_offset(now) == after,
                _ => false,
            };
            if self.has(civil) && !(is_second && self.is_one_time()) {
                found.push(now);
            }
        }
        found
    }
}

fn fields() -> impl Strategy<Value = Fields> {
    (wanted(0, 59), wanted(0, 23), wanted(1, 31), wanted(1, 12), wanted(0, 7))
        .prop_map(|(minute, hour, day, month, weekday)| Fields { minute, hour, day, month, weekday })
}

/// Times of the day at which clocks change somewhere.
fn early_fields() -> impl Strategy<Value = Fields> {
    let every = |least, most| Just(Wanted { text: "*".to_owned(), values: (least..=most).collect(), is_all: true });
    let weekday = prop_oneof![
        every(0, 7),
        Just(Wanted { text: "0".to_owned(), values: vec![0], is_all: false }),
        Just(Wanted { text: "7".to_owned(), values: vec![7], is_all: false }),
    ];
    (wanted(0, 59), 0_i64..4, every(1, 31), every(1, 12), weekday).prop_map(|(minute, hour, day, month, weekday)| {
        let hour = Wanted { text: hour.to_string(), values: vec![hour], is_all: false };
        Fields { minute, hour, day, month, weekday }
    })
}

fn same_dates(fields: &Fields, zone: &str, start: Timestamp, days: i64) -> Result<(), TestCaseError> {
    let text = fields.text();
    let cron = match Cron::parse(&text) {
        Ok(cron) => cron,
        // Only what cannot be: a step in a day field is written as a range here.
        Err(CronFault::NoSuchDay { .. }) => return Ok(()),
        Err(other) => return Err(TestCaseError::fail(format!("{text}: {other}"))),
    };
    let zone = TimeZone::get(zone).unwrap();
    let end = start + Span::new().minutes(days * 1440);
    let first = cron.next_after(start, &zone);
    let dates = std::iter::successors(first, |date| cron.next_after(*date, &zone)).take_while(|date| *date <= end);
    prop_assert_eq!(dates.collect::<Vec<_>>(), fields.every_minute(start, &zone, days), "{} {:?}", text, zone);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    /// Any fields, anywhere, over ten days.
    #[test]
    fn dates_are_those_of_looking_at_every_minute(
        fields in fields(), zone in 0..ZONES.len(), hours in 0_i64..24 * 365 * 8,
    ) {
        let start = at("2024-01-01T00:00:00Z") + Span::new().hours(hours);
        same_dates(&fields, ZONES[zone], start, 10)?;
    }

    /// Where the clock changes, forth and back, in each zone.
    #[test]
    fn dates_are_those_of_looking_at_every_minute_where_clocks_change(
        fields in early_fields(), zone in 0..ZONES.len(), change in 0_usize..16,
    ) {
        let known = TimeZone::get(ZONES[zone]).unwrap();
        let changes = known.following(at("2024-01-01T00:00:00Z")).take(16).map(|change| change.timestamp());
        let Some(change) = changes.collect::<Vec<_>>().get(change).copied() else { return Ok(()) };
        same_dates(&fields, ZONES[zone], change - 26.hours(), 3)?;
    }

    /// Anything at all is either understood or refused.
    #[test]
    fn nothing_panics(text in "\\PC{0,40}", numbers in "[0-9*/,\\- a-zA-Z@#]{0,40}") {
        for text in [text, numbers] {
            if let Ok(cron) = Cron::parse(&text) {
                prop_assert!(cron.next_after(at("2027-01-01T00:00:00Z"), &TimeZone::UTC).is_some(), "{}", text);
                prop_assert_eq!(Cron::parse(cron.text()), Ok(cron.clone()));
                prop_assert!(!cron.words().is_empty());
            }
        }
    }
}

#[test]
fn weekdays_count_from_sunday() {
    assert_eq!(Weekday::Sunday.to_sunday_zero_offset(), 0);
}
