//! Findings of the house rules.

use std::fmt;
use std::path::PathBuf;

/// Something in the tree that a rule does not allow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where it is, from the root of the repository.
    pub file: PathBuf,
    /// The line, if it concerns one; the first is 1.
    pub line: Option<usize>,
    /// What is wrong, and what to do about it.
    pub text: String,
}

impl Finding {
    /// About a whole file.
    pub fn of_file(file: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        Self { file: file.into(), line: None, text: text.into() }
    }

    /// About a line.
    pub fn of_line(file: impl Into<PathBuf>, line: usize, text: impl Into<String>) -> Self {
        Self { file: file.into(), line: Some(line), text: text.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.file.display())?;
        if let Some(line) = self.line {
            write!(formatter, ":{line}")?;
        }
        write!(formatter, ": {}", self.text)
    }
}
