//! Parsers of numbers on the command line, with readable errors.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use culvert_model::units::parse_bytes;

/// Parses a number within a range.
pub fn number_in<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("'{text}' is not a number from {} to {}", range.start(), range.end()))
    }
}

/// Parses a number; `what` is its unit in the error.
pub fn number_of<T: FromStr>(what: &'static str) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| text.parse().map_err(|_| format!("'{text}' is not a number of {what}"))
}

/// Parses a size within a range.
pub fn size_in(range: RangeInclusive<u64>) -> impl Fn(&str) -> Result<u64, String> + Clone + Send + Sync + 'static {
    move |text| {
        let bytes = parse_bytes(text)?;
        let (least, most) = (range.start(), range.end());
        if range.contains(&bytes) {
            Ok(bytes)
        } else {
            Err(format!("'{text}' is not a size from {least} to {most} bytes"))
        }
    }
}

/// Accepts a text that `parse` accepts, unchanged; it is parsed again where it is used.
pub fn checked<T>(
    parse: fn(&str) -> Result<T, String>,
) -> impl Fn(&str) -> Result<String, String> + Clone + Send + Sync + 'static
where
    T: 'static,
{
    move |text| parse(text).map(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invalid_number_is_explained() {
        let seconds = number_of::<u64>("seconds");
        assert_eq!(seconds("7"), Ok(7));
        for text in ["abc", "", "-1", "1.5", "99999999999999999999"] {
            assert_eq!(seconds(text), Err(format!("'{text}' is not a number of seconds")));
        }
        let flows = number_in(1u16..=256);
        assert_eq!(flows("256"), Ok(256));
        for text in ["0", "257", "70000", "x"] {
            assert_eq!(flows(text), Err(format!("'{text}' is not a number from 1 to 256")));
        }
    }
}
