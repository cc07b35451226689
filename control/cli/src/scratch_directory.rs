//! The directory of a command that makes its own data: `culvert demo` and `culvert bench net`.
//!
//! An interrupted command drops this while threads and processes of its own may still write there.
//! None of them makes a directory above the one that it was told to make, so once the top is gone
//! nothing can come back; until then the removal is tried again.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_model::exit_code::ExitCode;
use culvert_system::os_error;

use crate::exit::CommandError;

/// How often, and with which pauses, the removal is tried again.
const REMOVALS_MAX: u32 = 50;
const REMOVAL_PAUSE: Duration = Duration::from_millis(20);

/// A directory that is removed with everything in it when this is dropped.
#[derive(Debug)]
pub struct ScratchDirectory(PathBuf);

impl ScratchDirectory {
    /// Makes one in `parent`, with a name that begins with `prefix` and that no other has.
    ///
    /// # Errors
    /// [`CommandError`] that names the parent and what to do.
    pub fn in_directory(parent: &Path, prefix: &str) -> Result<Self, CommandError> {
        let made = tempfile::Builder::new().prefix(prefix).tempdir_in(parent);
        // What is kept is removed by this, which tries more than once.
        made.map(|directory| Self(directory.keep())).map_err(|error| {
            let words = os_error::words_or_hint(&error, "name another with --directory or TMPDIR");
            CommandError::new(ExitCode::BadHost, format!("cannot make a directory in {}: {words}", parent.display()))
        })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it.
    ///
    /// # Errors
    /// What the last try met. One that is gone already is no error.
    pub fn remove(&self) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match fs::remove_dir_all(&self.0) {
                // Something was made between the reading of a directory and its removal.
                Err(error) if error.kind() == ErrorKind::DirectoryNotEmpty && tries < REMOVALS_MAX => {
                    tries += 1;
                    std::thread::sleep(REMOVAL_PAUSE);
                }
                Err(error) if error.kind() == ErrorKind::NotFound && !self.0.exists() => return Ok(()),
                // Somebody else removed a part of it first.
                Err(error) if error.kind() == ErrorKind::NotFound && tries < REMOVALS_MAX => tries += 1,
                result => return result,
            }
        }
    }
}

impl Drop for ScratchDirectory {
    fn drop(&mut self) {
        let _ = self.remove();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn it_goes_while_a_thread_still_writes_into_it() {
        let parent = tempfile::tempdir().unwrap();
        for round in 0..20 {
            let scratch = ScratchDirectory::in_directory(parent.path(), "scratch-").unwrap();
            let below = scratch.path().join("below");
            fs::create_dir(&below).unwrap();
            let done = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    // Ends, as every writer does, with the first file that it cannot make.
                    let mut number = 0;
                    while fs::write(below.join(format!("file-{number}")), b"x").is_ok() && number < 300 {
                        number += 1;
                    }
                    done.store(true, Ordering::Release);
                });
                while !done.load(Ordering::Acquire) && fs::read_dir(&below).unwrap().next().is_none() {
                    std::hint::spin_loop();
                }
                drop(scratch);
            });
            assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0, "left behind in round {round}");
        }
    }

    #[test]
    fn a_parent_that_is_not_there_is_named() {
        let error = ScratchDirectory::in_directory(Path::new("/nowhere/at/all"), "scratch-").unwrap_err();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }
}
