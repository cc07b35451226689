//! Exceptions to house rules, and their reasons. Remove an exception here when you fix its cause.

use std::path::Path;

/// Files that use each other in a circle.
pub struct KnownCircle {
    /// From the root of the repository, in the order of their paths.
    pub files: &'static [&'static str],
    /// Why it still exists.
    #[expect(dead_code, reason = "read by people")]
    pub reason: &'static str,
}

impl KnownCircle {
    /// Whether the circle consists of exactly these files, in the order of their paths.
    pub fn is(&self, paths: &[&Path]) -> bool {
        self.files.len() == paths.len() && self.files.iter().zip(paths).all(|(file, path)| path.as_os_str() == *file)
    }
}

/// A file that may be larger than others.
pub struct LargeFile {
    /// From the root of the repository.
    pub path: &'static str,
    /// Why it is that large.
    #[expect(dead_code, reason = "read by people")]
    pub reason: &'static str,
}

/// Rules that are not quoted yet (`house/rules.rs`): W-8, P-1.
pub struct Unquoted {
    /// By no code.
    pub in_code: &'static [&'static str],
    /// By no test.
    pub in_tests: &'static [&'static str],
}

pub const CIRCLES: &[KnownCircle] = &[];

pub const LARGE_FILES: &[LargeFile] = &[];

pub const UNQUOTED: Unquoted = Unquoted { in_code: NOT_QUOTED_IN_CODE, in_tests: NOT_QUOTED_IN_TESTS };

const NOT_QUOTED_IN_CODE: &[&str] = &[];

const NOT_QUOTED_IN_TESTS: &[&str] = &[];
