//! The id of a transfer.

use serde::{Deserialize, Serialize};

use crate::foreign_text::foreign_text;

/// A transfer's id: 128 bits, made by the requester, written as a ULID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TransferId(pub u128);

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl std::fmt::Display for TransferId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (0..26u32).rev().try_for_each(|at| {
            use std::fmt::Write as _;
            let digit = self.0.unbounded_shr(at.saturating_mul(5)) & 31;
            f.write_char(CROCKFORD.iter().zip(0..).find(|&(_, value)| value == digit).map_or('?', |(&c, _)| c.into()))
        })
    }
}

impl std::fmt::Debug for TransferId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TransferId({self})")
    }
}

impl std::str::FromStr for TransferId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let not_an_id = || {
            let text = foreign_text(text);
            format!("'{text}' is not a transfer id: ids have 26 characters, like 01JD3V5K6A0000000000000000")
        };
        if text.len() != 26 || text.bytes().next().is_none_or(|first| first > b'7') {
            return Err(not_an_id());
        }
        text.bytes()
            .try_fold(0u128, |bits, byte| {
                let digit = CROCKFORD.iter().position(|&symbol| symbol == byte.to_ascii_uppercase());
                digit.map(|digit| bits << 5 | digit as u128).ok_or_else(not_an_id)
            })
            .map(Self)
    }
}

impl TransferId {
    /// An id from the time and 80 random bits, as ULIDs are made: ids sort by time.
    #[must_use]
    pub const fn new(unix_ms: u64, random: u128) -> Self {
        Self((unix_ms as u128) << 80 | random & ((1 << 80) - 1))
    }
}
