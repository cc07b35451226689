//! What of a transfer is not stored, or not as it was.

use std::collections::HashSet;

use culvert_link::commands::DiskError;
use culvert_objects::fs::destination::attributes::NotKept;
use culvert_objects::fs::destination::file_errors::unwritable;
use culvert_protocol::control::{FileError, LeftOut, RefusalCode};
use culvert_protocol::names::printable;
use culvert_system::os_error;
use rustix::io::Errno;

use crate::error::TransferError;
use crate::file_errors::ErrorList;
use crate::receiving::intake::Intake;

/// What is not stored, or not as it was.
#[derive(Debug, Default)]
pub(super) struct Failures {
    pub(super) errors: ErrorList,
    /// The files that were given up, on either side.
    pub(super) failed: HashSet<u32>,
    /// What the sender did not send at all, in its own words.
    pub(super) left_out: Vec<LeftOut>,
    /// What it would not send, in a dry run: how much, and the first of it.
    pub(super) would_leave_out: (u64, Vec<LeftOut>),
    /// What is stored without some of its attributes.
    pub(super) not_kept: NotKept,
}

/// What ends the transfer, if an error with a file is that its file system is full: then nothing
/// else can be stored either.
pub(super) fn full(error: &FileError) -> Option<TransferError> {
    (error.code == "no_space").then(|| TransferError::here(RefusalCode::NoSpace, error.text.clone()))
}

/// What is said of a file whose chunks are all right and which is not.
pub(super) fn wrong_whole(intake: &Intake, file: u32) -> FileError {
    let name = printable(&intake.name(file));
    let text = format!("'{name}' does not match the sender's hash although all its chunks do");
    FileError { file, code: "verification".to_owned(), text }
}

/// What is said of a file that a lane could not write.
///
/// # Errors
/// [`TransferError`] if the destination is full.
pub(super) fn write_error(intake: &Intake, file: u32, error: DiskError) -> Result<FileError, TransferError> {
    let errno = match error {
        DiskError::Os(number) => Some(os_error::errno_of_number(number)),
        DiskError::Short => None,
    };
    if errno.is_some_and(|errno| os_error::code(errno) == RefusalCode::NoSpace) {
        let path = intake.destination.as_ref().map(|destination| destination.path.display().to_string());
        let path = path.unwrap_or_default();
        let text = format!("{path} is full: make room and start the transfer again; it resumes where it stopped");
        return Err(TransferError::here(RefusalCode::NoSpace, text));
    }
    Ok(unwritable(&intake.name(file), file, errno.unwrap_or(Errno::IO)))
}
