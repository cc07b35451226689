//! When a request is started: once, or again and again.
//!
//! A person gives a [`document::ScheduleDocument`], of which `checked` makes a
//! [`plan::Schedule`], or says what is wrong with which field. Whoever starts requests keeps a
//! [`plan::Progress`] beside the schedule and asks `due`, which knows no clock: the time is handed
//! in. A portal that was away for a week, or whose clock was set, asks the same question and gets
//! one answer, not one for each date that has passed.

pub mod cron;
pub mod document;
pub mod due;
pub mod plan;
