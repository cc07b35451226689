//! The state that all parts of the collection share: the files, and the notes on what could not be
//! read.

use crate::facts::Unreadable;
use crate::file_tree::FileTree;

/// The host's files, and what could not be read so far.
pub(super) struct Collector<'a> {
    pub(super) files: &'a FileTree,
    pub(super) unreadable: Vec<Unreadable>,
}

impl Collector<'_> {
    /// Notes why a fact is unknown.
    pub(super) fn missing(&mut self, what: &str, why: &dyn std::fmt::Display) {
        self.unreadable.push(Unreadable { what: what.to_owned(), why: why.to_string() });
    }

    /// The value, or `None` and a note of the reason.
    pub(super) fn known<T, E: std::fmt::Display>(&mut self, what: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|error| self.missing(what, &error)).ok()
    }
}
