//! Files that are open in a data plane, and ranges of them that it reads and hashes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use culvert_link::commands::{self, DiskError, FileRange, FileSlot};
use culvert_link::layout::FILES_MAX;
use culvert_link::messages::ToDataPlane;
use culvert_protocol::tree_hash::ChunkHash;
use tokio::sync::oneshot;

use crate::data_plane::{DataPlane, lock};
use crate::error::DataPlaneError;

/// A file that is open in the data plane. When it is dropped it is closed there, after the last
/// operation on it has ended.
#[derive(Debug)]
pub struct InstalledFile {
    plane: Arc<DataPlane>,
    slot: FileSlot,
}

impl InstalledFile {
    /// The file's slot in the data plane.
    #[must_use]
    pub const fn slot(&self) -> FileSlot {
        self.slot
    }
}

impl Drop for InstalledFile {
    fn drop(&mut self) {
        self.plane.remove_file(self.slot);
    }
}

impl DataPlane {
    /// Opens a file in the data plane.
    ///
    /// # Errors
    /// [`DataPlaneError::NoRoom`] or [`DataPlaneError::Died`].
    pub async fn install_file(
        self: &Arc<Self>,
        buffered: &OwnedFd,
        direct: Option<&OwnedFd>,
    ) -> Result<InstalledFile, DataPlaneError> {
        let slot = lock(&self.free_files).pop().ok_or(DataPlaneError::NoRoom("file"))?;
        // From here on the slot is returned whatever happens, even if the transfer is canceled
        // before the confirmation comes.
        let installed = InstalledFile { plane: self.clone(), slot };
        let (done, confirmation) = oneshot::channel();
        lock(&self.waiters).installed.insert(slot, done);
        let message = ToDataPlane::InstallFile { slot, direct: direct.is_some() };
        let descriptors: Vec<_> = std::iter::once(buffered).chain(direct).map(AsFd::as_fd).collect();
        self.tell(&message, &descriptors)?;
        match self.confirmed(confirmation).await? {
            true => Ok(installed),
            false => Err(DataPlaneError::NoDescriptor { process: self.process_id() }),
        }
    }

    /// Files that are open in the data plane, of all transfers.
    #[must_use]
    pub fn files_open(&self) -> usize {
        let free = lock(&self.free_files).len();
        // Invariant I-plane-files: A data plane has never more free file slots than it has file
        // slots.
        assert!(free <= FILES_MAX as usize, "{free} of {FILES_MAX} file slots are free");
        FILES_MAX as usize - free
    }

    fn remove_file(&self, slot: FileSlot) {
        // If the process is gone, so is the file.
        if self.tell(&ToDataPlane::RemoveFile { slot }, &[]).is_ok() {
            // A lane may learn of the removal after the slot's next file has been opened: the next
            // generation of the slot tells the two apart.
            lock(&self.free_files).push(slot.next());
        }
    }

    /// Reads and hashes a range of a file.
    ///
    /// # Errors
    /// [`DataPlaneError::Died`]; the disk's errors are in the value.
    pub async fn check(
        &self,
        lane: u16,
        range: FileRange,
        bytes: u32,
        chunk_bytes: u32,
    ) -> Result<Result<ChunkHash, DiskError>, DataPlaneError> {
        loop {
            let (done, answer) = oneshot::channel();
            let token = {
                let mut waiters = lock(&self.waiters);
                waiters.next_check = waiters.next_check.wrapping_add(1);
                let token = waiters.next_check;
                waiters.checks.insert(token, done);
                token
            };
            self.command(lane, &commands::Command::Check { token, range, bytes, chunk_bytes });
            match self.confirmed(answer).await? {
                // All of the lane's buffers are in use.
                Err(DiskError::Os(errno)) if errno == rustix::io::Errno::AGAIN.raw_os_error() => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                result => return Ok(result),
            }
        }
    }
}
