//! Profiles: the kinds of hosts for which recommendations exist.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One gigabit per second.
pub(crate) const GIGABIT: u64 = 1_000_000_000;

/// A profile by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ProfileName {
    /// A data transfer node with links up to 25 Gb/s.
    #[serde(rename = "dtn-10g")]
    Dtn10g,
    /// From 25 to 100 Gb/s.
    #[serde(rename = "dtn-40g")]
    Dtn40g,
    /// From 100 to 400 Gb/s.
    #[serde(rename = "dtn-100g")]
    Dtn100g,
    /// 400 Gb/s and above.
    #[serde(rename = "dtn-400g")]
    Dtn400g,
    /// A host that measures paths with single streams and precise times.
    #[serde(rename = "measurement")]
    Measurement,
}

impl ProfileName {
    /// All profiles.
    pub const ALL: [Self; 5] = [Self::Dtn10g, Self::Dtn40g, Self::Dtn100g, Self::Dtn400g, Self::Measurement];

    /// Its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Dtn10g => "dtn-10g",
            Self::Dtn40g => "dtn-40g",
            Self::Dtn100g => "dtn-100g",
            Self::Dtn400g => "dtn-400g",
            Self::Measurement => "measurement",
        }
    }

    /// The rate in its name; measurement hosts take the rate of their link.
    pub(crate) fn nominal_bits_per_second(self) -> Option<u64> {
        match self {
            Self::Dtn10g => Some(10 * GIGABIT),
            Self::Dtn40g => Some(40 * GIGABIT),
            Self::Dtn100g => Some(100 * GIGABIT),
            Self::Dtn400g => Some(400 * GIGABIT),
            Self::Measurement => None,
        }
    }

    /// The profile for a link of this rate.
    pub(crate) fn of_rate(rate_bits_per_second: u64) -> Self {
        match rate_bits_per_second / GIGABIT {
            400.. => Self::Dtn400g,
            100.. => Self::Dtn100g,
            25.. => Self::Dtn40g,
            _ => Self::Dtn10g,
        }
    }
}

impl fmt::Display for ProfileName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.word())
    }
}

impl FromStr for ProfileName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|known| known.word() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::word).join(", ");
            format!("profile: there is no profile '{name}'; write one of {names}")
        })
    }
}
