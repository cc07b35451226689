//! Errors of single files: how many are listed, and under which names a result has them.

use culvert_model::bounds::{ERROR_BYTES_PER_TRANSFER, ERRORS_LISTED_MAX};
use culvert_model::result::ResultError;
use culvert_protocol::control::FileError;
use culvert_protocol::foreign_text::{foreign_name, foreign_text};
use culvert_system::os_error::without_numbers;

/// A list of errors that does not grow beyond what anybody reads.
#[derive(Clone, Debug, Default)]
pub struct ErrorList {
    /// The first of them.
    pub listed: Vec<FileError>,
    /// How many there were.
    pub count: u64,
    /// Bytes of those that are listed.
    bytes: usize,
}

impl ErrorList {
    /// Adds one.
    pub fn push(&mut self, mut error: FileError) {
        self.count += 1;
        for text in [&mut error.code, &mut error.text] {
            *text = foreign_text(text);
        }
        let bytes = error.code.len() + error.text.len() + size_of::<FileError>();
        if self.listed.len() < ERRORS_LISTED_MAX && self.bytes + bytes <= ERROR_BYTES_PER_TRANSFER {
            self.bytes += bytes;
            error.code.shrink_to_fit();
            error.text.shrink_to_fit();
            self.listed.push(error);
        }
    }
}

/// Errors of files with their names.
pub fn named_errors<'a>(
    errors: &'a [FileError],
    name: impl Fn(u32) -> String + 'a,
) -> impl Iterator<Item = ResultError> + 'a {
    errors.iter().map(move |FileError { file, code, text }| ResultError {
        path: foreign_name(&name(*file)),
        code: foreign_text(code),
        text: without_numbers(&foreign_text(text)),
    })
}

#[cfg(test)]
mod tests {
    use culvert_model::result::bounded;

    use super::*;

    /// The text part of row 11: 400 of them made a record of 100 MB.
    #[test]
    fn what_a_record_says_of_failed_files_is_bounded() {
        let mut errors = ErrorList::default();
        for file in 0..1_000 {
            errors.push(FileError { file, code: "changed".to_owned(), text: "x".repeat(1_000) });
        }
        let listed = bounded(named_errors(&errors.listed, |_| "n".repeat(20_000)));
        let bytes: usize = listed.iter().map(|error| error.path.len() + error.text.len()).sum();
        assert!(bytes <= ERROR_BYTES_PER_TRANSFER && listed.len() >= 40, "{bytes} bytes in {} errors", listed.len());
        assert!(listed[0].path.len() <= 4 << 10);
        let few = bounded(named_errors(&errors.listed, |_| "name".to_owned()));
        assert!(few.len() > 200, "{} errors", few.len());
    }
}
