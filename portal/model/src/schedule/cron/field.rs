//! One of the five fields: what may stand in it.

use super::fault::{CronFault, shown};

/// What a field may have.
pub struct Kind {
    name: &'static str,
    least: u32,
    most: u32,
    /// Words for the values from `least` on.
    words: &'static [&'static str],
}

/// The minute.
pub const MINUTE: Kind = Kind { name: "the minute", least: 0, most: 59, words: &[] };
/// The hour.
pub const HOUR: Kind = Kind { name: "the hour", least: 0, most: 23, words: &[] };
/// The day of the month.
pub const DAY: Kind = Kind { name: "the day of the month", least: 1, most: 31, words: &[] };
/// The month.
pub const MONTH: Kind = Kind {
    name: "the month",
    least: 1,
    most: 12,
    words: &["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"],
};
/// The day of the week; Sunday is both 0 and 7.
pub const WEEKDAY: Kind =
    Kind { name: "the day of the week", least: 0, most: 7, words: &["SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"] };

/// A field that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// What stands in it.
    pub text: String,
    /// Whether it is `*`.
    pub is_all: bool,
    /// Whether it is `*/n`, alone or in a list.
    pub is_step_over_all: bool,
    /// A bit for each value.
    bits: u64,
}

impl Field {
    /// The values.
    pub fn values(&self) -> impl Iterator<Item = u32> + '_ {
        (0..u64::BITS).filter(|value| self.bits & (1 << value) != 0)
    }
}

impl Kind {
    /// Reads a field: `*`, a value, a range `a-b`, each range with a step (`*/n`, `a-b/n`), or
    /// several of these with commas between.
    pub fn read(&self, text: &str) -> Result<Field, CronFault> {
        let mut field = Field { text: shown(text), is_all: text == "*", is_step_over_all: false, bits: 0 };
        for item in text.split(',') {
            let (range, step) = match item.split_once('/') {
                Some((range, step)) => (range, Some(self.step(text, step)?)),
                None => (item, None),
            };
            field.is_step_over_all |= range == "*" && step.is_some();
            let (first, last) = self.range(text, range, step.is_some())?;
            if range == "*" && step.is_none() && !field.is_all {
                return Err(self.fault(text, "'*' is everything already; nothing else can stand beside it"));
            }
            for value in (first..=last).step_by(step.unwrap_or(1)) {
                field.bits |= 1 << value;
            }
        }
        Ok(field)
    }

    fn range(&self, text: &str, range: &str, has_step: bool) -> Result<(u32, u32), CronFault> {
        if range == "*" {
            // Sunday is in it once.
            return Ok((self.least, if self.most == 7 { 6 } else { self.most }));
        }
        let Some((first, last)) = range.split_once('-') else {
            let value = self.value(text, range)?;
            return if has_step {
                let reason = format!("a step needs a range: */n, or {value}-{}/n", self.most);
                Err(self.fault(text, &reason))
            } else {
                Ok((value, value))
            };
        };
        let (first, last) = (self.value(text, first)?, self.value(text, last)?);
        if first > last {
            return Err(self.fault(text, &format!("a range goes upwards, not from {first} to {last}")));
        }
        Ok((first, last))
    }

    fn step(&self, text: &str, step: &str) -> Result<usize, CronFault> {
        let span = self.most - self.least;
        let read = digits(step).filter(|step| (1..=span).contains(step));
        let step = read.ok_or_else(|| self.fault(text, &format!("a step is a whole number from 1 to {span}")))?;
        Ok(step as usize)
    }

    fn value(&self, text: &str, word: &str) -> Result<u32, CronFault> {
        let named = self.words.iter().position(|name| name.eq_ignore_ascii_case(word));
        let named = named.and_then(|index| u32::try_from(index).ok()).map(|index| self.least + index);
        let value = named.or_else(|| digits(word)).filter(|value| (self.least..=self.most).contains(value));
        value.ok_or_else(|| {
            let words = if self.words.is_empty() { "" } else { ", or a name of three letters" };
            let reason = format!(
                "'{}' is none of {} to {}{words}; permitted are values, ranges, steps and '*'",
                shown(word),
                self.least,
                self.most
            );
            self.fault(text, &reason)
        })
    }

    fn fault(&self, text: &str, reason: &str) -> CronFault {
        CronFault::Field { field: self.name, text: shown(text), reason: reason.to_owned() }
    }
}

/// One to three digits. Other forms of numbers, a sign for one, are no values.
fn digits(text: &str) -> Option<u32> {
    let is_number = (1..=3).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}
