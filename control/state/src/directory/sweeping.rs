//! Removes unfinished files of processes that died.

use std::fs;

use crate::directory::StateDirectory;
use crate::directory::writing::{WRITING_PREFIX, writer_may_live};
use crate::lock::is_locked;

impl StateDirectory {
    /// Removes unfinished files of processes that died.
    pub fn sweep(&self) {
        for directory in ["", "profiles", "transfers", "receipts"] {
            for entry in fs::read_dir(self.path(directory)).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some(writer) = name.to_str().and_then(|name| name.strip_prefix(WRITING_PREFIX)) else { continue };
                // The process may live in another PID namespace and be invisible here: its lock is
                // not.
                if !writer_may_live(writer) && !is_locked(&entry.path()) {
                    // Another process may have removed it first.
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }
}
