//! Kernel versions, for rules that depend on them.

use std::fmt;
use std::str::FromStr;

/// The first two numbers of a kernel release. Vendors backport features, so a rule that can ask the
/// kernel itself does not use this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// The 6 of 6.11.
    pub major: u32,
    /// The 11 of 6.11.
    pub minor: u32,
}

/// A text that does not start with a version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a kernel release such as 6.11.0-9-generic")]
pub struct KernelVersionError(String);

impl KernelVersion {
    /// A version from its two numbers.
    #[must_use]
    pub const fn new(major: u32, minor: u32) -> Self {
        Self { major, minor }
    }
}

impl FromStr for KernelVersion {
    type Err = KernelVersionError;

    fn from_str(release: &str) -> Result<Self, KernelVersionError> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self { major, minor }),
            _ => Err(KernelVersionError(release.to_owned())),
        }
    }
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}.{}", self.major, self.minor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_of_distributions_are_read() {
        for (release, major, minor) in
            [("6.18.44-fc-v669", 6, 18), ("5.14.0-503.el9.x86_64", 5, 14), ("6.8.0-45-generic", 6, 8), ("6.11", 6, 11)]
        {
            assert_eq!(release.parse(), Ok(KernelVersion::new(major, minor)));
        }
        assert!(KernelVersion::new(6, 8) < KernelVersion::new(6, 11));
        assert!("linux".parse::<KernelVersion>().is_err());
        assert!("6".parse::<KernelVersion>().is_err());
    }
}
