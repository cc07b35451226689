use jiff::tz::TimeZone;
use jiff::{Span, ToSpan as _};
use proptest::prelude::*;

use super::super::cron::Cron;
use super::super::document::ScheduleDocument;
use super::*;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn repeated(cron: &str, missed: Missed, overlap: Overlap) -> Repeated {
    Repeated { cron: Cron::parse(cron).unwrap(), zone: TimeZone::UTC, missed, overlap, until: None, count: None }
}

#[test]
fn once_is_once_however_often_it_is_asked_for() {
    let schedule = Schedule::Once(at("2027-01-01T12:00:00Z"));
    let progress = Progress::beginning(at("2027-01-01T00:00:00Z"));
    let early = schedule.due(&progress, at("2027-01-01T11:59:59Z"), false);
    assert_eq!((early.start, early.next), (None, Some(at("2027-01-01T12:00:00Z"))));
    // The portal was off for a week: it is still wanted.
    let late = schedule.due(&progress, at("2027-01-08T12:00:00Z"), false);
    assert_eq!((late.start, late.next), (Some(at("2027-01-01T12:00:00Z")), None));
    assert_eq!(schedule.due(&late.progress, at("2027-01-09T00:00:00Z"), false).start, None);
    // Also when the clock goes back behind it.
    assert_eq!(schedule.due(&late.progress, at("2026-12-01T00:00:00Z"), false).start, None);
}

#[test]
fn a_week_away_is_one_start_or_none() {
    let progress = Progress::beginning(at("2027-01-01T00:30:00Z"));
    let now = at("2027-01-08T00:30:00Z");
    let run =
        Schedule::Repeated(Box::new(repeated("0 * * * *", Missed::Run, Overlap::Skip))).due(&progress, now, false);
    assert_eq!((run.start, run.left_out), (Some(at("2027-01-08T00:00:00Z")), 167));
    assert_eq!((run.progress.considered, run.next), (now, Some(at("2027-01-08T01:00:00Z"))));
    let skip =
        Schedule::Repeated(Box::new(repeated("0 * * * *", Missed::Skip, Overlap::Skip))).due(&progress, now, false);
    assert_eq!((skip.start, skip.left_out, skip.next), (None, 168, Some(at("2027-01-08T01:00:00Z"))));
    // What is late by less than a restart takes is not missed.
    let just = Schedule::Repeated(Box::new(repeated("0 * * * *", Missed::Skip, Overlap::Skip)));
    assert_eq!(just.due(&progress, at("2027-01-01T01:04:59Z"), false).start, Some(at("2027-01-01T01:00:00Z")));
}

#[test]
fn years_away_are_not_counted_date_by_date() {
    let progress = Progress::beginning(at("2017-01-01T00:00:30Z"));
    let due = Schedule::Repeated(Box::new(repeated("* * * * *", Missed::Run, Overlap::Skip))).due(
        &progress,
        at("2027-01-01T00:00:30Z"),
        false,
    );
    assert_eq!((due.start, due.left_out), (Some(at("2027-01-01T00:00:00Z")), 1_439));
}

#[test]
fn a_start_that_still_runs_is_waited_for_or_the_date_is_left_out() {
    let progress = Progress::beginning(at("2027-01-01T00:30:00Z"));
    let now = at("2027-01-01T01:00:00Z");
    let skip =
        Schedule::Repeated(Box::new(repeated("0 * * * *", Missed::Run, Overlap::Skip))).due(&progress, now, true);
    assert_eq!((skip.start, skip.left_out, skip.progress.waiting), (None, 1, false));

    let queueing = Schedule::Repeated(Box::new(repeated("0 * * * *", Missed::Run, Overlap::Queue)));
    let first = queueing.due(&progress, now, true);
    assert_eq!((first.start, first.left_out, first.progress.waiting), (None, 0, true));
    // A second one does not wait behind the first.
    let second = queueing.due(&first.progress, at("2027-01-01T02:00:00Z"), true);
    assert_eq!((second.start, second.left_out, second.progress.waiting), (None, 1, true));
    let ended = queueing.due(&second.progress, at("2027-01-01T02:10:00Z"), false);
    assert_eq!((ended.start.is_some(), ended.progress.waiting, ended.progress.starts), (true, false, 1));
    assert_eq!(queueing.due(&ended.progress, at("2027-01-01T02:20:00Z"), false).start, None);
}

#[test]
fn an_end_and_a_number_of_starts() {
    let until =
        Repeated { until: Some(at("2027-01-01T02:00:00Z")), ..repeated("0 * * * *", Missed::Run, Overlap::Skip) };
    let schedule = Schedule::Repeated(Box::new(until));
    let progress = Progress::beginning(at("2027-01-01T00:30:00Z"));
    let both = [at("2027-01-01T01:00:00Z"), at("2027-01-01T02:00:00Z")];
    assert_eq!(schedule.upcoming(at("2027-01-01T00:30:00Z"), &progress, 5), both);
    let after = schedule.due(&progress, at("2027-02-01T00:00:00Z"), false);
    assert_eq!((after.start, after.next), (Some(both[1]), None));

    let counted =
        Schedule::Repeated(Box::new(Repeated { count: Some(1), ..repeated("0 * * * *", Missed::Run, Overlap::Skip) }));
    let only = counted.due(&progress, at("2027-01-01T01:00:00Z"), false);
    assert_eq!((only.start, only.next), (Some(both[0]), None));
    assert_eq!(counted.due(&only.progress, at("2027-01-01T02:00:00Z"), false).start, None);
    assert_eq!(counted.upcoming(at("2027-01-01T02:00:00Z"), &only.progress, 5), []);
}

#[test]
fn documents_say_what_is_wrong_with_which_field() {
    let read = |text: &str| serde_json::from_str::<ScheduleDocument>(text).unwrap().checked();
    assert_eq!(read(r#"{"at": "2027-01-01T00:00:00Z"}"#), Ok(Schedule::Once(at("2027-01-01T00:00:00Z"))));
    assert!(read(r#"{"cron": "0 4 * * *", "zone": "Europe/Zurich", "count": 3}"#).is_ok());
    let wrong = [
        ("{}", "at", "give a time"),
        (r#"{"at": "2027-01-01T00:00:00Z", "cron": "* * * * *"}"#, "cron", "exclude each other"),
        (r#"{"at": "2027-01-01T00:00:00Z", "zone": "UTC"}"#, "zone", "belongs to 'schedule.cron'"),
        (r#"{"cron": "* * * *"}"#, "cron", "five fields"),
        (r#"{"cron": "* * * * *", "zone": "Mars/Olympus"}"#, "zone", "there is no zone 'Mars/Olympus'"),
        (r#"{"cron": "* * * * *", "zone": "local"}"#, "zone", "there is no zone 'local'"),
        (r#"{"cron": "* * * * *", "zone": "../../etc/passwd"}"#, "zone", "there is no zone"),
        (r#"{"cron": "* * * * *", "zone": ""}"#, "zone", "there is no zone ''"),
        (r#"{"cron": "* * * * *", "count": 0}"#, "count", "1 to 1000000"),
    ];
    for (text, field, sentence) in wrong {
        let fault = read(text).unwrap_err();
        assert_eq!(fault.field, format!("schedule.{field}"), "{text}");
        assert!(fault.detail.contains(sentence), "{text}: {}", fault.detail);
    }
}

fn policies() -> impl Strategy<Value = (Missed, Overlap)> {
    (prop_oneof![Just(Missed::Run), Just(Missed::Skip)], prop_oneof![Just(Overlap::Skip), Just(Overlap::Queue)])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// However clocks jump and portals come and go: no date twice, none before it is due, no more
    /// starts than permitted, none while the one before runs.
    #[test]
    fn no_date_is_started_twice(
        (missed, overlap) in policies(),
        count in proptest::option::of(1_u32..20),
        steps in proptest::collection::vec((-7_200_i64..20_000, any::<bool>()), 1..80),
    ) {
        let schedule = Schedule::Repeated(Box::new(Repeated { count, ..repeated("*/20 * * * *", missed, overlap) }));
        let mut now = at("2027-01-01T00:00:00Z");
        let mut progress = Progress::beginning(now);
        let mut started = std::collections::BTreeSet::new();
        let mut considered = 0;
        for (seconds, is_running) in steps {
            now += Span::new().seconds(seconds);
            let before = progress;
            let due = schedule.due(&progress, now, is_running);
            prop_assert!(due.progress.considered >= before.considered);
            progress = due.progress;
            considered += due.left_out;
            if let Some(date) = due.start {
                prop_assert!(!is_running);
                prop_assert!(date <= now.max(before.considered));
                prop_assert!(date <= progress.considered);
                if !before.waiting {
                    prop_assert!(started.insert(date), "{} twice", date);
                    prop_assert!(date > before.considered);
                }
                considered += 1;
            } else {
                prop_assert_eq!(progress.starts, before.starts);
            }
            if let Some(next) = due.next {
                prop_assert!(next > progress.considered);
            }
        }
        prop_assert!(count.is_none_or(|count| progress.starts <= count));
        // Every date that passed was started, left out, or waits.
        let end = progress.considered;
        let all = (end.as_second() - at("2027-01-01T00:00:00Z").as_second()) / 1_200;
        if count.is_none() {
            prop_assert_eq!(i64::from(considered) + i64::from(progress.waiting), all);
        }
    }
}

#[test]
fn the_next_dates_are_those_that_come_due() {
    let schedule = Schedule::Repeated(Box::new(repeated("7 */5 * * 1-5", Missed::Run, Overlap::Skip)));
    let start = at("2027-01-01T00:30:00Z");
    let upcoming = schedule.upcoming(start, &Progress::beginning(start), 5);
    let mut progress = Progress::beginning(start);
    let mut now = start;
    let mut came = Vec::new();
    while came.len() < 5 {
        now += 1.minute();
        let due = schedule.due(&progress, now, false);
        progress = due.progress;
        came.extend(due.start);
    }
    assert_eq!(came, upcoming);
}
