//! A path as a user typed it. Paths are bytes, which JSON cannot hold: UTF-8 is kept as text, other
//! bytes as hexadecimal digits.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use culvert_protocol::identity::to_hex;
use culvert_protocol::names::printable;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The mark before the hexadecimal digits of a path that is not UTF-8.
const HEX_MARK: &str = "\u{0}hex:";

/// A path's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypedPath(pub Vec<u8>);

impl TypedPath {
    /// As a path.
    #[must_use]
    pub fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.0))
    }
}

impl From<&OsStr> for TypedPath {
    fn from(path: &OsStr) -> Self {
        Self(path.as_bytes().to_vec())
    }
}

impl std::fmt::Display for TypedPath {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&printable(&self.0))
    }
}

impl Serialize for TypedPath {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) if !text.starts_with(HEX_MARK) => serializer.serialize_str(text),
            _ => serializer.collect_str(&format_args!("{HEX_MARK}{}", to_hex(&self.0))),
        }
    }
}

impl<'de> Deserialize<'de> for TypedPath {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let Some(digits) = text.strip_prefix(HEX_MARK) else { return Ok(Self(text.into_bytes())) };
        let byte = |pair: &[u8]| std::str::from_utf8(pair).ok().and_then(|pair| u8::from_str_radix(pair, 16).ok());
        digits
            .as_bytes()
            .chunks(2)
            .map(|pair| byte(pair).ok_or_else(|| serde::de::Error::custom("a path has invalid hexadecimal digits")))
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_survive_json(bytes in proptest::collection::vec(any::<u8>(), 0..50)) {
            let path = TypedPath(bytes);
            let json = serde_json::to_string(&path).unwrap();
            prop_assert_eq!(serde_json::from_str::<TypedPath>(&json).unwrap(), path);
        }
    }
}
