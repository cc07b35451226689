//! Whole numbers as JSON has them.
//!
//! JSON knows no difference between 26 and 26.0, and neither does JSON Schema: some clients write
//! one for the other.

use std::fmt;

use serde::Deserializer;
use serde::de::{Error, Unexpected, Visitor};

/// Reads a whole number, with or without a fraction of nought.
///
/// # Errors
/// If it is no whole number from 0 to 4,294,967,295.
pub fn of_json<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    deserializer.deserialize_any(Whole)
}

/// Reads a whole number, or nothing.
///
/// # Errors
/// As [`of_json`].
pub fn of_json_or_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    deserializer.deserialize_option(WholeOrNull)
}

struct WholeOrNull;

impl<'de> Visitor<'de> for WholeOrNull {
    type Value = Option<u32>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a whole number or null")
    }

    fn visit_none<E>(self) -> Result<Option<u32>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<u32>, E> {
        Ok(None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<u32>, D::Error> {
        of_json(deserializer).map(Some)
    }
}

struct Whole;

impl Visitor<'_> for Whole {
    type Value = u32;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "a whole number from 0 to {}", u32::MAX)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<u32, E> {
        u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<u32, E> {
        u32::try_from(number).map_err(|_| E::invalid_value(Unexpected::Signed(number), &self))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<u32, E> {
        let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        if is_whole { Ok(number as u32) } else { Err(E::invalid_value(Unexpected::Float(number), &self)) }
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Days(#[serde(deserialize_with = "super::of_json")] u32);

    #[derive(Debug, Deserialize, PartialEq)]
    struct Wish {
        #[serde(default, deserialize_with = "super::of_json_or_null")]
        days: Option<u32>,
    }

    #[test]
    fn nothing_is_null_or_absent() {
        let read = |text| serde_json::from_str::<Wish>(text).unwrap().days;
        assert_eq!([read("{}"), read(r#"{"days": null}"#), read(r#"{"days": 2.0}"#)], [None, None, Some(2)]);
        assert!(serde_json::from_str::<Wish>(r#"{"days": "2"}"#).is_err());
    }

    #[test]
    fn a_fraction_of_nought_makes_no_difference() {
        for text in ["26", "26.0", "2.6e1"] {
            assert_eq!(serde_json::from_str::<Days>(text).unwrap(), Days(26), "{text}");
        }
        for text in ["26.5", "-1", "-1.0", "4294967296", "4294967296.0", "1e300", "\"26\"", "null", "true"] {
            assert!(serde_json::from_str::<Days>(text).is_err(), "{text}");
        }
    }
}
