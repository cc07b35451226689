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
