//! Sizes, rates and durations as users write and read them.

pub use culvert_protocol::counted::grouped as show_count;

/// The lowest rate that can be asked for, in bits per second.
pub const RATE_MIN: u64 = 1_000;

/// Reads a size in bytes: `4096`, `10G`, `64MiB`, `1.5k`. Decimal suffixes are powers of 1000, `Ki`
/// … `Ti` powers of 1024.
///
/// # Errors
/// A description.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let explain = || format!("'{text}' is not a size: write for instance 4096, 10G or 64MiB");
    let (number, suffix) = split_number(text).ok_or_else(explain)?;
    let suffix = suffix.strip_suffix(['B', 'b']).unwrap_or(suffix);
    let factor = match suffix {
        "" => 1,
        "k" | "K" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "Ki" | "ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1u64 << 40,
        _ => return Err(explain()),
    };
    scale(number, factor as f64).ok_or_else(explain)
}

/// Reads a rate in bits per second: `10G`, `40Gbit`, `2.5Gb/s`, `800Mbps`.
///
/// # Errors
/// A description.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let explain = || format!("'{text}' is not a rate: write for instance 10G, 40Gbit or 2.5Gb/s (bits per second)");
    let (number, suffix) = split_number(text).ok_or_else(explain)?;
    let prefix =
        ["bit/s", "bits/s", "b/s", "bps", "bit"].iter().find_map(|unit| suffix.strip_suffix(unit)).unwrap_or(suffix);
    let factor = match prefix {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        _ => return Err(explain()),
    };
    match scale(number, factor) {
        Some(rate) if rate >= RATE_MIN => Ok(rate),
        Some(_) => Err(format!("a rate of '{text}' is too low: the minimum is 1 kb/s")),
        None => Err(explain()),
    }
}

/// Writes a size: `1.50 GiB`.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let at = ((63 - (bytes | 1).leading_zeros()) / 10).min(5) as usize;
    match at {
        0 => format!("{bytes} B"),
        _ => format!("{:.2} {}", bytes as f64 / (1u64 << (10 * at)) as f64, units[at]),
    }
}

/// Writes a rate: `18.90 Gb/s`.
#[must_use]
pub fn show_rate(bits_per_second: u64) -> String {
    let units = [(1e12, "Tb/s"), (1e9, "Gb/s"), (1e6, "Mb/s"), (1e3, "kb/s")];
    let value = bits_per_second as f64;
    units
        .iter()
        .find(|(factor, _)| value >= *factor)
        .map_or_else(|| format!("{bits_per_second} b/s"), |(factor, unit)| format!("{:.2} {unit}", value / factor))
}

/// Writes a duration: `0.42 s`, `3 min 12 s`, `2 h 05 min`.
#[must_use]
pub fn show_seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match whole {
        0..100 => format!("{seconds:.2} s"),
        100..3_600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3_600, whole / 60 % 60),
    }
}

fn split_number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    Some((number, text[end..].trim()))
}

fn scale(number: f64, factor: f64) -> Option<u64> {
    let value = number * factor;
    (value.is_finite() && (0.0..9e18).contains(&value)).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("4096", 4096),
            ("10G", 10_000_000_000),
            ("64MiB", 64 << 20),
            ("1.5k", 1500),
            ("2 GiB", 2 << 30),
            ("7KB", 7_000),
            ("0", 0),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "G", "1X", "-1", "1e30", "99999999T"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_are_read_as_people_write_them() {
        for (text, rate) in [("10G", 10e9), ("40Gbit", 40e9), ("2.5Gb/s", 2.5e9), ("800Mbps", 800e6), ("1000", 1e3)] {
            assert_eq!(parse_rate(text), Ok(rate as u64), "{text}");
        }
        for text in ["", "fast", "10GB", "0", "999"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn numbers_are_written_with_units() {
        assert_eq!(show_bytes(1023), "1023 B");
        assert_eq!(show_bytes(3 << 29), "1.50 GiB");
        assert_eq!(show_rate(18_900_000_000), "18.90 Gb/s");
        assert_eq!(show_count(1_234_567), "1,234,567");
        assert_eq!(show_count(12), "12");
        assert_eq!(show_seconds(0.418), "0.42 s");
        assert_eq!(show_seconds(192.0), "3 min 12 s");
        assert_eq!(show_seconds(7_500.0), "2 h 05 min");
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,20}") {
            let _ = (parse_bytes(&text), parse_rate(&text));
        }
    }
}
