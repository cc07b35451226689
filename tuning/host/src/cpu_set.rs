//! Sets of CPUs as the kernel writes them in sysfs and procfs: `0-3,8,10-11`.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// No host has more CPUs than this. A larger number means that the file is malformed.
const CPU_NUMBER_MAX: u32 = 65_535;

/// A set of CPU numbers, written and read as the kernel's list format
/// (`Documentation/core-api/cpu_hotplug`, cpulist).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<u32>);

/// A text that is not a list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a list of CPUs such as 0-3,8")]
pub struct CpuSetError(String);

impl CpuSet {
    /// The CPUs in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// How many CPUs are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `cpu` is in the set.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// The CPUs that are in both sets.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// The CPUs that are in this set and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }

    /// Whether every CPU of this set is in the other.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.0.is_subset(&other.0)
    }

    /// Reads the kernel's mask format: groups of 32 bits in hexadecimal, the highest first
    /// (`ff,00000003`).
    ///
    /// # Errors
    /// [`CpuSetError`] if the text is not such a mask.
    pub fn from_mask(text: &str) -> Result<Self, CpuSetError> {
        let wrong = || CpuSetError(text.trim().to_owned());
        let mut set = BTreeSet::new();
        for (word, group) in text.trim().split(',').rev().enumerate() {
            let bits = u32::from_str_radix(group, 16).map_err(|_| wrong())?;
            let base = u32::try_from(word * 32).map_err(|_| wrong())?;
            set.extend((0..32).filter(|bit| bits >> bit & 1 == 1).map(|bit| base + bit));
        }
        Ok(Self(set))
    }

    /// Writes the kernel's mask format, as files such as `xps_cpus` take it.
    #[must_use]
    pub fn to_mask(&self) -> String {
        let words = self.0.last().map_or(1, |last| last / 32 + 1);
        let mut groups = vec![0_u32; words as usize];
        for cpu in &self.0 {
            groups[(cpu / 32) as usize] |= 1 << (cpu % 32);
        }
        let groups: Vec<String> = groups.iter().rev().map(|group| format!("{group:08x}")).collect();
        groups.join(",")
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl FromStr for CpuSet {
    type Err = CpuSetError;

    fn from_str(text: &str) -> Result<Self, CpuSetError> {
        let text = text.trim();
        let wrong = || CpuSetError(text.to_owned());
        let mut set = BTreeSet::new();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.trim().parse().map_err(|_| wrong())?;
            let last: u32 = last.trim().parse().map_err(|_| wrong())?;
            if first > last || last > CPU_NUMBER_MAX {
                return Err(wrong());
            }
            set.extend(first..=last);
        }
        Ok(Self(set))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().copied().peekable();
        let mut comma = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            write!(out, "{comma}{first}")?;
            if last > first {
                write!(out, "-{last}")?;
            }
            comma = ",";
        }
        Ok(())
    }
}

impl TryFrom<String> for CpuSet {
    type Error = CpuSetError;

    fn try_from(text: String) -> Result<Self, CpuSetError> {
        text.parse()
    }
}

impl From<CpuSet> for String {
    fn from(set: CpuSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_kernels_lists_and_masks_are_read_and_written() {
        let set: CpuSet = "0-3,8,10-11\n".parse().unwrap();
        assert_eq!(set.len(), 7);
        assert_eq!(set.to_string(), "0-3,8,10-11");
        assert_eq!(set.to_mask(), "00000d0f");
        assert_eq!(CpuSet::from_mask("1,00000000").unwrap().to_string(), "32");
        assert_eq!("".parse::<CpuSet>().unwrap(), CpuSet::default());
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in ["a", "3-1", "1,,x", "0-99999999", "-"] {
            assert!(text.parse::<CpuSet>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_set_survives_both_formats(cpus in proptest::collection::btree_set(0_u32..512, 0..40)) {
            let set: CpuSet = cpus.into_iter().collect();
            prop_assert_eq!(&set.to_string().parse::<CpuSet>().unwrap(), &set);
            prop_assert_eq!(&CpuSet::from_mask(&set.to_mask()).unwrap(), &set);
        }
    }
}
