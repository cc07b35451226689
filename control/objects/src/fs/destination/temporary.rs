//! Temporary names of files and directories, until they are complete.
//!
//! They are unpredictable: each is chosen at random when it is needed, and created with `O_EXCL`.
//! Two transfers therefore never share a temporary file, and nobody can plant one in advance. The
//! first half of a name is common to the attempt and is journaled before its first use, so that the
//! next attempt can find and remove what a crash has left. Files that the next attempt can continue
//! are journaled with their full names.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use culvert_protocol::identity::to_hex;
use culvert_protocol::names::TEMPORARY_PREFIX;

/// Bytes that all names of an attempt have in common.
const ATTEMPT_BYTES: usize = 6;
/// Random bytes of a name, written after the prefix as twice as many digits.
const TOKEN_BYTES: usize = 12;

/// The common part of one attempt's temporary names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Attempt(u64);

impl Attempt {
    /// A new attempt.
    #[must_use]
    pub fn begin() -> Self {
        Self::from_number(random())
    }

    /// The attempt with this number in a journal.
    #[must_use]
    pub const fn from_number(number: u64) -> Self {
        Self(number & ((1 << (8 * ATTEMPT_BYTES)) - 1))
    }

    /// Its number in a journal.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The token of a new name. Create files under it with `O_EXCL` or its equivalent.
    #[must_use]
    pub fn next_token(self) -> u128 {
        u128::from(self.0) | u128::from(random() >> 16) << (8 * ATTEMPT_BYTES)
    }

    /// Whether a file name is one of this attempt's.
    #[must_use]
    pub fn has(self, name: &Path) -> bool {
        let digits = to_hex(&self.0.to_le_bytes()[..ATTEMPT_BYTES]);
        let rest = name.as_os_str().as_bytes().strip_prefix(TEMPORARY_PREFIX);
        rest.is_some_and(|rest| rest.len() == 2 * TOKEN_BYTES && rest.starts_with(digits.as_bytes()))
    }
}

/// The temporary name with this token.
#[must_use]
pub fn temporary_name(token: u128) -> PathBuf {
    let mut name = TEMPORARY_PREFIX.to_vec();
    name.extend(to_hex(&token.to_le_bytes()[..TOKEN_BYTES]).into_bytes());
    PathBuf::from(OsStr::from_bytes(&name))
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_an_attempt_differ_from_all_others() {
        let (ours, theirs) = (Attempt::begin(), Attempt::begin());
        assert_ne!(ours, theirs);
        let names: Vec<PathBuf> = (0..100).map(|_| temporary_name(ours.next_token())).collect();
        assert!(names.iter().all(|name| ours.has(name) && !theirs.has(name)));
        assert!(names.iter().all(|name| name.as_os_str().len() == TEMPORARY_PREFIX.len() + 24));
        let different: std::collections::HashSet<_> = names.iter().collect();
        assert_eq!(different.len(), names.len());
        assert_eq!(Attempt::from_number(ours.number()), ours, "the journal gives it back");
        let shorter = PathBuf::from(&names[0].to_str().unwrap()[..30]);
        assert!(!ours.has(&shorter) && !ours.has(Path::new("file")));
    }
}
