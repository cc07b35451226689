//! Until when a certificate is good: the one thing that is asked of it here, so that no library
//! for all of X.509 comes with it. TLS itself has checked the certificate's form before.
//!
//! The way through the DER of RFC 5280, 4.1: certificate, what is signed, behind version, serial
//! number, algorithm and issuer the validity, and in it the second time.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xA0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of a certificate's validity; `None` if this is no certificate.
#[must_use]
pub fn end_of(certificate: &[u8]) -> Option<Timestamp> {
    let (signed, _) = content(content(certificate, SEQUENCE)?.0, SEQUENCE)?;
    // The version may be absent.
    let mut rest = content(signed, VERSION).map_or(signed, |(_, rest)| rest);
    for _serial_algorithm_issuer in 0..3 {
        rest = element(rest)?.2;
    }
    let (validity, _) = content(rest, SEQUENCE)?;
    let (_, _, rest) = element(validity)?;
    let (kind, time, _) = element(rest)?;
    time_of(kind, std::str::from_utf8(time).ok()?)
}

fn time_of(kind: u8, text: &str) -> Option<Timestamp> {
    let digits = match kind {
        // Two digits of a year: of the last century from 50 on.
        UTC_TIME => format!("{}{text}", if text.get(..2)? < "50" { "20" } else { "19" }),
        GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let civil = DateTime::strptime("%Y%m%d%H%M%SZ", digits).ok()?;
    civil.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// What is in an element of a kind, and what is behind it.
fn content(der: &[u8], wanted: u8) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(kind, ..)| *kind == wanted).map(|(_, content, rest)| (content, rest))
}

/// The kind of the first element, what is in it, and what is behind it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&kind, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        // No certificate has a gigabyte.
        let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7F)).filter(|(bytes, _)| bytes.len() <= 4)?;
        (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((kind, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrapped(kind: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap();
        [&[kind, 0x81, length][..], content].concat()
    }

    fn certificate(version: &[u8], kind: u8, end: &str) -> Vec<u8> {
        let times = [wrapped(UTC_TIME, b"260101000000Z"), wrapped(kind, end.as_bytes())].concat();
        let before = [version, &[0x02, 1, 7], &[SEQUENCE, 0], &[SEQUENCE, 0]].concat();
        wrapped(SEQUENCE, &wrapped(SEQUENCE, &[before, wrapped(SEQUENCE, &times)].concat()))
    }

    #[test]
    fn the_end_is_found_in_both_forms_and_nothing_is_believed() {
        let version = &[VERSION, 3, 2, 1, 2][..];
        for (version, kind, text, end) in [
            (version, UTC_TIME, "261231235959Z", Some("2026-12-31T23:59:59Z")),
            (&[], UTC_TIME, "990101000000Z", Some("1999-01-01T00:00:00Z")),
            (version, GENERALIZED_TIME, "20991231235959Z", Some("2099-12-31T23:59:59Z")),
            (version, GENERALIZED_TIME, "20991331235959Z", None),
            (version, 0x0C, "20991231235959Z", None),
            (version, UTC_TIME, "", None),
        ] {
            let certificate = certificate(version, kind, text);
            assert_eq!(end_of(&certificate), end.map(|end| end.parse().unwrap()), "{text}");
            // Cut anywhere, it is none, and no panic.
            assert!((0..certificate.len()).all(|length| end_of(&certificate[..length]).is_none()));
        }
        assert_eq!(end_of(&[SEQUENCE, 0xFF, 1, 2, 3]), None);
    }
}
