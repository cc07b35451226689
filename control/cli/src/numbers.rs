//! Numbers on the command line, and what is said of those that are none.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use culvert_model::units::parse_bytes;

/// Reads a number of a range.
pub fn number_in<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static
where
    T: FromStr + PartialOrd + Display + Clone + Send + Sync + 'static,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("'{text}' is not a number from {} to {}", range.start(), range.end()))
    }
}

/// Reads a number, of which `what` says what it is of.
pub fn number_of<T: FromStr>(what: &'static str) -> impl Fn(&str) -> Result<T, String> + Clone + Send + Sync + 'static {
    move |text| text.parse().map_err(|_| format!("'{text}' is not a number of {what}"))
}

/// Reads a size of a range.
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

/// Takes a text as it is if `parse` can read it: who uses it reads it again.
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
    fn what_is_no_number_is_told_in_words() {
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
