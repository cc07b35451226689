//! Exceptions to house rules, and their reasons. Remove an exception here when you fix its cause.

use std::path::Path;

/// Files that know each other in a circle.
pub struct KnownCircle {
    /// From the root of the repository, in the order of their paths.
    pub files: &'static [&'static str],
    /// Why it is there still.
    #[expect(dead_code, reason = "read by people")]
    pub reason: &'static str,
}

impl KnownCircle {
    /// Whether these files, in the order of their paths, are all that the circle has.
    pub fn is(&self, paths: &[&Path]) -> bool {
        self.files.len() == paths.len() && self.files.iter().zip(paths).all(|(file, path)| path.as_os_str() == *file)
    }
}

/// A file beyond what a file may have.
pub struct LargeFile {
    /// From the root of the repository.
    pub path: &'static str,
    /// Why it is one.
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

const NOT_QUOTED_IN_CODE: &[&str] = &[
    "W-1", "W-2", "W-3", "W-4", "W-5", "W-6", "W-7", "W-8", "W-9", "W-10", "W-11", "W-12", "W-20", "W-21", "W-22",
    "W-23", "W-24", "W-25", "W-26", "W-30", "W-31", "W-32", "W-33", "W-34", "W-35", "W-36", "W-37", "W-38", "W-39",
    "W-40", "W-41", "W-42", "W-43", "W-44", "W-45", "W-46", "W-47", "W-48", "W-49", "W-50", "W-51", "W-52", "W-53",
    "W-54", "W-55", "W-56", "W-57", "W-58", "W-59", "W-60", "W-61", "P-1", "P-2", "P-3", "P-4", "P-5", "P-6", "P-7",
    "P-8", "P-9",
];

const NOT_QUOTED_IN_TESTS: &[&str] = &[
    "W-1", "W-2", "W-3", "W-4", "W-5", "W-6", "W-7", "W-8", "W-9", "W-10", "W-11", "W-12", "W-20", "W-21", "W-22",
    "W-23", "W-24", "W-25", "W-26", "W-30", "W-31", "W-32", "W-33", "W-34", "W-35", "W-36", "W-37", "W-38", "W-39",
    "W-40", "W-41", "W-42", "W-43", "W-44", "W-45", "W-46", "W-47", "W-48", "W-49", "W-50", "W-51", "W-52", "W-53",
    "W-54", "W-55", "W-56", "W-57", "W-58", "W-59", "W-60", "W-61", "P-1", "P-2", "P-3", "P-4", "P-5", "P-6", "P-7",
    "P-8", "P-9",
];
