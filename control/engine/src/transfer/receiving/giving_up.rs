//! Files that are given up, while the transfer goes on with the others.

use culvert_link::commands::DiskError;
use culvert_objects::fs::destination::file_errors::unwritable;
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{FileError, Message, RefusalCode};
use culvert_protocol::names::printable;
use culvert_system::os_error;
use rustix::io::Errno;

use crate::transfer::error::TransferError;
use crate::transfer::receiving::done::Done;
use crate::transfer::receiving::open_file;
use crate::transfer::receiving::state::Receiving;

impl Receiving {
    /// Gives up a file because of an error of this side, unless it merely lacks the resources to
    /// continue with any: then what was started stays for the next attempt.
    pub(super) fn fail_file_or_end(&mut self, error: FileError) -> Result<(), TransferError> {
        match TransferError::of_shortage(&error) {
            Some(end) => Err(end),
            None => {
                self.fail_file(error, true);
                Ok(())
            }
        }
    }

    /// Gives up a file. `tell` if the sender does not know yet.
    pub(super) fn fail_file(&mut self, error: FileError, tell: bool) {
        let file = error.file;
        if self.tally.stored.contains(file) || !self.failures.failed.insert(file) {
            return;
        }
        self.tally.files_left -= 1;
        self.tally.steps += 1;
        if let Some(place) = self.tally.hashes.get_mut(file as usize) {
            *place = [0; 32];
        }
        if tell {
            let message = Message::FileRefused(error.clone());
            // The order against other messages does not matter, and a closed connection shows when
            // it is read.
            let _ = self.context.connection.writer.send_urgent(message);
        }
        self.failures.errors.push(error);
        let of_file: Vec<(u32, usize)> = self
            .arriving.came_by
            .iter()
            .filter(|&(&chunk, _)| matches!(self.arriving.chunks.content(chunk), Some(ChunkContent::Range { file: of, .. }) if of == file))
            .map(|(&chunk, &tag)| (chunk, tag))
            .collect();
        for (chunk, tag) in of_file {
            self.arriving.came_by.remove(&chunk);
            self.inbound.abandon(&self.context.plane, tag, chunk);
        }
        if let Some(discarded) = self.files.discard(file) {
            self.remove_beside(file, discarded);
        }
        self.open_files();
    }

    /// Removes a partial file outside the runtime's thread: freeing its blocks may take a while.
    pub(super) fn remove_beside(&mut self, file: u32, partial: open_file::Discarded) {
        self.tally.partials_in_motion += 1;
        // The journal, which the intake has, keeps the next attempt away until the name is free.
        let (intake, done) = (self.intake.clone(), self.done.clone());
        tokio::task::spawn_blocking(move || {
            partial.remove(&intake, file);
            let _ = done.send(Done::Removed);
        });
    }

    /// Gives a file up whose chunks are right and which is not.
    pub(super) fn fail_wrong_whole(&mut self, file: u32) {
        let name = printable(&self.intake.name(file));
        let text = format!("'{name}' does not match the sender's hash although all its chunks do");
        self.fail_file(FileError { file, code: "verification".to_owned(), text }, true);
    }

    pub(super) fn write_failed(&mut self, chunk: u32, error: DiskError) -> Result<(), TransferError> {
        let path = self.intake.destination.as_ref().map(|destination| destination.path.display().to_string());
        let path = path.unwrap_or_default();
        let errno = match error {
            DiskError::Os(number) => Some(os_error::errno_of_number(number)),
            DiskError::Short => None,
        };
        if errno.is_some_and(|errno| os_error::code(errno) == RefusalCode::NoSpace) {
            let text = format!("{path} is full: make room and start the transfer again; it resumes where it stopped");
            return Err(TransferError::here(RefusalCode::NoSpace, text));
        }
        let chunks = self.arriving.chunks.clone();
        match chunks.content(chunk) {
            Some(ChunkContent::Range { file, .. }) if !self.failures.failed.contains(&file) => {
                self.fail_file_or_end(unwritable(&self.intake.name(file), file, errno.unwrap_or(Errno::IO)))
            }
            _ => Ok(()),
        }
    }
}
