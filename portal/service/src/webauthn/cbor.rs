//! CBOR (RFC 8949), as far as authenticators write it: their canonical form, of definite lengths.

/// Levels of maps and arrays: an attestation has three.
const DEPTH_MAX: u8 = 6;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value<'a> {
    /// A whole number.
    Number(i64),
    /// Bytes.
    Bytes(&'a [u8]),
    /// A text.
    Text(&'a str),
    /// Values in a row.
    List(Vec<Self>),
    /// Pairs.
    Map(Vec<(Self, Self)>),
    /// True, false, or nothing.
    Other,
}

impl<'a> Value<'a> {
    /// The value under a text.
    #[must_use]
    pub fn of_text(&self, key: &str) -> Option<&Self> {
        self.find(&Value::Text(key))
    }

    /// The value under a number.
    #[must_use]
    pub fn of_number(&self, key: i64) -> Option<&Self> {
        self.find(&Value::Number(key))
    }

    /// It, if it is a number.
    #[must_use]
    pub const fn number(&self) -> Option<i64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }

    /// It, if it is bytes.
    #[must_use]
    pub const fn bytes(&self) -> Option<&'a [u8]> {
        if let Self::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    fn find(&self, key: &Value<'_>) -> Option<&Self> {
        let Self::Map(pairs) = self else { return None };
        pairs.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }
}

/// Reads a value, and gives what stands behind it; `None` if there is none.
#[must_use]
pub fn read(bytes: &[u8]) -> Option<(Value<'_>, &[u8])> {
    read_within(bytes, DEPTH_MAX)
}

fn read_within(bytes: &[u8], depth: u8) -> Option<(Value<'_>, &[u8])> {
    let depth = depth.checked_sub(1)?;
    let (first, rest) = bytes.split_first()?;
    let (argument, rest) = argument(first & 0x1F, rest)?;
    let length = usize::try_from(argument).ok();
    match first >> 5 {
        0 => Some((Value::Number(i64::try_from(argument).ok()?), rest)),
        1 => Some((Value::Number(-1 - i64::try_from(argument).ok()?), rest)),
        2 => rest.split_at_checked(length?).map(|(bytes, rest)| (Value::Bytes(bytes), rest)),
        3 => {
            let (text, rest) = rest.split_at_checked(length?)?;
            Some((Value::Text(std::str::from_utf8(text).ok()?), rest))
        }
        4 => {
            let (mut items, mut rest) = (Vec::new(), rest);
            for _ in 0..argument {
                let (item, behind) = read_within(rest, depth)?;
                items.push(item);
                rest = behind;
            }
            Some((Value::List(items), rest))
        }
        5 => {
            let (mut pairs, mut rest) = (Vec::new(), rest);
            for _ in 0..argument {
                let (key, behind) = read_within(rest, depth)?;
                let (value, behind) = read_within(behind, depth)?;
                pairs.push((key, value));
                rest = behind;
            }
            Some((Value::Map(pairs), rest))
        }
        7 if (20..=23).contains(&argument) => Some((Value::Other, rest)),
        _ => None,
    }
}

/// The number in a head, and what stands behind it.
fn argument(short: u8, rest: &[u8]) -> Option<(u64, &[u8])> {
    let bytes = match short {
        0..=23 => return Some((u64::from(short), rest)),
        24 => 1,
        25 => 2,
        26 => 4,
        27 => 8,
        _ => return None,
    };
    let (number, rest) = rest.split_at_checked(bytes)?;
    Some((number.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)), rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8949, appendix A.
    #[test]
    fn values_are_those_of_the_rfc() {
        let value = |bytes: &'static [u8]| read(bytes).map(|(value, _)| value);
        assert_eq!(value(&[0x18, 0x64]), Some(Value::Number(100)));
        assert_eq!(value(&[0x39, 0x03, 0xe7]), Some(Value::Number(-1000)));
        assert_eq!(value(&[0x1b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), None, "beyond what is needed");
        assert_eq!(value(&[0x44, 1, 2, 3, 4]), Some(Value::Bytes(&[1, 2, 3, 4])));
        assert_eq!(value(&[0x64, b'I', b'E', b'T', b'F']), Some(Value::Text("IETF")));
        assert_eq!(value(&[0x82, 1, 0xf5]), Some(Value::List(vec![Value::Number(1), Value::Other])));
        let map = value(&[0xa2, 0x61, b'a', 1, 0x20, 0x41, 7]).unwrap();
        assert_eq!(map.of_text("a").and_then(Value::number), Some(1));
        assert_eq!(map.of_number(-1).and_then(Value::bytes), Some([7].as_slice()));
        assert_eq!(read(&[1, 2]), Some((Value::Number(1), [2].as_slice())));
    }

    #[test]
    fn what_is_cut_deep_or_endless_is_none() {
        for bad in [
            &[][..],
            &[0x18],
            &[0x44, 1],
            &[0x61, 0xff],
            &[0x9f, 0xff],
            &[0xa1, 1],
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0xba, 0xff, 0xff, 0xff, 0xff, 1],
            &[0x81; 100],
            &[0xf9, 0, 0],
            &[0xc0, 0],
        ] {
            assert_eq!(read(bad), None, "{bad:02x?}");
        }
    }
}
