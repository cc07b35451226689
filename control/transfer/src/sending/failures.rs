//! What of a transfer is not sent, or not stored as it was.

use std::collections::HashSet;

use culvert_link::commands::DiskError;
use culvert_objects::fs::destination::attributes::NotKept;
use culvert_objects::fs::sources::version::{changed, unreadable};
use culvert_protocol::control::{FileError, NOT_KEPT_LISTED_MAX};
use culvert_system::os_error::errno_of_number;

use crate::error::TransferError;
use crate::file_errors::ErrorList;
use crate::sending::payload::Payload;

/// What is not sent, or not stored as it was.
#[derive(Debug, Default)]
pub(super) struct Failures {
    pub(super) errors: ErrorList,
    /// The files that were given up, on either side.
    pub(super) failed: HashSet<u32>,
    /// What the receiver stores without some of its attributes.
    pub(super) not_kept: NotKept,
}

impl Failures {
    /// A file is given up; false if it was before.
    pub(super) fn note(&mut self, error: FileError) -> bool {
        let is_new = self.failed.insert(error.file);
        if is_new {
            self.errors.push(error);
        }
        is_new
    }

    /// Notes what the receiver reports as stored without some of its attributes, of `entries`
    /// entries.
    ///
    /// # Errors
    /// [`TransferError`] for a report that cannot be.
    pub(super) fn note_not_kept(
        &mut self,
        entries: usize,
        count: u64,
        first: Vec<FileError>,
    ) -> Result<(), TransferError> {
        //= W-57
        //# Numbers beyond the manifest's, or entries that are not in it, violate the protocol.
        let is_possible = count <= entries as u64
            && first.len() <= NOT_KEPT_LISTED_MAX
            && first.len() as u64 <= count
            && first.iter().all(|entry| (entry.file as usize) < entries);
        if !is_possible {
            return Err(TransferError::protocol("it reports refused attributes of more files than it names or has"));
        }
        self.not_kept = NotKept { count, first };
        Ok(())
    }
}

/// What is said of a file that a lane could not read.
pub(super) fn read_error(payload: &Payload, file: u32, error: DiskError) -> FileError {
    let Payload::Files { tree, .. } = payload else {
        return FileError { file, code: "unreadable".to_owned(), text: error.to_string() };
    };
    match error {
        DiskError::Short => changed(&tree.listing.manifest, file),
        DiskError::Os(number) => unreadable(&tree.listing.manifest, file, errno_of_number(number)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= W-57
    //# Numbers beyond the manifest's, or entries that are not in it, violate the protocol.
    #[test]
    fn what_is_not_kept_is_in_the_manifest() {
        let of = |file| FileError { file, code: "mode".to_owned(), text: String::new() };
        let mut failures = Failures::default();
        assert!(failures.note_not_kept(2, 2, vec![of(0), of(1)]).is_ok());
        assert!(failures.note_not_kept(2, 3, vec![of(0)]).is_err(), "more than there are");
        assert!(failures.note_not_kept(2, 1, vec![of(2)]).is_err(), "one that there is not");
        assert!(failures.note_not_kept(9, 1, vec![of(0), of(1)]).is_err(), "more listed than counted");
        assert_eq!(failures.not_kept.count, 2);
    }
}
