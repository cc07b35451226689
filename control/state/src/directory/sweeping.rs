//! What processes that died have left.

use std::fs;

use crate::directory::StateDirectory;
use crate::directory::writing::{WRITING_PREFIX, writer_may_live};
use crate::lock::is_locked;

impl StateDirectory {
    /// Removes what processes that died left half written.
    pub fn sweep(&self) {
        for directory in ["", "profiles", "transfers", "receipts"] {
            for entry in fs::read_dir(self.path(directory)).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some(writer) = name.to_str().and_then(|name| name.strip_prefix(WRITING_PREFIX)) else { continue };
                // The number may be one of another namespace, so that its process is not seen here:
                // it has a lock.
                if !writer_may_live(writer) && !is_locked(&entry.path()) {
                    // If another process is faster, that is as good.
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}
