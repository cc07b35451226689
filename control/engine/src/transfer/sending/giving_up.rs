//! Files that are given up, while the transfer goes on with the others.

use culvert_objects::fs::sources::version::{changed, unreadable};
use culvert_protocol::control::{FileError, Message};

use crate::transfer::error::TransferError;
use crate::transfer::sending::payload::Payload;
use crate::transfer::sending::state::Sending;

impl Sending {
    pub(super) fn read_error(&self, file: u32, error: culvert_link::commands::DiskError) -> FileError {
        let Payload::Files { tree, .. } = &self.payload else {
            return FileError { file, code: "unreadable".to_owned(), text: error.to_string() };
        };
        match error {
            culvert_link::commands::DiskError::Short => changed(&tree.listing.manifest, file),
            culvert_link::commands::DiskError::Os(number) => {
                unreadable(&tree.listing.manifest, file, culvert_system::os_error::errno_of_number(number))
            }
        }
    }

    /// Gives up a file, unless this side merely lacks the resources to continue with any.
    pub(super) fn fail_file_or_end(&mut self, error: FileError) -> Result<(), TransferError> {
        match TransferError::of_shortage(&error) {
            Some(end) => Err(end),
            None => {
                self.fail_file(error);
                Ok(())
            }
        }
    }

    /// Gives up a file: notifies the receiver, and takes its chunks back.
    pub(super) fn fail_file(&mut self, error: FileError) {
        let file = error.file;
        if !self.failures.failed.insert(file) {
            return;
        }
        self.outbox.others.push(Message::FileFailed(error.clone()));
        self.failures.errors.push(error);
        self.take_chunks_back(file);
    }

    pub(super) fn take_chunks_back(&mut self, file: u32) {
        self.hashing.set(file, [0; 32]);
        let of_file: Vec<(u32, usize)> = self
            .queue
            .assigned
            .iter()
            .filter(|&(&chunk, _)| self.payload.file_of(chunk) == Some(file))
            .map(|(&chunk, &tag)| (chunk, tag))
            .collect();
        for (chunk, tag) in of_file {
            self.flows.withdraw(tag, chunk);
        }
        let prepared = std::mem::take(&mut self.queue.prepared);
        for (chunk, source) in prepared {
            if self.payload.file_of(chunk) == Some(file) {
                self.chunk_settled(chunk);
            } else {
                self.queue.prepared.push_back((chunk, source));
            }
        }
        self.files.close_when_unused(file);
    }
}
